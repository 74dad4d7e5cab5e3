"""A small scene out of a large one: a window of time, the objects and the map near one of them. NumPy. Source: ours."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

from gleanings.core.errors import ConfigError, DataError
from gleanings.driving.grid import edge_grid, lane_grid, make_frame
from gleanings.driving.ground import compile_ground
from gleanings.driving.raster import no_raster
from gleanings.driving.scene import Edges, Goals, Lanes, Lights, Objects, Paths, Road, Scene, Trajectory, name_of
from gleanings.driving.stack import grow

_EDGE_M, _LANE_M, _ROAD_M, _ROAD_APART_M = 45.0, 12.0, 40.0, 4.0
_ROAD_KINDS = (1, 2)  # lanes and road edges, as in `Scene.road`
_LOOP_ROOM, _APART_STEPS = 34, 20


@dataclass(frozen=True)
class CropConfig:
    """Sizes of a cropped scene; every scene of one config has the same, so that scenes can be stacked."""

    objects: int = 16
    """Object slots: the ego in the first, then those that come nearest to its log within 2 s."""
    steps: int = 80
    """Steps after the start."""
    history: int = 1
    """Steps before it."""
    samples: int = 161
    """Path samples, a metre apart."""
    segments: int = 256
    """Road edge segments, the nearest to the ego's log and path."""
    road: int = 128
    """Points for observations, of lanes and road edges, 4 m apart, the nearest likewise."""
    lights: int = 16
    """Traffic lights, the nearest likewise."""


_DEFAULT = CropConfig()


def crop_scene(scene: Scene, config: CropConfig = _DEFAULT, slot: int | None = None, start: int | None = None) -> Scene:
    """What matters to one object (None: the ego) in a window of time; it becomes the ego, in slot 0.

    The window runs from `history` steps before `start` (None: the scene's) to `steps` after it; where the log is
    shorter, nothing is valid. Heights, limits and distances are those of the scene. DataError: no such object, or it is
    not valid at the start. ConfigError: sizes that cannot be meant.
    """
    _check(config)
    ego, first = _slot(scene, slot), int(scene.start) if start is None else start
    if not 0 <= first < len(scene.log.valid) or not scene.log.valid[first, ego]:
        raise DataError(f"object in slot {ego} of scene {name_of(scene)!r} is not there at step {first}")
    rows = np.arange(first - config.history, first + config.steps + 1)
    way = _way(scene, ego, rows, config)
    near = KDTree(way)
    slots = _nearest_objects(scene, ego, rows, config.objects)
    log = _window(scene.log, rows, slots)
    edges, lanes = _edges(scene.edges, near, config.segments), _lanes(scene.lanes, near)
    lights, paths = (
        _lights(scene, rows, slots, near, config.lights),
        _paths(scene.paths, slots, config.samples, rows, log.valid),
    )
    places = _places(scene, lanes, log, slots)
    frame = make_frame(way)
    cut = scene._replace(
        start=np.int32(config.history),
        log=log,
        objects=_objects(scene.objects, slots, int(rows[0]), len(rows)),
        edges=edges,
        grid=edge_grid(edges, frame, places),
        lanes=lanes,
        lane_grid=lane_grid(lanes, frame),
        lights=lights,
        paths=paths,
        goals=Goals(*(np.asarray(field)[slots] for field in scene.goals)),
        ground=compile_ground(places, frame),
        road=_road(scene.road, near, config.road),
        raster=no_raster(),
    )
    cut = _without_strangers(cut, slots < 0)
    return grow(cut, {"N": config.objects, "E": config.segments, "R": config.road, "S": config.lights})


def _check(config: CropConfig) -> None:
    small = {"objects": 1, "steps": 1, "history": 0, "samples": 64, "segments": 1, "road": 1, "lights": 0}
    for name, least in small.items():
        if getattr(config, name) < least:
            raise ConfigError(f"{name} is {getattr(config, name)}; a cropped scene needs at least {least}")


def _slot(scene: Scene, slot: int | None) -> int:
    if slot is not None:
        if not 0 <= slot < len(scene.objects.kind) or not scene.objects.exists[slot]:
            raise DataError(f"scene {name_of(scene)!r} has no object in slot {slot}")
        return slot
    found = np.flatnonzero(scene.objects.is_sdc)
    if not len(found):
        raise DataError(f"scene {name_of(scene)!r} has no ego; name the slot of the object that is to be it")
    return int(found[0])


