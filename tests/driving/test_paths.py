"""Paths: along the log, then along the lanes; loops; standing, reversing and jittering objects; limits and lights."""

import math
from dataclasses import replace

import numpy as np
import pytest
from tests.driving._raw import STEPS, driving, junction, light, line, ring_road, scene, straight_road, track

from gleanings.driving.compile import compile_scene
from gleanings.driving.raw import Kind, RawScene
from gleanings.driving.scene import Paths, Scene


def path_of(raw: RawScene, k: int = 0) -> tuple[np.ndarray, np.ndarray, float, bool]:
    """World x, y of the samples of a path that lie on it, its directions, its length, and whether it is closed."""
    compiled = compile_scene(raw)
    paths: Paths = compiled.paths
    xy = np.stack([paths.x[k], paths.y[k]], axis=1) + compiled.origin[:2]
    used = xy[: int(paths.length[k]) + 1]
    step = np.diff(used, axis=0)
    return used, np.arctan2(step[:, 1], step[:, 0]), float(paths.length[k]), bool(paths.closed[k])


def test_a_straight_path_starts_at_the_first_pose_and_ends_with_the_lanes() -> None:
    xy, yaw, length, closed = path_of(scene([driving(8.0, x=10.0)], straight_road()))
    np.testing.assert_allclose(xy, line(10 + np.arange(191.0), 0)[:, :2], atol=1e-4)
    assert (length, closed) == (pytest.approx(190.0, abs=1e-3), False)
    np.testing.assert_allclose(yaw, 0.0, atol=1e-4)


def test_without_lanes_a_path_goes_straight_on() -> None:
    angle = 0.7
    s = 6.0 * 0.1 * np.arange(STEPS)
    xy, _, length, _ = path_of(scene([track(s * np.cos(angle), s * np.sin(angle), angle)]))
    np.testing.assert_allclose(xy, np.arange(257)[:, None] * [np.cos(angle), np.sin(angle)], atol=1e-3)
    assert length == 256.0


def test_samples_stand_at_their_arc_and_go_on_past_the_end() -> None:
    compiled = compile_scene(scene([driving(8.0, x=10.0)], straight_road()))
    np.testing.assert_allclose(np.diff(compiled.paths.x[0]), 1.0, atol=1e-4)
    np.testing.assert_allclose(compiled.paths.y[0], 0.0, atol=1e-4)


def test_at_a_fork_the_log_decides_and_then_the_straightest_lane() -> None:
    straight, *_ = path_of(scene([driving(5.0, x=-50.0)], junction()))
    assert np.abs(straight[:, 1]).max() < 1e-3
    quarter = np.linspace(-np.pi / 2, -np.pi / 4, STEPS)
    turning = track(10 * np.cos(quarter), 10 + 10 * np.sin(quarter), quarter + np.pi / 2)
    left, yaw, length, _ = path_of(scene([turning], junction()))
    assert length == pytest.approx(5 * np.pi + 50, abs=0.1)
    np.testing.assert_allclose(left[-1], [10, 60], atol=1.1)
    # On the arc every sample is 10 m from its centre; the chords of the log and the join stay within 4 cm.
    arc = left[left[:, 1] < 9.5]
    np.testing.assert_allclose(np.hypot(arc[:, 0], arc[:, 1] - 10), 10, atol=0.04)
    assert np.abs(np.diff(yaw)).max() < 0.12


def test_a_path_joins_a_lane_beside_smoothly() -> None:
    xy, yaw, *_ = path_of(scene([driving(5.0, x=0.0, y=1.2)], straight_road()[:2]))
    assert xy[45, 1] == pytest.approx(1.2, abs=1e-3)
    np.testing.assert_allclose(xy[55:, 1], 0.0, atol=1e-3)
    assert np.abs(yaw).max() < 0.3


@pytest.mark.parametrize("radius", [12.0, 30.0])
@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_a_ring_is_closed(radius: float, shift: float) -> None:
    angle = 0.5 + 4.0 * 0.1 * np.arange(STEPS) / radius
    car = track((radius + shift) * np.cos(angle), (radius + shift) * np.sin(angle), angle + np.pi / 2)
    raw = scene([car], ring_road(radius))
    xy, yaw, length, closed = path_of(raw)
    assert closed
    assert length == pytest.approx(2 * np.pi * radius, abs=2 * np.pi * shift + 0.3)
    assert np.abs(np.hypot(*xy.T) - radius - shift / 2).max() < shift / 2 + 0.05
    assert np.abs((np.diff(yaw) + np.pi) % (2 * np.pi) - np.pi).max() < 1 / radius + 0.15
    paths = compile_scene(raw).paths
    again = np.interp(np.arange(length, 256), np.arange(257), paths.x[0])
    np.testing.assert_allclose(again, np.interp(np.arange(len(again)), np.arange(257), paths.x[0]), atol=0.1)


