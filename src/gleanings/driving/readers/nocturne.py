"""GPUDrive and Nocturne JSON: one scene a file, WOMD's content with invalid steps written as -10000. Ours.

Older Nocturne files write headings in degrees and no z. Links between lanes are not in the file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from gleanings.core.errors import DataError
from gleanings.driving.raw import Kind, Light, MapFeature, RawLight, RawScene, RawTrack
from gleanings.driving.raw_check import MAX_STEPS, check_raw, check_size
from gleanings.driving.readers._json import load_json
from gleanings.driving.readers._values import field, in_file, items, number, numbers, table, text, whole

_STEP, _START, _INVALID = 0.1, 10, -10000.0
_KINDS = {"vehicle": Kind.VEHICLE, "pedestrian": Kind.PEDESTRIAN, "cyclist": Kind.CYCLIST}
_FEATURES = ("lane", "road_edge", "road_line", "stop_sign", "crosswalk", "speed_bump", "driveway")
_CLOSED = ("crosswalk", "speed_bump", "driveway")


def read(path: Path) -> Iterator[RawScene]:
    """The scene of a file. Raises: DataError for another format, wrong lengths or values that are no numbers."""
    with in_file(path):
        scene = _scene(table(load_json(path), "the file"), path)
    yield check_raw(scene)


def _scene(data: dict[str, Any], path: Path) -> RawScene:
    objects, roads = items(field(data, "objects", "the file"), "objects"), field(data, "roads", "the file")
    if not objects:
        raise DataError("no objects; expected at least one")
    steps = len(items(field(objects[0], "heading", "objects[0]"), "objects[0].heading"))
    if not 2 <= steps <= MAX_STEPS:
        raise DataError(f"objects[0] has {steps} steps; expected 2 to {MAX_STEPS:,}")
    check_size(len(objects), steps)
    tracks = [_track(table(entry, f"objects[{i}]"), f"objects[{i}]", steps) for i, entry in enumerate(objects)]
    repairs = {}
    if _in_degrees(tracks):
        repairs["headings_in_degrees"] = len(tracks)
        for track in tracks:
            np.radians(track.yaw, out=track.yaw)
    meta = table(data.get("metadata") or {}, "metadata")
    features = [_feature(table(road, f"roads[{i}]"), i) for i, road in enumerate(items(roads, "roads"))]
    known = [feature for feature in features if feature is not None]
    if len(known) < len(features):
        repairs["unknown_features_dropped"] = len(features) - len(known)
    position = {text(entry.get("id", i), f"objects[{i}].id"): i for i, entry in enumerate(objects)}
    interest = [text(name, "objects_of_interest") for name in items(meta.get("objects_of_interest") or [], "objects")]
    predict = items(meta.get("tracks_to_predict") or [], "tracks_to_predict")
    indices = [whole(field(entry, "track_index", "tracks_to_predict"), "track_index") for entry in predict]
    sdc = whole(meta.get("sdc_track_index", -1), "sdc_track_index")
    return RawScene(
        name=text(data.get("scenario_id") or data.get("name") or path.stem, "scenario_id"),
        times=np.arange(steps) * _STEP,
        start=_START if steps > _START + 1 else 0,
        tracks=tuple(tracks),
        features=tuple(known),
        lights=_lights(table(data.get("tl_states") or {}, "tl_states"), steps),
        sdc=sdc,
        predict=tuple(indices),
        interest=tuple(position[name] for name in interest if name in position),
        flat=not any(np.isfinite(track.position[:, 2]).any() for track in tracks),
        source=f"nocturne:{path.name}",
        licence="derived from the Waymo Open Motion Dataset: its non-commercial terms hold",
        repairs=repairs,
    )


def _columns(entries: Any, what: str, names: str) -> Float[np.ndarray, "n d"]:
    """Records such as {"x": 1, "y": 2} as rows; an absent z is NaN."""
    rows = [table(entry, what) for entry in items(entries, what)]
    columns = [[row.get(name) if name == "z" else field(row, name, what) for row in rows] for name in names]
    return np.stack([numbers(column, what, len(rows)) for column in columns], -1)


def _track(entry: dict[str, Any], what: str, steps: int) -> RawTrack:
    position = _columns(field(entry, "position", what), f"{what}.position", "xyz")
    velocity = _columns(field(entry, "velocity", what), f"{what}.velocity", "xy")
    yaw = numbers(field(entry, "heading", what), f"{what}.heading", steps)
    valid = numbers(field(entry, "valid", what), f"{what}.valid", steps) == 1
    if len(position) != steps or len(velocity) != steps:
        raise DataError(f"{what} has {len(position)} positions, {len(velocity)} velocities and {steps} headings")
    # -10000 in a step that is called valid is no place either.
    valid &= ~((position[:, :2] == _INVALID).all(1) | (yaw == _INVALID))
    position[position == _INVALID] = np.nan
    size = [number(entry.get(name), f"{what}.{name}") for name in ("length", "width", "height")]
    return RawTrack(
        name=text(entry.get("id", what), f"{what}.id"),
        kind=_KINDS.get(text(field(entry, "type", what), f"{what}.type"), Kind.OTHER),
        position=position,
        yaw=yaw,
        velocity=velocity,
        size=np.tile(np.array(size), (steps, 1)),
        valid=valid,
    )


def _in_degrees(tracks: list[RawTrack]) -> Bool[np.ndarray, ""] | bool:
    """Whether headings are degrees: they agree better with the motion so, or are too large if nothing moves."""
    yaw, velocity = (np.concatenate([getattr(t, name)[t.valid] for t in tracks]) for name in ("yaw", "velocity"))
    moving = np.hypot(*velocity.T) > 2.0
    if not moving.any():
        return bool(np.any(np.abs(yaw) > 4 * np.pi))
    bearing = np.arctan2(velocity[moving, 1], velocity[moving, 0])
    error = [np.nanmedian(1 - np.cos(angle - bearing)) for angle in (yaw[moving], np.radians(yaw[moving]))]
    return bool(error[1] < error[0])


def _feature(road: dict[str, Any], index: int) -> MapFeature | None:
    what = f"roads[{index}]"
    kind = text(field(road, "type", what), f"{what}.type")
    if kind not in _FEATURES:
        return None
    geometry = field(road, "geometry", what)
    points = _columns([geometry] if isinstance(geometry, dict) else geometry, f"{what}.geometry", "xyz")
    name = text(road.get("id", index), f"{what}.id")
    return MapFeature(kind, points, name, closed=kind in _CLOSED)


def _lights(states: dict[str, Any], steps: int) -> tuple[RawLight, ...]:
    """Lights keyed by lane id: lists of state (name or WOMD code) and x, y, z, one entry for each of `time_index`."""
    check_size(len(states), steps, "lights")
    lights = []
    for lane, entry in states.items():
        what = f"tl_states[{lane[:40]!r}]"
        codes = items(field(entry, "state", what), f"{what}.state")
        when = numbers(entry.get("time_index") or list(range(len(codes))), f"{what}.time_index", len(codes))
        place = [numbers(field(entry, axis, what), f"{what}.{axis}", len(codes)) for axis in "xyz" if axis in entry]
        state = np.zeros(steps, np.uint8)
        inside = (when >= 0) & (when < steps)
        state[when[inside].astype(int)] = np.array([_code(code, what) for code in codes], np.uint8)[inside]
        stop = np.full(3, np.nan)
        if len(codes):
            stop[: len(place)] = [axis[0] for axis in place]
        lights.append(RawLight(text(lane, "tl_states"), state, stop))
    return tuple(lights)


def _code(state: Any, what: str) -> int:
    name = state.upper() if isinstance(state, str) else state
    if isinstance(name, str) and name in Light.__members__:
        return int(Light[name])
    return code if 0 <= (code := whole(state, f"{what}.state")) <= max(Light) else int(Light.UNKNOWN)
