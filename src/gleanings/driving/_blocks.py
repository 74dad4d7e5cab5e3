"""Square blocks of the plane and the line segments that can be nearest to a point of them, from coarse to fine.

A block with centre c and half diagonal r needs {s: d_s(c) <= min d(c) + 2 r}, since |d_s(q) - d_s(c)| <= r for every
point q of it; of these, tangent planes drop most. A block has a slab of heights too: the minimum is taken over the
segments that pass the height gate everywhere in the slab. Source: ours.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from gleanings.core.errors import DataError
from gleanings.driving.scene import CELL_M, GATE_M

SLACK_M = 1e-3  # float32 at run time may order two segments otherwise than float64 does here
_ROOTS, _MAX_PAIRS = 64, 1 << 24
# Blocks of at most `_FINE_M` halve slabs, down to `_THIN_M`, that have their bound from a segment farther than the
# nearest by more than `_TORN_M`; slabs that no segment at all passes whole are halved at the start.
_FINE_M, _TORN_M, _THIN_M, _SPLITS = 8.0, 0.5, 0.1, 4

Lines = Float[np.ndarray, "5 E"]  # ax, ay, dx, dy, 1 / squared length


class Frame(NamedTuple):
    """A plane grid of 2 m cells: lower left corner (m), columns, rows."""

    x0: float
    y0: float
    nx: int
    ny: int


class Nodes(NamedTuple):
    """Blocks of one size with a slab of heights each, and their candidates: pairs (node, segment), sorted by node.

    ix, iy: column and row of the block. low, high: of the slab, m. node, segment: of a pair. distance: m, plan
    distance of the segment from the centre of the block.
    """

    ix: Int[np.ndarray, " n"]
    iy: Int[np.ndarray, " n"]
    low: Float[np.ndarray, " n"]
    high: Float[np.ndarray, " n"]
    node: Int[np.ndarray, " pairs"]
    segment: Int[np.ndarray, " pairs"]
    distance: Float[np.ndarray, " pairs"]


def root_size(frame: Frame) -> float:
    """Size of blocks, 2 m times a power of two, of which few cover the frame."""
    size = CELL_M
    while np.ceil(frame.nx * CELL_M / size) * np.ceil(frame.ny * CELL_M / size) > _ROOTS:
        size *= 2
    return size


def roots(lines: Lines, z: Float[np.ndarray, " E"], low: Float[np.ndarray, " slabs"], frame: Frame) -> Nodes:
    """Blocks of `root_size`, each with every 1 m slab from `low` up and the segments that pass somewhere in it.

    DataError: more than 16 million blocks or 32 million pairs; so in `quarter`.
    """
    high, size, rising = low + 1, root_size(frame), np.sort(z)
    for _ in range(_SPLITS):
        torn = np.searchsorted(rising, high - GATE_M) == np.searchsorted(rising, low + GATE_M, "right")
        middle = (low + high)[torn] / 2
        low, high = (
            np.concatenate([low[~torn], low[torn], middle]),
            np.concatenate([high[~torn], middle, high[torn]]),
        )
    slab_of, passing = _between(z, low - GATE_M, high + GATE_M)
    counts = np.bincount(slab_of, minlength=len(low))
    nx, ny = (int(np.ceil(n * CELL_M / size)) for n in (frame.nx, frame.ny))
    _check_count(len(low) * nx * ny, int(counts.sum()) * nx * ny)
    slab, block = np.divmod(np.arange(len(low) * nx * ny), nx * ny)
    node, entry = ranges((np.cumsum(counts) - counts)[slab], counts[slab])
    iy, ix = np.divmod(block, nx)
    return _measured(
        Nodes(ix, iy, low[slab], high[slab], node, passing[entry], np.zeros(len(node))), lines, frame, size
    )


def _between(
    z: Float[np.ndarray, " E"], low: Float[np.ndarray, " slabs"], high: Float[np.ndarray, " slabs"]
) -> tuple[Int[np.ndarray, " total"], Int[np.ndarray, " total"]]:
    """Pairs (slab, segment) of segments whose height lies in low to high of the slab, in order."""
    order = np.argsort(z)
    first = np.searchsorted(z[order], low)
    counts = np.searchsorted(z[order], high, "right") - first
    _check_count(len(low), int(counts.sum()))
    slab, entry = ranges(first, counts)
    segment = order[entry]
    order = np.lexsort((segment, slab))
    return slab[order], segment[order]


def _check_count(nodes: int, pairs: int) -> None:
    """Refuse more blocks or pairs than memory should hold, before it is taken. Raises: DataError."""
    if nodes > _MAX_PAIRS or pairs > 2 * _MAX_PAIRS:
        raise DataError("road edges, lanes or logs at too many heights, one above the other; cut the scene")


def prune(nodes: Nodes, lines: Lines, z: Float[np.ndarray, " E"], size: float, frame: Frame) -> Nodes:
    """Nodes (some with halved slabs) with the pairs that can be nearest somewhere in them."""
    bound = least(nodes, np.where(whole(nodes, z), nodes.distance, np.inf))
    while size <= _FINE_M:
        torn = (bound > least(nodes, nodes.distance) + _TORN_M) & (nodes.high - nodes.low > _THIN_M)
        if not torn.any():
            break
        nodes = _halve(nodes, torn, z)
        bound = least(nodes, np.where(whole(nodes, z), nodes.distance, np.inf))
    nodes = keep(nodes, nodes.distance <= (bound + size * np.sqrt(2.0) + SLACK_M)[nodes.node])
    return keep(nodes, ~_dominated(nodes, lines, z, size, frame)) if size <= _FINE_M else nodes


def quarter(nodes: Nodes, lines: Lines, size: float, frame: Frame) -> Nodes:
    """The quarters, of `size`, of each node that lie inside the frame."""
    counts = np.bincount(nodes.node, minlength=len(nodes.ix))
    first = np.cumsum(counts) - counts
    ix, iy = (2 * index[:, None] + step for index, step in ((nodes.ix, [0, 1, 0, 1]), (nodes.iy, [0, 0, 1, 1])))
    inside = (ix * size < frame.nx * CELL_M) & (iy * size < frame.ny * CELL_M)
    parent = np.nonzero(inside)[0]
    _check_count(len(parent), int(counts[parent].sum()))
    node, entry = ranges(first[parent], counts[parent])
    pairs = (node, nodes.segment[entry], np.zeros(len(node)))
    return _measured(Nodes(ix[inside], iy[inside], nodes.low[parent], nodes.high[parent], *pairs), lines, frame, size)


def select(nodes: Nodes, chosen: Bool[np.ndarray, " n"]) -> Nodes:
    """Some of the nodes, with their pairs."""
    kept = chosen[nodes.node]
    number = np.cumsum(chosen) - 1
    ix, iy, low, high = (column[chosen] for column in nodes[:4])
    return Nodes(ix, iy, low, high, number[nodes.node[kept]], nodes.segment[kept], nodes.distance[kept])


def keep(nodes: Nodes, kept: Bool[np.ndarray, " pairs"]) -> Nodes:
    """All nodes, with some of their pairs."""
    return nodes._replace(node=nodes.node[kept], segment=nodes.segment[kept], distance=nodes.distance[kept])


def least(nodes: Nodes, value: Float[np.ndarray, " pairs"]) -> Float[np.ndarray, " n"]:
    """Smallest value of each node's pairs, infinite where it has none."""
    found = np.full(len(nodes.ix), np.inf)
    first = np.flatnonzero(np.diff(nodes.node, prepend=-1))
    if len(first):
        found[nodes.node[first]] = np.minimum.reduceat(value, first)
    return found


