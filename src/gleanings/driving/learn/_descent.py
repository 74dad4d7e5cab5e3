"""What the learners share: one step of Adam, and targets that follow slowly. Source: ours."""

from typing import Any, TypeVar

import equinox as eqx
import jax
import optax

from gleanings.driving.learn.config import BCConfig, BCSACConfig, DQNConfig

Tree = TypeVar("Tree")


def make_optimiser(config: BCConfig | BCSACConfig | DQNConfig) -> optax.GradientTransformation:
    """Adam on gradients whose global norm is clipped."""
    clipped = optax.chain(optax.clip_by_global_norm(config.clip_norm), optax.adam(config.learning_rate))
    return optax.flatten(clipped)  # one row of numbers: far fewer kernels to compile and to launch


def descend(
    optimiser: optax.GradientTransformation, params: Tree, slope: Any, moments: optax.OptState
) -> tuple[Tree, optax.OptState]:
    """Parameters after a step, and the state of the optimiser."""
    change, moments = optimiser.update(slope, moments)
    return eqx.apply_updates(params, change), moments


def follow(target: Tree, params: Tree, rate: float) -> Tree:
    """(1 - rate) target + rate params."""
    return jax.tree.map(lambda old, new: (1 - rate) * old + rate * new, target, params)
