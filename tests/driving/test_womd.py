"""Waymo records: both formats of one scene read alike, and the traps of the format."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tests.driving._writers import CODE, womd_scene, write_example, write_scenario

from gleanings.core.errors import DataError
from gleanings.data.protoencode import put_bytes, put_varints
from gleanings.data.tfrecord import write_tfrecord
from gleanings.driving.raw import Light, MapFeature, RawLight, RawScene
from gleanings.driving.readers import womd_example, womd_scenario
from gleanings.driving.readers._womd import lights_by_lane
from gleanings.driving.readers.detect import iter_raw, read_raw

HERE = Path("a.tfrecord")


def differences(one: RawScene, other: RawScene, ignore: tuple[str, ...] = ("source", "repairs")) -> list[str]:
    """Names of what differs between two scenes, arrays to the last bit but times to a microsecond."""

    def flat(value: object, name: str) -> list[tuple[str, object]]:
        if dataclasses.is_dataclass(value):
            return [
                item
                for field in dataclasses.fields(value)
                for item in flat(getattr(value, field.name), f"{name}.{field.name}")
            ]
        if isinstance(value, tuple):
            return [
                (f"{name}.length", len(value)),
                *(x for i, item in enumerate(value) for x in flat(item, f"{name}[{i}]")),
            ]
        return [(name, value)]

    out = []
    for (name, a), (_, b) in zip(flat(one, ""), flat(other, ""), strict=True):
        if any(part in name for part in ignore):
            continue
        if name == ".times":
            same = np.allclose(a, b, atol=1e-6)
        else:
            same = np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f")
        out += [] if same else [name]
    return out


@pytest.mark.parametrize("seed", [None, 3], ids=["in order", "shuffled"])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
def test_both_formats_give_back_the_scene(packed: bool, seed: int | None) -> None:
    scene = womd_scene(1)
    example = womd_example.parse(write_example(scene, 8, 300, packed, seed), HERE, 0)
    scenario = womd_scenario.parse(write_scenario(scene, packed, seed), HERE, 0)
    assert differences(scene, scenario, ("source", "licence", "repairs")) == []
    # Samples have no order among features and no links.
    example = dataclasses.replace(
        example, features=tuple(dataclasses.replace(f, linked=f.kind == "lane") for f in example.features)
    )
    assert differences(scenario, example) == []


def test_links_and_limits_of_lanes() -> None:
    line = np.arange(6.0).reshape(2, 3)
    lane = MapFeature("lane", line, "9", False, 17.0, ("11", "12"), ("4",), True)
    scene = dataclasses.replace(womd_scene(2), features=(lane,), lights=())
    for packed in (True, False):
        read = womd_scenario.parse(write_scenario(scene, packed), HERE, 0).features[0]
        assert (read.successors, read.neighbours, read.linked) == (("11", "12"), ("4",), True)
        assert read.speed_limit == pytest.approx(17.0)


def test_lights_are_keyed_by_lane_though_slots_move() -> None:
    """21 lanes in 16 slots that change lane at every step; 14 of them are outside the map."""
    rng = np.random.default_rng(5)
    states = rng.integers(1, 9, (21, 91)).astype(np.uint8)
    for step in range(91):
        states[rng.permutation(21)[: rng.integers(5, 22)], step] = Light.UNKNOWN
    lights = tuple(RawLight(str(7 + i), states[i], np.full(3, float(i))) for i in range(21))
    scene = dataclasses.replace(womd_scene(0, lights=7), lights=lights)
    read = womd_example.parse(write_example(scene, 8, 400, seed=8), HERE, 0)
    found = {light.lane: light for light in read.lights}
    assert set(found) == {str(7 + i) for i in range(21) if states[i].any()}
    assert len(set(found) & {feature.name for feature in read.features}) == 7
    for light in lights:
        np.testing.assert_array_equal(found[light.lane].state, light.state)
        np.testing.assert_array_equal(found[light.lane].stop, light.stop)


def test_lights_wait_for_their_stamps() -> None:
    """A light stamped 12 ms after the state counts from the next state on, one of 8 ms at once."""
    scene = womd_scene(0, lights=1)
    state = np.repeat([4, 6], [40, 51]).astype(np.uint8)
    scene = dataclasses.replace(scene, lights=(RawLight("7", state, np.zeros(3)),))
    for late, first_green in ((8_000, 40), (12_000, 41)):
        payload = write_example(scene, 8, 300)
        moved = b""
        stamps = (np.arange(11, 91) * 100_000 + late).tolist()
        name = "traffic_light_state/future/timestamp_micros"
        moved = payload + put_bytes(
            1, put_bytes(1, put_bytes(1, name) + put_bytes(2, put_bytes(3, put_varints(1, stamps))))
        )
        light = womd_example.parse(moved, HERE, 0).lights[0].state
        assert np.flatnonzero(light == 6)[0] == first_green
        assert set(light[:first_green]) == {4}


def test_padding_is_no_object_and_no_pose() -> None:
    scene = womd_example.parse(write_example(womd_scene(4), 128, 300), HERE, 0)
    assert len(scene.tracks) == 5
    for track in scene.tracks:
        assert np.isnan(track.position[~track.valid]).all()
        assert not (track.position[track.valid] == -1).any()


def test_a_gap_splits_lines_but_not_areas() -> None:
    line = np.zeros((6, 3))
    line[:, 0] = [0, 7.9, 8.9, 17, 18, 19]
    area = np.array([[0.0, 0, 0], [30, 0, 0], [30, 5, 0]])
    features = (MapFeature("lane", line, "5"), MapFeature("crosswalk", area, "6", closed=True))
    scene = dataclasses.replace(womd_scene(0), features=features, lights=())
    read = womd_example.parse(write_example(scene, 8, 50), HERE, 0).features
    assert [(f.name, f.points[:, 0].tolist()) for f in read] == [
        ("5", [0, np.float32(7.9), np.float32(8.9)]),
        ("5.1", [17, 18, 19]),
        ("6", [0, 30, 30]),
    ]


def test_points_of_an_unknown_kind_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODE, "crosswalk", 99)
    read = womd_example.parse(write_example(womd_scene(0), 8, 300), HERE, 0)
    assert "104" not in {feature.name for feature in read.features}
    assert read.repairs == {"map_points_of_unknown_kind": 4}


def test_a_broken_record_names_what_is_wrong() -> None:
    scene = womd_scene(0)
    for payload, parse, words in (
        (put_bytes(1, b""), womd_example.parse, "has no feature state/id"),
        (
            write_example(scene, 8, 400).replace(b"state/future/width", b"state/future/other"),
            womd_example.parse,
            "width",
        ),
        (
            write_scenario(dataclasses.replace(scene, sdc=77)),
            womd_scenario.parse,
            "sdc names track 77; the scene has 5",
        ),
        (write_scenario(dataclasses.replace(scene, start=91)), womd_scenario.parse, "start 91 lies outside"),
        (
            write_scenario(dataclasses.replace(scene, times=scene.times[:50])),
            womd_scenario.parse,
            "91 states; expected 50",
        ),
    ):
        with pytest.raises(DataError, match=words):
            parse(payload, HERE, 0)


def cut_places(size: int, count: int) -> list[int]:
    return np.random.default_rng(0).integers(1, size, count).tolist()


@pytest.mark.parametrize("count", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_a_file_cut_anywhere_gives_whole_records_then_an_error(tmp_path: Path, count: int) -> None:
    scenes = [womd_scene(seed, steps=20, tracks=3) for seed in range(3)]
    whole = tmp_path / "whole"
    write_tfrecord(whole, [write_scenario(scenes[0]), write_example(scenes[1], 8, 300), write_scenario(scenes[2])])
    data, ends = whole.read_bytes(), []
    for payload in (write_scenario(scenes[0]), write_example(scenes[1], 8, 300)):
        ends.append((ends[-1] if ends else 0) + len(payload) + 16)
    for at in cut_places(len(data), count):
        cut = tmp_path / "cut"
        cut.write_bytes(data[:at])
        names = []
        with pytest.raises(DataError) as error:  # noqa: PT012
            for scene in iter_raw(cut):
                names.append(scene.name)
            raise DataError("the cut fell between two records")
        assert names == [scene.name for scene in scenes[: sum(at >= end for end in ends)]]
        assert at in ends or error.value.path == cut


@pytest.mark.parametrize("count", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_payloads_cut_or_changed_at_random_raise_only_data_errors(count: int) -> None:
    """Behind intact sums: what a hostile writer can make."""
    scene = womd_scene(0, steps=20, tracks=3)
    rng = np.random.default_rng(1)
    for payload, parse in (
        (write_scenario(scene), womd_scenario.parse),
        (write_example(scene, 8, 300), womd_example.parse),
    ):
        for at in cut_places(len(payload), count):
            changed = bytearray(payload)
            for place in rng.integers(0, len(payload), 4):
                changed[place] = rng.integers(256)
            for damaged in (payload[:at], bytes(changed)):
                try:
                    read = parse(damaged, HERE, 0)
                except DataError:
                    continue
                assert read.tracks


REAL = {  # tracks by kind; valid at the start; lights, of them in the map; features by kind
    "motion_data_one_example": ((119, 8, 1), 73, 21, 7, {"lane": 131, "road_line": 77, "road_edge": 45}),
    "motion_data_one_scenario": ((70, 10, 3), 50, 12, 12, {"lane": 198, "road_line": 58, "road_edge": 28}),
    "womd_scenario_input": ((189, 68, 0), 84, 0, 0, {"lane": 114, "road_line": 12, "road_edge": 75}),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_hold_plausible_scenes(shared_data: Path, name: str) -> None:
    path = shared_data / "driving" / "waymo-open-dataset" / f"{name}.tfrecord"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in the shared data folder")
    (scene,) = read_raw(path)
    kinds, at_start, lights, in_map, features = REAL[name]
    count = Counter(int(track.kind) for track in scene.tracks)
    assert (count[1], count[2], count[3]) == kinds
    assert sum(track.valid[scene.start] for track in scene.tracks) == at_start
    assert (len(scene.times), scene.start) == (91, 10)
    assert len(scene.lights) == lights
    lanes = {feature.name: feature for feature in scene.features if feature.kind == "lane"}
    stops = [np.linalg.norm(lanes[light.lane].points[0] - light.stop) for light in scene.lights if light.lane in lanes]
    assert len(stops) == in_map
    assert max(stops, default=0) < 0.1  # stop points are the first points of their lanes
    assert features.items() <= Counter(feature.kind for feature in scene.features).items()
    points = np.concatenate([feature.points for feature in scene.features])
    poses = np.concatenate([track.position[track.valid] for track in scene.tracks])
    outside = ((poses < points.min(0) - 15) | (poses > points.max(0) + 15)).any(1)
    assert not outside.any()  # a pedestrian of the third stands 12 m beside it
    for track in scene.tracks:  # logged velocities agree with the motion, so that steps and fields are in place
        both = np.flatnonzero(track.valid[1:] & track.valid[:-1])
        moved = np.diff(track.position[:, :2], axis=0)[both] / np.diff(scene.times)[both, None]
        if len(both) > 10:
            assert np.median(np.linalg.norm(moved - track.velocity[1:][both], axis=1)) < 0.5


def test_lights_and_links_of_too_many_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    count, steps = 200_000, 100_000
    seen = np.arange(count)
    with pytest.raises(DataError, match="100,000 steps of 200,000 lights"):
        lights_by_lane(seen, seen % steps, np.ones(count, np.int64), np.zeros((count, 3)), np.arange(steps))
    lane = MapFeature("lane", np.eye(3), "9", successors=("11", "12"), neighbours=("4",), linked=True)
    payload = write_scenario(dataclasses.replace(womd_scene(2), features=(lane,), lights=()))
    monkeypatch.setattr("gleanings.driving.raw_check.MAX_LINKS", 2)
    monkeypatch.setattr("gleanings.driving.readers.womd_scenario.check_raw", None)
    with pytest.raises(DataError, match="more than 2 links between lanes"):
        womd_scenario.parse(payload, HERE, 0)
