"""The actions of all objects of a scene, checked and applied."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gleanings.core.errors import ConfigError
from gleanings.driving.dynamics import Dynamics, limits_of
from gleanings.driving.scene import Pose, Scene
from gleanings.driving.state import Action

_TOLERANCE = 1e-5  # of a bound that an action may exceed by rounding without being called clipped


class Moved(NamedTuple):
    """Poses [N], the actions [N, A] that were applied, and which [N] were unusable or clipped."""

    pose: Pose
    action: Array
    invalid: Array
    clipped: Array


def moved(dynamics: Dynamics, scene: Scene, pose: Pose, action: Any) -> Moved:
    """All objects moved by one step. action: [N, A], `Action`, or None: all coast.

    Rows that are masked, not finite or negative bins are invalid and take the null action. ConfigError: an action of
    another shape or dtype.
    """
    value, mask = check_action(dynamics, pose.x.shape[0], action)

    def one(pose: Pose, value: Array, mask: Array, kind: Array) -> Moved:
        limits = limits_of(kind)
        usable = mask & dynamics.usable(value)
        null = dynamics.null(pose, scene.dt, limits)
        wanted = null if action is None else jnp.where(usable, value, null)
        used = dynamics.clip(pose, wanted, scene.dt, limits)
        off = jnp.any(jnp.abs(used - wanted) > _TOLERANCE * jnp.maximum(1, jnp.abs(used)))
        after = dynamics.forward(pose, used, scene.dt, limits)
        return Moved(after, used, ~usable if action is not None else jnp.zeros_like(usable), off & usable)

    return jax.vmap(one)(pose, value, mask, jnp.asarray(scene.objects.kind))


def check_action(dynamics: Dynamics, count: int, action: Any) -> tuple[Array, Array]:
    """Value [N, A] and mask [N] of an action for `count` objects. ConfigError: another shape or dtype."""
    dtype = jnp.int32 if dynamics.integer else jnp.float32
    if action is None:
        return jnp.zeros((count, dynamics.size), dtype), jnp.ones(count, bool)
    value, mask = action if isinstance(action, Action) else (action, jnp.ones(count, bool))
    value, mask = jnp.asarray(value), jnp.asarray(mask)
    for name, array, shape, kind in (("action", value, (count, dynamics.size), dtype), ("mask", mask, (count,), bool)):
        if array.shape != shape or array.dtype != kind:
            name = f"{name} of {type(dynamics).__name__}"
            raise ConfigError(
                f"{name} has shape {array.shape} and dtype {array.dtype}: {shape} and {jnp.dtype(kind)} are needed"
            )
    return value, mask
