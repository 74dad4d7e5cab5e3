"""Actions of a learner in [-1, 1]^2, and the accelerations and curvatures they stand for. Source: ours."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from gleanings.driving.dynamics import largest_curvature, limits_of
from gleanings.driving.raw import Kind


def physical(u: Float32[Array, "*batch 2"], speed: Float[Array, "*batch"]) -> Float32[Array, "*batch 2"]:
    """Acceleration (m/s^2) and curvature (1/m) at a speed (m/s): 4 max(u1, 0) + 8 min(u1, 0), u2 kmax(speed)."""
    brake, accelerate, curvature = _limits(speed)
    a = accelerate * jnp.maximum(u[..., 0], 0.0) - brake * jnp.minimum(u[..., 0], 0.0)
    return jnp.stack([a, u[..., 1] * curvature], -1)


def normalised(action: Float32[Array, "*batch 2"], speed: Float[Array, "*batch"]) -> Float32[Array, "*batch 2"]:
    """The inverse of `physical`, clipped to [-1, 1]."""
    brake, accelerate, curvature = _limits(speed)
    a, k = action[..., 0], action[..., 1]
    return jnp.clip(jnp.stack([jnp.where(a > 0, a / accelerate, -a / brake), k / curvature], -1), -1.0, 1.0)


def _limits(speed: Float[Array, "*batch"]) -> tuple[Array, Array, Array]:
    limits = limits_of(jnp.asarray(int(Kind.VEHICLE)))
    curvature = jnp.vectorize(lambda one: largest_curvature(one, limits))(speed)
    return limits.brake, limits.accelerate, curvature
