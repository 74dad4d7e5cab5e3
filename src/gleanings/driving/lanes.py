"""Lane centrelines as one graph: which lane follows which, which run side by side, and their segments.

Source: ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

from gleanings.core.errors import DataError
from gleanings.driving._polylines import resample, simplify, thin, turn
from gleanings.driving.raw import MapFeature
from gleanings.driving.raw_check import check_links
from gleanings.driving.scene import Lanes

JOIN_M, JOIN_RAD = 0.6, np.pi / 4  # a lane follows another whose end is so near its start, at such an angle
_BESIDE_M, _BESIDE_RAD = (2.0, 5.0), np.pi / 12  # lateral distance and angle of lanes taken for neighbours
_MAX_PAIRS = 5_000_000
_PLACES = (0.25, 0.5, 0.75)
_SIMPLIFY_M, _RISE_M, _MAX_SEGMENTS = 0.05, 0.5, (1 << 16) - 2


@dataclass(frozen=True)
class LaneGraph:
    """L lanes in the local frame; lane i has the points [offsets[i], offsets[i + 1]), at least two; L1 = L + 1.

    feature: index in the raw scene. links: rows (i, j): j follows i. beside: rows (i, j): j is a neighbour of i in the
    same direction. limit: m/s, NaN unknown. arc: length along the lane at each point, m.
    """

    feature: Int[np.ndarray, " L"]
    points: Float[np.ndarray, "P 3"]
    offsets: Int[np.ndarray, " L1"]
    links: Int[np.ndarray, "K 2"]
    beside: Int[np.ndarray, "J 2"]
    limit: Float[np.ndarray, " L"]
    arc: Float[np.ndarray, " P"]

    @property
    def count(self) -> int:
        """L."""
        return len(self.feature)

    def lane(self, row: int) -> Float[np.ndarray, "Q 3"]:
        """Points of one lane."""
        return self.points[self.offsets[row] : self.offsets[row + 1]]

    @property
    def first(self) -> Int[np.ndarray, " L"]:
        """Index of the first point of each lane."""
        return self.offsets[:-1]

    @property
    def last(self) -> Int[np.ndarray, " L"]:
        """Index of the last point of each lane."""
        return self.offsets[1:] - 1


def build_graph(features: Sequence[MapFeature], lines: Sequence[Float[np.ndarray, "_ 3"]]) -> LaneGraph:
    """The graph of the lanes among `features`, whose local points without NaN are `lines`.

    Links and neighbours of the file where a lane is `linked`, else by geometry. Lanes shorter than 1 cm are left out.
    """
    rows = [index for index, feature in enumerate(features) if feature.kind == "lane"]
    kept: list[int] = []
    parts: list[np.ndarray] = []
    for index in rows:
        line = thin(np.vstack([lines[index], lines[index][:1]]) if features[index].closed else lines[index], 1e-3)
        if len(line) > 1:
            kept.append(index)
            parts.append(line)
    points = np.concatenate(parts) if parts else np.zeros((0, 3))
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    lane_of = np.repeat(np.arange(len(parts)), np.diff(offsets))
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points[:, :2], axis=0), axis=1))])[: len(points)]
    chosen = [features[index] for index in kept]
    linked = np.array([feature.linked for feature in chosen], bool)
    graph = LaneGraph(
        feature=np.array(kept, np.int64),
        points=points,
        offsets=offsets,
        links=np.zeros((0, 2), np.int64),
        beside=np.zeros((0, 2), np.int64),
        limit=np.array([feature.speed_limit for feature in chosen], np.float64),
        arc=arc - arc[offsets[:-1]][lane_of] if len(points) else arc,
    )
    if not parts:
        return graph
    links = np.vstack([_given(chosen, [f.successors if f.linked else () for f in chosen]), near_links(graph, ~linked)])
    beside = np.vstack([_given(chosen, [f.neighbours for f in chosen]), _near_beside(graph, ~linked)])
    return LaneGraph(
        graph.feature, points, offsets, np.unique(links, axis=0), np.unique(beside, axis=0), graph.limit, graph.arc
    )


def headings(graph: LaneGraph) -> tuple[Float[np.ndarray, " L"], Float[np.ndarray, " L"]]:
    """Directions at the start and the end of each lane, radians."""
    first, last = graph.first, graph.last
    begin = graph.points[np.minimum(first + 2, last)] - graph.points[first]
    end = graph.points[last] - graph.points[np.maximum(last - 2, first)]
    return np.arctan2(begin[:, 1], begin[:, 0]), np.arctan2(end[:, 1], end[:, 0])


def near_links(graph: LaneGraph, among: Bool[np.ndarray, " L"]) -> Int[np.ndarray, "K 2"]:
    """Links i -> j of the lanes `among`, by geometry: end and start within 0.6 m, headings within 45 degrees."""
    rows = np.flatnonzero(among)
    if not len(rows):
        return np.zeros((0, 2), np.int64)
    begin, end = headings(graph)
    starts, ends = graph.points[graph.first], graph.points[graph.last]
    i, j = (rows[found] for found in _near(starts[rows], ends[rows], JOIN_M))
    bent = np.abs(turn(begin[j] - end[i])) > JOIN_RAD
    own = (i == j) & (graph.arc[graph.last][i] < 2 * JOIN_M)
    return np.stack([i, j], axis=1)[~bent & ~own]


def _near(
    points: Float[np.ndarray, "P 3"], places: Float[np.ndarray, "Q 3"], reach: float
) -> tuple[Int[np.ndarray, " K"], Int[np.ndarray, " K"]]:
    """Pairs (place, point) within `reach` metres. DataError: more than five million."""
    tree = KDTree(points)
    counts = np.asarray(tree.query_ball_point(places, reach, return_length=True), np.int64)
    if counts.sum() > _MAX_PAIRS:
        raise DataError(f"{counts.sum():,} pairs of lane points within {reach} m; lanes lie on top of each other")
    found = tree.query_ball_point(places, reach, return_sorted=True)
    return np.repeat(np.arange(len(places)), counts), np.concatenate([np.zeros(0, np.int64), *map(np.int64, found)])


def _given(features: Sequence[MapFeature], names: Sequence[tuple[str, ...]]) -> Int[np.ndarray, "K 2"]:
    check_links(sum(map(len, names)))
    row = {feature.name: index for index, feature in enumerate(features)}
    pairs = [(i, row[name]) for i, found in enumerate(names) for name in found if name in row]
    return np.array(pairs, np.int64).reshape(-1, 2)


def _near_beside(graph: LaneGraph, among: Bool[np.ndarray, " L"]) -> Int[np.ndarray, "J 2"]:
    """Neighbours by geometry: a quarter, half or three quarters of a lane lie 2 to 5 m beside one of its direction."""
    rows = np.flatnonzero(among)
    samples = sample_lanes(graph, 1.0)
    if not len(rows) or not len(samples.lane):
        return np.zeros((0, 2), np.int64)
    counts = np.bincount(samples.lane, minlength=graph.count)[rows]
    middle = (np.searchsorted(samples.lane, rows) + np.outer(_PLACES, counts).astype(np.int64)).ravel()
    place, j = _near(samples.points, samples.points[middle], _BESIDE_M[1] + 0.5)
    i = middle[place]
    gap = (samples.points[j] - samples.points[i])[:, :2]
    across = np.abs(gap[:, 0] * -np.sin(samples.yaw[i]) + gap[:, 1] * np.cos(samples.yaw[i]))
    along = np.abs(gap[:, 0] * np.cos(samples.yaw[i]) + gap[:, 1] * np.sin(samples.yaw[i]))
    good = (across > _BESIDE_M[0]) & (across < _BESIDE_M[1]) & (along < 1.0)
    good &= (np.abs(turn(samples.yaw[i] - samples.yaw[j])) < _BESIDE_RAD) & among[samples.lane[j]]
    pairs = np.stack([samples.lane[i][good], samples.lane[j][good]], axis=1)
    return np.vstack([pairs, pairs[:, ::-1]])


@dataclass(frozen=True)
class LaneSamples:
    """Points along all lanes, at most one step apart: position, direction (radians), row of the lane, arc on it."""

    points: Float[np.ndarray, "P 3"]
    yaw: Float[np.ndarray, " P"]
    lane: Int[np.ndarray, " P"]
    arc: Float[np.ndarray, " P"]


def sample_lanes(graph: LaneGraph, step: float) -> LaneSamples:
    """Points at most `step` metres apart on every lane, both ends included, in the order of lanes and arcs."""
    lines = resample(graph.points, graph.offsets, step)
    lane = np.searchsorted(graph.offsets, lines.segment, side="right") - 1
    arc = graph.arc[lines.segment] + lines.share * lines.size
    return LaneSamples(lines.points, lines.yaw, lane, arc)


def lane_segments(graph: LaneGraph) -> Lanes:
    """The graph as arrays: segments merged to within 5 cm and cut where they rise by more than 0.5 m; one table row a
    lane, whose four straightest successors are kept. Ends in one padding segment, whatever the graph. DataError: more
    segments than 16 bits number."""
    first, last, lane = _segments(graph)
    pieces = np.maximum(np.ceil(np.abs(last[:, 2] - first[:, 2]) / _RISE_M), 1).astype(np.int64)
    if pieces.sum() > _MAX_SEGMENTS:
        raise DataError(f"the lanes need {pieces.sum():,} segments of at most {_RISE_M} m of rise; cut the scene")
    which = np.repeat(np.arange(len(first)), pieces)
    place = np.arange(pieces.sum()) - (np.cumsum(pieces) - pieces)[which]
    delta = (last - first)[which] / pieces[which][:, None]
    start = first[which] + delta * place[:, None]
    square = (delta[:, :2] ** 2).sum(1)

    def padded(values: np.ndarray, fill: float) -> np.ndarray:
        return np.append(values, fill).astype(np.float32)

    return Lanes(
        ax=padded(start[:, 0], 0.0),
        ay=padded(start[:, 1], 0.0),
        dx=padded(delta[:, 0], 0.0),
        dy=padded(delta[:, 1], 0.0),
        inv_l2=padded(1.0 / square, 0.0),
        z=padded(start[:, 2] + delta[:, 2] / 2, np.inf),
        lane=np.append(lane[which], -1).astype(np.int16),
        id=graph.feature.astype(np.int32),
        limit=graph.limit.astype(np.float32),
        successors=_successors(graph),
    )


def graph_of(lanes: Lanes) -> LaneGraph:
    """The graph again from its arrays, as near as they keep it: lines to within 5 cm, four successors, neighbours by
    geometry."""
    real = np.flatnonzero(lanes.lane >= 0)
    row = lanes.lane[real].astype(np.int64)
    first = np.stack([lanes.ax[real], lanes.ay[real], lanes.z[real]], 1).astype(np.float64)
    delta = np.stack([lanes.dx[real], lanes.dy[real]], 1).astype(np.float64)
    # Heights are those of the middles of segments: ends lie between them.
    begins, ends = np.append(True, np.diff(row) != 0)[: len(row)], np.append(np.diff(row) != 0, True)[: len(row)]
    middle = first[:, 2].copy()
    first[:, 2] = np.where(begins, middle, (middle + np.append(middle[:1], middle[:-1])[: len(row)]) / 2)
    last = np.column_stack([first[:, :2] + delta, middle])
    order = np.argsort(np.concatenate([np.arange(len(row)), np.flatnonzero(ends) + 0.5]), kind="stable")
    points = np.concatenate([first, last[ends]])[order]
    rows = np.concatenate([row, row[ends]])[order]
    return _assembled(lanes, points, rows)


def _assembled(lanes: Lanes, points: Float[np.ndarray, "P 3"], rows: Int[np.ndarray, " P"]) -> LaneGraph:
    """The graph of points in the order of lanes; `rows`: of their lanes, of which those without a point are dropped."""
    kept, lane_of, counts = np.unique(rows, return_inverse=True, return_counts=True)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points[:, :2], axis=0), axis=1))])[: len(points)]
    new = np.full(len(lanes.id) + 1, -1)
    new[kept] = np.arange(len(kept))
    follows = new[lanes.successors[kept].astype(np.int64)]
    i, k = np.nonzero(follows >= 0)
    none = np.zeros((0, 2), np.int64)
    graph = LaneGraph(
        feature=lanes.id[kept].astype(np.int64),
        points=points,
        offsets=offsets,
        links=np.stack([i, follows[i, k]], 1),
        beside=none,
        limit=lanes.limit[kept].astype(np.float64),
        arc=arc - arc[offsets[:-1]][lane_of] if len(points) else arc,
    )
    return replace(graph, beside=np.unique(_near_beside(graph, np.ones(len(kept), bool)), axis=0))


def _segments(
    graph: LaneGraph,
) -> tuple[Float[np.ndarray, "K 3"], Float[np.ndarray, "K 3"], Int[np.ndarray, " K"]]:
    if not graph.count:
        return np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0, np.int64)
    kept = np.flatnonzero(simplify(graph.points, graph.offsets, _SIMPLIFY_M))
    lane = np.searchsorted(graph.offsets, kept, side="right") - 1
    joined = (lane[1:] == lane[:-1]) & (np.hypot(*np.diff(graph.points[kept][:, :2], axis=0).T) > 1e-3)
    return graph.points[kept[:-1]][joined], graph.points[kept[1:]][joined], lane[:-1][joined]


def _successors(graph: LaneGraph) -> np.ndarray:
    table = np.full((graph.count, 4), -1, np.int16)
    if len(graph.links):
        order = np.lexsort((bends(graph), graph.links[:, 0]))
        i, j = graph.links[order].T
        rank = np.arange(len(i)) - np.searchsorted(i, i)
        table[i[rank < 4], rank[rank < 4]] = j[rank < 4]
    return table


def bends(graph: LaneGraph) -> Float[np.ndarray, " K"]:
    """For each link the angle between the end of the one lane and the chord of the first 20 m of the next, radians."""
    i, j = graph.links.T
    _, end = headings(graph)
    ahead = np.array(
        [np.searchsorted(graph.arc[a : b + 1], 20.0) for a, b in zip(graph.first, graph.last, strict=True)]
    )
    chord = graph.points[np.minimum(graph.first + ahead, graph.last)] - graph.points[graph.first]
    return np.abs(turn(np.arctan2(chord[j, 1], chord[j, 0]) - end[i]))
