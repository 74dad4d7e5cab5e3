"""The map of a raw scene in the local frame: heights that are missing, lights, goals, points for observations. Ours."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from gleanings.driving._polylines import resample
from gleanings.driving._tracks import Tracks, height_near
from gleanings.driving.lanes import LaneGraph
from gleanings.driving.paths import light_arcs
from gleanings.driving.raw import RawScene
from gleanings.driving.scene import Goals, Lights, Paths, Road

Line = Float[np.ndarray, "_ 3"]
_ROAD_STEP_M, _GOAL_M, _LIGHT_M = 2.0, 2.0, 3.0
_ROAD_KINDS = ("", "lane", "road_edge", "road_line", "crosswalk", "speed_bump", "stop_sign", "driveway")
_SURFACE = ("lane", "road_edge", "road_line")


def local_lines(raw: RawScene, origin: Int[np.ndarray, "3"]) -> list[Line]:
    """Points of each feature in the local frame. Unknown heights are 0 in a flat scene, else taken from the rest of
    the feature or from the nearest point that has one; points without a place are left out."""
    lines = [feature.points - origin for feature in raw.features]
    lines = [line[np.isfinite(line[:, :2]).all(1)] for line in lines]
    if raw.flat:
        return [line * [1, 1, 0] if np.isfinite(line).all() else np.c_[line[:, :2], 0 * line[:, 0]] for line in lines]
    known = np.concatenate([line[np.isfinite(line[:, 2])] for line in lines]) if lines else np.zeros((0, 3))
    return [line if np.isfinite(line[:, 2]).all() else _with_heights(line, known) for line in lines]


def _with_heights(line: Line, known: Line) -> Line:
    line, there = line.copy(), np.isfinite(line[:, 2])
    step = np.arange(len(line))
    line[:, 2] = np.interp(step, step[there], line[there, 2]) if there.any() else height_near(line[:, :2], known)
    return line


def surface_points(raw: RawScene, lines: Sequence[Line]) -> Line:
    """Points of lanes, edges and road lines that have a height in the file; none in a flat scene."""
    parts = [
        line
        for feature, line in zip(raw.features, lines, strict=True)
        if feature.kind in _SURFACE and np.isfinite(feature.points[:, 2]).any()
    ]
    return np.concatenate(parts) if parts and not raw.flat else np.zeros((0, 3))


def lights_of(raw: RawScene, origin: Int[np.ndarray, "3"], graph: LaneGraph, paths: Paths) -> Lights:
    """Lights with a stop point. Direction: that of the light's lane at the stop point, else of the nearest lane within
    3 m, else 0. Unknown heights of stop points are those of the nearest lane."""
    kept = [light for light in raw.lights if np.isfinite(light.stop[:2]).all()]
    stop = np.array([light.stop for light in kept]).reshape(-1, 3) - origin
    low = np.zeros(len(stop)) if raw.flat else height_near(stop[:, :2], graph.points)
    stop[:, 2] = np.where(np.isfinite(stop[:, 2]) & (not raw.flat), stop[:, 2], low)
    row_of = {raw.features[feature].name: row for row, feature in enumerate(graph.feature)}
    rows = np.array([row_of.get(light.lane, -1) for light in kept], np.int64)
    starts = np.setdiff1d(np.arange(len(graph.points)), graph.last)
    yaw = np.array([_direction(graph, starts, int(row), point) for row, point in zip(rows, stop, strict=True)])
    known = np.isfinite(yaw)
    yaw = np.where(known, yaw, 0.0)
    state = np.array([light.state for light in kept], np.uint8).reshape(-1, len(raw.times)).T.copy()
    x, y, z = stop.T.astype(np.float32)
    return Lights(
        state=state,
        x=x,
        y=y,
        z=z,
        yaw=yaw.astype(np.float32),
        lane=rows.astype(np.int16),
        exists=known,
        arc=np.where(known, light_arcs(paths, stop[:, 0], stop[:, 1], yaw), np.float32(np.inf)),
    )


def _direction(graph: LaneGraph, starts: Int[np.ndarray, " K"], row: int, point: Float[np.ndarray, "3"]) -> float:
    """Direction of the segment nearest to `point`: of lane `row` or, row -1, of those that begin at `starts`.

    NaN where there is none within 3 m: a stop line without direction would stop those who pass beside it.
    """
    inside = np.arange(graph.first[row], graph.last[row]) if row >= 0 else starts
    if not len(inside):
        return float("nan")
    a, d = graph.points[inside], graph.points[inside + 1] - graph.points[inside]
    share = np.clip(((point - a)[:, :2] * d[:, :2]).sum(1) / (d[:, :2] ** 2).sum(1), 0, 1)
    away = np.linalg.norm(point - a - share[:, None] * d, axis=1)
    best = int(away.argmin())
    return float(np.arctan2(d[best, 1], d[best, 0])) if row >= 0 or away[best] < _LIGHT_M else float("nan")


def goals_of(raw: RawScene, origin: Int[np.ndarray, "3"], tracks: Tracks) -> Goals:
    """The goal a file gives, else 2 m around the last valid pose; none where a log of one pose leads nowhere."""
    given = {goal.track: (*(np.array(goal.centre) - origin[:2]), goal.radius) for goal in raw.goals}
    ends = tracks.base[tracks.last, np.arange(len(tracks.index)), :2]
    rows = [given.get(int(index), (*end, _GOAL_M)) for index, end in zip(tracks.index, ends, strict=True)]
    x, y, radius = np.array(rows, np.float32).reshape(-1, 3).T
    exists = (tracks.first < tracks.last) | np.isin(tracks.index, list(given))
    return Goals(x, y, radius, exists)


def road_of(raw: RawScene, lines: Sequence[Line]) -> Road:
    """Map points for observations: lines resampled to 2 m, single points as they are, with their directions."""
    closed = [
        np.vstack([line, line[:1]]) if feature.closed and len(line) > 1 else line
        for feature, line in zip(raw.features, lines, strict=True)
    ]
    points = np.concatenate(closed) if closed else np.zeros((0, 3))
    offsets = np.concatenate([[0], np.cumsum([len(line) for line in closed])]).astype(np.int64)
    kinds = np.array([_ROAD_KINDS.index(feature.kind) for feature in raw.features], np.int64)
    many = resample(points, offsets, _ROAD_STEP_M)
    line_of = np.searchsorted(offsets, many.segment, side="right") - 1
    single = np.flatnonzero(np.diff(offsets) == 1)
    x, y, z = np.vstack([many.points, points[offsets[single]]]).T.astype(np.float32)
    none = np.zeros(len(single))
    return Road(
        x=x,
        y=y,
        z=z,
        dx=np.concatenate([np.cos(many.yaw), none]).astype(np.float32),
        dy=np.concatenate([np.sin(many.yaw), none]).astype(np.float32),
        kind=np.concatenate([kinds[line_of], kinds[single]]).astype(np.int8),
    )
