"""Road edges from drivable areas and from the outer bounds of lanes, for formats that have no edges. Ours.

An edge has the drivable side on its left, so what lies just to its right must not be drivable: the parts where it is
(shared bounds, junctions, overlaps) are dropped.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from gleanings.core.errors import DataError

Points = Float[np.ndarray, "_ 3"]
# An area is a list of rings: its outer ring, then its holes. Rings may run either way, closed or not.
Area = Sequence[Points]

_STEP, _OUTSIDE, _LEVEL = 0.5, 0.1, 3.0  # metres: sampling; how far outside is looked at; an area above or below
_FARTHEST, _HALVINGS, _JOIN, _SNAP, _SHORTEST = 1e15, 10, 1.0, 0.01, 2.0
_MAX_SAMPLES, _MAX_WORK, _CHUNK = 1_000_000, 1_000_000_000, 4_000_000


def edges_from_rings(areas: Sequence[Area]) -> list[Points]:
    """Edges of the union of areas, metres: outer rings run counter-clockwise, holes clockwise.

    A ring that is left whole ends in its first point. Rings without area vanish. Errors as in `edges_from_bounds`.
    """
    bounds, owners = [], []
    for owner, area in enumerate(areas):
        for index, ring in enumerate(area):
            ring = _distinct(np.vstack([ring, ring[:1]]))
            twice = float(np.sum(ring[:-1, 0] * np.diff(ring[:, 1]) - ring[:-1, 1] * np.diff(ring[:, 0])))
            if len(ring) >= 4 and twice:
                bounds.append(ring if (twice > 0) == (index == 0) else ring[::-1])
                owners.append(owner)
    return edges_from_bounds(bounds, areas, owners)


def edges_from_bounds(bounds: Sequence[Points], areas: Sequence[Area], owners: Sequence[int] = ()) -> list[Points]:
    """The parts of bounds, drivable side on the left, outside which no area lies; metres.

    Each bound is looked at every 0.5 m, 0.1 m to its right; where an area begins or ends is found to 1 mm. Parts that
    end within 1 m of where another begins are joined, so that the tip between two lanes that meet is closed; chains
    shorter than 2 m are dropped. An area more than 3 m above or below does not count, where the heights are known, nor
    does area `owners[i]`, which bound i is the bound of. DataError: bounds of more than a million samples in all, or
    too many areas on one place.
    """
    kept = [i for i, bound in enumerate(bounds) if len(_distinct(bound)) >= 2]
    lines = [_distinct(bounds[i]) for i in kept]
    if not lines:
        return []
    cells = sum(float(_cells(line).sum()) for line in lines)
    if not cells <= _MAX_SAMPLES:
        raise DataError(f"the bounds of the map have {cells:,.0f} pieces of up to 0.5 m; the limit is {_MAX_SAMPLES:,}")
    owner = np.array([owners[i] if owners else -1 for i in kept])
    cuts = [_cuts(line) for line in lines]
    middles = [(cut[:-1] + cut[1:]) / 2 for cut in cuts]
    free = _free(lines, middles, areas, owner)
    parts = []
    for line, cut, ends in zip(lines, cuts, _ends(lines, middles, free, areas, owner), strict=True):
        corner = np.arange(float(len(line)))
        for start, end in zip(ends[::2], ends[1::2], strict=True):
            start, end = max(start, cut[0]), min(end, cut[-1])
            between = corner[(corner > start) & (corner < end)]
            parts.append(_distinct(_at(line, np.concatenate([[start], between, [end]]))))
    return _joined([part for part in parts if len(part) >= 2])


def _free(
    lines: list[Points], where: list[Float[np.ndarray, " _"]], areas: Sequence[Area], owner: Int[np.ndarray, " L"]
) -> list[Bool[np.ndarray, " _"]]:
    """Whether no area but its own lies just outside each line, at positions counted in segments."""
    counts = [len(positions) for positions in where]
    outside = np.concatenate([_outside(line, positions) for line, positions in zip(lines, where, strict=True)])
    return np.split(~within(outside, areas, np.repeat(owner, counts)), np.cumsum(counts)[:-1])


def _ends(
    lines: list[Points],
    middles: list[Float[np.ndarray, " _"]],
    free: list[Bool[np.ndarray, " _"]],
    areas: Sequence[Area],
    owner: Int[np.ndarray, " L"],
) -> list[Float[np.ndarray, " _"]]:
    """Start and end, in turn, of the free runs of each line, by bisection between middles; outer ones are infinite."""
    turns = [np.flatnonzero(flags[:-1] != flags[1:]) for flags in free]
    inner = [np.stack([middle[turn], middle[turn + 1]]) for middle, turn in zip(middles, turns, strict=True)]
    before = [flags[turn] for flags, turn in zip(free, turns, strict=True)]
    for _ in range(_HALVINGS if any(map(len, turns)) else 0):
        half = [pair.mean(0) for pair in inner]
        for pair, at, same, flags in zip(inner, half, before, _free(lines, half, areas, owner), strict=True):
            pair[0], pair[1] = np.where(flags == same, at, pair[0]), np.where(flags == same, pair[1], at)
    return [
        np.concatenate([[-np.inf] * bool(flags[0]), pair.mean(0), [np.inf] * bool(flags[-1])])
        for pair, flags in zip(inner, free, strict=True)
    ]


def _joined(parts: list[Points]) -> list[Points]:
    """An open end is led to the nearest open start within 1 m, if it is the nearest end to that too.

    Chains shorter than 2 m are left out: slivers between bounds that do not quite fit.
    """
    if not parts:
        return []
    first, last = (np.nan_to_num(np.array([part[at] for part in parts])) for at in (0, -1))
    to_start, start = map(np.asarray, KDTree(first).query(last))
    to_end, end = map(np.asarray, KDTree(last).query(first))
    each = np.arange(len(parts))
    gap = (to_start > 0) & (to_start <= _JOIN) & (end[start] == each) & (to_end[start] > 0)
    linked = gap | (to_start <= _SNAP)
    graph = coo_array((np.ones(linked.sum()), (each[linked], start[linked])), shape=(len(parts), len(parts)))
    chain = connected_components(graph, directed=False)[1]
    length = np.bincount(chain, [np.hypot(*np.diff(part[:, :2], axis=0).T).sum() for part in parts])[chain]
    joined = []
    for i in np.flatnonzero(length >= _SHORTEST).tolist():
        body = parts[i][:-1] if to_start[i] < _SNAP else parts[i]
        joined.append(np.vstack([body, parts[start[i]][:1]]) if gap[i] else parts[i])
    return joined


def within(
    points: Float[np.ndarray, "P 3"], areas: Sequence[Area], owner: Int[np.ndarray, " P"] | None = None
) -> Bool[np.ndarray, " P"]:
    """Whether each point lies in an area (even-odd rule in the plane, areas 3 m off in height left out).

    Area `owner[i]` does not count for point i. DataError: more than 1e9 pairs of points and bounds.
    """
    found, work = np.zeros(len(points), bool), 0
    for index, area in enumerate(areas):
        rings = [_distinct(np.vstack([ring, ring[:1]])) for ring in area]
        rings = [ring for ring in rings if len(ring) >= 4]
        if not rings:
            continue
        low, high = rings[0].min(0), rings[0].max(0)
        low[2], high[2] = low[2] - _LEVEL, high[2] + _LEVEL
        # A comparison with an unknown height (NaN) is false, so that such an area or point counts.
        near = ~found & ~((points < low) | (points > high)).any(1)
        near = np.flatnonzero(near if owner is None else near & (owner != index))
        work += len(near) * sum(map(len, rings))
        if work > _MAX_WORK:
            raise DataError("too many areas of the map lie on one place; cut the map to the surroundings of the scene")
        found[near] = _parity(points[near, :2], rings)
    return found


def _parity(points: Float[np.ndarray, "M 2"], rings: Sequence[Points]) -> Bool[np.ndarray, " M"]:
    """Whether a ray to the right crosses the rings an odd number of times."""
    start = np.concatenate([ring[:-1, :2] for ring in rings])
    end = np.concatenate([ring[1:, :2] for ring in rings])
    rise = end[:, 1] - start[:, 1]
    slope = (end[:, 0] - start[:, 0]) / np.where(rise, rise, 1.0)
    odd = np.zeros(len(points), bool)
    size = max(1, _CHUNK // max(1, len(start)))
    for at in range(0, len(points), size):
        x, y = points[at : at + size, :1], points[at : at + size, 1:]
        crosses = (start[:, 1] <= y) != (end[:, 1] <= y)
        odd[at : at + size] = (crosses & (x < start[:, 0] + (y - start[:, 1]) * slope)).sum(1) % 2 == 1
    return odd


def _distinct(line: Points) -> Points:
    """Without points that are not finite (or beyond 1e15 m) or stand within 1 mm of the one before."""
    line = line[(np.abs(line[:, :2]) <= _FARTHEST).all(1)]
    moved = np.hypot(*np.diff(line[:, :2], axis=0).T) > 1e-3
    return line[np.concatenate([[True], moved])] if len(line) else line


def _cells(line: Points) -> Float[np.ndarray, " _"]:
    """Into how many equal cells, at most 0.5 m long, each segment is cut: no cell goes round a corner."""
    return np.ceil(np.hypot(*np.diff(line[:, :2], axis=0).T) / _STEP)


def _cuts(line: Points) -> Float[np.ndarray, " _"]:
    """Ends of the cells, as positions on the line counted in segments."""
    count = _cells(line).astype(int)
    segment = np.repeat(np.arange(len(count)), count)
    part = (np.arange(len(segment)) - (np.cumsum(count) - count)[segment]) / count[segment]
    return np.append(segment + part, float(len(count)))


def _at(line: Points, where: Float[np.ndarray, " M"]) -> Float[np.ndarray, "M 3"]:
    return np.stack([np.interp(where, np.arange(len(line)), column) for column in line.T], -1)


def _outside(line: Points, where: Float[np.ndarray, " M"]) -> Points:
    """Points 0.1 m to the right of the line, at positions counted in segments."""
    along = np.diff(line[:, :2], axis=0)[where.astype(int).clip(max=len(line) - 2)]
    points = _at(line, where)
    points[:, :2] += _OUTSIDE * np.stack([along[:, 1], -along[:, 0]], -1) / np.hypot(*along.T)[:, None]
    return points