def _way(scene: Scene, ego: int, rows: Int[np.ndarray, " T"], config: CropConfig) -> Float[np.ndarray, "K 2"]:
    """Where the ego was logged and where its path leads within the window, and as far back as is looked at."""
    inside = rows[(rows >= 0) & (rows < len(scene.log.valid))]
    valid = inside[scene.log.valid[inside, ego]]
    logged = np.stack([scene.log.x[valid, ego], scene.log.y[valid, ego]], 1)
    length = float(scene.paths.length[ego])
    count = int(min(length, config.samples - 1)) + 1 if length > 0 else 0
    path = np.stack([scene.paths.x[ego, :count], scene.paths.y[ego, :count]], 1)
    yaw = float(scene.log.yaw[valid[0], ego])
    behind = logged[0] - np.arange(0.0, 41.0, 2.0)[:, None] * [np.cos(yaw), np.sin(yaw)]
    return np.concatenate([logged, path, behind]).astype(np.float64)


def _nearest_objects(scene: Scene, ego: int, rows: Int[np.ndarray, " T"], count: int) -> Int[np.ndarray, " N"]:
    """Slots: the ego, then those who come nearest to where it is logged up to 2 s earlier or later; -1: no more."""
    inside = rows[(rows >= 0) & (rows < len(scene.log.valid))]
    valid = scene.log.valid[inside] & np.asarray(scene.objects.exists)
    x, y = (np.asarray(field, np.float64)[inside] for field in (scene.log.x, scene.log.y))
    least = np.full(valid.shape[1], np.inf)
    for shift in range(-_APART_STEPS, _APART_STEPS + 1, 5):
        now = np.arange(max(0, -shift), min(len(inside), len(inside) - shift))
        both = valid[now] & valid[now + shift, ego, None]
        away = np.hypot(x[now] - x[now + shift, ego, None], y[now] - y[now + shift, ego, None])
        least = np.minimum(least, np.where(both, away, np.inf).min(0, initial=np.inf))
    least[ego] = -1.0
    order = np.argsort(least, kind="stable")[:count]
    return np.where(np.isfinite(least[order]), order, -1)


def _window(log: Trajectory, rows: Int[np.ndarray, " T"], slots: Int[np.ndarray, " N"]) -> Trajectory:
    steps = len(log.valid)
    at, there = np.clip(rows, 0, steps - 1), (rows >= 0) & (rows < steps)
    valid = log.valid[at][:, slots] & there[:, None] & (slots >= 0)
    fields = [np.where(valid, np.asarray(field)[at][:, slots], 0).astype(field.dtype) for field in log[:-1]]
    return Trajectory(*fields, valid)


def _objects(objects: Objects, slots: Int[np.ndarray, " N"], shift: int, steps: int) -> Objects:
    taken = Objects(*(np.array(np.asarray(field)[slots]) for field in objects))
    first, last = (np.clip(field - shift, 0, steps - 1).astype(np.int32) for field in (taken.first, taken.last))
    return taken._replace(is_sdc=np.arange(len(slots)) == 0, first=first, last=last)


def _without_strangers(scene: Scene, empty: Bool[np.ndarray, " N"]) -> Scene:
    """Slots that hold no object made like padding."""
    zero = {"id": -1, "first": -1, "last": -1}
    objects = [
        np.where(empty, np.asarray(zero.get(name, 0), field.dtype), field)
        for name, field in zip(Objects._fields, scene.objects, strict=True)
    ]
    arc = np.where(empty[:, None], np.float32(np.inf), scene.lights.arc)
    length, closed = np.where(empty, np.float32(0), scene.paths.length), scene.paths.closed & ~empty
    exists = scene.goals.exists & ~empty
    return scene._replace(
        objects=Objects(*objects),
        lights=scene.lights._replace(arc=arc),
        paths=scene.paths._replace(length=length, closed=closed),
        goals=scene.goals._replace(exists=exists),
    )


def _edges(edges: Edges, near: KDTree, count: int) -> Edges:
    real = np.flatnonzero(np.isfinite(edges.z))
    away = _away(edges, real, near)
    order = np.argsort(away, kind="stable")[:count]
    kept = np.sort(real[order[away[order] <= _EDGE_M]])
    return Edges(*(np.asarray(field)[kept] for field in edges))


