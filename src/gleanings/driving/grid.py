"""Plane grids that hold, for each 2 m cell, the few edge or lane segments that can be nearest to a point of it.

A cell with centre c and half diagonal r lists {s: d_s(c) <= min d(c) + 2 r}; since |d_s(q) - d_s(c)| <= r, the nearest
segment of every point q of the cell is among them. Source: ours.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int8
from scipy.spatial import cKDTree

from gleanings.core.errors import DataError
from gleanings.driving.scene import Edges, Grid, Lanes

CELL_M, MARGIN_M, REACH_M, GATE_M, LANE_M = 2.0, 30.0, 30.0, 2.5, 2.5
_MAX_CELLS, _MAX_ITEMS = 1 << 22, 1 << 16
_SLACK_M = 1e-3  # float32 at run time may order two segments otherwise than float64 does here
_ROOTS, _SNAP_M, _AWAY_M = 64, 4.0, 1e6
_FINE_M, _TORN_M, _THIN_M = 8.0, 0.5, 0.1
_SPLITS = 4  # halvings of a slab that no segment passes whole


class Frame(NamedTuple):
    """A plane grid of 2 m cells: lower left corner (m), columns, rows."""

    x0: float
    y0: float
    nx: int
    ny: int


class _Nodes(NamedTuple):
    """Square blocks at one level, each with a slab of heights, and their candidates: pairs (node, segment) by node."""

    ix: Int[np.ndarray, " n"]
    iy: Int[np.ndarray, " n"]
    low: Float[np.ndarray, " n"]
    high: Float[np.ndarray, " n"]
    node: Int[np.ndarray, " pairs"]
    segment: Int[np.ndarray, " pairs"]


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
    beyond 30 m only the sign at the centre is kept. DataError: more segments than 16 bits number.
    """
    _check_count(len(edges.ax), "edge segments; raise simplify_m or cut the scene")
    lines, z = _lines(edges), np.asarray(edges.z, np.float64)
    slabs = _Slabs(edges, heights)
    size = _root_size(frame)
    nodes = _roots(frame, size, slabs.low, z)
    while True:
        nodes, distance = _prune(nodes, lines, z, frame, size)
        if size == CELL_M:
            break
        size, nodes = size / 2, _split(nodes, frame, size / 2)
        nodes = _select(nodes, slabs.near(nodes, frame, size))
    nodes, distance, far = _beyond(nodes, distance, edges, frame)
    cell = (nodes.iy * frame.nx + nodes.ix)[nodes.node]
    return _store(frame, cell, nodes.segment, far)


def lane_grid(lanes: Lanes, frame: Frame) -> Grid:
    """Lists of lane segments within 2.5 m of some point of the cell, at whatever height.

    The last segment of `lanes` must be padding (z = +inf): lists without a segment hold it. DataError: more segments
    than 16 bits number.
    """
    _check_count(len(lanes.ax), "lane segments; cut the scene")
    lines, size = _lines(lanes), _root_size(frame)
    real = np.flatnonzero(np.isfinite(lanes.z))
    nodes = _roots(frame, size, np.zeros(1), np.zeros(len(real)))
    nodes = nodes._replace(segment=real[nodes.segment])
    while True:
        reach = LANE_M + size / np.sqrt(2.0) + _SLACK_M
        nodes = _keep(nodes, _distances(nodes, lines, frame, size) <= reach)
        if size == CELL_M:
            break
        size, nodes = size / 2, _split(nodes, frame, size / 2)
    cell = (nodes.iy * frame.nx + nodes.ix)[nodes.node]
    grid = _store(frame, cell, nodes.segment, np.zeros(frame.nx * frame.ny, np.int8), empty=len(lanes.ax) - 1)
    return grid


