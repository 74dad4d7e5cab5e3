"""Plane grids that hold, for each 2 m cell, the few edge or lane segments that can be nearest to a point of it.

A cell with centre c and half diagonal r lists {s: d_s(c) <= min d(c) + 2 r}; since |d_s(q) - d_s(c)| <= r, the nearest
segment of every point q of the cell is among them; those that others beat all over the cell are dropped. Source: ours.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int, Int8, UInt64
from scipy.spatial import KDTree

from gleanings.core.errors import DataError
from gleanings.driving import _blocks
from gleanings.driving._blocks import SLACK_M, Frame, Nodes, centres, point_to_line
from gleanings.driving.scene import CELL_M, GATE_M, LANE_M, REACH_M, Edges, Grid, Lanes

MARGIN_M = 30.0
_MAX_CELLS, _MAX_ITEMS = 1 << 22, 1 << 16
_SNAP_M, _AWAY_M, _NEAR_M, _TRIED = 4.0, 1e6, 1.0, 8


def make_frame(points: Float[np.ndarray, "K 2"]) -> Frame:
    """The box of the points and 30 m around, as whole cells. DataError: not finite, or more than 4 million cells."""
    if not len(points):
        points = np.zeros((1, 2))
    low, high = points.min(0) - MARGIN_M, points.max(0) + MARGIN_M
    sides = np.ceil((high - low) / CELL_M)
    if not np.isfinite(sides).all() or sides.prod() > _MAX_CELLS:
        raise DataError(f"logs and lanes span {sides[0] * CELL_M:.0f} x {sides[1] * CELL_M:.0f} m; cut the scene")
    return Frame(float(low[0]), float(low[1]), int(sides[0]), int(sides[1]))


def edge_grid(edges: Edges, frame: Frame, heights: Float[np.ndarray, "K 3"]) -> Grid:
    """Lists of edge segments that can be nearest at their height.

    heights: x, y and base z of lane points and logged poses. For each 1 m slab of heights that holds one of them or an
    edge within 30 m of the cell, the least distance is taken over the segments that pass the height gate of 2.5 m for
    every z of the slab, and those are listed that pass for some z and are not farther by more than 2 r. Where all lie
    beyond 30 m only the sign at the centre is kept. DataError: more segments than 16 bits number, edges of thousands of
    kilometres, or too many heights one above the other.
    """
    _check_count(len(edges.ax), "edge segments; raise simplify_m or cut the scene")
    lines, z = _lines(edges), np.asarray(edges.z, np.float64)
    slabs, size = _Slabs(edges, heights), _blocks.root_size(frame)
    nodes = _blocks.prune(_blocks.roots(lines, z, slabs.low, frame), lines, z, size, frame)
    while size > CELL_M:
        size /= 2
        nodes = _blocks.quarter(nodes, lines, size, frame)
        nodes = _blocks.prune(_blocks.select(nodes, slabs.near(nodes, frame, size)), lines, z, size, frame)
    nodes, far = _beyond(nodes, z, edges, frame)
    cell = (nodes.iy * frame.nx + nodes.ix)[nodes.node]
    return _store(frame, cell, nodes.segment, far)


def lane_grid(lanes: Lanes, frame: Frame) -> Grid:
    """Lists of lane segments within 2.5 m of some point of the cell, at whatever height.

    The last segment of `lanes` must be padding (z = +inf): lists without a segment hold it. DataError: more segments
    than 16 bits number.
    """
    _check_count(len(lanes.ax), "lane segments; cut the scene")
    size, real = _blocks.root_size(frame), np.flatnonzero(np.isfinite(lanes.z))
    lines = _lines(lanes)[:, real]
    nodes = _blocks.roots(lines, np.zeros(len(real)), np.zeros(1), frame)
    while size > CELL_M:
        size /= 2
        nodes = _blocks.quarter(nodes, lines, size, frame)
        nodes = _blocks.keep(nodes, nodes.distance <= LANE_M + size / np.sqrt(2.0) + SLACK_M)
    cell = (nodes.iy * frame.nx + nodes.ix)[nodes.node]
    far = np.zeros(frame.nx * frame.ny, np.int8)
    return _store(frame, cell, real[nodes.segment], far, empty=len(lanes.ax) - 1)


def no_grid() -> Grid:
    """A grid of one cell that knows nothing."""
    return _store(Frame(0.0, 0.0, 1, 1), np.zeros(0, int), np.zeros(0, int), np.ones(1, np.int8))


class _Slabs:
    """The 1 m slabs of heights that hold an edge or a point, and where."""

    def __init__(self, edges: Edges, heights: Float[np.ndarray, "K 3"]) -> None:
        x, y, owner = _samples(edges, _SNAP_M)
        points = np.concatenate([np.stack([x, y, edges.z[owner]], 1), heights])
        cells = np.unique(np.floor(points[np.isfinite(points).all(1)] / [_SNAP_M, _SNAP_M, 1.0]), axis=0)
        self.low = np.unique(cells[:, 2])
        self._tree = KDTree((cells + np.array([0.5, 0.5, 0])) * [_SNAP_M, _SNAP_M, _AWAY_M])

    def near(self, nodes: Nodes, frame: Frame, size: float) -> Bool[np.ndarray, " n"]:
        """Whether a node's slab holds something within 30 m of some point of its block."""
        x, y = centres(nodes, frame, size)
        reach = REACH_M + (size + _SNAP_M) / np.sqrt(2.0) + _SNAP_M / 2
        points = np.stack([x, y, np.floor(nodes.low) * _AWAY_M], 1)
        return np.isfinite(self._tree.query(points, distance_upper_bound=reach)[0])