def _away(segments: Edges | Lanes, rows: Int[np.ndarray, " K"], near: KDTree) -> Float[np.ndarray, " K"]:
    """Least distance of five points of each segment to the way, less half their distance from each other, m."""
    a = np.stack([segments.ax[rows], segments.ay[rows]], 1).astype(np.float64)
    d = np.stack([segments.dx[rows], segments.dy[rows]], 1).astype(np.float64)
    points = a[:, None] + np.linspace(0, 1, 5)[:, None] * d[:, None]
    return near.query(points)[0].min(1, initial=np.inf) - np.hypot(*d.T) / 8


def _lanes(lanes: Lanes, near: KDTree) -> Lanes:
    """Whole lanes that come near the way, and one segment of padding at the end."""
    real = np.flatnonzero(np.isfinite(lanes.z))
    rows = np.unique(lanes.lane[real][_away(lanes, real, near) <= _LANE_M]).astype(np.int64)
    new = np.full(len(lanes.id) + 1, -1, np.int16)
    new[rows] = np.arange(len(rows))
    kept = np.append(real[np.isin(lanes.lane[real], rows)], _padding(lanes))
    fields = [np.asarray(field)[kept] for field in lanes[:6]]
    follows = new[lanes.successors[rows].astype(np.int64)]
    follows = np.take_along_axis(follows, np.argsort(follows == -1, axis=1, kind="stable"), 1)
    return Lanes(*fields, new[lanes.lane[kept].astype(np.int64)], lanes.id[rows], lanes.limit[rows], follows)


def _padding(lanes: Lanes) -> int:
    return int(np.flatnonzero(~np.isfinite(lanes.z))[0])


def _lights(
    scene: Scene, rows: Int[np.ndarray, " T"], slots: Int[np.ndarray, " N"], near: KDTree, count: int
) -> Lights:
    lights = scene.lights
    away = np.full(len(lights.x), np.inf)
    there = np.flatnonzero(lights.exists)
    away[there] = near.query(np.stack([lights.x, lights.y], 1)[there].astype(np.float64))[0]
    kept = np.sort(np.argsort(away, kind="stable")[: min(count, len(there))])
    state = lights.state[np.clip(rows, 0, len(lights.state) - 1)][:, kept]
    fields = [np.asarray(field)[kept] for field in (lights.x, lights.y, lights.z, lights.yaw)]
    return Lights(state, *fields, np.full(len(kept), -1, np.int16), lights.exists[kept], lights.arc[slots][:, kept])


def _paths(
    paths: Paths,
    slots: Int[np.ndarray, " N"],
    samples: int,
    rows: Int[np.ndarray, " T"],
    valid: Bool[np.ndarray, "T N"],
) -> Paths:
    have = paths.x.shape[1]
    if have < samples:
        raise ConfigError(f"samples is {samples}; the scene's paths have {have}")
    x, y, z, limit = (np.asarray(field)[slots][:, :samples] for field in paths[:4])
    closed = paths.closed[slots] & (paths.length[slots] <= samples - _LOOP_ROOM)
    length = np.minimum(paths.length[slots], np.float32(samples - 1))
    logged = paths.logged[slots][:, np.clip(rows, 0, paths.logged.shape[1] - 1)]
    return Paths(x, y, z, limit, length, closed, np.where(valid.T, logged, 0).astype(np.float32))


def _places(scene: Scene, lanes: Lanes, log: Trajectory, slots: Int[np.ndarray, " N"]) -> Float[np.ndarray, "K 3"]:
    """Logged feet of boxes and middles of lane segments."""
    feet = np.stack([log.x, log.y, log.z - scene.objects.height[slots] / 2], -1)[log.valid]
    real = np.isfinite(lanes.z)
    middle = np.stack([lanes.ax + lanes.dx / 2, lanes.ay + lanes.dy / 2, lanes.z], 1)[real]
    return np.concatenate([feet, middle]).astype(np.float64)


def _road(road: Road, near: KDTree, count: int) -> Road:
    """Lane and edge points near the way, thinned."""
    kept = np.flatnonzero(np.isin(road.kind, _ROAD_KINDS))
    points = np.stack([road.x, road.y], 1)[kept].astype(np.float64)
    away = near.query(points)[0] if len(points) else np.zeros(0)
    step = int(_ROAD_APART_M / 2)
    thin = (np.arange(len(kept)) % step == 0) & (away <= _ROAD_M)
    order = np.argsort(away[thin], kind="stable")[:count]
    return Road(*(np.asarray(field)[kept[thin][order]] for field in road))