class _Slabs:
    """The 1 m slabs of heights that hold an edge or a point, and where."""

    def __init__(self, edges: Edges, heights: Float[np.ndarray, "K 3"]) -> None:
        length = np.hypot(edges.dx, edges.dy)
        counts = np.ceil(length / _SNAP_M).astype(int) + 1
        owner = np.repeat(np.arange(len(length)), counts)
        share = (np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]) / (counts - 1)[owner]
        x, y = edges.ax[owner] + share * edges.dx[owner], edges.ay[owner] + share * edges.dy[owner]
        points = np.concatenate([np.stack([x, y, edges.z[owner]], 1), heights])
        cells = np.unique(np.floor(points[np.isfinite(points).all(1)] / [_SNAP_M, _SNAP_M, 1.0]), axis=0)
        self.low = np.unique(cells[:, 2])
        self._tree = cKDTree((cells + [0.5, 0.5, 0]) * [_SNAP_M, _SNAP_M, _AWAY_M])

    def near(self, nodes: _Nodes, frame: Frame, size: float) -> Bool[np.ndarray, " n"]:
        """Whether a node's slab holds something within 30 m of some point of its block."""
        x, y = _centres(nodes, frame, size)
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


def _root_size(frame: Frame) -> float:
    """Size of blocks, 2 m times a power of two, of which few cover the frame."""
    size = CELL_M
    while np.ceil(frame.nx * CELL_M / size) * np.ceil(frame.ny * CELL_M / size) > _ROOTS:
        size *= 2
    return size


def _roots(frame: Frame, size: float, low: Float[np.ndarray, " slabs"], z: Float[np.ndarray, " E"]) -> _Nodes:
    """Every block with every slab, and with the segments that pass for some height of the slab. Slabs that pass some
    segments, but none whole, are halved, a few times: otherwise they would have no bound on the distance."""
    high = low + 1
    for _ in range(_SPLITS):
        whole = (z >= high[:, None] - GATE_M) & (z <= low[:, None] + GATE_M)
        torn = ~whole.any(1)
        middle = (low + high)[torn] / 2
        low, high = (
            np.concatenate([low[~torn], low[torn], middle]),
            np.concatenate([high[~torn], middle, high[torn]]),
        )
    nx, ny = (int(np.ceil(n * CELL_M / size)) for n in (frame.nx, frame.ny))
    slab, iy, ix = (index.ravel() for index in np.meshgrid(np.arange(len(low)), np.arange(ny), np.arange(nx), indexing="ij"))
    some = (z >= low[:, None] - GATE_M) & (z <= high[:, None] + GATE_M)
    in_slab, segment = np.nonzero(some)
    counts, offset = some.sum(1), np.concatenate([[0], np.cumsum(some.sum(1))])
    node, entry = _ranges(offset[slab], counts[slab])
    return _Nodes(ix, iy, low[slab], high[slab], node, segment[entry])


def _ranges(
    first: Int[np.ndarray, " n"], counts: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " total"], Int[np.ndarray, " total"]]:
    """Owner and value of each member of the ranges first ... first + counts - 1, one after the other."""
    owner = np.repeat(np.arange(len(first)), counts)
    return owner, np.arange(len(owner)) + (first - (np.cumsum(counts) - counts))[owner]


def _centres(nodes: _Nodes, frame: Frame, size: float) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    return frame.x0 + (nodes.ix + 0.5) * size, frame.y0 + (nodes.iy + 0.5) * size


def _distances(nodes: _Nodes, lines: Float[np.ndarray, "5 E"], frame: Frame, size: float) -> Float[np.ndarray, " pairs"]:
    """Plan distance from the centre of each pair's block to its segment."""
    x, y = _centres(nodes, frame, size)
    return point_to_line(x[nodes.node], y[nodes.node], lines[:, nodes.segment])[0]


def point_to_line(
    x: Float[np.ndarray, " K"], y: Float[np.ndarray, " K"], lines: Float[np.ndarray, "5 K"]
) -> tuple[Float[np.ndarray, " K"], ...]:
    """Plan distance of each point to its own segment; share along it, 0 to 1; and the vector from foot to point."""
    ax, ay, dx, dy, inv_l2 = lines
    x, y = x - ax, y - ay
    share = np.clip((x * dx + y * dy) * inv_l2, 0, 1)
    x, y = x - share * dx, y - share * dy
    return np.sqrt(x * x + y * y), share, x, y


