"""Writes a raw scene as the records of the Waymo Open Motion Dataset, and makes scenes to write."""

import random
from collections.abc import Iterator

import numpy as np

from gleanings.data.protoencode import put_bytes, put_real, put_reals, put_varint, put_varints
from gleanings.driving.raw import Kind, MapFeature, RawLight, RawScene, RawTrack

CODE = {"lane": 2, "road_line": 7, "road_edge": 15, "stop_sign": 17, "crosswalk": 18, "speed_bump": 19}
BODY = {"lane": 3, "road_line": 4, "road_edge": 5, "stop_sign": 7, "crosswalk": 8, "speed_bump": 9, "driveway": 10}
LINE = {"lane": 8, "road_line": 2, "road_edge": 2, "stop_sign": 2, "crosswalk": 1, "speed_bump": 1, "driveway": 1}
PARTS = {"past": slice(0, 10), "current": slice(10, 11), "future": slice(11, None)}


def womd_scene(seed: int = 0, steps: int = 91, tracks: int = 5, lights: int = 3) -> RawScene:
    """A scene of WOMD's shape whose numbers all are float32, so that both formats can hold it."""
    rng = np.random.default_rng(seed)

    def real(low: float, high: float, *shape: int) -> np.ndarray:
        return rng.uniform(low, high, shape).astype(np.float32).astype(np.float64)

    valid = rng.random((tracks, steps)) < 0.8
    valid[:, 10] = True
    kinds = [Kind(i % 4) for i in range(tracks)]
    features = [
        MapFeature("lane", np.cumsum(real(0.2, 0.8, 9, 3), 0).round(2), str(7 + i), linked=True) for i in range(lights)
    ]
    features += [
        MapFeature("road_edge", np.cumsum(real(0.2, 0.8, 30, 3), 0), "101"),
        MapFeature("road_line", np.cumsum(real(0.2, 0.8, 4, 3), 0), "102"),
        MapFeature("stop_sign", real(-9, 9, 1, 3), "103"),
        MapFeature("crosswalk", real(-90, 90, 4, 3), "104", closed=True),
        MapFeature("speed_bump", real(-90, 90, 5, 3), "105", closed=True),
    ]
    features = [MapFeature(**{**vars(f), "points": f.points.astype(np.float32).astype(float)}) for f in features]
    return RawScene(
        name=f"{seed:016x}",
        times=np.arange(steps) * 0.1,
        start=10,
        tracks=tuple(
            RawTrack(
                name=str(40 + 3 * i),
                kind=kinds[i],
                position=np.where(valid[i][:, None], real(-9000, 9000, steps, 3), np.nan),
                yaw=np.where(valid[i], real(-3, 3, steps), np.nan),
                velocity=np.where(valid[i][:, None], real(-20, 20, steps, 2), np.nan),
                size=np.where(valid[i][:, None], real(0.5, 9, steps, 3), np.nan),
                valid=valid[i],
            )
            for i in range(tracks)
        ),
        features=tuple(features),
        lights=tuple(
            RawLight(str(7 + i), rng.integers(0, 9, steps).astype(np.uint8), real(-50, 50, 3)) for i in range(lights)
        ),
        sdc=tracks - 1,
        predict=(0, 2),
        interest=(1,),
    )


def write_example(
    scene: RawScene, slots: int = 128, points: int = 20_000, packed: bool = True, seed: int | None = None
) -> bytes:
    """The scene as tf.Example; `seed`: features, and the slots of the lights, in random order, new at each step."""
    mix = random.Random(seed)
    features = dict(_objects(scene, slots)) | dict(_light_slots(scene, mix, seed is not None))
    features |= dict(_samples(scene, points)) | {"scenario/id": scene.name.encode()}
    entries = [
        put_bytes(1, put_bytes(1, name) + put_bytes(2, _list(value, packed))) for name, value in features.items()
    ]
    if seed is not None:
        mix.shuffle(entries)
    return put_bytes(1, b"".join(entries))


def _list(value: np.ndarray | bytes, packed: bool) -> bytes:
    if isinstance(value, bytes):
        return put_bytes(1, put_bytes(1, value))
    if value.dtype.kind == "f":
        return put_bytes(2, put_reals(1, value.ravel(), "float", packed))
    return put_bytes(3, put_varints(1, value.ravel().tolist(), packed))


def _objects(scene: RawScene, slots: int) -> Iterator[tuple[str, np.ndarray]]:
    def padded(rows: list[np.ndarray] | np.ndarray) -> np.ndarray:
        rows = np.stack(list(rows))
        rows = np.where(np.isnan(rows), -1, rows) if rows.dtype.kind == "f" else rows
        return np.concatenate((rows, np.full((slots - len(rows), *rows.shape[1:]), -1, rows.dtype)))

    tracks = scene.tracks
    yield "state/id", padded(np.array([float(track.name) for track in tracks]))
    yield "state/type", padded(np.array([float(track.kind or 4) for track in tracks]))
    for name, chosen in (("is_sdc", (scene.sdc,)), ("tracks_to_predict", scene.predict)):
        yield f"state/{name}", padded(np.array([int(i in chosen) for i in range(len(tracks))]))
    yield "state/objects_of_interest", padded(np.array([int(i in scene.interest) for i in range(len(tracks))]))
    fields = {
        **{name: [track.position[:, i] for track in tracks] for i, name in enumerate("xyz")},
        **{name: [track.size[:, i] for track in tracks] for i, name in enumerate(("length", "width", "height"))},
        **{f"velocity_{name}": [track.velocity[:, i] for track in tracks] for i, name in enumerate("xy")},
        "bbox_yaw": [track.yaw for track in tracks],
        "valid": [track.valid.astype(int) for track in tracks],
        "timestamp_micros": [np.where(track.valid, np.rint(scene.times * 1e6).astype(int), -1) for track in tracks],
    }
    for name, rows in fields.items():
        for part, steps in PARTS.items():
            values = padded(rows)[:, steps]
            yield f"state/{part}/{name}", np.where(values == -1, 0, values) if name == "valid" else values