def _check_count(count: int, rest: str) -> None:
    if count > _MAX_ITEMS:
        raise DataError(f"{count} of at most {_MAX_ITEMS} {rest}")


def _lines(segments: Edges | Lanes) -> Float[np.ndarray, "5 E"]:
    """ax, ay, dx, dy and 1 / squared length in float64."""
    columns = (segments.ax, segments.ay, segments.dx, segments.dy, segments.inv_l2)
    return np.stack([np.asarray(column, np.float64) for column in columns])


def _beyond(
    nodes: Nodes, z: Float[np.ndarray, " E"], edges: Edges, frame: Frame
) -> tuple[Nodes, Int8[np.ndarray, " C"]]:
    """Nodes of 2 m without those of cells all of whose points lie beyond 30 m of every edge, and `Grid.far`.

    Lists whose members disagree on the sign somewhere in the cell stay. Where only the slab lies beyond, one segment
    stays in the list, for its sign. A slab that no edge passes is road.
    """
    beyond = _blocks.least(nodes, nodes.distance) > REACH_M + CELL_M / np.sqrt(2.0)
    pairs = np.flatnonzero(beyond[nodes.node])
    x, y = (value[nodes.node[pairs]] for value in centres(nodes, frame, CELL_M))
    off, half = np.zeros(len(nodes.node)), CELL_M / 2
    # The sign of a segment changes along rays from its ends, which part the corners of every cell that they cross.
    corners = [(x + u * half, y + v * half) for u in (-1, 1) for v in (-1, 1)]
    off[pairs] = np.mean([is_off(u, v, edges, nodes.segment[pairs]) for u, v in corners], axis=0)
    members = np.bincount(nodes.node, minlength=len(beyond))
    offs = np.bincount(nodes.node, off, minlength=len(beyond))
    beyond &= (offs == 0) | (offs == members)
    cell = nodes.iy * frame.nx + nodes.ix
    total, outside, off_road = (
        np.bincount(cell[mask], minlength=frame.nx * frame.ny) for mask in (slice(None), beyond, beyond & (offs > 0))
    )
    plain = (outside == total) & ((off_road == 0) | (off_road == total))
    far = np.where(plain, np.where(off_road > 0, 1, -1), 0).astype(np.int8)
    empty = np.flatnonzero(total == 0)
    far[empty] = np.where(_off_at_centre(empty, edges, frame), 1, -1)
    # One that passes everywhere in the slab, if any does.
    nearest = _blocks.first_least(nodes, nodes.distance + np.where(_blocks.whole(nodes, z), 0, _AWAY_M))
    needed = ~beyond[nodes.node]
    needed[nearest[beyond & (members > 0)]] = True
    return _blocks.keep(nodes, needed & ~plain[cell][nodes.node]), far


def _off_at_centre(cell: Int[np.ndarray, " n"], edges: Edges, frame: Frame) -> Bool[np.ndarray, " n"]:
    """Whether the centres of cells far from everything lie off the road, by the nearest edge of any height."""
    if not len(edges.ax):
        return np.zeros(len(cell), bool)
    x, y, owner = _samples(edges, _NEAR_M)
    iy, ix = np.divmod(cell, frame.nx)
    x0, y0 = frame.x0 + (ix + 0.5) * CELL_M, frame.y0 + (iy + 0.5) * CELL_M
    # Beyond 30 m a sample a metre from the next is as near as its segment to millimetres.
    near = min(_TRIED, len(owner))
    nearest = KDTree(np.stack([x, y], 1)).query(np.stack([x0, y0], 1), near)[1]
    segment = owner[np.reshape(nearest, (len(cell), near))]
    lines = _lines(edges)
    distance = [point_to_line(x0, y0, lines[:, segment[:, rank]])[0] for rank in range(near)]
    best = segment[np.arange(len(cell)), np.argmin(distance, axis=0)]
    return is_off(x0, y0, edges, best)


