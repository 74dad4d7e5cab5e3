"""Positions along the paths of `Scene.paths`: projection of a point, and the pose at an arc length."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int32

_REACH = 15  # a projection looks so many metres to either side of the last arc
_WINDOW = 2 * _REACH + 1  # segments


class PathPoint(NamedTuple):
    """A point on a path: position, road height, unit tangent. Scalars, or arrays of one shape."""

    x: Array
    y: Array
    z: Array
    tx: Array
    ty: Array


def wrap_arc(arc: Float[Array, "*#s"], length: Float[Array, "*#s"], closed: Bool[Array, "*#s"]) -> Float[Array, "*#s"]:
    """`arc` of a closed path brought into [0, length); of an open path unchanged. Metres."""
    return jnp.where(closed, arc - length * jnp.floor(arc / jnp.maximum(length, 1.0)), arc)


def project_on_path(
    x: Float32[Array, " Q"],
    y: Float32[Array, " Q"],
    length: Float32[Array, ""],
    closed: Bool[Array, ""],
    px: Float32[Array, ""],
    py: Float32[Array, ""],
    hint: Float32[Array, ""],
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    """Arc and plan distance of the point of a path nearest to (px, py), within 15 m of the arc `hint`. Metres.

    The arc of a closed path is counted on over its rounds, as `hint` is. x, y: samples a metre apart. The window keeps
    a projection from jumping to another limb of a loop. Before its first and after its last sample an open path ends:
    the nearest end counts.
    """
    low = wrap_arc(hint - _REACH, length, closed)
    first = jnp.clip(jnp.floor(low).astype(jnp.int32), 0, x.shape[0] - _WINDOW - 1)
    xs, ys = lax.dynamic_slice(x, (first,), (_WINDOW + 1,)), lax.dynamic_slice(y, (first,), (_WINDOW + 1,))
    dx, dy = xs[1:] - xs[:-1], ys[1:] - ys[:-1]
    rx, ry = px - xs[:-1], py - ys[:-1]
    share = jnp.clip((rx * dx + ry * dy) / jnp.maximum(dx * dx + dy * dy, 1e-9), 0.0, 1.0)
    ex, ey = rx - share * dx, ry - share * dy
    square = ex * ex + ey * ey
    # Bits of a non-negative float sort like the float; XLA's CPU code for integer minima is vectorised.
    bits = lax.bitcast_convert_type(square, jnp.int32)
    least = jnp.min(bits)
    at = jnp.arange(_WINDOW, dtype=jnp.float32) + share
    arc = first.astype(jnp.float32) + jnp.min(jnp.where(bits == least, at, jnp.inf))
    rounds = jnp.where(closed, jnp.round((hint - arc) / jnp.maximum(length, 1.0)), 0.0)
    return arc + length * rounds, jnp.sqrt(lax.bitcast_convert_type(least, jnp.float32))


def path_point(
    x: Float32[Array, "N Q"],
    y: Float32[Array, "N Q"],
    z: Float32[Array, "N Q"],
    arc: Float32[Array, "N K"],
) -> PathPoint:
    """Points of each of N paths at K arcs, linear between samples; tangents are interpolated between samples.

    Arcs of closed paths must be wrapped; beyond the samples the first or last segment continues.
    """
    cell = jnp.clip(jnp.floor(arc).astype(jnp.int32), 0, x.shape[1] - 2)
    share = arc - cell.astype(jnp.float32)
    turn = jnp.clip(share, 0.0, 1.0)
    xs, ys = [_take(x, cell + k) for k in (-1, 0, 1, 2)], [_take(y, cell + k) for k in (-1, 0, 1, 2)]
    tx, ty = _tangent(xs, turn), _tangent(ys, turn)
    size = jnp.sqrt(jnp.maximum(tx * tx + ty * ty, 1e-12))
    z0, z1 = _take(z, cell), _take(z, cell + 1)
    px, py = xs[1] + share * (xs[2] - xs[1]), ys[1] + share * (ys[2] - ys[1])
    return PathPoint(px, py, z0 + turn * (z1 - z0), tx / size, ty / size)


def _take(samples: Float32[Array, "N Q"], at: Int32[Array, "N K"]) -> Float32[Array, "N K"]:
    return jnp.take_along_axis(samples, jnp.clip(at, 0, samples.shape[1] - 1), axis=1)


def _tangent(samples: list[Float32[Array, "N K"]], share: Float32[Array, "N K"]) -> Float32[Array, "N K"]:
    """Central differences at both ends of the segment, one-sided where the path ends, blended."""
    before, here, there, after = samples
    return (1 - share) * (there - before) + share * (after - here)
