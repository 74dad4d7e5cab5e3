"""What `check_raw` repairs, counts and refuses."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gleanings.core.errors import DataError
from gleanings.driving.raw import DEFAULT_SIZE, Kind, MapFeature, RawGoal, RawLight, RawScene, RawTrack, empty_track
from gleanings.driving.raw_check import check_raw

NAN = float("nan")


def track(times: np.ndarray, kind: Kind = Kind.VEHICLE, **changes: Any) -> RawTrack:
    """Drives x = 3 t^2, y = 2 t without velocity and size."""
    arrays = empty_track(len(times))
    arrays["position"][:] = np.stack((3 * times**2, 2 * times, 0 * times), -1)
    arrays["yaw"][:] = 0.5
    arrays["valid"][:] = True
    return replace(RawTrack("7", kind, **arrays), **changes)


def scene(times: np.ndarray | None = None, **changes: Any) -> RawScene:
    times = np.arange(9) * 0.1 if times is None else times
    base = RawScene("s", times, 2, (track(times),), (), source="test:x")
    return replace(base, **changes)


def test_a_pose_that_is_no_number_makes_its_step_invalid() -> None:
    times = np.arange(9) * 0.1
    position = track(times).position.copy()
    position[4, 0], position[5, 2], position[6, 1] = NAN, np.inf, 1e300
    read = check_raw(scene(tracks=(track(times, position=position),)))
    assert read.tracks[0].valid.tolist() == [True] * 4 + [False] * 3 + [True] * 2
    assert read.repairs["invalid_pose"] == 3
    assert np.isnan(read.tracks[0].position[4:7]).all()
    flat = check_raw(scene(tracks=(track(times, position=position),), flat=True))
    assert flat.tracks[0].valid.tolist() == [True] * 4 + [False, True, False] + [True] * 2
    assert np.isnan(flat.tracks[0].position[5, 2])


def test_velocity_is_the_backward_difference_where_it_is_missing() -> None:
    times = np.arange(9) * 0.1
    valid = np.ones(9, bool)
    valid[[3, 5]] = False
    velocity = np.full((9, 2), NAN)
    velocity[8] = [1, 1]
    read = check_raw(scene(tracks=(track(times, valid=valid, velocity=velocity),)))
    found = read.tracks[0].velocity
    back = 3 * (times[1:] ** 2 - times[:-1] ** 2) / 0.1
    expected = {0: back[0], 1: back[0], 2: back[1], 4: 0.0, 6: back[6], 7: back[6], 8: 1.0}  # 4 stands alone
    for step, value in expected.items():
        assert found[step, 0] == pytest.approx(value)
    assert np.isnan(found[[3, 5]]).all()
    assert read.repairs["velocity_filled"] == 6


def test_sizes_come_from_the_step_that_counts_else_from_the_kind() -> None:
    times = np.arange(9) * 0.1
    size = np.full((9, 3), [4.0, 2.0, 1.5])
    size[:4, 0] = [0, -1, 0, NAN]
    size[4:, 0] = [5, 6, 7, 8, np.inf]
    tracks = (track(times, size=size), track(times, Kind.CYCLIST))
    read = check_raw(scene(tracks=tracks))
    assert read.tracks[0].size[:, 0].tolist() == [5, 5, 5, 5, 5, 6, 7, 8, 5]
    np.testing.assert_array_equal(read.tracks[1].size, np.tile(DEFAULT_SIZE[Kind.CYCLIST], (9, 1)))
    assert read.repairs == {"velocity_filled": 18, "size": 3, "size_by_kind": 1}


def test_yaw_is_wrapped_to_the_half_open_interval() -> None:
    times = np.arange(9) * 0.1
    yaw = np.array([np.pi, -np.pi, 3 * np.pi, 4, -4, 0, 7, -7, 1e3])
    found = check_raw(scene(tracks=(track(times, yaw=yaw),))).tracks[0].yaw
    assert ((found > -np.pi) & (found <= np.pi)).all()
    np.testing.assert_allclose(np.exp(1j * found), np.exp(1j * yaw), atol=1e-9)


def test_uneven_steps_are_resampled_along_the_motion() -> None:
    times = np.array([0, 0.1, 0.2, 0.3, 0.45, 0.5, 0.6, 1.3, 1.4])
    line = np.stack((10 * times, -5 * times, 0 * times), -1)
    yaw = np.where(times < 0.4, 3.1, -3.1)
    lights = (RawLight("1", np.array([4, 4, 4, 4, 6, 6, 6, 4, 4], np.uint8), np.zeros(3)),)
    mapped = (MapFeature("lane", np.eye(3), "1"),)
    moved = scene(times, tracks=(track(times, position=line, yaw=yaw),), lights=lights, features=mapped)
    read = check_raw(moved)
    np.testing.assert_allclose(read.times, np.arange(15) * 0.1, atol=1e-9)
    assert read.times[read.start] == pytest.approx(0.2)
    found = read.tracks[0]
    assert found.valid.tolist() == [True] * 7 + [False] * 6 + [True] * 2  # 0.7 s without a state
    np.testing.assert_allclose(found.position[found.valid, 0], 10 * read.times[found.valid], atol=1e-9)
    np.testing.assert_allclose(found.velocity[found.valid][1:7], np.tile([10.0, -5.0], (6, 1)), atol=1e-6)
    turn = 3.1 + 2 / 3 * (2 * np.pi - 6.2)  # at 0.4 s, through pi and not through 0
    assert found.yaw[4] % (2 * np.pi) == pytest.approx(turn)
    assert read.lights[0].state.tolist() == [4, 4, 4, 4, 4, 6, 6, 6, 6, 6, 6, 6, 6, 4, 4]
    jitter = np.arange(9) * 0.1 + 0.005 * np.array([0, 1, -1, 0, 1, 0, 1, 0, 0])
    np.testing.assert_array_equal(check_raw(scene(jitter)).times, jitter)


def test_map_and_lights_are_mended() -> None:
    line = np.array([[0.0, 0, NAN], [NAN, 1, 1], [2, 2, 2]])
    features = (
        MapFeature("lane", line, "1", speed_limit=-3.0),
        MapFeature("road_edge", line[:2], "2"),
        MapFeature("stop_sign", line[:1], "3"),
    )
    states = np.array([0, 9, 255, 4, 4, 4, 4, 4, 4], np.uint8)
    lights = (RawLight("1", states, np.full(3, NAN)), RawLight("77", states, np.full(3, NAN)))
    read = check_raw(scene(features=features, lights=lights))
    assert [(feature.name, len(feature.points)) for feature in read.features] == [("1", 2), ("3", 1)]
    assert np.isnan(read.features[0].speed_limit)
    (light,) = read.lights
    assert light.state.tolist() == [0, 0, 0, 4, 4, 4, 4, 4, 4]
    assert light.stop[:2].tolist() == [0, 0]
    expected = {"map_points_dropped": 2, "features_dropped": 1, "light_states": 4, "lights_moved_to_lane": 1}
    assert {**read.repairs, **expected, "lights_dropped": 1} == read.repairs
    assert check_raw(read).repairs == read.repairs  # nothing is left to mend


def test_what_cannot_be_mended_is_refused() -> None:
    times = np.arange(9) * 0.1
    late = np.arange(9) > 2
    light = RawLight("1", np.zeros(8, np.uint8), np.zeros(3))
    linked = MapFeature("lane", np.eye(3), "1", successors=("1",) * 50_000, neighbours=("1",) * 50_000)
    for bad, words in (
        (scene(tracks=()), "no object is valid at the start, step 2"),
        (scene(tracks=(track(times, valid=late),)), "no object is valid at the start"),
        (scene(tracks=(track(times, yaw=np.full(9, NAN)),)), "no object is valid"),
        (scene(tracks=(track(times[:8]),)), "track '7' has arrays of shapes"),
        (scene(times[::-1].copy()), "do not rise"),
        (scene(np.where(times > 0.5, NAN, times)), "do not rise"),
        (scene(times[:1]), "1 steps; expected at least 2"),
        (scene(times * 1e-3), "steps of 0.0001 s"),
        (scene(np.append(times[:8], 1e6)), "at most 100,000 steps"),
        (scene(start=9), "start 9 lies outside the 9 steps"),
        (scene(sdc=1), "sdc names track 1; the scene has 1"),
        (scene(predict=(0, -1)), "predict names track -1"),
        (scene(goals=(RawGoal(0, (NAN, 0.0), 2.0),)), "the goal of track 0 is no circle"),
        (scene(lights=(light,) * 50_001), "9 steps of 50,001 lights; at most"),
        (scene(features=(linked,) * 11), "more than 1,000,000 links"),
        (scene(lights=(light,)), "the light of lane '1' has 8 states; expected 9"),
    ):
        with pytest.raises(DataError, match=words) as error:
            check_raw(bad)
        assert "test:x, record s" in str(error.value)


def test_lights_may_not_grow_beyond_the_states_when_resampled(monkeypatch: pytest.MonkeyPatch) -> None:
    times = np.append(np.arange(8) * 0.1, 50.0)
    light = RawLight("1", np.zeros(9, np.uint8), np.zeros(3))
    monkeypatch.setattr("gleanings.driving.raw_check.MAX_STATES", 1000)
    with pytest.raises(DataError, match="501 steps of 2 lights"):
        check_raw(scene(times, lights=(light, light)))
