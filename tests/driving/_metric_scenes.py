"""Scenes built by hand, array by array, for the tests of metrics: every value is what the test says."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gleanings.driving.edges import compile_edges
from gleanings.driving.paths import logged_arcs
from gleanings.driving.raw import DEFAULT_SIZE, Kind
from gleanings.driving.scene import (
    Goals,
    Grid,
    Ground,
    Lanes,
    Lights,
    Objects,
    Paths,
    Raster,
    Road,
    Scene,
    Trajectory,
)

SAMPLES = 257
_CELLS = 120  # cells of 2 m along each side of the grid, around the origin


class Track(NamedTuple):
    """x, y, yaw, vx, vy and valid over T steps, and what does not change; path: waypoints, None: the log's."""

    motion: np.ndarray
    valid: np.ndarray
    kind: Kind = Kind.VEHICLE
    size: tuple[float, float, float] = DEFAULT_SIZE[Kind.VEHICLE]
    z: float = 0.8
    path: np.ndarray | None = None
    goal: tuple[float, float, float] | None = None


def drive(x: float, y: float, yaw: float, speed: float, steps: int, turn: float = 0.0, dt: float = 0.1) -> np.ndarray:
    """[T, 5]: x, y, yaw, vx, vy of a motion with constant speed (m/s) and yaw rate (rad/s)."""
    yaws = yaw + turn * dt * np.arange(steps)
    heading = np.stack([np.cos(yaws), np.sin(yaws)], 1)
    step = heading * speed * dt
    place = np.array([x, y]) + np.concatenate([np.zeros((1, 2)), np.cumsum(step[:-1], 0)])
    return np.concatenate([place, ((yaws + np.pi) % (2 * np.pi) - np.pi)[:, None], heading * speed], 1)


def track(motion: np.ndarray, kind: Kind = Kind.VEHICLE, valid: np.ndarray | None = None, **more: Any) -> Track:
    """A Track, valid everywhere unless said otherwise, of the default size of its kind."""
    valid = np.ones(len(motion), bool) if valid is None else np.asarray(valid, bool)
    return Track(motion, valid, kind, more.pop("size", DEFAULT_SIZE[kind]), **more)


def build(
    tracks: Sequence[Track],
    edges: Sequence[np.ndarray] = (),
    lanes: Sequence[tuple[np.ndarray, float]] = (),
    lights: Sequence[tuple[np.ndarray, float, float, float]] = (),
    start: int = 0,
) -> Scene:
    """A scene of these tracks. edges, lanes: points [P, 3]; a lane with its limit; a light: states [T], x, y, yaw."""
    f, steps, n = np.float32, len(tracks[0].motion), len(tracks)
    columns = np.stack([t.motion for t in tracks], 1) * np.stack([t.valid for t in tracks], 1)[..., None]
    valid = np.stack([t.valid for t in tracks], 1)
    z = np.where(valid, [t.z for t in tracks], 0).astype(f)
    x, y, yaw, vx, vy = (columns[..., k].astype(f) for k in range(5))
    segments = compile_edges([(np.asarray(line, float), False) for line in edges], simplify_m=0.0)
    table = _lanes(lanes)
    return Scene(
        origin=np.zeros(3, np.int32),
        dt=f(0.1),
        start=np.int32(start),
        scene_id=np.frombuffer(b"hand".ljust(32, b"\0"), np.uint8),
        source=np.zeros(128, np.uint8),
        log=Trajectory(x, y, z, yaw, vx, vy, valid),
        objects=_objects(tracks),
        edges=segments if len(segments.ax) else type(segments)(*(np.full(1, np.inf, f) for _ in segments)),
        grid=_grid(max(len(segments.ax), 1)),
        lanes=table,
        lane_grid=_grid(len(table.ax)),
        lights=_lights(lights, steps, n),
        paths=_paths(tracks),
        goals=Goals(
            *(np.asarray([t.goal[k] if t.goal else 0 for t in tracks], f) for k in range(3)),
            np.asarray([t.goal is not None for t in tracks]),
        ),
        ground=Ground(*(np.full(_CELLS**2, np.nan, f) for _ in range(2))),
        road=Road(*(np.zeros(1, f) for _ in range(5)), np.zeros(1, np.int8)),
        raster=Raster(f(0), f(0), np.zeros((0, 0), f), f(0)),
    )