def _prune(
    nodes: _Nodes, lines: Float[np.ndarray, "5 E"], z: Float[np.ndarray, " E"], frame: Frame, size: float
) -> tuple[_Nodes, Float[np.ndarray, " pairs"]]:
    """Nodes with the pairs that can be nearest somewhere in them, and the distances from their centres."""
    distance = _distances(nodes, lines, frame, size)
    bound = _least(nodes, np.where(_whole(nodes, z), distance, np.inf))
    while size <= _FINE_M:
        torn = (bound > _least(nodes, distance) + _TORN_M) & (nodes.high - nodes.low > _THIN_M)
        if not torn.any():
            break
        nodes = _halve(nodes, torn, z)
        distance = _distances(nodes, lines, frame, size)
        bound = _least(nodes, np.where(_whole(nodes, z), distance, np.inf))
    kept = distance <= (bound + size * np.sqrt(2.0) + _SLACK_M)[nodes.node]
    nodes, distance = _keep(nodes, kept), distance[kept]
    if size <= _FINE_M:
        kept = ~_dominated(nodes, lines, z, frame, size)
        nodes, distance = _keep(nodes, kept), distance[kept]
    return nodes, distance


def _whole(nodes: _Nodes, z: Float[np.ndarray, " E"]) -> Bool[np.ndarray, " pairs"]:
    """Which pairs pass the height gate for all heights of their slab."""
    at = z[nodes.segment]
    return (at >= (nodes.high - GATE_M)[nodes.node]) & (at <= (nodes.low + GATE_M)[nodes.node])


