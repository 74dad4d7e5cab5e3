"""Scenes and what was simulated in them as one npz file with the keys of ScenarioNet, for other tools. No jax. Ours.

An npz file holds no nested tables, so a key is the path through them: `tracks/0/state/position`. Tracks, features and
lights are numbered; their own names stand beside them, as `object_id`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from gleanings.core.errors import ConfigError
from gleanings.driving.raw import Kind, Light, MapFeature, RawScene
from gleanings.driving.scene import Scene, Trajectory, name_of

Entries = dict[str, np.ndarray]
_TYPES = {Kind.VEHICLE: "VEHICLE", Kind.PEDESTRIAN: "PEDESTRIAN", Kind.CYCLIST: "CYCLIST", Kind.OTHER: "OTHER"}
_FEATURES = {
    "lane": ("LANE_SURFACE_STREET", "polyline"),
    "road_edge": ("ROAD_EDGE_BOUNDARY", "polyline"),
    "road_line": ("ROAD_LINE_SOLID_SINGLE_WHITE", "polyline"),
    "stop_sign": ("STOP_SIGN", "position"),
    "crosswalk": ("CROSSWALK", "polygon"),
    "speed_bump": ("SPEED_BUMP", "polygon"),
    "driveway": ("DRIVEWAY", "polygon"),
}


def export_npz(scene: RawScene | Scene, trajectory: Trajectory | None, path: str | Path) -> Path:
    """Writes a scene, and in place of its log a trajectory [T', N] if there is one; gives the path back.

    World coordinates, metres, seconds, radians, float64; rows that are not valid hold 0. Keys:
    `tracks/i/{type,object_id}`, `tracks/i/state/{position,heading,velocity,length,width,height,valid}`;
    `map_features/i/{type,object_id}` with `polyline`, `polygon` or `position`; `dynamic_map_states/i/{lane,stop_point}`
    and `.../state/object_state`; `metadata/{id,ts,sdc_id,current_time_index,tracks_to_predict,objects_of_interest}`.
    A trajectory begins at the scene's start, unless it is as long as the log. A compiled scene gives the lanes and the
    edges that were compiled. ConfigError: a trajectory for another number of objects, or a stack of scenes.
    """
    path = Path(path)
    entries = dict(_raw(scene, trajectory) if isinstance(scene, RawScene) else _compiled(scene, trajectory))
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **entries)
    return path


def _raw(scene: RawScene, trajectory: Trajectory | None) -> Iterator[tuple[str, np.ndarray]]:
    first, rows = _rows(trajectory, scene.start, len(scene.times), len(scene.tracks))
    motion = None if trajectory is None else _stacked(trajectory, np.zeros(3))
    for i, track in enumerate(scene.tracks):
        seen = np.column_stack([track.position, track.yaw, track.velocity]) if motion is None else motion[0][:, i]
        valid = track.valid if motion is None else motion[1][:, i]
        size = track.size[rows] if motion is None else np.broadcast_to(_last(track.size), (len(rows), 3))
        yield from _track(i, track.name, _TYPES[track.kind], seen, size, valid)
    for i, feature in enumerate(scene.features):
        yield from _feature(i, feature)
    for i, light in enumerate(scene.lights):
        yield from _light(i, light.lane, light.state[rows], light.stop)
    times = scene.times[first] + _elapsed(len(rows), float(np.median(np.diff(scene.times))))
    yield from _metadata(scene.name, scene.times if motion is None else times, scene.start - first)
    yield from _roles(scene.sdc, scene.predict, scene.interest, [track.name for track in scene.tracks])


def _compiled(scene: Scene, trajectory: Trajectory | None) -> Iterator[tuple[str, np.ndarray]]:
    kinds, used = np.asarray(scene.objects.kind), np.asarray(scene.objects.exists)
    if kinds.ndim != 1:
        raise ConfigError("a stack of scenes; export them one by one")
    log = scene.log if trajectory is None else trajectory
    origin, start = np.asarray(scene.origin, np.float64), int(scene.start)
    first, rows = _rows(trajectory, start, len(np.asarray(scene.log.valid)), len(kinds))
    seen, valid = _stacked(log, origin)
    names = [str(name) for name in np.asarray(scene.objects.id)]
    sizes = np.stack([np.asarray(side, np.float64) for side in scene.objects[2:5]], -1)
    for i in np.flatnonzero(used).tolist():
        size = np.broadcast_to(sizes[i], (len(rows), 3))
        yield from _track(i, names[i], _TYPES[Kind(int(kinds[i]))], seen[:, i], size, valid[:, i])
    for i, feature in enumerate([*_lines(scene.lanes, "lane", origin), *_lines(scene.edges, "road_edge", origin)]):
        yield from _feature(i, feature)
    lights = scene.lights
    for i in np.flatnonzero(np.asarray(lights.exists)).tolist():
        stop = np.array([lights.x[i], lights.y[i], lights.z[i]], np.float64) + origin
        lane = int(lights.lane[i])
        name = str(int(scene.lanes.id[lane])) if lane >= 0 else ""
        yield from _light(i, name, np.asarray(lights.state)[rows, i], stop)
    yield from _metadata(name_of(scene), _elapsed(len(rows), float(scene.dt)) + first * float(scene.dt), start - first)
    sdc = np.flatnonzero(np.asarray(scene.objects.is_sdc))
    predict, interest = (np.flatnonzero(np.asarray(flags)).tolist() for flags in scene.objects[6:8])
    yield from _roles(int(sdc[0]) if len(sdc) else -1, predict, interest, names)


def _rows(trajectory: Trajectory | None, start: int, steps: int, objects: int) -> tuple[int, np.ndarray]:
    """The step of the log at which the output begins, and the step each row belongs to; past the log, its last."""
    if trajectory is None:
        return 0, np.arange(steps)
    shape = np.shape(trajectory.valid)
    if len(shape) != 2 or shape[1] != objects:
        raise ConfigError(f"a trajectory of shape {shape} for a scene of {objects} objects; expected [T, {objects}]")
    first = 0 if shape[0] == steps else start
    return first, np.minimum(first + np.arange(shape[0]), steps - 1)


def _elapsed(steps: int, dt: float) -> Float[np.ndarray, " T"]:
    return dt * np.arange(steps)


def _stacked(motion: Trajectory, origin: Float[np.ndarray, " 3"]) -> tuple[np.ndarray, Bool[np.ndarray, "T N"]]:
    """x, y, z (world), yaw, vx, vy [T, N, 6], and where they are valid."""
    columns = np.stack([np.asarray(column, np.float64) for column in motion[:6]], -1)
    columns[..., :3] += origin
    return columns, np.asarray(motion.valid)


def _last(size: Float[np.ndarray, "T 3"]) -> Float[np.ndarray, " 3"]:
    known = np.flatnonzero(np.isfinite(size).all(1))
    return size[known[-1]] if len(known) else np.full(3, np.nan)


def _track(
    index: int, name: str, kind: str, seen: Float[np.ndarray, "T 6"], size: Any, valid: Bool[np.ndarray, " T"]
) -> Iterator[tuple[str, np.ndarray]]:
    at = f"tracks/{index}"
    seen, size = np.where(valid[:, None], seen, 0.0), np.where(valid[:, None], size, 0.0)
    yield f"{at}/type", np.array(kind)
    yield f"{at}/object_id", np.array(name)
    columns = {"position": seen[:, :3], "heading": seen[:, 3], "velocity": seen[:, 4:], "valid": valid}
    for key, value in {**columns, **dict(zip(("length", "width", "height"), size.T, strict=True))}.items():
        yield f"{at}/state/{key}", value


def _feature(index: int, feature: MapFeature) -> Iterator[tuple[str, np.ndarray]]:
    at, (kind, key) = f"map_features/{index}", _FEATURES[feature.kind]
    yield f"{at}/type", np.array(kind)
    yield f"{at}/object_id", np.array(feature.name)
    yield f"{at}/{key}", feature.points[0] if key == "position" else feature.points
    if feature.kind == "lane":
        yield f"{at}/speed_limit_kmh", np.array(3.6 * feature.speed_limit)
        yield f"{at}/exit_lanes", np.array(feature.successors, np.str_)


def _light(index: int, lane: str, states: np.ndarray, stop: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    at = f"dynamic_map_states/{index}"
    yield f"{at}/lane", np.array(lane)
    yield f"{at}/stop_point", stop
    yield f"{at}/state/object_state", np.array([f"LANE_STATE_{Light(code).name}" for code in states.tolist()], np.str_)


def _metadata(name: str, times: Float[np.ndarray, " T"], start: int) -> Iterator[tuple[str, np.ndarray]]:
    yield "metadata/id", np.array(name)
    yield "metadata/ts", times
    yield "metadata/current_time_index", np.array(start)


def _roles(sdc: int, predict: Any, interest: Any, names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    yield "metadata/sdc_id", np.array(names[sdc] if sdc >= 0 else "")
    yield "metadata/tracks_to_predict", np.array([names[i] for i in predict], np.str_)
    yield "metadata/objects_of_interest", np.array([names[i] for i in interest], np.str_)


def _lines(parts: Any, kind: Any, origin: Float[np.ndarray, " 3"]) -> list[MapFeature]:
    """Compiled segments as polylines; a new one begins where a segment does not start at the end of the one before."""
    start = np.stack([np.asarray(parts.ax), np.asarray(parts.ay)], -1).astype(np.float64)
    end = start + np.stack([np.asarray(parts.dx), np.asarray(parts.dy)], -1)
    z = np.asarray(parts.z, np.float64)
    real = np.isfinite(z)
    start, end, z = start[real], end[real], z[real]
    group = np.asarray(parts.lane)[real] if kind == "lane" else np.zeros(len(z))
    breaks = np.flatnonzero((np.abs(start[1:] - end[:-1]).max(1, initial=0) > 1e-3) | (np.diff(group) != 0)) + 1
    lines = []
    for run in np.split(np.arange(len(z)), breaks) if len(z) else []:
        points = np.column_stack([np.vstack([start[run], end[run[-1:]]]), z[np.append(run, run[-1])]]) + origin
        name, limit = "", float("nan")
        if kind == "lane":
            row = int(group[run[0]])
            name, limit = str(int(parts.id[row])), float(parts.limit[row])
        lines.append(MapFeature(kind, points, name, speed_limit=limit))
    return lines
