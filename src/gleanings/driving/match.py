"""Which lanes an object drove on: candidates near each pose, the cheapest sequence through the lane graph, its route.

Source: hidden Markov map matching (Newson and Krumm, 2009); the costs are ours.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

from gleanings.driving._polylines import turn
from gleanings.driving.lanes import LaneGraph, LaneSamples, bends, sample_lanes

_STEP_M, _REACH_M, _NEAREST, _KEPT = 1.0, 4.0, 24, 6
_HEADING_VAR, _CHANGE, _NONE, _NEVER = 0.09, 3.0, 16.0, 1e6
ROUTE_M = 150.0
AHEAD_M, AHEAD_RAD = 2.0, np.pi / 4  # a pose so near a lane and so aligned goes on along it


@dataclass(frozen=True)
class Candidates:
    """The cheapest lanes near each of K poses, ascending; row -1: fewer were found.

    cost: squared lateral distance / 1 m^2 + squared angle / 0.09. lateral: m, left of the lane positive. arc: on the
    lane. angle: of the pose to the lane, radians.
    """

    row: Int[np.ndarray, "K C"]
    cost: Float[np.ndarray, "K C"]
    lateral: Float[np.ndarray, "K C"]
    arc: Float[np.ndarray, "K C"]
    angle: Float[np.ndarray, "K C"]


class LaneIndex:
    """A lane graph with what a search for lanes needs: samples, a tree, straightest successors, costs of changes."""

    def __init__(self, graph: LaneGraph) -> None:
        self.graph = graph
        self.samples: LaneSamples = sample_lanes(graph, _STEP_M)
        self.tree = KDTree(self.samples.points) if len(self.samples.lane) else None
        self.next = np.full(graph.count, -1, np.int64)
        if len(graph.links):
            order = np.lexsort((bends(graph), graph.links[:, 0]))
            i, j = graph.links[order].T
            first = np.unique(i, return_index=True)[1]
            self.next[i[first]] = j[first]
        size = max(graph.count, 1)
        free = graph.links @ [size, 1]
        paid = np.setdiff1d(graph.beside @ [size, 1], free)
        codes = np.concatenate([np.unique(free), paid])
        costs = np.concatenate([np.zeros(len(np.unique(free))), np.full(len(paid), _CHANGE)])
        order = np.argsort(codes)
        self._codes, self._costs = np.append(codes[order], -1), np.append(costs[order], _NEVER)

    def near(self, points: Float[np.ndarray, "K 3"], yaw: Float[np.ndarray, " K"]) -> Candidates:
        """Candidates within 4 m (in space) of each pose."""
        if self.tree is None or not len(points):
            none = np.zeros((len(points), _KEPT))
            return Candidates(np.full(none.shape, -1), none + np.inf, none, none, none)
        found = np.asarray(self.tree.query(points, _NEAREST, distance_upper_bound=_REACH_M)[1])
        there = found < len(self.samples.lane)
        found = np.where(there, found, 0)
        gap = points[:, None, :2] - self.samples.points[found][..., :2]
        way = self.samples.yaw[found]
        lateral = gap[..., 1] * np.cos(way) - gap[..., 0] * np.sin(way)
        along = gap[..., 0] * np.cos(way) + gap[..., 1] * np.sin(way)
        angle = turn(yaw[:, None] - way)
        beyond = np.maximum(np.abs(along) - _STEP_M, 0.0)
        cost = np.where(there, lateral**2 + beyond**2 + angle**2 / _HEADING_VAR, np.inf)
        order = np.argsort(cost, axis=1, kind="stable")
        cost = np.take_along_axis(cost, order, 1)
        found = np.take_along_axis(found, order, 1)
        row = np.where(np.isfinite(cost), self.samples.lane[found], -1)
        same = np.tril(row[:, :, None] == row[:, None, :], -1).any(2)
        pick = np.argsort(np.where(same, np.inf, cost), axis=1, kind="stable")[:, :_KEPT]
        twice = np.take_along_axis(same, pick, 1)
        pick_of = np.take_along_axis(order, pick, 1)

        def chosen(values: np.ndarray) -> np.ndarray:
            return np.take_along_axis(values, pick_of, 1)

        arc = self.samples.arc[np.take_along_axis(found, pick, 1)] + np.clip(chosen(along), -_STEP_M, _STEP_M)
        return Candidates(
            row=np.where(twice, -1, np.take_along_axis(row, pick, 1)),
            cost=np.where(twice, np.inf, np.take_along_axis(cost, pick, 1)),
            lateral=chosen(lateral),
            arc=np.maximum(arc, 0.0),
            angle=chosen(angle),
        )

    def change_cost(self, before: Int[np.ndarray, "N A"], after: Int[np.ndarray, "N B"]) -> Float[np.ndarray, "N A B"]:
        """Cost of going from each lane to each other between poses: 0 along a link, 3 to a neighbour or off the map."""
        before, after = before[:, :, None], after[:, None, :]
        code = np.where((before < 0) | (after < 0), -2, before * max(self.graph.count, 1) + after)
        place = np.minimum(np.searchsorted(self._codes[:-1], code), len(self._codes) - 1)
        cost = np.where(self._codes[place] == code, self._costs[place], _NEVER)
        return np.where(before == after, 0.0, np.where(code == -2, _CHANGE, cost))


def match_lanes(
    index: LaneIndex,
    points: Float[np.ndarray, "N T 3"],
    yaw: Float[np.ndarray, "N T"],
    there: Bool[np.ndarray, "N T"],
) -> Int[np.ndarray, "N T"]:
    """Row of the lane at each pose of N objects, -1: none. The cheapest sequence by Viterbi.

    Poses that are not `there` get the lane of the pose before. Being on no lane costs 16 a pose.
    """
    count, steps = there.shape
    found = index.near(points[there], yaw[there])
    row = np.full((count, steps, _KEPT + 1), -1)
    cost = np.full((count, steps, _KEPT + 1), np.inf)
    row[there, :_KEPT], cost[there, :_KEPT] = found.row, found.cost
    cost[..., _KEPT] = _NONE
    before = np.where(there[:, :1], cost[:, 0], 0.0) if steps else np.zeros((count, _KEPT + 1))
    came = np.zeros((count, steps, _KEPT + 1), np.int64)
    for t in range(1, steps):
        step = before[:, :, None] + index.change_cost(row[:, t - 1], row[:, t])
        came[:, t] = step.argmin(1)
        now = np.minimum(step.min(1) + cost[:, t], 1e18)
        absent = ~there[:, t]
        came[absent, t], now[absent] = np.arange(_KEPT + 1), before[absent]
        row[absent, t] = row[absent, t - 1]
        before = now
    best = before.argmin(1)
    chosen = np.full((count, steps), -1)
    every = np.arange(count)
    for t in range(steps - 1, -1, -1):
        chosen[:, t] = row[every, t, best]
        best = came[every, t, best]
    return chosen


def follow(index: LaneIndex, row: int, arc: float, ahead: float) -> list[int]:
    """Lanes from `arc` on lane `row` along straightest successors, until `ahead` metres are covered or none follows."""
    rows, covered = [row], float(index.graph.arc[index.graph.last[row]]) - arc
    while covered < ahead and index.next[rows[-1]] >= 0 and len(rows) < 1000:
        rows.append(int(index.next[rows[-1]]))
        covered += float(index.graph.arc[index.graph.last[rows[-1]]])
    return rows


def route(index: LaneIndex, rows: Int[np.ndarray, " T"], ahead: float = ROUTE_M) -> list[int]:
    """The lanes of a matched object in driving order, then straightest successors for `ahead` metres from the end of
    the last one. Empty: it was on no lane."""
    on = rows[rows >= 0]
    if not len(on):
        return []
    passed = on[np.concatenate([[True], np.diff(on) != 0])].tolist()
    length = float(index.graph.arc[index.graph.last[passed[-1]]])
    return passed[:-1] + follow(index, passed[-1], length, ahead)