def test_a_log_that_leaves_the_ring_is_not_closed() -> None:
    angle = np.linspace(0, 2 * np.pi, 71)
    x = np.r_[12 * np.cos(angle), 12 + np.zeros(20)]
    y = np.r_[12 * np.sin(angle), np.arange(1.0, 21)]
    yaw = np.r_[angle + np.pi / 2, np.full(20, np.pi / 2)]
    assert not path_of(scene([track(x, y, yaw)]))[3]


def test_the_path_of_a_standing_car_is_straight_in_spite_of_jitter() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 0.35, (2, STEPS)).clip(-0.9, 0.9)
    compiled = compile_scene(scene([track(x, y, 0.3)]))
    assert compiled.objects.extent[0] < 2
    assert compiled.objects.extent[0] > 0.5
    xy, yaw, length, _ = path_of(scene([track(x, y, 0.3)]))
    np.testing.assert_allclose(yaw, 0.3, atol=1e-4)
    last = np.array([x[-1], y[-1]])
    assert np.abs((xy - last) @ [-math.sin(0.3), math.cos(0.3)]).max() < 1e-4
    assert length == 256.0


def test_a_reversing_car_gets_a_path_along_its_yaw() -> None:
    xy, yaw, *_ = path_of(scene([driving(-2.0, x=50.0)], straight_road()))
    np.testing.assert_allclose(yaw, 0.0, atol=1e-3)
    assert xy[0, 0] == pytest.approx(50 - 18.0, abs=1e-3)


def test_rolling_back_before_it_starts_does_not_fold_a_path() -> None:
    x = np.concatenate([np.linspace(0, -0.9, 8), -0.9 + 0.8 * np.arange(STEPS - 8)])
    xy, yaw, *_ = path_of(scene([track(x, 0 * x, 0.0)], straight_road()))
    np.testing.assert_allclose(yaw, 0.0, atol=1e-3)
    assert xy[0, 0] == pytest.approx(0.0, abs=1e-3)


def test_pedestrians_leave_the_lanes_alone() -> None:
    walker = track(20.0, -5 + 0.1 * np.arange(STEPS), np.pi / 2, kind=Kind.PEDESTRIAN)
    xy, _, length, _ = path_of(scene([driving(5.0), walker], straight_road()), 1)
    np.testing.assert_allclose(xy[:, 0], 20.0, atol=1e-3)
    assert length == 256.0


def test_limits_are_those_of_the_lanes_beneath() -> None:
    compiled: Scene = compile_scene(scene([driving(5.0, y=3.5), driving(5.0, y=30.0)], straight_road()))
    limit, length = compiled.paths.limit, int(compiled.paths.length[0])
    np.testing.assert_allclose(limit[0, :length], 16.0)
    assert np.isnan(limit[0, length + 1 :]).all()
    assert np.isnan(limit[1]).all()
    ring = [replace(one, speed_limit=9.0) for one in ring_road(12.0)]
    angle = 0.3 * np.arange(STEPS) / 12
    car = track(12 * np.cos(angle), 12 * np.sin(angle), angle + np.pi / 2)
    np.testing.assert_allclose(compile_scene(scene([car], ring)).paths.limit[0], 9.0)


def test_heights_are_of_the_road_and_change_along_the_lane() -> None:
    s = np.arange(0.0, 201)
    features = straight_road()[:1]
    features[0] = type(features[0])("lane", line(s, 0, 0.02 * s), "slope")
    cars = driving(5.0)
    cars.position[:, 2] += 0.02 * cars.position[:, 0]
    compiled = compile_scene(scene([cars], features))
    np.testing.assert_allclose(compiled.paths.z[0, :200] + compiled.origin[2], 0.02 * s[:200], atol=0.02)


def test_stop_lines_beyond_two_metres_or_across_are_not_on_a_path() -> None:
    lights = (light("0-0", 60.0, 1.9), light("0-0", 70.0, 2.1), light("across", 50.0, 0.0))
    across = type(straight_road()[0])("lane", line(50.0, np.arange(-20.0, 21)), "across")
    arcs = compile_scene(scene([driving(5.0)], [*straight_road()[:2], across], lights=lights)).lights.arc[0, :3]
    assert arcs[0] == pytest.approx(60.0, abs=1e-3)
    assert np.isinf(arcs[1:]).all()