def _light_slots(scene: RawScene, mix: random.Random, shuffle: bool) -> Iterator[tuple[str, np.ndarray]]:
    steps, slots = len(scene.times), 16
    table = {name: np.full((steps, slots), -1.0) for name in "xyz"}
    table |= {"id": np.full((steps, slots), -1), "state": np.full((steps, slots), -1)}
    table["valid"] = np.zeros((steps, slots), int)
    for step in range(steps):
        # Of an unknown light there may be no trace; only so can more lanes than slots take part.
        seen = [light for light in scene.lights if light.state[step] or len(scene.lights) <= slots]
        places = mix.sample(range(slots), len(seen)) if shuffle else range(len(seen))
        for slot, light in zip(places, seen, strict=True):
            values = {"id": int(light.lane), "state": int(light.state[step]), "valid": 1}
            for name, value in {**values, **dict(zip("xyz", light.stop, strict=True))}.items():
                table[name][step, slot] = value
    for part, chosen in PARTS.items():
        for name, values in table.items():
            yield f"traffic_light_state/{part}/{name}", values[chosen]
        yield f"traffic_light_state/{part}/timestamp_micros", np.rint(scene.times[chosen] * 1e6).astype(int)


def _samples(scene: RawScene, points: int) -> Iterator[tuple[str, np.ndarray]]:
    lengths = [len(feature.points) for feature in scene.features]
    free = points - sum(lengths)
    columns = {
        "id": np.repeat([int(feature.name) for feature in scene.features], lengths),
        "type": np.repeat([CODE[feature.kind] for feature in scene.features], lengths),
        "valid": np.ones(sum(lengths), int),
        "xyz": np.concatenate([feature.points for feature in scene.features]),
    }
    for name, values in columns.items():
        empty = 0 if name == "valid" else -1
        yield (
            f"roadgraph_samples/{name}",
            np.concatenate((values, np.full((free, *values.shape[1:]), empty, values.dtype))),
        )


def write_scenario(scene: RawScene, packed: bool = True, seed: int | None = None) -> bytes:
    """The scene as Scenario; `seed`: the fields of every message in random order."""
    mix = None if seed is None else random.Random(seed)
    parts = [put_bytes(5, scene.name), put_varint(6, scene.sdc), put_varint(10, scene.start)]
    parts += (
        [put_reals(1, scene.times, "double", packed=False)] if not packed else [put_reals(1, scene.times, "double")]
    )
    parts += [put_bytes(2, b"".join(_mixed(_track(track, mix), mix))) for track in scene.tracks]
    parts += [put_varint(4, int(scene.tracks[i].name)) for i in scene.interest]
    parts += [put_bytes(11, put_varint(1, i) + put_varint(2, 1)) for i in scene.predict]
    for step in range(len(scene.times)):
        lanes = [_mixed(_light(light, step), mix) for light in scene.lights]
        parts.append(put_bytes(7, b"".join(put_bytes(1, b"".join(lane)) for lane in lanes)))
    parts += [put_bytes(8, b"".join(_mixed(_feature(feature, packed, mix), mix))) for feature in scene.features]
    return b"".join(_mixed(parts, mix))


def _mixed(parts: list[bytes], mix: random.Random | None) -> list[bytes]:
    """Fields in another order; those of one number keep theirs."""
    if mix is None:
        return parts
    slots = [part[0] for part in parts]
    mix.shuffle(slots)
    queues = {tag: iter([part for part in parts if part[0] == tag]) for tag in set(slots)}
    return [next(queues[tag]) for tag in slots]


def _track(track: RawTrack, mix: random.Random | None) -> list[bytes]:
    states = np.concatenate((track.position, track.size, track.yaw[:, None], track.velocity), 1)
    parts = [put_varint(1, int(track.name)), put_varint(2, int(track.kind) or 4)]
    for values, valid in zip(states.tolist(), track.valid.tolist(), strict=True):
        state = [put_real(i, value, "double" if i < 5 else "float") for i, value in enumerate(values, 2)]
        state = [*state, put_varint(11, 1)] if valid else [put_varint(11, 0)]
        parts.append(put_bytes(3, b"".join(_mixed(state, mix))))
    return parts


def _point(point: np.ndarray) -> bytes:
    return b"".join(put_real(i, value, "double") for i, value in enumerate(point.tolist(), 1))


def _light(light: RawLight, step: int) -> list[bytes]:
    return [put_varint(1, int(light.lane)), put_varint(2, int(light.state[step])), put_bytes(3, _point(light.stop))]


def _feature(feature: MapFeature, packed: bool, mix: random.Random | None) -> list[bytes]:
    body = [put_bytes(LINE[feature.kind], _point(point)) for point in feature.points]
    if feature.kind == "lane":
        body += [put_varints(10, list(map(int, feature.successors)), packed)] if feature.successors else []
        body += [put_bytes(11, put_varint(1, int(name))) for name in feature.neighbours]
        body += [] if np.isnan(feature.speed_limit) else [put_real(1, feature.speed_limit / 0.44704, "double")]
    return [put_varint(1, int(feature.name)), put_bytes(BODY[feature.kind], b"".join(_mixed(body, mix)))]
