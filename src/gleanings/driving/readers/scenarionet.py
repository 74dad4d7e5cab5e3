"""ScenarioNet pickles: one scene a file, converted from WOMD, nuScenes, nuPlan and others. Ours.

Any number of steps; lanes carry their links; a state of a light may be None (unknown).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gleanings.core.errors import DataError
from gleanings.driving.raw import FeatureKind, Kind, Light, MapFeature, RawLight, RawScene, RawTrack
from gleanings.driving.raw_check import (
    MAX_FEATURES,
    MAX_POINTS,
    MAX_STEPS,
    check_links,
    check_raw,
    check_size,
)
from gleanings.driving.readers._unpickle import unpickle
from gleanings.driving.readers._values import field, in_file, items, number, numbers, table, text, whole

_MAX_LINKS = 1000
_KINDS = {"VEHICLE": Kind.VEHICLE, "PEDESTRIAN": Kind.PEDESTRIAN, "CYCLIST": Kind.CYCLIST}
# Beginning of a type -> kind of feature, and the key its points stand under.
_FEATURES: dict[str, tuple[FeatureKind, str]] = {
    "LANE": ("lane", "polyline"),
    "ROAD_EDGE": ("road_edge", "polyline"),
    "ROAD_LINE": ("road_line", "polyline"),
    "STOP_SIGN": ("stop_sign", "position"),
    "CROSSWALK": ("crosswalk", "polygon"),
    "SPEED_BUMP": ("speed_bump", "polygon"),
    "DRIVEWAY": ("driveway", "polygon"),
}
_LIGHTS = {f"LANE_STATE_{light.name}": light for light in Light} | {
    "TRAFFIC_LIGHT_GREEN": Light.GO,
    "TRAFFIC_LIGHT_YELLOW": Light.CAUTION,
    "TRAFFIC_LIGHT_RED": Light.STOP,
}


def read(path: Path) -> Iterator[RawScene]:
    """The scene of a file. Raises: DataError for a pickle that is refused, another content or wrong shapes."""
    with in_file(path):
        scene = _scene(table(unpickle(path), "the file"), path)
    yield check_raw(scene)


def _scene(data: dict[Any, Any], path: Path) -> RawScene:
    tracks, meta = table(field(data, "tracks", "the file"), "tracks"), _optional(data, "metadata")
    steps = whole(field(data, "length", "the file"), "length")
    if not 2 <= steps <= MAX_STEPS:
        raise DataError(f"{steps:,} steps; expected 2 to {MAX_STEPS:,}")
    lights = _optional(data, "dynamic_map_states")
    check_size(len(tracks), steps)
    check_size(len(lights), steps, "lights")
    times = meta.get("ts")
    times = np.arange(steps) * 0.1 if times is None else numbers(times, "metadata.ts", steps)
    found = {text(name, "the name of a track"): _track(name, track, steps) for name, track in tracks.items()}
    index = {name: i for i, name in enumerate(found)}
    repairs: dict[str, int] = {}
    features = _features(table(field(data, "map_features", "the file"), "map_features"), repairs)
    named = {
        key: [index[name] for value in _listed(meta.get(key), key) if (name := text(value, key)) in index]
        for key in ("sdc_id", "tracks_to_predict", "objects_of_interest")
    }
    return RawScene(
        name=_named(data, "id", path.stem),
        times=times,
        start=whole(meta.get("current_time_index", 0), "current_time_index"),
        tracks=tuple(found.values()),
        features=features,
        lights=tuple(_light(name, entry, steps) for name, entry in lights.items()),
        sdc=next(iter(named["sdc_id"]), -1),
        predict=tuple(named["tracks_to_predict"]),
        interest=tuple(named["objects_of_interest"]),
        flat=not any(np.isfinite(track.position[:, 2]).any() for track in found.values()),
        source=f"scenarionet:{path.name}",
        licence=f"converted from {_named(meta, 'dataset', 'an unnamed data set')}: its terms hold",
        repairs=repairs,
    )


def _optional(data: dict[Any, Any], key: str) -> dict[Any, Any]:
    """A table that may be missing."""
    value = data.get(key)
    return {} if value is None else table(value, key)


def _named(data: dict[Any, Any], key: str, other: str) -> str:
    """A text that may be missing or empty."""
    value = data.get(key)
    return other if value is None else text(value, key) or other


def _listed(value: Any, what: str, most: int = MAX_STEPS) -> list[Any]:
    """Ids, which stand alone, in a list, in an array or as the keys of a dict; at most `most`."""
    if not isinstance(value, np.ndarray | list | tuple | dict | set):
        return [] if value is None else [value]
    count = value.size if isinstance(value, np.ndarray) else len(value)
    if count > most:
        raise DataError(f"{what} holds {count:,} values; at most {most:,} are read")
    return value.ravel().tolist() if isinstance(value, np.ndarray) else list(value)


def _places(values: Any, what: str) -> Float[np.ndarray, "n 3"]:
    """Points with two or three coordinates; z is NaN where there are two."""
    if isinstance(values, np.ndarray) and values.size > 3 * MAX_POINTS:
        raise DataError(f"{what} has more than {MAX_POINTS:,} points")
    width = values.shape[-1] if isinstance(values, np.ndarray) and values.ndim else 3
    if isinstance(values, list | tuple) and values:
        width = len(items(values[0], what))
    if width not in (2, 3):
        raise DataError(f"{what} has points of {width} coordinates; expected 2 or 3")
    array = numbers(values, what, -1, width)
    return np.column_stack([array, np.full((len(array), 3 - width), np.nan)])


def _point(value: Any, what: str) -> Float[np.ndarray, "1 3"]:
    return _places(value[None] if isinstance(value, np.ndarray) else [value], what)


def _track(name: Any, track: Any, steps: int) -> RawTrack:
    what = f"track {text(name, 'the name of a track')}"
    state = table(field(track, "state", what), f"{what}: state")
    position = _places(field(state, "position", what), f"{what}: position")
    if len(position) != steps:
        raise DataError(f"{what} has {len(position)} positions; the scene has {steps} steps")
    velocity = state.get("velocity")
    sizes = [_size(state.get(axis), f"{what}: {axis}", steps) for axis in ("length", "width", "height")]
    return RawTrack(
        name=text(name, what),
        kind=_KINDS.get(text(field(track, "type", what), f"{what}: type"), Kind.OTHER),
        position=position,
        yaw=numbers(field(state, "heading", what), f"{what}: heading", steps),
        velocity=np.full((steps, 2), np.nan) if velocity is None else _places(velocity, f"{what}: velocity")[:, :2],
        size=np.stack(sizes, -1),
        valid=numbers(field(state, "valid", what), f"{what}: valid", steps) == 1,
    )


def _size(value: Any, what: str, steps: int) -> Float[np.ndarray, " T"]:
    """One number, or one for each step; NaN where the file has none."""
    if value is None or isinstance(value, int | float):
        return np.full(steps, number(value, what))
    value = value[:, 0] if isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[1] == 1 else value
    return numbers(value, what, steps)


def _features(entries: dict[Any, Any], repairs: dict[str, int]) -> tuple[MapFeature, ...]:
    if len(entries) > MAX_FEATURES:
        raise DataError(f"{len(entries):,} map features; at most {MAX_FEATURES:,} are read")
    found, points, links = list[MapFeature](), 0, 0
    for name, entry in entries.items():
        feature = _feature(text(name, "the name of a map feature"), entry)
        if feature is None:
            repairs["unknown_features_dropped"] = repairs.get("unknown_features_dropped", 0) + 1
            continue
        points += len(feature.points)
        if points > MAX_POINTS:
            raise DataError(f"more than {MAX_POINTS:,} map points")
        links += len(feature.successors) + len(feature.neighbours)
        check_links(links)
        found.append(feature)
    return tuple(found)


def _feature(name: str, entry: Any) -> MapFeature | None:
    """A feature; None for kinds we have no use for and for lanes without a centreline."""
    what = f"map feature {name}"
    label = text(field(entry, "type", what), f"{what}: type")
    kind, key = next((value for prefix, value in _FEATURES.items() if label.startswith(prefix)), (None, ""))
    if kind is None or entry.get(key) is None:
        return None
    points = _point(entry[key], what) if key == "position" else _places(entry[key], what)
    if kind != "lane":
        return MapFeature(kind, points, name, closed=key == "polygon")
    limit = entry.get("speed_limit_kmh")
    exits, left, right = (
        _listed(entry.get(key), f"{what}: {key}", _MAX_LINKS)
        for key in ("exit_lanes", "left_neighbor", "right_neighbor")
    )
    return MapFeature(
        kind,
        points,
        name,
        speed_limit=number(limit, what) / 3.6 if isinstance(limit, int | float) else float("nan"),
        successors=tuple(text(lane, what) for lane in exits),
        neighbours=tuple(text(n.get("feature_id") if isinstance(n, dict) else n, what) for n in [*left, *right]),
        linked="exit_lanes" in entry,
    )


def _light(name: Any, entry: Any, steps: int) -> RawLight:
    what = f"light {text(name, 'the name of a light')}"
    states = _listed(field(field(entry, "state", what), "object_state", what), what)
    if len(states) != steps:
        raise DataError(f"{what} has {len(states)} states; the scene has {steps} steps")
    codes = [_LIGHTS.get(state, Light.UNKNOWN) if isinstance(state, str) else Light.UNKNOWN for state in states]
    stop = entry.get("stop_point")
    stop = np.full(3, np.nan) if stop is None else _point(stop, what)[0]
    return RawLight(text(entry.get("lane", name), what), np.array(codes, np.uint8), stop)
