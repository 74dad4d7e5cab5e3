"""Heights of objects that move over the road by themselves."""

import jax.numpy as jnp
from jaxtyping import Array, Float32

from gleanings.driving.scene import CELL_M, Scene

_STEP = 1.0  # m, largest change of height in a step


def height_on_ground(
    scene: Scene, x: Float32[Array, " N"], y: Float32[Array, " N"], z: Float32[Array, " N"]
) -> Float32[Array, " N"]:
    """z (m) of box centres at (x, y) that were at height z: on the road nearest to their base if within 1 m, else z."""
    grid, half = scene.grid, scene.objects.height / 2
    column = jnp.floor((x - grid.x0) / CELL_M).astype(jnp.int32)
    row = jnp.floor((y - grid.y0) / CELL_M).astype(jnp.int32)
    inside = (column >= 0) & (column < grid.nx) & (row >= 0) & (row < grid.ny)
    cell = jnp.where(inside, row * grid.nx + column, 0)
    low, high = (jnp.where(inside, jnp.asarray(layer)[cell], jnp.nan) for layer in scene.ground)
    base = z - half
    # A layer that is missing (NaN) compares as farther away.
    to_low, to_high = (jnp.where(jnp.isnan(layer), jnp.inf, jnp.abs(layer - base)) for layer in (low, high))
    nearest = jnp.where(to_high < to_low, high, low)
    return jnp.where(jnp.minimum(to_low, to_high) <= _STEP, nearest + half, z)
