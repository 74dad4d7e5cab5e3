"""Waymo Open Motion Dataset as tf.Example in TFRecord (feature names: the dataset's public description).

A record holds slots for objects, lights and road samples; empty ones hold -1. There is no lane graph.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, Shaped

from gleanings.core.errors import DataError
from gleanings.data.protowire import Message
from gleanings.driving._resample import latest
from gleanings.driving.raw import FeatureKind, MapFeature, RawLight, RawScene
from gleanings.driving.raw_check import MAX_FEATURES, MAX_POINTS, check_raw, check_size
from gleanings.driving.readers import _womd

_FIELDS = ("x", "y", "z", "length", "width", "height", "bbox_yaw", "velocity_x", "velocity_y")
_PARTS = ("past", "current", "future")
_SPLIT_M = 8.0
_CODES: dict[FeatureKind, tuple[int, ...]] = {
    "lane": (1, 2, 3),
    "road_line": (6, 7, 8, 9, 10, 11, 12, 13),
    "road_edge": (15, 16),
    "stop_sign": (17,),
    "crosswalk": (18,),
    "speed_bump": (19,),
}
_ROAD: dict[int, FeatureKind] = {code: kind for kind, codes in _CODES.items() for code in codes}
Times = Float[np.ndarray, " T"]


def read(path: Path) -> Iterator[RawScene]:
    """The file's scenes. Raises: DataError at the first broken record, with its number."""
    return _womd.read_records(path, parse)


def is_example(payload: bytes) -> bool:
    """Whether a record is a tf.Example of this dataset."""
    return b"state/current/x" in payload and b"roadgraph_samples/xyz" in payload


def parse(payload: bytes, path: Path, record: int) -> RawScene:
    """The scene of one record. Raises: DataError (WireError inside) for missing features and wrong lengths."""
    features = _Features(payload, path, record)
    ids, kinds = features.reals("state/id"), features.reals("state/type")
    count = len(ids)
    past = features.per_row("state/past/x", count)
    steps = past + 1 + features.per_row("state/future/x", count)
    check_size(count, steps)
    valid = features.steps("valid", count) == 1
    states = np.stack([features.steps(name, count).astype(np.float64) for name in _FIELDS], -1)
    if not (valid.shape == states.shape[:2] == (count, steps) and len(kinds) == count):
        features.fail(f"{count} objects, but states of shape {states.shape[:2]}, valid {valid.shape}")
    times = _state_times(features, valid)
    rows = np.flatnonzero(valid.any(1) | (ids != -1))
    place = np.full(count, -1)
    place[rows] = np.arange(len(rows))
    sdc = place[features.chosen("state/is_sdc", count)]
    road, unknown = _road(features)
    scene = RawScene(
        name=features.text("scenario/id") or f"record-{record}",
        times=times,
        start=past,
        tracks=tuple(_womd.make_track(f"{ids[i]:.0f}", _whole(kinds[i]), states[i], valid[i]) for i in rows),
        features=road,
        lights=_lights(features, times),
        sdc=int(sdc[0]) if len(sdc) else -1,
        predict=tuple(place[features.chosen("state/tracks_to_predict", count)].tolist()),
        interest=tuple(place[features.chosen("state/objects_of_interest", count)].tolist()),
        source=f"womd-example:{path.name}",
        licence=_womd.LICENCE,
        repairs={"map_points_of_unknown_kind": unknown} if unknown else {},
    )
    return check_raw(scene)


def _whole(value: np.floating) -> int:
    return int(value) if np.isfinite(value) else 0


class _Features:
    """The named lists of one tf.Example, decoded when asked for."""

    def __init__(self, payload: bytes, path: Path, record: int) -> None:
        self._path, self._record = path, record
        self._found: dict[bytes, Message] = {}
        for features in Message(payload).messages(1):
            for entry in features.messages(1):
                value = entry.message(2)
                if value is not None:
                    self._found[entry.content(1)] = value

    def fail(self, message: str) -> None:
        """Raise DataError at this record."""
        raise DataError(message, self._path, self._record)

    def text(self, name: str) -> str:
        """The first of a list of byte strings; '' if there is none."""
        value = self._found.get(name.encode())
        held = value.message(1) if value else None
        return held.content(1).decode("ascii", "replace") if held else ""

    def reals(self, name: str) -> Float32[np.ndarray, " n"]:
        """A list of floats."""
        held = self._list(name, 2)
        return held.reals(1, "float") if held else np.zeros(0, np.float32)

    def integers(self, name: str) -> Int64[np.ndarray, " n"]:
        """A list of whole numbers."""
        held = self._list(name, 3)
        return held.integers(1) if held else np.zeros(0, np.int64)

    def rows(self, name: str, width: int) -> Shaped[np.ndarray, "n width"]:
        """A list of either kind as a table of `width` columns."""
        whole = name.rsplit("/", 1)[1] in ("valid", "timestamp_micros", "id", "state")
        values = self.integers(name) if whole else self.reals(name)
        if width == 0 or len(values) % width:
            self.fail(f"{name} has {len(values):,} values; expected a multiple of {width}")
        return values.reshape(-1, width)

    def per_row(self, name: str, count: int) -> int:
        """How many values each of `count` objects has in that list."""
        values = self.reals(name)
        if count == 0 or len(values) % count:
            self.fail(f"{name} has {len(values):,} values for {count} objects")
        return len(values) // count

    def steps(self, name: str, count: int) -> Shaped[np.ndarray, "N T"]:
        """A field of all objects over past, current and future."""
        lists = [self.rows(f"state/{part}/{name}", count).reshape(-1) for part in _PARTS]
        return np.concatenate([values.reshape(count, -1) for values in lists], 1)

    def light_steps(self, name: str, slots: int) -> Shaped[np.ndarray, "L S"]:
        """A field of all lights over past, current and future."""
        return np.concatenate([self.rows(f"traffic_light_state/{part}/{name}", slots) for part in _PARTS])

    def chosen(self, name: str, count: int) -> Int64[np.ndarray, " k"]:
        """Objects whose flag is 1; none where the list is missing."""
        flags = self.integers(name) if name.encode() in self._found else np.zeros(count, np.int64)
        if len(flags) != count:
            self.fail(f"{name} has {len(flags):,} values for {count} objects")
        return np.flatnonzero(flags == 1)

    def has(self, name: str) -> bool:
        """Whether the list is there."""
        return name.encode() in self._found

    def _list(self, name: str, kind: int) -> Message | None:
        value = self._found.get(name.encode())
        if value is None:
            first = b", ".join(sorted(self._found)[:5]).decode("ascii", "replace")
            self.fail(f"has no feature {name}; the first of its {len(self._found)} features are {first}")
            return None
        names = {1: "bytes", 2: "floats", 3: "integers"}
        if value.numbers() not in ([kind], []):
            found = ", ".join(names.get(number, f"field {number}") for number in value.numbers())
            self.fail(f"{name} holds {found}; expected {names[kind]}")
        return value.message(kind)