def _objects(tracks: Sequence[Track]) -> Objects:
    f, n = np.float32, len(tracks)
    some = [np.flatnonzero(t.valid) for t in tracks]
    extent = [
        np.hypot(*(t.motion[rows, :2] - t.motion[rows[0], :2]).T).max() if len(rows) else 0
        for t, rows in zip(tracks, some, strict=True)
    ]
    return Objects(
        np.asarray([int(t.kind) for t in tracks], np.int8),
        np.arange(n, dtype=np.int32),
        *(np.asarray([t.size[k] for t in tracks], f) for k in range(3)),
        np.arange(n) == 0,
        np.zeros(n, bool),
        np.zeros(n, bool),
        np.asarray([rows[0] if len(rows) else -1 for rows in some], np.int32),
        np.asarray([rows[-1] if len(rows) else -1 for rows in some], np.int32),
        np.asarray(extent, f),
        np.asarray([np.hypot(t.motion[:, 3], t.motion[:, 4]).max() for t in tracks], f),
        np.ones(n, bool),
    )


def _grid(count: int) -> Grid:
    """A grid every cell of which lists everything."""
    f, slots = np.float32, np.arange(count, dtype=np.int32)
    cells = np.zeros(_CELLS**2, np.int32)
    side = np.int32(_CELLS)
    return Grid(f(-_CELLS), f(-_CELLS), side, side, cells, slots.astype(np.uint16), slots, cells.astype(np.int8))


def _lanes(lanes: Sequence[tuple[np.ndarray, float]]) -> Lanes:
    f = np.float32
    rows = [(points[k], points[k + 1], row) for row, (points, _) in enumerate(lanes) for k in range(len(points) - 1)]
    a, d = np.zeros((len(rows) + 1, 3), f), np.zeros((len(rows) + 1, 3), f)
    for k, (p, q, _) in enumerate(rows):
        a[k], d[k] = p, np.subtract(q, p)
    z = a[:, 2] + d[:, 2] / 2
    z[-1] = np.inf
    length = d[:, 0] ** 2 + d[:, 1] ** 2
    lane = np.asarray([*(row for *_, row in rows), -1], np.int16)
    count = max(len(lanes), 1)
    return Lanes(
        a[:, 0],
        a[:, 1],
        d[:, 0],
        d[:, 1],
        1 / np.maximum(length, f(1e-9)),
        z,
        lane,
        np.arange(count, dtype=np.int32),
        np.asarray([limit for _, limit in lanes] or [np.nan], f),
        np.full((count, 4), -1, np.int16),
    )


def _lights(lights: Sequence[tuple[np.ndarray, float, float, float]], steps: int, n: int) -> Lights:
    f, count = np.float32, len(lights)
    state = np.stack([light[0] for light in lights], 1) if lights else np.zeros((steps, 0))
    x, y, yaw = (np.asarray([light[k] for light in lights], f) for k in (1, 2, 3))
    lane = np.full(count, -1, np.int16)
    nowhere = np.full((n, count), np.inf, f)
    return Lights(state.astype(np.uint8), x, y, np.zeros(count, f), yaw, lane, np.ones(count, bool), nowhere)


def _paths(tracks: Sequence[Track]) -> Paths:
    f, n = np.float32, len(tracks)
    x, y, length = (np.zeros(shape, f) for shape in ((n, SAMPLES), (n, SAMPLES), (n,)))
    for i, one in enumerate(tracks):
        points = one.motion[one.valid, :2] if one.path is None else np.asarray(one.path, float)
        if len(points):
            x[i], y[i], length[i] = _sampled(points)
    flat, unknown = np.zeros((n, SAMPLES), f), np.full((n, SAMPLES), np.nan, f)
    motion = np.stack([np.where(one.valid[:, None], one.motion, 0) for one in tracks], 1).astype(float)
    valid, still = np.stack([one.valid for one in tracks], 1), np.zeros(n, bool)
    logged = logged_arcs(x, y, length, still, motion[..., 0], motion[..., 1], motion[..., 2], valid)
    return Paths(x, y, flat, unknown, length, still, logged)


def _sampled(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Points a metre apart along waypoints at least 0.5 m apart, then straight on; and the length."""
    kept = [points[0]]
    for point in points[1:]:
        if np.hypot(*(point - kept[-1])) >= 0.5:
            kept.append(point)
    if len(kept) == 1:
        return np.full(SAMPLES, kept[0][0]), np.full(SAMPLES, kept[0][1]), 0.0
    line = np.stack(kept)
    direction = (line[-1] - line[-2]) / np.hypot(*(line[-1] - line[-2]))
    line = np.concatenate([line, line[-1:] + direction * 2 * SAMPLES])
    arc = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    at = np.arange(SAMPLES, dtype=float)
    return np.interp(at, arc, line[:, 0]), np.interp(at, arc, line[:, 1]), min(float(arc[-2]) + 50, SAMPLES - 1.0)
