"""What the learners with targets share: one step of Adam, and targets that follow slowly. Source: ours."""

from typing import Any, TypeVar

import equinox as eqx
import jax
import optax

from gleanings.driving.learn.config import BCSACConfig, DQNConfig

Tree = TypeVar("Tree")


def make_optimiser(config: BCSACConfig | DQNConfig) -> optax.GradientTransformation:
    """Adam on gradients whose global norm is clipped."""
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optax.adam(config.learning_rate))


def descend(
    optimiser: optax.GradientTransformation, params: Tree, slope: Any, moments: optax.OptState
) -> tuple[Tree, optax.OptState]:
    """Parameters after a step, and the state of the optimiser."""
    change, moments = optimiser.update(slope, moments)
    return eqx.apply_updates(params, change), moments


def follow(target: Tree, params: Tree, rate: float) -> Tree:
    """(1 - rate) target + rate params."""
    return jax.tree.map(lambda old, new: (1 - rate) * old + rate * new, target, params)