def first_least(nodes: Nodes, value: Float[np.ndarray, " pairs"]) -> Int[np.ndarray, " n"]:
    """Index of the first pair of each node with its smallest value, -1 where none is finite."""
    best = np.full(len(nodes.ix), -1)
    index = np.flatnonzero((value == least(nodes, value)[nodes.node]) & np.isfinite(value))[::-1]
    best[nodes.node[index]] = index
    return best


def whole(nodes: Nodes, z: Float[np.ndarray, " E"]) -> Bool[np.ndarray, " pairs"]:
    """Which pairs pass the height gate for all heights of their slab."""
    at = z[nodes.segment]
    return (at >= (nodes.high - GATE_M)[nodes.node]) & (at <= (nodes.low + GATE_M)[nodes.node])


def centres(nodes: Nodes, frame: Frame, size: float) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """x and y of the centres of the blocks, m."""
    return frame.x0 + (nodes.ix + 0.5) * size, frame.y0 + (nodes.iy + 0.5) * size


def ranges(
    first: Int[np.ndarray, " n"], counts: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " total"], Int[np.ndarray, " total"]]:
    """Owner and value of each member of the ranges first ... first + counts - 1, one after the other."""
    owner = np.repeat(np.arange(len(first)), counts)
    return owner, np.arange(len(owner)) + (first - (np.cumsum(counts) - counts))[owner]


