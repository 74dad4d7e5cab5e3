"""Signed distance to the road edge, and the lanes near a pose, inside a compiled program.

Source: the sign by vertex normals follows Baerentzen and Aanaes (2005); the candidate lists are ours.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from gleanings.driving.scene import Edges, Grid, Scene

REACH_M, GATE_M, LANE_M, CELL_M = 30.0, 2.5, 2.5, 2.0
_CHUNK = 512


class LaneMatch(NamedTuple):
    """Lanes near poses; arrays of their common shape.

    near: bool, a lane within 2.5 m at the same height. aligned: bool, such a lane whose heading differs by 90 deg at
    most. aligned_1m: bool, one of these within 1 m. limit: m/s, of the nearest aligned lane, NaN: none or unknown.
    lane: i32, its row, -1: none.
    """

    near: Array
    aligned: Array
    aligned_1m: Array
    limit: Array
    lane: Array


def signed_distance(
    scene: Scene, x: Float32[Array, "*q"], y: Float32[Array, "*q"], z: Float32[Array, "*q"]
) -> tuple[Float32[Array, "*q"], Bool[Array, "*q"]]:
    """Distance to the road edge at base height z, m, positive off the road, clipped to +-30; and whether there is one.

    +30 outside the grid, -30 where no edge passes within 2.5 m of the height. The gradient is that of the distance.
    """
    cell, inside = _cell(scene.grid, x, y)
    items = _items(scene.grid, cell)
    pick = _nearest(scene.edges, items, x, y, z)
    value = _value(scene.edges, pick, x, y)
    far = scene.grid.far[cell]
    value = jnp.where(far == 0, value, REACH_M * far.astype(jnp.float32))
    value = jnp.where(inside, value, REACH_M)
    return value, jnp.broadcast_to(_has_edges(scene.edges), value.shape)


def signed_distance_dense(
    scene: Scene, x: Float32[Array, "*q"], y: Float32[Array, "*q"], z: Float32[Array, "*q"]
) -> tuple[Float32[Array, "*q"], Bool[Array, "*q"]]:
    """The same by looking at every segment: the twin against which the grid is tested and timed."""
    every = jnp.arange(len(scene.edges.ax))

    def of_point(point):
        pick = _nearest(scene.edges, every, *point)
        return _value(scene.edges, pick, point[0], point[1])

    flat = tuple(jnp.ravel(value) for value in (x, y, z))
    value = jax.lax.map(of_point, flat, batch_size=_CHUNK).reshape(jnp.shape(x))
    _, inside = _cell(scene.grid, x, y)
    return jnp.where(inside, value, REACH_M), jnp.broadcast_to(_has_edges(scene.edges), value.shape)


def signed_distance_raster(
    scene: Scene, x: Float32[Array, "*q"], y: Float32[Array, "*q"], z: Float32[Array, "*q"]
) -> tuple[Float32[Array, "*q"], Bool[Array, "*q"]]:
    """The same from the raster, bilinear, at the height of the lower road; off by `scene.raster.error` at most."""
    raster = scene.raster
    rows, columns = raster.value.shape
    u, v = (x - raster.x0) * 2, (y - raster.y0) * 2
    i, j = jnp.clip(jnp.floor(u), 0, columns - 2), jnp.clip(jnp.floor(v), 0, rows - 2)
    s, t = u - i, v - j
    corner = j.astype(jnp.int32) * columns + i.astype(jnp.int32)
    at = [raster.value.ravel()[corner + step] for step in (0, 1, columns, columns + 1)]
    value = (1 - t) * ((1 - s) * at[0] + s * at[1]) + t * ((1 - s) * at[2] + s * at[3])
    inside = (u >= 0) & (v >= 0) & (u <= columns - 1) & (v <= rows - 1)
    return jnp.where(inside, value, REACH_M), jnp.broadcast_to(_has_edges(scene.edges), value.shape)


def near_lanes(
    scene: Scene, x: Float32[Array, "*q"], y: Float32[Array, "*q"], z: Float32[Array, "*q"], yaw: Float32[Array, "*q"]
) -> LaneMatch:
    """Lanes within 2.5 m of poses with base height z."""
    lanes = scene.lanes
    cell, inside = _cell(scene.lane_grid, x, y)
    items = _items(scene.lane_grid, cell)
    square, _, _, _ = _squared(lanes, items, x, y)
    near = (square <= LANE_M**2) & (jnp.abs(lanes.z[items] - z[..., None]) <= GATE_M) & inside[..., None]
    along = jnp.cos(yaw)[..., None] * lanes.dx[items] + jnp.sin(yaw)[..., None] * lanes.dy[items]
    aligned = near & (along >= 0)
    square = jnp.where(aligned, square, jnp.inf)
    slot = jnp.argmin(square, -1)
    any_aligned = aligned.any(-1)
    row = lanes.lane[jnp.take_along_axis(items, slot[..., None], -1)[..., 0]].astype(jnp.int32)
    limit = jnp.where(any_aligned, lanes.limit[row], jnp.nan)
    return LaneMatch(near.any(-1), any_aligned, (square <= 1).any(-1), limit, jnp.where(any_aligned, row, -1))


def _has_edges(edges: Edges) -> Bool[Array, ""]:
    return jnp.isfinite(edges.z).any()


def _cell(grid: Grid, x: Float32[Array, "*q"], y: Float32[Array, "*q"]) -> tuple[Int32[Array, "*q"], Bool[Array, "*q"]]:
    """Index of the cell, 0 outside the grid, and whether it is inside."""
    u, v = jnp.floor((x - grid.x0) / CELL_M), jnp.floor((y - grid.y0) / CELL_M)
    inside = (u >= 0) & (v >= 0) & (u < grid.nx) & (v < grid.ny)
    return jnp.where(inside, v * grid.nx + u, 0).astype(jnp.int32), inside


def _items(grid: Grid, cell: Int32[Array, "*q"]) -> Int32[Array, "*q M"]:
    return grid.items[grid.start[cell][..., None] + grid.slots].astype(jnp.int32)


def _squared(segments, items, x, y):
    """Squared distance, clipped share and rest of points to their items."""
    px, py = x[..., None] - segments.ax[items], y[..., None] - segments.ay[items]
    dx, dy = segments.dx[items], segments.dy[items]
    share = jnp.clip((px * dx + py * dy) * segments.inv_l2[items], 0, 1)
    px, py = px - share * dx, py - share * dy
    return px * px + py * py, share, px, py


def _nearest(edges: Edges, items, x, y, z) -> Int32[Array, "*q"]:
    """Nearest item at the height, the first of equals; -1: none."""
    x, y, z = (jax.lax.stop_gradient(value) for value in (x, y, z))
    square, _, _, _ = _squared(edges, items, x, y)
    passes = jnp.abs(edges.z[items] - z[..., None]) <= GATE_M
    none = jnp.iinfo(jnp.int32).max
    # Non-negative floats order as their bits do, and XLA:CPU vectorises an integer minimum but no float argmin.
    bits = jnp.where(passes, jax.lax.bitcast_convert_type(square, jnp.int32), none)
    least = bits.min(-1)
    slot = jnp.where(bits == least[..., None], jnp.arange(bits.shape[-1]), bits.shape[-1]).min(-1)
    item = jnp.take_along_axis(jnp.broadcast_to(items, bits.shape), slot[..., None], -1)[..., 0]
    return jnp.where(least == none, -1, item)


def _value(edges: Edges, pick, x, y):
    """Signed distance to the picked segment."""
    item = jnp.maximum(pick, 0)
    square, share, cx, cy = (value[..., 0] for value in _squared(edges, item[..., None], x, y))
    share = jax.lax.stop_gradient(share)
    nx = jnp.where(share <= 0, edges.nax[item], jnp.where(share >= 1, edges.nbx[item], -edges.dy[item]))
    ny = jnp.where(share <= 0, edges.nay[item], jnp.where(share >= 1, edges.nby[item], edges.dx[item]))
    sign = jnp.where(cx * nx + cy * ny < 0, 1.0, -1.0)
    positive = square > 0
    distance = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)
    value = jnp.clip(jax.lax.stop_gradient(sign) * distance, -REACH_M, REACH_M)
    return jnp.where(pick < 0, -REACH_M, value)