def _samples(
    edges: Edges, step: float
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"], Int[np.ndarray, " K"]]:
    """Points of the segments, at most `step` apart and with both ends, and the segments that they are of."""
    counts = np.ceil(np.hypot(edges.dx.astype(np.float64), edges.dy) / step).astype(int) + 1
    if counts.sum() > _MAX_CELLS:
        raise DataError(f"road edges of {counts.sum() * step / 1e3:,.0f} km; cut the scene")
    owner, rank = _blocks.ranges(np.zeros(len(counts), int), counts)
    share = rank / (counts - 1)[owner]
    x, y = edges.ax[owner] + share * edges.dx[owner], edges.ay[owner] + share * edges.dy[owner]
    return x.astype(np.float64), y.astype(np.float64), owner


def is_off(
    x: Float[np.ndarray, " K"], y: Float[np.ndarray, " K"], edges: Edges, segment: Int[np.ndarray, " K"]
) -> Bool[np.ndarray, " K"]:
    """Whether each point lies off the road by its own segment."""
    _, share, cx, cy = point_to_line(x, y, _lines(edges)[:, segment])
    own = (-edges.dy[segment], edges.dx[segment])
    ends = ((edges.nax[segment], edges.nay[segment]), (edges.nbx[segment], edges.nby[segment]))
    nx, ny = (np.where(share <= 0, a, np.where(share >= 1, b, n)) for n, a, b in zip(own, *ends, strict=True))
    return cx * nx + cy * ny < 0


def nearest_value(
    edges: Edges,
    grid: Grid,
    cell: Int[np.ndarray, " K"],
    x: Float[np.ndarray, " K"],
    y: Float[np.ndarray, " K"],
    z: Float[np.ndarray, " K"],
) -> Float[np.ndarray, " K"]:
    """Signed distance at points of given cells, in NumPy, not clipped; z NaN: whatever height."""
    value = REACH_M * grid.far[cell].astype(np.float64)
    listed = np.flatnonzero(grid.far[cell] % 2 == 0)
    items = grid.items[grid.start[cell[listed]][:, None] + grid.slots].astype(np.int64)
    point = np.repeat(listed, items.shape[1])
    distance = point_to_line(x[point], y[point], _lines(edges)[:, items.ravel()])[0].reshape(items.shape)
    distance[np.abs(edges.z[items] - z[listed, None]) > GATE_M] = np.inf
    best = distance.argmin(1)
    row = np.arange(len(listed))
    least, segment = distance[row, best], items[row, best]
    off = is_off(x[listed], y[listed], edges, segment) & np.isfinite(least)
    value[listed] = np.where(off, least, -least)
    return value


def _store(
    frame: Frame,
    cell: Int[np.ndarray, " pairs"],
    segment: Int[np.ndarray, " pairs"],
    far: Int8[np.ndarray, " C"],
    empty: int = 0,
) -> Grid:
    """Grid of (cell, segment) pairs; equal lists are stored once; cells without one point to an item `empty`."""
    pairs = np.sort(cell * _MAX_ITEMS + segment)
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    cell, segment = pairs // _MAX_ITEMS, pairs % _MAX_ITEMS
    counts = np.bincount(cell, minlength=len(far))
    first = np.cumsum(counts) - counts
    total = np.concatenate([[np.uint64(0)], np.cumsum(_marks()[segment], dtype=np.uint64)])
    chosen, which = _distinct(total[first + counts] - total[first], counts)
    _, entry = _blocks.ranges(first[chosen], counts[chosen])
    start = np.cumsum(counts[chosen]) - counts[chosen]
    window = max(int(counts.max(initial=0)), 1)
    items = np.concatenate([segment[entry], np.full(window, empty)]).astype(np.uint16)
    start = np.where(counts > 0, start[which], len(entry)).astype(np.int32)
    far = np.where((far == 0) & (counts <= Grid.SHORT), 2, far).astype(np.int8)
    corner = (np.float32(frame.x0), np.float32(frame.y0), np.int32(frame.nx), np.int32(frame.ny))
    return Grid(*corner, start, items, np.arange(window, dtype=np.int32), far)


@lru_cache(maxsize=1)
def _marks() -> UInt64[np.ndarray, " items"]:
    """A random number for each item: lists with the same sum are the same."""
    return np.random.default_rng(0).integers(0, 1 << 63, _MAX_ITEMS, np.uint64)


def _distinct(
    mark: UInt64[np.ndarray, " C"], count: Int[np.ndarray, " C"]
) -> tuple[Int[np.ndarray, " D"], Int[np.ndarray, " C"]]:
    """First index of each distinct pair, in the order of pairs, and which of these each pair is: `np.unique` of rows
    takes ten times as long."""
    order = np.lexsort((count, mark))
    mark, count = mark[order], count[order]
    new = np.concatenate([[True], (mark[1:] != mark[:-1]) | (count[1:] != count[:-1])])
    which = np.empty(len(order), np.int64)
    which[order] = np.cumsum(new) - 1
    return order[new], which
