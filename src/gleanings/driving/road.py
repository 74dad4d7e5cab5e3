"""Signed distance to the road edge, and the lanes near a pose, inside a compiled program.

Nearly all lists of candidates fit in a first short window. The queries whose list does not are taken again, a few at a
time, in a loop that most often runs not at all or once: fewer gathers by far than one window as long as the longest
list. Source: ours; the sign at vertices follows Baerentzen and Aanaes (2005).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from gleanings.core.errors import ConfigError
from gleanings.driving.scene import CELL_M, GATE_M, LANE_M, REACH_M, STEP_M, Edges, Grid, Lanes, Scene

_DENSE = 128  # queries that the dense twin takes at once
_LONG = 32  # queries with long lists that are taken at once
_NONE = jnp.iinfo(jnp.int32).max

Found = tuple[Array, ...]


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
    scene: Scene,
    x: Float[Array, "*q"],
    y: Float[Array, "*q"],
    z: Float[Array, "*q"],
    how: Literal["grid", "dense", "raster"] = "grid",
) -> tuple[Float[Array, "*q"], Bool[Array, "*q"]]:
    """Distance to the road edge at base height z, m, positive off the road, clipped to +-30; and whether there is one.

    +30 outside the grid or for NaN, -30 where no edge passes within 2.5 m of the height. The gradient is that of the
    distance. Source: ours.
    """
    if how != "grid":
        return (signed_distance_dense if how == "dense" else signed_distance_raster)(scene, x, y, z)
    points, shape = _flat(x, y, z)
    points, cell, inside = _cells(scene.grid, *points)

    def scan(start, count, x, y, z) -> Found:
        return _nearest(scene.edges, _window(scene.grid, start, count), x, y, z)

    least, item = _search(scene.grid, cell, inside, scan, *(jax.lax.stop_gradient(value) for value in points))
    value = _value(scene.edges, least, item, *points[:2])
    far = _at(scene.grid.far, cell)
    value = jnp.where(far % 2 == 0, value, REACH_M * far)
    return _outside(scene, inside, value, shape)


def signed_distance_dense(
    scene: Scene, x: Float[Array, "*q"], y: Float[Array, "*q"], z: Float[Array, "*q"]
) -> tuple[Float[Array, "*q"], Bool[Array, "*q"]]:
    """The same by looking at every segment: the twin against which the grid is tested and timed."""
    points, shape = _flat(x, y, z)
    points, _, inside = _cells(scene.grid, *points)
    every = jnp.arange(len(scene.edges.ax))

    def of_point(point: tuple[Array, ...]) -> Array:
        least, item = _nearest(scene.edges, every, *(jax.lax.stop_gradient(value) for value in point))
        return _value(scene.edges, least, item, *point[:2])

    return _outside(scene, inside, jax.lax.map(of_point, points, batch_size=_DENSE), shape)


def signed_distance_raster(
    scene: Scene, x: Float[Array, "*q"], y: Float[Array, "*q"], z: Float[Array, "*q"]
) -> tuple[Float[Array, "*q"], Bool[Array, "*q"]]:
    """The same from the raster, bilinear, at the height of the lower road; off by `scene.raster.error` at most.

    ConfigError: the scene was compiled without a raster.
    """
    raster, (points, shape) = scene.raster, _flat(x, y, z)
    (x, y, _), _, inside = _cells(scene.grid, *points)
    rows, columns = raster.value.shape
    if rows < 2 or columns < 2:
        raise ConfigError("the scene has no raster; compile it with CompileConfig(raster=True)")
    u, v = (x - raster.x0) / STEP_M, (y - raster.y0) / STEP_M
    i, j = jnp.clip(jnp.floor(u), 0, columns - 2), jnp.clip(jnp.floor(v), 0, rows - 2)
    corner = (j * columns + i).astype(jnp.int32)
    a, b, c, d = (_at(raster.value.ravel(), corner + step) for step in (0, 1, columns, columns + 1))
    low, high = a + (u - i) * (b - a), c + (u - i) * (d - c)
    return _outside(scene, inside, low + (v - j) * (high - low), shape)


def near_lanes(
    scene: Scene, x: Float[Array, "*q"], y: Float[Array, "*q"], z: Float[Array, "*q"], yaw: Float[Array, "*q"]
) -> LaneMatch:
    """Lanes within 2.5 m of poses with base height z (m). No gradient. Source: ours."""
    lanes = scene.lanes
    points, shape = _flat(*(jax.lax.stop_gradient(value) for value in (x, y, z, yaw)))
    points, cell, inside = _cells(scene.lane_grid, *points)

    def scan(start, count, x, y, z, yaw) -> Found:
        items = _window(scene.lane_grid, start, count)
        square, _, _, _ = _offsets(lanes, items, x, y)
        near = (square <= LANE_M**2) & (jnp.abs(_at(lanes.z, items) - z[:, None]) <= GATE_M)
        along = jnp.cos(yaw)[:, None] * _at(lanes.dx, items) + jnp.sin(yaw)[:, None] * _at(lanes.dy, items)
        return *_first_least(square, near & (along >= 0), items), near.any(1)

    least, item, near = _search(scene.lane_grid, cell, inside, scan, *points)
    aligned = inside & (least < _NONE)
    row = _at(lanes.lane, item).astype(jnp.int32)
    limit = jnp.where(aligned, _at(lanes.limit, jnp.maximum(row, 0)), jnp.nan)
    close = aligned & (jax.lax.bitcast_convert_type(least, jnp.float32) <= 1)
    found = (near & inside, aligned, close, limit, jnp.where(aligned, row, -1))
    return LaneMatch(*(value.reshape(shape) for value in found))


def _flat(*values: Array) -> tuple[tuple[Array, ...], tuple[int, ...]]:
    """Values as float32 vectors, and their shape."""
    return tuple(jnp.ravel(value).astype(jnp.float32) for value in values), jnp.shape(values[0])


def _at(values: Array, index: Array) -> Array:
    """values[index] without the handling of indices that are out of bounds: they never are."""
    return jnp.asarray(values).at[index].get(mode="promise_in_bounds")


def _cells(
    grid: Grid, x: Array, y: Array, *rest: Array
) -> tuple[tuple[Array, ...], Int32[Array, " K"], Bool[Array, " K"]]:
    """The points, moved to the corner where they are outside the grid or NaN; their cells; and whether inside."""
    u, v = jnp.floor((x - grid.x0) / CELL_M), jnp.floor((y - grid.y0) / CELL_M)
    inside = (u >= 0) & (v >= 0) & (u < grid.nx) & (v < grid.ny)
    cell = jnp.where(inside, v * grid.nx + u, 0).astype(jnp.int32)
    return (jnp.where(inside, x, grid.x0), jnp.where(inside, y, grid.y0), *rest), cell, inside


def _window(grid: Grid, start: Int32[Array, " K"], count: int) -> Int32[Array, "K count"]:
    """`count` entries from each start, read as slices: their memory is contiguous."""
    numbers = jax.lax.GatherDimensionNumbers(offset_dims=(1,), collapsed_slice_dims=(), start_index_map=(0,))
    items = jax.lax.gather(jnp.asarray(grid.items), start[:, None], numbers, (count,), mode="promise_in_bounds")
    return items.astype(jnp.int32)


def _search(
    grid: Grid, cell: Int32[Array, " K"], inside: Bool[Array, " K"], scan: Callable[..., Found], *points: Array
) -> Found:
    """Result of `scan(start, count, *points)` over whole lists: least key, its item, and flags, each [K].

    The first window is scanned for all queries; then those with longer lists are collected, some at a time.
    """
    start, short, whole = _at(grid.start, cell), grid.SHORT, len(grid.slots)
    found = scan(start, min(short, whole), *points)
    if whole <= short:
        return found
    rank = jnp.cumsum((inside & (_at(grid.far, cell) == 0)).astype(jnp.int32))
    size = min(_LONG, len(rank))

    def again(carry: tuple[Array, Found]) -> tuple[Array, Found]:
        done, found = carry
        wanted = done + 1 + jnp.arange(size)
        place = (rank < wanted[:, None]).sum(1)  # K, beyond the last, where there are fewer
        chosen = jnp.minimum(place, len(rank) - 1)
        more = scan(_at(start, chosen) + short, whole - short, *(_at(value, chosen) for value in points))
        both = _merge(tuple(_at(value, chosen) for value in found), more)
        return done + size, tuple(old.at[place].set(new, mode="drop") for old, new in zip(found, both, strict=True))

    return jax.lax.while_loop(lambda carry: carry[0] < rank[-1], again, (jnp.int32(0), found))[1]


def _merge(old: Found, new: Found) -> Found:
    """The lesser of two results, the first if equal; flags of either."""
    better = new[0] < old[0]
    picked = (jnp.where(better, b, a) for a, b in zip(old[:2], new[:2], strict=True))
    return *picked, *(a | b for a, b in zip(old[2:], new[2:], strict=True))


def _offsets(segments: Edges | Lanes, items: Array, x: Array, y: Array) -> tuple[Array, Array, Array, Array]:
    """Squared distance of points to each of their items, share along it, and vector from foot to point."""
    px, py = x[..., None] - _at(segments.ax, items), y[..., None] - _at(segments.ay, items)
    dx, dy = _at(segments.dx, items), _at(segments.dy, items)
    share = jax.lax.stop_gradient(jnp.clip((px * dx + py * dy) * _at(segments.inv_l2, items), 0, 1))
    px, py = px - share * dx, py - share * dy
    return px * px + py * py, share, px, py


def _first_least(square: Array, allowed: Array, items: Array) -> Found:
    """Bits of the least squared distance that is allowed, `_NONE` without one, and the first item that has it.

    Floats that are not negative order as their bits do, and XLA:CPU vectorises the least of integers, but no argmin.
    """
    bits = jnp.where(allowed, jax.lax.bitcast_convert_type(square, jnp.int32), _NONE)
    least, width = bits.min(-1), bits.shape[-1]
    slot = jnp.where(bits == least[..., None], jnp.arange(width), width - 1).min(-1)
    return least, jnp.take_along_axis(jnp.broadcast_to(items, bits.shape), slot[..., None], -1)[..., 0]


def _nearest(edges: Edges, items: Array, x: Array, y: Array, z: Array) -> Found:
    """Bits of the squared distance of the nearest item at the height, and the item."""
    square, _, _, _ = _offsets(edges, items, x, y)
    return _first_least(square, jnp.abs(_at(edges.z, items) - z[..., None]) <= GATE_M, items)


def _value(edges: Edges, least: Array, item: Array, x: Array, y: Array) -> Array:
    """Signed distance to the item found, -30 without one."""
    square, share, cx, cy = (value[..., 0] for value in _offsets(edges, item[..., None], x, y))
    own = (-_at(edges.dy, item), _at(edges.dx, item))
    ends = ((_at(edges.nax, item), _at(edges.nay, item)), (_at(edges.nbx, item), _at(edges.nby, item)))
    nx, ny = (jnp.where(share <= 0, a, jnp.where(share >= 1, b, n)) for n, a, b in zip(own, *ends, strict=True))
    sign = jnp.where(cx * nx + cy * ny < 0, 1.0, -1.0)
    apart = square > 0  # the root has no finite slope at 0
    distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1)), 0)
    value = jnp.clip(jax.lax.stop_gradient(sign) * distance, -REACH_M, REACH_M)
    return jnp.where(least < _NONE, value, -REACH_M)


def _outside(
    scene: Scene, inside: Bool[Array, " K"], value: Float[Array, " K"], shape: tuple[int, ...]
) -> tuple[Any, Any]:
    """Values in their shape, +30 outside the grid; and whether the scene has edges (padding stands last)."""
    value = jnp.where(inside, value, REACH_M).reshape(shape)
    return value, jnp.broadcast_to(jnp.isfinite(scene.edges.z[0]), shape)
