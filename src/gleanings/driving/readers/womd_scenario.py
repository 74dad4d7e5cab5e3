"""Waymo Open Motion Dataset as Scenario messages in TFRecord (field numbers: the dataset's public scenario.proto)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from gleanings.core.errors import DataError
from gleanings.data.protowire import Message, Scalar, Spans, columns
from gleanings.driving.raw import FeatureKind, MapFeature, RawLight, RawScene, RawTrack
from gleanings.driving.raw_check import check_links, check_raw, check_size
from gleanings.driving.readers import _womd

_TIMES, _TRACKS, _OF_INTEREST, _ID, _SDC, _LIGHTS, _FEATURES, _CURRENT, _PREDICT = 1, 2, 4, 5, 6, 7, 8, 10, 11
_POINT: dict[int, Scalar] = {1: "double", 2: "double", 3: "double"}
_STATE: dict[int, Scalar] = {number: "double" if number < 5 else "float" for number in range(2, 11)}
_STATE[11] = "varint"
# Field of a MapFeature -> kind, and the field of its points.
_MAP: dict[int, tuple[FeatureKind, int]] = {
    3: ("lane", 8),
    4: ("road_line", 2),
    5: ("road_edge", 2),
    7: ("stop_sign", 2),
    8: ("crosswalk", 1),
    9: ("speed_bump", 1),
    10: ("driveway", 1),
}
_AFTER, _BESIDE = 10, (11, 12)  # fields of a lane
_MPH = 0.44704
_MAX_LIGHTS = 200_000  # states of lights of all steps


def read(path: Path) -> Iterator[RawScene]:
    """The file's scenes. Raises: DataError at the first broken record, with its number."""
    return _womd.read_records(path, parse)


def is_scenario(message: Message) -> bool:
    """Whether a record has an id, times, tracks and a map, as a Scenario has."""
    return {_TIMES, _TRACKS, _ID, _FEATURES} <= set(message.numbers())


def parse(payload: bytes, path: Path, record: int) -> RawScene:
    """The scene of one record. Raises: DataError (WireError inside) for bytes or lengths that do not fit."""
    message = Message(payload)
    times = message.reals(_TIMES, "double").astype(np.float64)
    check_size(len(message.spans(_TRACKS)), len(times))
    tracks = message.messages(_TRACKS)
    scene = RawScene(
        name=message.content(_ID).decode("ascii", "replace") or f"record-{record}",
        times=times,
        start=message.integer(_CURRENT),
        tracks=_tracks(payload, tracks, len(times), path, record),
        features=_map(payload, message),
        lights=_lights(payload, message, len(times), path, record),
        sdc=message.integer(_SDC, -1),
        predict=_distinct([wanted.integer(1) for wanted in message.messages(_PREDICT)]),
        interest=_of_interest(message, tracks),
        source=f"womd-scenario:{path.name}",
        licence=_womd.LICENCE,
    )
    return check_raw(scene)


def _distinct(indices: list[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(indices))


def _of_interest(message: Message, tracks: list[Message]) -> tuple[int, ...]:
    """`objects_of_interest` holds ids of objects, not indices."""
    index = {track.integer(1): i for i, track in enumerate(tracks)}
    return _distinct([index[name] for name in message.integers(_OF_INTEREST).tolist() if name in index])


def _tracks(payload: bytes, tracks: list[Message], steps: int, path: Path, record: int) -> tuple[RawTrack, ...]:
    spans = [track.spans(3) for track in tracks]
    for track, held in zip(tracks, spans, strict=True):
        if len(held) != steps:
            name = track.integer(1)
            raise DataError(f"track {name} has {len(held)} states; expected {steps}", path, record)
    found = columns(payload, _joined(spans), _STATE)
    states = np.stack([found[number] for number in range(2, 11)], -1).reshape(len(tracks), steps, 9)
    valid = (found[11] != 0).reshape(len(tracks), steps)
    return tuple(
        _womd.make_track(str(track.integer(1)), track.integer(2), states[i], valid[i]) for i, track in enumerate(tracks)
    )


def _lights(payload: bytes, message: Message, steps: int, path: Path, record: int) -> tuple[RawLight, ...]:
    """One light a lane; the i-th of the dynamic states belongs to the i-th step."""
    spans = [held.spans(1) for held in message.messages(_LIGHTS)][:steps]
    step = np.repeat(np.arange(len(spans)), [len(held) for held in spans])
    all_spans = _joined(spans)
    if not len(all_spans):
        return ()
    if len(all_spans) > _MAX_LIGHTS:
        raise DataError(f"{len(all_spans):,} states of lights; at most {_MAX_LIGHTS:,} are read", path, record)
    found = columns(payload, all_spans, {1: "varint", 2: "varint"})
    stop = np.full((len(all_spans), 3), np.nan)
    where = [Message(payload, *span).spans(3) for span in all_spans.tolist()]
    given = [i for i, held in enumerate(where) if len(held)]
    stop[given] = _points(payload, _joined([where[i][-1:] for i in given]))
    at = np.where(np.arange(steps) < len(spans), np.arange(steps), -1)
    return _womd.lights_by_lane(found[1], step, found[2], stop, at)


def _map(payload: bytes, message: Message) -> tuple[MapFeature, ...]:
    opened = [(feature, number) for feature in message.messages(_FEATURES) for number in feature.numbers()]
    bodies = [(feature, number, feature.message(number)) for feature, number in opened if number in _MAP]
    parts = [(feature, number, body) for feature, number, body in bodies if body is not None]
    spans = [body.spans(_MAP[number][1]) for _, number, body in parts]
    points = np.split(_points(payload, _joined(spans)), np.cumsum([len(held) for held in spans])[:-1])
    out, links = list[MapFeature](), 0
    for (feature, number, body), line in zip(parts, points, strict=False):
        kind, name = _MAP[number][0], str(feature.integer(1))
        if kind == "lane":
            links += len(body.integers(_AFTER)) + sum(len(body.spans(field)) for field in _BESIDE)
            check_links(links)
        out.append(_lane(body, line, name) if kind == "lane" else _womd.make_feature(kind, line, name))
    return tuple(out)


def _lane(body: Message, points: Float[np.ndarray, "P 3"], name: str) -> MapFeature:
    beside = [lane.integer(1) for field in _BESIDE for lane in body.messages(field)]
    return MapFeature(
        "lane",
        points,
        name,
        speed_limit=body.real(1, "double") * _MPH,
        successors=_names(body.integers(_AFTER)),
        neighbours=tuple(dict.fromkeys(map(str, beside))),
        linked=True,
    )


def _names(ids: Int64[np.ndarray, " n"]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(str, ids.tolist())))


def _points(payload: bytes, spans: Spans) -> Float[np.ndarray, "P 3"]:
    found = columns(payload, spans, _POINT)
    return np.stack([found[1], found[2], found[3]], -1)


def _joined(spans: list[Spans]) -> Spans:
    return np.concatenate(spans) if spans else np.zeros((0, 2), np.int64)