def _halve(nodes: _Nodes, torn: Bool[np.ndarray, " n"], z: Float[np.ndarray, " E"]) -> _Nodes:
    """Nodes with the slabs of some of them halved."""
    halves = []
    for part in (0, 1):
        piece = _select(nodes, torn)
        middle = (piece.low + piece.high) / 2
        piece = piece._replace(low=middle) if part else piece._replace(high=middle)
        at = z[piece.segment]
        halves.append(_keep(piece, (at >= (piece.low - GATE_M)[piece.node]) & (at <= (piece.high + GATE_M)[piece.node])))
    parts = (_select(nodes, ~torn), *halves)
    shift = np.cumsum([0, *(len(part.ix) for part in parts[:-1])])
    parts = [part._replace(node=part.node + step) for part, step in zip(parts, shift, strict=True)]
    return _Nodes(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _dominated(
    nodes: _Nodes, lines: Float[np.ndarray, "5 E"], z: Float[np.ndarray, " E"], frame: Frame, size: float
) -> Bool[np.ndarray, " pairs"]:
    """Which pairs lie farther than one same other segment from every point of the block.

    A distance is convex, so it lies above its tangent plane at the centre; a convex function minus an affine one is
    largest at a corner. It is enough, therefore, that the other segment beats the tangent plane at four corners. The
    others tried are the nearest from the corners and the centre among those that pass for all heights of the slab.
    """
    x, y = (value[nodes.node] for value in _centres(nodes, frame, size))
    mine = lines[:, nodes.segment]
    distance, _, gx, gy = point_to_line(x, y, mine)
    scale = 1 / np.maximum(distance, 1e-9)
    steps = [(0.0, 0.0), *((sx * size / 2, sy * size / 2) for sx in (-1, 1) for sy in (-1, 1))]
    corners = [point_to_line(x + sx, y + sy, mine)[0] for sx, sy in steps]
    planes = [distance + (gx * sx + gy * sy) * scale - _SLACK_M for sx, sy in steps[1:]]
    whole = _whole(nodes, z)
    result = np.zeros(len(distance), bool)
    for reach in corners:
        rival = _first_least(nodes, np.where(whole, reach, np.inf))[nodes.node]
        beaten = rival >= 0
        for corner, plane in zip(corners[1:], planes, strict=True):
            beaten &= corner[rival] < plane
        result |= beaten
    return result


def _first_least(nodes: _Nodes, value: Float[np.ndarray, " pairs"]) -> Int[np.ndarray, " n"]:
    """Index of the first pair of each node with its smallest value, -1 where none is finite."""
    best = np.full(len(nodes.ix), -1)
    index = np.flatnonzero((value == _least(nodes, value)[nodes.node]) & np.isfinite(value))[::-1]
    best[nodes.node[index]] = index
    return best


def _least(nodes: _Nodes, value: Float[np.ndarray, " pairs"]) -> Float[np.ndarray, " n"]:
    """Smallest value of each node's pairs, infinite where it has none."""
    least = np.full(len(nodes.ix), np.inf)
    first = np.flatnonzero(np.diff(nodes.node, prepend=-1))
    if len(first):
        least[nodes.node[first]] = np.minimum.reduceat(value, first)
    return least


def _keep(nodes: _Nodes, kept: Bool[np.ndarray, " pairs"]) -> _Nodes:
    return nodes._replace(node=nodes.node[kept], segment=nodes.segment[kept])


def _select(nodes: _Nodes, chosen: Bool[np.ndarray, " n"]) -> _Nodes:
    """Some of the nodes, with their pairs."""
    kept = chosen[nodes.node]
    number = np.cumsum(chosen) - 1
    ix, iy, low, high = (column[chosen] for column in nodes[:4])
    return _Nodes(ix, iy, low, high, number[nodes.node[kept]], nodes.segment[kept])


def _split(nodes: _Nodes, frame: Frame, size: float) -> _Nodes:
    """The four quarters of each node that has pairs, those inside the frame; `size` is theirs."""
    counts = np.bincount(nodes.node, minlength=len(nodes.ix))
    first = np.cumsum(counts) - counts
    ix, iy = (2 * index[:, None] + step for index, step in ((nodes.ix, [0, 1, 0, 1]), (nodes.iy, [0, 0, 1, 1])))
    inside = (ix * size < frame.nx * CELL_M) & (iy * size < frame.ny * CELL_M) & (counts > 0)[:, None]
    parent = np.nonzero(inside)[0]
    node, entry = _ranges(first[parent], counts[parent])
    return _Nodes(ix[inside], iy[inside], nodes.low[parent], nodes.high[parent], node, nodes.segment[entry])


def _beyond(
    nodes: _Nodes, distance: Float[np.ndarray, " pairs"], edges: Edges, frame: Frame
) -> tuple[_Nodes, Float[np.ndarray, " pairs"], Int8[np.ndarray, " C"]]:
    """Nodes of 2 m without those of cells all of whose points lie beyond 30 m of every edge, and `Grid.far`.

    Where only the slab lies beyond, one segment stays in the list, for its sign.
    """
    least = _least(nodes, distance)
    beyond = least > REACH_M + CELL_M / np.sqrt(2.0)
    nearest = distance == least[nodes.node]
    nearest &= np.diff(np.cumsum(nearest) - 1, prepend=-1) > 0
    index = np.flatnonzero(nearest & beyond[nodes.node])
    x, y = _centres(nodes, frame, CELL_M)
    node, segment = nodes.node[index], nodes.segment[index]
    off = np.full(len(nodes.ix), False)
    off[node] = is_off(x[node], y[node], edges, segment)
    cell = nodes.iy * frame.nx + nodes.ix
    total, outside, offs = (
        np.bincount(cell[mask], minlength=frame.nx * frame.ny)
        for mask in (least < np.inf, beyond & (least < np.inf), beyond & off & (least < np.inf))
    )
    plain = (outside == total) & ((offs == 0) | (offs == total))
    far = np.where(plain, np.where(offs > 0, 1, -1), 0).astype(np.int8)
    kept = ~plain[cell][nodes.node] & (~beyond[nodes.node] | nearest)
    return _keep(nodes, kept), distance[kept], far


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
    listed = np.flatnonzero(grid.far[cell] == 0)
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
    pairs = np.unique(cell * _MAX_ITEMS + segment)
    cell, segment = pairs // _MAX_ITEMS, pairs % _MAX_ITEMS
    counts = np.bincount(cell, minlength=len(far))
    first = np.cumsum(counts) - counts
    marks = np.random.default_rng(0).integers(0, 1 << 63, _MAX_ITEMS, np.uint64)
    total = np.concatenate([[np.uint64(0)], np.cumsum(marks[segment], dtype=np.uint64)])
    mark = total[first + counts] - total[first]
    _, chosen, which = np.unique(np.stack([mark, counts.astype(np.uint64)], 1), axis=0, return_index=True, return_inverse=True)
    _, entry = _ranges(first[chosen], counts[chosen])
    start = np.cumsum(counts[chosen]) - counts[chosen]
    window = max(int(counts.max(initial=0)), 1)
    items = np.concatenate([segment[entry], np.full(window, empty)]).astype(np.uint16)
    start = np.where(counts > 0, start[which.ravel()], len(entry)).astype(np.int32)
    corner = (np.float32(frame.x0), np.float32(frame.y0), np.int32(frame.nx), np.int32(frame.ny))
    return Grid(*corner, start, items, np.arange(window, dtype=np.int32), far)
