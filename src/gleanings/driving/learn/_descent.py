"""What the learners share: one step of Adam, targets that follow slowly, and averages of what was learnt."""

from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int32

from gleanings.driving.learn.config import BCConfig, BCSACConfig, DQNConfig

Tree = TypeVar("Tree")
_RECENT = 7  # the average covers about the last seventh of the steps


def make_optimiser(config: BCConfig | BCSACConfig | DQNConfig) -> optax.GradientTransformation:
    """Adam on gradients whose global norm is clipped."""
    clipped = optax.chain(_clipped(config.clip_norm), optax.adam(config.learning_rate))
    return optax.flatten(clipped)  # one row of numbers: far fewer kernels to compile and to launch


def _clipped(most: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` by one factor: by a quotient for each number, XLA would write all of them first."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        norm = jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(updates)))
        factor = jnp.minimum(1.0, most / norm)
        return jax.tree.map(lambda leaf: leaf * factor, updates), state

    return optax.GradientTransformation(optax.clip_by_global_norm(most).init, update)


def descend(
    optimiser: optax.GradientTransformation, params: Tree, slope: Any, moments: optax.OptState
) -> tuple[Tree, optax.OptState]:
    """Parameters after a step, and the state of the optimiser."""
    change, moments = optimiser.update(slope, moments)
    return eqx.apply_updates(params, change), moments


def follow(target: Tree, params: Tree, rate: float | Array) -> Tree:
    """(1 - rate) target + rate params."""
    return jax.tree.map(lambda old, new: (1 - rate) * old + rate * new, target, params)


def averaged(average: Tree, params: Tree, step: Int32[Array, "*seeds"]) -> Tree:
    """Average of the parameters after each of `step` steps, weighted by about the sixth power of the step.

    What Adam's noise moves to and fro cancels out, whatever the number of steps. Source: Shamir and Zhang 2013,
    Stochastic gradient descent for non-smooth optimization, section 4 (polynomial-decay averaging).
    """
    return follow(average, params, _RECENT / (step + _RECENT - 1))