def point_to_line(
    x: Float[np.ndarray, " K"], y: Float[np.ndarray, " K"], lines: Float[np.ndarray, "5 K"]
) -> tuple[Float[np.ndarray, " K"], ...]:
    """Plan distance of each point to its own segment; share along it, 0 to 1; and the vector from foot to point."""
    ax, ay, dx, dy, inv_l2 = lines
    x, y = x - ax, y - ay
    share = np.clip((x * dx + y * dy) * inv_l2, 0, 1)
    x, y = x - share * dx, y - share * dy
    return np.sqrt(x * x + y * y), share, x, y


def _measured(nodes: Nodes, lines: Lines, frame: Frame, size: float) -> Nodes:
    x, y = centres(nodes, frame, size)
    distance = point_to_line(x[nodes.node], y[nodes.node], lines[:, nodes.segment])[0]
    return nodes._replace(distance=distance)


def _halve(nodes: Nodes, torn: Bool[np.ndarray, " n"], z: Float[np.ndarray, " E"]) -> Nodes:
    """Nodes with the slabs of some of them halved."""
    parts = [select(nodes, ~torn)]
    piece = select(nodes, torn)
    middle = (piece.low + piece.high) / 2
    for half in (piece._replace(high=middle), piece._replace(low=middle)):
        at, low, high = z[half.segment], half.low[half.node], half.high[half.node]
        parts.append(keep(half, (at >= low - GATE_M) & (at <= high + GATE_M)))
    shift = np.cumsum([0, *(len(part.ix) for part in parts[:-1])])
    parts = [part._replace(node=part.node + step) for part, step in zip(parts, shift, strict=True)]
    return Nodes(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _dominated(
    nodes: Nodes, lines: Lines, z: Float[np.ndarray, " E"], size: float, frame: Frame
) -> Bool[np.ndarray, " pairs"]:
    """Which pairs lie farther than one same other segment from every point of the block.

    A distance is convex, so it lies above its tangent plane at the centre, and a convex function minus an affine one is
    largest at a corner. It is enough, therefore, that the other segment beats the tangent plane at the four corners.
    Tried are the segments nearest to the centre and to the corners that pass everywhere in the slab.
    """
    x, y = (value[nodes.node] for value in centres(nodes, frame, size))
    mine = lines[:, nodes.segment]
    distance, _, gx, gy = point_to_line(x, y, mine)
    scale = size / 2 / np.maximum(distance, 1e-9)
    gx, gy = gx * scale, gy * scale
    signs = ((-1, -1), (-1, 1), (1, -1), (1, 1))
    corners = [point_to_line(x + sx * size / 2, y + sy * size / 2, mine)[0] for sx, sy in signs]
    planes = [distance + sx * gx + sy * gy - SLACK_M for sx, sy in signs]
    allowed = whole(nodes, z)
    result = np.zeros(len(distance), bool)
    for reach in (distance, *corners):
        rival = first_least(nodes, np.where(allowed, reach, np.inf))[nodes.node]
        beaten = rival >= 0
        for corner, plane in zip(corners, planes, strict=True):
            beaten &= corner[rival] < plane
        result |= beaten
    return result
