"""A small scene out of a large one: a window of time, the objects and the map near one of them. NumPy. Source: ours."""

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

from gleanings.core.errors import ConfigError, DataError
from gleanings.driving.edges import compile_edges
from gleanings.driving.grid import edge_grid, lane_grid, make_frame
from gleanings.driving.ground import compile_ground
from gleanings.driving.raster import no_raster
from gleanings.driving.routes import slot_of, stop_arcs
from gleanings.driving.scene import Edges, Goals, Lanes, Lights, Objects, Paths, Road, Scene, Trajectory, name_of
from gleanings.driving.stack import grow

_EDGE_M, _LANE_M, _ROAD_M, _ROAD_APART_M = 45.0, 12.0, 40.0, 4.0
_ROAD_KINDS = (1, 2)  # lanes and road edges, as in `Scene.road`
_LOOP_ROOM, _APART_STEPS, _BEHIND_M, _BACK_M = 34, 20, 10, 40
_JOIN_M, _COMPLETE_M, _TOLERANCES_M = 1e-3, 20.0, (0.01, 0.03, 0.1)  # edges are merged until all so near the way fit


@dataclass(frozen=True)
class CropConfig:
    """Sizes of a cropped scene; every scene of one config has the same, so that scenes can be stacked."""

    objects: int = 16
    """Object slots: the ego in the first, then those that come nearest to its log within 2 s."""
    steps: int = 80
    """Steps after the start."""
    history: int = 1
    """Steps before it."""
    samples: int = 257
    """Path samples, a metre apart, from up to 10 m before where an object first is in the window."""
    segments: int = 256
    """Road edge segments, the nearest to the ego's log and path. Where there are more within 20 m, nearly collinear
    ones are merged: edges move by 1, 3 or at most 10 cm."""
    road: int = 128
    """Points for observations, of lanes and road edges, 4 m apart, the nearest likewise."""
    lights: int = 16
    """Traffic lights, the nearest likewise."""


_DEFAULT = CropConfig()


def crop_scene(scene: Scene, config: CropConfig = _DEFAULT, slot: int | None = None, start: int | None = None) -> Scene:
    """What matters to one object (None: the ego) in a window of time; it becomes the ego, in slot 0.

    The window runs from `history` steps before `start` (None: the scene's) to `steps` after it; where the log is
    shorter, nothing is valid. What is measured of the ego stays as it is while it is within 10 m of its log or path.
    DataError: no such object, or it is not valid at the start. ConfigError: sizes that cannot be meant, or more path
    samples than the scene has.
    """
    _check(config)
    ego, first = slot_of(scene, slot), int(scene.start) if start is None else start
    if not 0 <= first < len(scene.log.valid) or not scene.log.valid[first, ego]:
        raise DataError(f"object in slot {ego} of scene {name_of(scene)!r} is not there at step {first}")
    rows = np.arange(first - config.history, first + config.steps + 1)
    slots = _nearest_objects(scene, ego, rows, config.objects)
    log = _window(scene.log, rows, slots)
    paths = _paths(scene.paths, slots, config.samples, rows, log.valid)
    way = _way(log, paths)
    near = KDTree(way)
    edges, lanes = _edges(scene.edges, near, config.segments), _lanes(scene.lanes, near)
    places = _places(scene, lanes, log, slots)
    frame = make_frame(way)
    cut = scene._replace(
        start=np.int32(config.history),
        log=log,
        objects=_objects(scene.objects, slots, log.valid),
        edges=edges,
        grid=edge_grid(edges, frame, places),
        lanes=lanes,
        lane_grid=lane_grid(lanes, frame),
        lights=_lights(scene.lights, rows, paths, near, config.lights),
        paths=paths,
        goals=Goals(*_taken(scene.goals, slots)),
        ground=compile_ground(places, frame),
        road=_road(scene.road, near, config.road),
        raster=no_raster(),
    )
    return grow(cut, {"N": config.objects, "E": config.segments, "R": config.road, "S": config.lights})


def _check(config: CropConfig) -> None:
    small = {"objects": 1, "steps": 1, "history": 0, "samples": 64, "segments": 1, "road": 1, "lights": 0}
    for name, least in small.items():
        if getattr(config, name) < least:
            raise ConfigError(f"{name} is {getattr(config, name)}; a cropped scene needs at least {least}")


def _way(log: Trajectory, paths: Paths) -> Float[np.ndarray, "K 2"]:
    """Where the ego was logged and where its path leads, and as far back as is looked at."""
    valid = log.valid[:, 0]
    x, y, yaw = (field[valid, 0].astype(np.float64) for field in (log.x, log.y, log.yaw))
    path = np.stack([paths.x[0], paths.y[0]], 1)[: int(paths.length[0]) + 1].astype(np.float64)
    behind = np.array([x[0], y[0]]) - np.arange(0.0, _BACK_M + 1, 2.0)[:, None] * [np.cos(yaw[0]), np.sin(yaw[0])]
    return np.concatenate([np.stack([x, y], 1), path, behind])


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
    return Trajectory._make([*fields, valid])


def _taken(parts: Objects | Goals, slots: Int[np.ndarray, " N"]) -> list[np.ndarray]:
    """Fields of the slots, 0 or False where there is none."""
    return [np.where(slots < 0, np.zeros((), field.dtype), np.asarray(field)[slots]) for field in parts]


