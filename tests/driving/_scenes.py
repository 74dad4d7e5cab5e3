"""Hand-made compiled scenes: a straight road along x with a few objects, whose logs a test states in full."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from gleanings.driving.raw import DEFAULT_SIZE, Kind
from gleanings.driving.scene import (
    Edges,
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

HALF_ROAD = 10.0  # m, from the middle of the road to its edges
SAMPLES = 288  # of a path, a metre apart
_X0, _Y0, _NX, _NY = -150.0, -60.0, 300, 60


@dataclass
class Track:
    """Log of one object: x, y, yaw, vx, vy [T] and the steps at which it was seen."""

    x: Float[np.ndarray, " T"]
    y: Float[np.ndarray, " T"]
    yaw: Float[np.ndarray, " T"]
    vx: Float[np.ndarray, " T"]
    vy: Float[np.ndarray, " T"]
    valid: Bool[np.ndarray, " T"]
    kind: Kind = Kind.VEHICLE
    size: tuple[float, float, float] = field(default=(4.6, 1.9, 1.6))


def straight(
    x: float = 0.0,
    y: float = 0.0,
    speed: float = 10.0,
    *,
    steps: int = 21,
    yaw: float = 0.0,
    valid: slice | list[int] | None = None,
    kind: Kind = Kind.VEHICLE,
    dt: float = 0.1,
) -> Track:
    """An object that keeps its speed (m/s) from (x, y) on, seen at the steps `valid` (all)."""
    s = speed * dt * np.arange(steps)
    seen = np.zeros(steps, bool)
    seen[slice(None) if valid is None else valid] = True
    ones = np.ones(steps)
    c, n = np.cos(yaw), np.sin(yaw)
    return Track(x + s * c, y + s * n, yaw * ones, speed * c * ones, speed * n * ones, seen, kind, DEFAULT_SIZE[kind])


def turning(speed: float = 8.0, *, steps: int = 21, amplitude: float = 0.4, dt: float = 0.1) -> Track:
    """A vehicle whose heading swings by `amplitude` (rad) and whose speed varies by a quarter, finely integrated."""
    fine = 100
    t = np.arange((steps - 1) * fine + 1) * dt / fine
    yaw = amplitude * np.sin(0.8 * t)
    v = speed * (1 + 0.25 * np.sin(0.5 * t))
    vx, vy = v * np.cos(yaw), v * np.sin(yaw)
    x, y = (np.concatenate([[0.0], np.cumsum((r[1:] + r[:-1]) / 2) * dt / fine]) for r in (vx, vy))
    return Track(*(a[::fine] for a in (x, y, yaw, vx, vy)), np.ones(steps, bool))


def tiny_scene(tracks: list[Track], *, slots: int = 8, start: int = 0, sdc: int = 0, dt: float = 0.1) -> Scene:
    """A scene of `tracks` on a flat road 20 m wide along x; paths run straight on from the first valid poses.

    sdc: index of the ego, -1: none. Arrays are NumPy's. The road is at height 0, so that centres are at half heights.
    """
    steps = len(tracks[0].x)
    empty = np.zeros(steps)
    pads = [Track(*(empty,) * 5, np.zeros(steps, bool), Kind.OTHER, (0.0, 0.0, 0.0))] * (slots - len(tracks))
    every = tracks + pads
    valid = np.stack([t.valid for t in every], 1)

    def column(name: str) -> Float[np.ndarray, "T N"]:
        return np.where(valid, np.stack([getattr(t, name) for t in every], 1), 0).astype(np.float32)

    height = np.asarray([t.size[2] for t in every], np.float32)
    z = np.where(valid, height / 2, 0).astype(np.float32)
    log = Trajectory(column("x"), column("y"), z, column("yaw"), column("vx"), column("vy"), valid)
    return Scene(
        origin=np.zeros(3, np.int32),
        dt=np.float32(dt),
        start=np.int32(start),
        scene_id=_text("tiny", 32),
        source=_text("by hand", 128),
        log=log,
        objects=_objects(every, len(tracks), log, sdc),
        edges=_edges(),
        grid=_grid(2),
        lanes=_lanes(),
        lane_grid=_grid(1),
        lights=_no_lights(steps, slots),
        paths=_paths(log),
        goals=Goals(*(np.zeros(slots, np.float32),) * 3, np.zeros(slots, bool)),
        ground=Ground(np.zeros(_NX * _NY, np.float32), np.full(_NX * _NY, np.nan, np.float32)),
        road=Road(*(np.zeros(1, np.float32),) * 5, np.zeros(1, np.int8)),
        raster=Raster(np.float32(0), np.float32(0), np.zeros((0, 0), np.float32), np.float32(0)),
    )


def _text(text: str, size: int) -> np.ndarray:
    return np.frombuffer(text.encode().ljust(size, b"\0"), np.uint8)


def _objects(tracks: list[Track], count: int, log: Trajectory, sdc: int) -> Objects:
    n, steps = len(tracks), len(log.x)
    length, width, height = (np.asarray([t.size[k] for t in tracks], np.float32) for k in range(3))
    seen, slot = log.valid.any(0), np.arange(n)
    first = np.where(seen, log.valid.argmax(0), -1).astype(np.int32)
    last = np.where(seen, steps - 1 - log.valid[::-1].argmax(0), -1).astype(np.int32)
    x, y = log.x - log.x[first, slot], log.y - log.y[first, slot]
    extent = np.where(log.valid, np.hypot(x, y), 0).max(0).astype(np.float32)
    speed = np.hypot(log.vx, log.vy).max(0).astype(np.float32)
    kind = np.asarray([t.kind for t in tracks], np.int8)
    none, exists = np.zeros(n, bool), slot < count
    ids = np.where(exists, slot + 100, -1).astype(np.int32)
    return Objects(kind, ids, length, width, height, slot == sdc, none, none, first, last, extent, speed, exists)


def _edges() -> Edges:
    """The right edge along +x and the left one along -x: the road lies on the left of both."""
    ax, dx = np.asarray([-100, 400], np.float32), np.asarray([500, -500], np.float32)
    ay, up = np.asarray([-HALF_ROAD, HALF_ROAD], np.float32), np.asarray([1, -1], np.float32)
    zero = np.zeros(2, np.float32)
    return Edges(ax, ay, dx, zero, 1 / dx**2, zero, zero, up, zero, up)


def _lanes() -> Lanes:
    values = (-100, 0, 500, 0, 1 / 500**2, 0)
    rows = np.asarray([1], np.float32)
    head = tuple(rows * value for value in values)
    return Lanes(*head, np.zeros(1, np.int16), np.zeros(1, np.int32), rows * 15, np.full((1, 4), -1, np.int16))


def _grid(count: int) -> Grid:
    """Every cell lists all segments."""
    cells = _NX * _NY
    slots, zero = np.arange(count, dtype=np.int32), np.zeros(cells, np.int32)
    corner = (np.float32(_X0), np.float32(_Y0), np.int32(_NX), np.int32(_NY))
    return Grid(*corner, zero, slots.astype(np.uint16), slots, np.zeros(cells, np.int8))


def _no_lights(steps: int, slots: int) -> Lights:
    zero = np.zeros(1, np.float32)
    lane, exists = np.full(1, -1, np.int16), np.zeros(1, bool)
    state, arc = np.zeros((steps, 1), np.uint8), np.full((slots, 1), np.inf, np.float32)
    return Lights(state, zero, zero, zero, zero, lane, exists, arc)


def _paths(log: Trajectory) -> Paths:
    first, slot = log.valid.argmax(0), np.arange(log.x.shape[1])
    x, y, yaw = (a[first, slot][:, None] for a in (log.x, log.y, log.yaw))
    arc = np.arange(SAMPLES, dtype=np.float32)
    length = np.where(log.valid.any(0), 256, 0).astype(np.float32)
    zero = np.zeros((len(length), SAMPLES), np.float32)
    along = np.cos(yaw).T * (log.x - x.T) + np.sin(yaw).T * (log.y - y.T)
    logged = np.where(log.valid, np.clip(along, 0, SAMPLES - 1), 0).astype(np.float32).T
    return Paths(x + arc * np.cos(yaw), y + arc * np.sin(yaw), zero, zero + 15, length, length < 0, logged)