def _state_times(features: _Features, valid: Bool[np.ndarray, "N T"]) -> Times:
    """Seconds of the steps: the latest stamp of a valid object, else 0.1 s apart from a step that has one."""
    stamps = features.steps("timestamp_micros", len(valid))
    if stamps.shape != valid.shape:
        features.fail(f"timestamps of shape {stamps.shape}; expected {valid.shape}")
    micros = np.where(valid & (stamps >= 0), stamps, -1).max(0)
    steps = np.arange(len(micros))
    known = np.flatnonzero(micros >= 0)
    if not len(known):
        features.fail("no object is valid at any step; expected one at least")
    even = (steps - known[np.clip(np.searchsorted(known, steps), 0, len(known) - 1)]) * 0.1
    inner = np.interp(steps, known, micros[known] * 1e-6)
    outside = (steps < known[0]) | (steps > known[-1])
    return np.where(outside, inner + even, inner)


def _lights(features: _Features, times: Times) -> tuple[RawLight, ...]:
    if not features.has("traffic_light_state/current/id"):
        return ()
    slots = len(features.integers("traffic_light_state/current/id"))
    if slots == 0:
        return ()
    names = ("id", "valid", "state", "x", "y", "z")
    lane, valid, state, x, y, z = (features.light_steps(name, slots) for name in names)
    stamps = features.light_steps("timestamp_micros", 1)[:, 0] * 1e-6
    if not (lane.shape == valid.shape == state.shape == x.shape == y.shape == z.shape and len(lane) == len(stamps)):
        features.fail("the lists of traffic lights differ in length")
    step, slot = np.nonzero((valid == 1) & (lane >= 0))
    stop = np.stack((x, y, z), -1).astype(np.float64)[step, slot]
    # A step without lights has no stamp of its own; running maxima keep the stamps rising.
    at = latest(np.maximum.accumulate(stamps), times)
    return _womd.lights_by_lane(lane[step, slot], step, state[step, slot], stop, at)


def _road(features: _Features) -> tuple[tuple[MapFeature, ...], int]:
    """The map, and how many of its points are of a kind that is not known."""
    valid, ids = features.integers("roadgraph_samples/valid"), features.integers("roadgraph_samples/id")
    kinds, points = features.integers("roadgraph_samples/type"), features.rows("roadgraph_samples/xyz", 3)
    if not len(valid) == len(ids) == len(kinds) == len(points):
        features.fail(f"{len(points):,} road points, but {len(valid):,} flags, {len(ids):,} ids, {len(kinds):,} types")
    if len(points) > MAX_POINTS:
        features.fail(f"{len(points):,} road points; at most {MAX_POINTS:,} are read")
    keep = np.flatnonzero((valid == 1) & np.isin(kinds, list(_ROAD)))
    unknown = int(np.sum(valid == 1)) - len(keep)
    keep = keep[np.lexsort((kinds[keep], ids[keep]))]  # stable: the order along a feature stays
    ids, kinds, points = ids[keep], kinds[keep], points[keep].astype(np.float64)
    if not len(ids):
        return (), unknown
    other = (np.diff(ids) != 0) | (np.diff(kinds) != 0)
    far = np.linalg.norm(np.diff(points, axis=0), axis=1) > _SPLIT_M
    split = far & (kinds[1:] <= max(_CODES["road_edge"]))  # corners of areas may be far apart
    bounds = np.concatenate(([0], np.flatnonzero(other | split) + 1, [len(ids)])).tolist()
    if len(bounds) > MAX_FEATURES:
        features.fail(f"{len(bounds) - 1:,} map features; at most {MAX_FEATURES:,} are read")
    pieces: dict[int, int] = {}
    out: list[MapFeature] = []
    for start, end in pairwise(bounds):
        name = int(ids[start])
        pieces[name] = pieces.get(name, -1) + 1
        label = f"{name}.{pieces[name]}" if pieces[name] else str(name)
        out.append(_womd.make_feature(_ROAD[int(kinds[start])], points[start:end], label))
    return tuple(out), unknown
