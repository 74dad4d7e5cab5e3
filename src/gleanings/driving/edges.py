"""Road edges as segments: polylines cleaned, joined, thinned, and given normals that make the sign of a distance safe.

The drivable side is on the left of an edge. The sign at a vertex follows Baerentzen and Aanaes (2005): the normal of a
vertex is the sum of the unit normals of the segments that meet there; the rest is ours.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

from gleanings.core.errors import DataError
from gleanings.driving._polylines import simplify
from gleanings.driving.scene import Edges

Points = Float[np.ndarray, "_ 3"]
_APART_M, _JOIN_M, _RISE_M = 1e-3, 1e-2, 0.5
_CANDIDATES, _MAX_SEGMENTS = 8, 1 << 16


def compile_edges(polylines: Sequence[tuple[Points, bool]], *, simplify_m: float) -> Edges:
    """Segments of (points, closed) polylines in the local frame, metres; float32 [E], not padded.

    Points less than 1 mm apart (in plan) are one, an end within 1 cm of a start is joined to it, runs that stay within
    `simplify_m` of a chord become one segment (Douglas-Peucker in space), and segments that rise more than 0.5 m are
    cut, since each has but one height. DataError: more segments than 16 bits number. Source: ours.
    """
    chains, total = list[tuple[Points, bool]](), 0
    for points, closed in join_polylines(polylines):
        kept = simplify(points, np.array([0, len(points)]), simplify_m) if simplify_m > 0 else slice(None)
        chains.append((_cut_rises(points[kept]), closed))
        total += len(chains[-1][0]) - 1
        if total > _MAX_SEGMENTS:
            raise DataError(f"more than {_MAX_SEGMENTS:,} road edge segments; raise simplify_m or cut the scene")
    if not chains:
        return Edges(*(np.zeros(0, np.float32) for _ in Edges._fields))
    a = np.concatenate([points[:-1] for points, _ in chains])
    b = np.concatenate([points[1:] for points, _ in chains])
    counts = np.array([len(points) - 1 for points, _ in chains])
    return _segments(a, b, *_neighbours(counts, np.array([closed for _, closed in chains])))


def join_polylines(polylines: Sequence[tuple[Points, bool]]) -> list[tuple[Points, bool]]:
    """Polylines of which ends that lie within 1 cm of a start are joined, as (points, closed).

    A closed chain repeats its first point at the end. Points less than 1 mm apart are one; what has no length is gone.
    """
    cleaned = [(_drop_close(points), closed) for points, closed in polylines]
    cleaned = [(points, closed) for points, closed in cleaned if len(points) > 1]
    rings = [_ring(points) for points, closed in cleaned if closed]
    opened = [points for points, closed in cleaned if not closed]
    following = _match_ends(opened)
    has_previous = np.zeros(len(opened), bool)
    has_previous[following[following >= 0]] = True
    done = np.zeros(len(opened), bool)
    chains = [(ring, True) for ring in rings]
    for first in np.argsort(has_previous, kind="stable"):  # open chains from their beginnings, then what is left: rings
        members, index = [], int(first)
        while index >= 0 and not done[index]:
            done[index] = True
            members.append(opened[index])
            index = int(following[index])
        if members:
            closed = index >= 0
            points = _drop_close(_concatenate(members))
            chains.append((_ring(points) if closed else points, closed))
    return [(points, closed) for points, closed in chains if len(points) > 1]


def _drop_close(points: Points) -> Points:
    """Points without those less than 1 mm (in plan) after the one before."""
    points = np.asarray(points, np.float64)
    while len(points) > 1:
        close = np.hypot(*(points[1:, :2] - points[:-1, :2]).T) < _APART_M
        if not close.any():
            break
        # Every second one of a run of close points goes, then the rest is looked at again.
        index = np.arange(len(close))
        begins = np.maximum.accumulate(np.where(close, -1, index))
        points = points[np.concatenate([[True], ~(close & ((index - begins) % 2 == 1))])]
    return points


def _ring(points: Points) -> Points:
    """Points of a closed chain, the first repeated at the end."""
    if len(points) > 1 and np.hypot(*(points[-1, :2] - points[0, :2])) < _JOIN_M:
        points = points[:-1]
    return np.concatenate([points, points[:1]]) if len(points) > 1 else points


def _concatenate(members: list[Points]) -> Points:
    """One polyline of several, each end and the start that follows replaced by their middle."""
    parts = [members[0]]
    for part in members[1:]:
        middle = (parts[-1][-1] + part[0]) / 2
        parts[-1] = parts[-1][:-1]
        parts.append(np.concatenate([middle[None], part[1:]]))
    return np.concatenate(parts)


def _match_ends(polylines: list[Points]) -> Int[np.ndarray, " n"]:
    """For each polyline the one whose start its end meets within 1 cm, -1: none; nearest pairs first, one to one."""
    following = np.full(len(polylines), -1)
    if not polylines:
        return following
    starts = np.stack([points[0] for points in polylines])
    ends = np.stack([points[-1] for points in polylines])
    near = min(_CANDIDATES, len(polylines))
    distance, start = (
        np.reshape(part, (len(ends), near)) for part in KDTree(starts).query(ends, near, distance_upper_bound=_JOIN_M)
    )
    end = np.broadcast_to(np.arange(len(polylines))[:, None], start.shape)
    order = np.argsort(distance, axis=None, kind="stable")
    taken = np.zeros(len(polylines), bool)
    for index in order[: np.isfinite(distance).sum()]:
        i, j = end.flat[index], start.flat[index]
        if following[i] < 0 and not taken[j]:
            following[i], taken[j] = j, True
    return following


def _neighbours(
    counts: Int[np.ndarray, " chains"], closed: Bool[np.ndarray, " chains"]
) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"]]:
    """Index of the segment before and after each one in its chain; its own at an open end."""
    index = np.arange(counts.sum())
    ends = np.cumsum(counts)
    begins = ends - counts
    before, after = index - 1, index + 1
    before[begins] = np.where(closed, ends - 1, begins)
    after[ends - 1] = np.where(closed, begins, ends - 1)
    return before, after


def _cut_rises(points: Points) -> Points:
    """Points with more between those that differ in height by over 0.5 m, but none closer than 0.5 m in plan."""
    along = np.diff(points, axis=0)
    most = np.maximum(np.hypot(along[:, 0], along[:, 1]) // _RISE_M, 1)
    pieces = np.minimum(np.ceil(np.abs(along[:, 2]) / _RISE_M).clip(1), most)
    if pieces.sum() > _MAX_SEGMENTS:
        raise DataError(f"a road edge rises so much that it needs {pieces.sum():.0f} segments; cut the scene")
    owner = np.repeat(np.arange(len(along)), pieces.astype(int))
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    share = (np.arange(len(owner)) - first[owner]) / pieces[owner]
    return np.concatenate([points[owner] + share[:, None] * along[owner], points[-1:]])


def _segments(
    a: Float[np.ndarray, "E 3"],
    b: Float[np.ndarray, "E 3"],
    before: Int[np.ndarray, " E"],
    after: Int[np.ndarray, " E"],
) -> Edges:
    """Segments from a to b, with the normals at their ends."""
    index, along = np.arange(len(a)), (b - a)[:, :2]
    square = (along * along).sum(1)
    unit = along / np.sqrt(square)[:, None]
    left = np.stack([-unit[:, 1], unit[:, 0]], 1)
    at_a = _vertex_normal(left[before], left, before == index)
    at_b = _vertex_normal(left, left[after], after == index)
    height = (a[:, 2] + b[:, 2]) / 2
    columns = (a[:, 0], a[:, 1], along[:, 0], along[:, 1], 1 / square, height, *at_a.T, *at_b.T)
    return Edges(*(column.astype(np.float32) for column in columns))


def _vertex_normal(
    before: Float[np.ndarray, "E 2"], after: Float[np.ndarray, "E 2"], own: Bool[np.ndarray, " E"]
) -> Float[np.ndarray, "E 2"]:
    """Sum of two unit left normals, the normal alone at an open end. Where the edge turns back on itself the sum
    vanishes; the tip of such a wall points along the first segment, and what lies beyond is road."""
    total = np.where(own[:, None], after, before + after)
    tip = np.abs(total).sum(1) < 1e-3
    total[tip] = np.stack([before[:, 1], -before[:, 0]], 1)[tip]
    return total