def _objects(objects: Objects, slots: Int[np.ndarray, " N"], valid: Bool[np.ndarray, "T N"]) -> Objects:
    taken, seen = Objects(*_taken(objects, slots)), valid.any(0)
    first, last = valid.argmax(0), len(valid) - 1 - valid[::-1].argmax(0)
    first, last = (np.where(seen, step, -1).astype(np.int32) for step in (first, last))
    ids = np.where(slots < 0, np.int32(-1), taken.id)
    return taken._replace(id=ids, is_sdc=np.arange(len(slots)) == 0, first=first, last=last)


def _edges(edges: Edges, near: KDTree, count: int) -> Edges:
    """The `count` nearest to the way within 45 m, merged until all within 20 m are among them."""
    edges = Edges(*(np.asarray(field)[np.isfinite(edges.z)] for field in edges))
    away, chains = _away(edges, np.arange(len(edges.z)), near), None
    for tolerance in _TOLERANCES_M:
        if (away <= _COMPLETE_M).sum() <= count:
            break
        chains = _chains(edges) if chains is None else chains
        edges = compile_edges(chains, simplify_m=tolerance)
        away = _away(edges, np.arange(len(edges.z)), near)
    order = np.argsort(away, kind="stable")[:count]
    kept = np.sort(order[away[order] <= _EDGE_M])
    return Edges(*(field[kept] for field in edges))


def _chains(edges: Edges) -> list[tuple[Float[np.ndarray, "_ 3"], bool]]:
    """The polylines again whose segments they are; heights of points are means of those of segments."""
    a = np.stack([edges.ax, edges.ay, edges.z], 1).astype(np.float64)
    b = np.stack([edges.ax + edges.dx, edges.ay + edges.dy, edges.z], 1).astype(np.float64)
    breaks = np.flatnonzero(np.hypot(*(a[1:] - b[:-1])[:, :2].T) > _JOIN_M) + 1
    chains = []
    for first, last in itertools.pairwise([0, *breaks.tolist(), len(a)]):
        points = np.concatenate([a[first:last], b[last - 1 : last]])
        points[1:-1, 2] = (a[first + 1 : last, 2] + a[first : last - 1, 2]) / 2
        chains.append((points, False))
    return chains


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
    return Lanes._make([*fields, new[lanes.lane[kept].astype(np.int64)], lanes.id[rows], lanes.limit[rows], follows])


def _padding(lanes: Lanes) -> int:
    return int(np.flatnonzero(~np.isfinite(lanes.z))[0])


def _lights(lights: Lights, rows: Int[np.ndarray, " T"], paths: Paths, near: KDTree, count: int) -> Lights:
    away = np.full(len(lights.x), np.inf)
    there = np.flatnonzero(lights.exists)
    away[there] = near.query(np.stack([lights.x, lights.y], 1)[there].astype(np.float64))[0]
    kept = np.sort(np.argsort(away, kind="stable")[: min(count, len(there))])
    state = lights.state[np.clip(rows, 0, len(lights.state) - 1)][:, kept]
    fields = [np.asarray(field)[kept] for field in (lights.x, lights.y, lights.z, lights.yaw)]
    none = np.zeros((len(paths.length), 0), np.float32)
    cut = Lights._make([state, *fields, np.full(len(kept), -1, np.int16), lights.exists[kept], none])
    return cut._replace(arc=stop_arcs(paths, cut))


def _paths(
    paths: Paths,
    slots: Int[np.ndarray, " N"],
    samples: int,
    rows: Int[np.ndarray, " T"],
    valid: Bool[np.ndarray, "T N"],
) -> Paths:
    """Paths from where their objects are at first in the window, less 10 m; a loop that does not fit is rolled out."""
    have, every = paths.x.shape[1], np.arange(len(slots))
    if have < samples:
        raise ConfigError(f"samples is {samples}; the scene's paths have {have}")
    taken = Paths(*(np.asarray(field)[slots] for field in paths))
    closed = taken.closed & (taken.length <= samples - _LOOP_ROOM) & (slots >= 0)
    rolled = taken.closed & ~closed
    logged = taken.logged[:, np.clip(rows, 0, taken.logged.shape[1] - 1)]
    begin = np.maximum(np.floor(logged[every, valid.argmax(0)]) - _BEHIND_M, 0) * valid.any(0) * ~closed
    begin = np.where(rolled, begin, np.minimum(begin, have - samples))
    at = begin[:, None] + np.arange(samples)
    at = np.where(rolled[:, None], np.mod(at, np.maximum(taken.length, 1.0)[:, None]), at)
    cell = np.minimum(np.floor(at), have - 2).astype(np.int64)
    share = at - cell
    here, there = (tuple(np.take_along_axis(field, cell + k, 1) for field in taken[:4]) for k in (0, 1))
    x, y, z = ((a + share * (b - a)).astype(np.float32) for a, b in zip(here[:3], there[:3], strict=True))
    length = np.where(rolled, samples - 1, np.clip(taken.length - begin, 0, samples - 1)) * (slots >= 0)
    logged = np.where(valid.T, logged - begin[:, None], 0)
    limit = np.where(share == 1, there[3], here[3])
    return Paths(x, y, z, limit, length.astype(np.float32), closed, logged.astype(np.float32))


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
