"""Lane routes: blind to how the log drove, smooth, refused where the map lacks the lanes; the graph read back."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from tests.driving._random_scenes import REAL, family_scene, real_scene
from tests.driving._raw import DT, STEPS, driving, junction, light, line, ring_road, scene, straight_road, track

from gleanings.core.errors import DataError
from gleanings.driving.compile import compile_scene
from gleanings.driving.lanes import LaneGraph, build_graph, graph_of, lane_segments
from gleanings.driving.raw import MapFeature, RawTrack
from gleanings.driving.routes import with_lane_route
from gleanings.driving.scene import Scene

T = DT * np.arange(STEPS)


def routed(*tracks: RawTrack, features: list[MapFeature] | None = None, **other) -> Scene:
    return with_lane_route(compile_scene(scene(tracks, straight_road() if features is None else features, **other)))


def route_of(routed: Scene, k: int = 0) -> tuple[np.ndarray, np.ndarray, float]:
    """Samples [Q, 2] and directions up to the end, and the length."""
    paths = routed.paths
    samples = np.stack([paths.x[k], paths.y[k]], 1).astype(float)[: int(paths.length[k]) + 1] + routed.origin[:2]
    yaw = np.unwrap(np.arctan2(*np.diff(samples, axis=0).T[::-1]))
    return samples, yaw, float(paths.length[k])


def swerving(amplitude: float, speed: float = 10.0) -> RawTrack:
    """Along lane 0, round something at x = 40 by `amplitude` to the left, and back."""
    x = speed * T
    y = amplitude * np.exp(-(((x - 40) / 10) ** 2))
    return track(x, y, np.arctan2(np.gradient(y), np.gradient(x)))


def test_another_lateral_log_on_the_same_lanes_gives_the_same_route() -> None:
    plain = routed(swerving(0.0)).paths
    assert not plain.y[0].any()
    for amplitude in (0.6, -1.2, 1.6, 3.5):  # the last one is matched to the neighbour and back
        other = routed(swerving(amplitude))
        for name in ("x", "y", "z", "limit", "length", "closed"):
            np.testing.assert_array_equal(getattr(other.paths, name)[0], getattr(plain, name)[0], err_msg=name)
        assert np.abs(compile_scene(scene([swerving(amplitude)], straight_road())).paths.y[0]).max() > 0.5


def test_a_detour_over_the_ends_of_lanes_is_none() -> None:
    x = 20.0 * T
    y = 3.5 * np.exp(
        -(((x - 100) / 30) ** 4)
    )  # enters the neighbour in the first halves of the lanes, leaves in the second
    car = track(x, y, np.arctan2(np.gradient(y), np.gradient(x)))
    samples, _, length = route_of(routed(car))
    assert not samples[:, 1].any()
    assert length == 200


@pytest.mark.parametrize(("speed", "late"), [(10.0, 20.0), (10.0, 60.0), (20.0, 100.0)])
def test_a_change_of_lanes_begins_at_the_start_whenever_the_log_made_it(speed: float, late: float) -> None:
    x = speed * T
    y = 3.5 / (1 + np.exp(-(x - late) / 4))
    car = track(x, y, np.arctan2(np.gradient(y), np.gradient(x)))
    samples, yaw, _ = route_of(routed(car))
    u = np.clip(samples[:, 0] / 40, 0, 1)
    np.testing.assert_allclose(samples[:, 1], 3.5 * u**2 * (3 - 2 * u), atol=0.03)
    assert np.abs(np.diff(yaw)).max() < 0.03


def test_a_route_follows_the_turn_and_sees_limits_and_lights() -> None:
    quarter = np.linspace(-np.pi / 2, 0, 30)
    x = np.concatenate([np.linspace(-40, -1, 40), 10 * np.cos(quarter), np.full(21, 10.0)])
    y = np.concatenate([np.full(40, 0.4), 10 + 10 * np.sin(quarter), np.linspace(10.5, 30, 21)])
    car = track(x, y, np.arctan2(np.gradient(y), np.gradient(x)))
    samples, yaw, length = route_of(routed(car, features=junction()))
    np.testing.assert_allclose(samples[0], [-40, 0], atol=1e-4)
    arc = np.clip(samples[:, 0] ** 2 * (samples[:, 0] > 0), 0, 100)
    on_arc = (samples[:, 0] > 0.1) & (samples[:, 0] < 9.9)
    np.testing.assert_allclose(np.hypot(samples[on_arc, 0], samples[on_arc, 1] - 10), 10, atol=0.06)
    assert arc.max() == 100
    assert abs(length - (40 + 5 * np.pi + 50)) < 0.5
    assert np.abs(np.diff(yaw)).max() < 0.2
    lit = routed(driving(8.0, x=10.0, y=0.7), lights=(light(),))
    np.testing.assert_allclose(lit.lights.arc[0, 0], 70, atol=1e-3)
    np.testing.assert_allclose(lit.paths.limit[0, :180], 15)
    np.testing.assert_allclose(lit.paths.logged[0], 8.0 * T, atol=1e-3)


def test_a_car_that_stands_gets_the_lane_ahead_of_it() -> None:
    jitter = np.random.default_rng(0).normal(0, 0.01, (2, STEPS))
    samples, _, length = route_of(routed(track(30 + jitter[0], 3.2 + jitter[1])))
    np.testing.assert_allclose(samples[:, 1], 3.5, atol=1e-5)
    assert abs(samples[0, 0] - 30) < 0.1
    assert abs(length - 170) < 0.1


@pytest.mark.parametrize("shift", [-1.0, 0.0, 1.5])
def test_a_ring_is_closed_whatever_the_log_drove_beside_its_middle(shift: float) -> None:
    angle = 9.0 * T / 20
    r = 20 + shift * np.sin(angle / 2)
    car = track(r * np.cos(angle), r * np.sin(angle), np.pi - (np.pi / 2 - angle) % (2 * np.pi))
    paths = routed(car, features=ring_road(20.0)).paths
    assert paths.closed[0]
    assert abs(float(paths.length[0]) - 40 * np.pi) < 0.2
    assert float(paths.logged[0, -1]) > 40 * np.pi * 0.6
    again = routed(track(20 * np.cos(angle), 20 * np.sin(angle), angle + np.pi / 2), features=ring_road(20.0)).paths
    np.testing.assert_allclose(paths.x[0], again.x[0], atol=1e-4)


def test_only_the_steps_asked_for_are_matched() -> None:
    x = 10.0 * T
    car = track(x, np.where(x > 60, 3.5, 0.0))
    compiled = compile_scene(scene([car], straight_road()))
    first, last = (with_lane_route(compiled, 0, log=steps) for steps in (x < 50, x > 70))
    assert not first.paths.y[0].any()
    assert float(last.paths.x[0, 0]) + compiled.origin[0] == pytest.approx(70, abs=1.01)
    np.testing.assert_allclose(last.paths.y[0], 3.5, atol=1e-5)


def test_without_lanes_or_object_there_is_one_line_of_error() -> None:
    compiled = compile_scene(scene([driving(5.0), driving(5.0, x=50.0, y=60.0)], straight_road()))
    none = np.zeros(STEPS, bool)
    for said, call in {
        "is on no lane": lambda: with_lane_route(compiled, 1),
        "its log is empty": lambda: with_lane_route(compiled, 0, log=none),
        "no object in slot 7": lambda: with_lane_route(compiled, 7),
        "no object in slot 99": lambda: with_lane_route(compiled, 99, or_path=True),
        "has no ego": lambda: with_lane_route(
            compiled._replace(objects=compiled.objects._replace(is_sdc=compiled.objects.is_sdc & False))
        ),
    }.items():
        with pytest.raises(DataError, match=said) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert with_lane_route(compiled, 1, or_path=True) is compiled


def test_a_log_that_leaves_the_lanes_has_no_route() -> None:
    x = 10.0 * T
    y = np.where(x > 40, -0.3 * (x - 40), 0)
    car = track(x, y, np.where(x > 40, -0.29, 0.0))
    with pytest.raises(DataError, match=r"leaves the lanes found by 1\d\.\d m; use or_path=True"):
        routed(car)
    corner = [
        MapFeature("lane", line(np.arange(51.0), 0), "a", successors=("b",), linked=True),
        MapFeature("lane", line(50, np.arange(51.0)), "b", linked=True),
    ]
    x, y = np.minimum(10 * T, 50), np.maximum(10 * T - 50, 0)
    with pytest.raises(DataError, match=r"bend by 1\.57 rad in 2 m"):
        routed(track(x, y, np.where(y > 0, np.pi / 2, 0)), features=corner)


def test_on_real_maps_a_route_is_sound_or_refused(shared_data: Path) -> None:
    cropped, whole = (real_scene(shared_data, name) for name in REAL[:2])
    with pytest.raises(DataError, match="has no lane route"):
        with_lane_route(cropped)
    assert with_lane_route(cropped, or_path=True) is cropped
    found = 0
    for compiled in (cropped, whole):
        moving = compiled.objects.exists & (compiled.objects.kind == 1) & (compiled.objects.extent > 10)
        for slot in np.flatnonzero(moving)[:20].tolist():
            try:
                new = with_lane_route(compiled, slot)
            except DataError:
                continue
            samples, yaw, _ = route_of(new, slot)
            assert np.abs(yaw[2:] - yaw[:-2]).max(initial=0) < 0.85
            log = np.stack([compiled.log.x[:, slot], compiled.log.y[:, slot]], 1)[compiled.log.valid[:, slot]]
            away = np.linalg.norm(log[:, None] + compiled.origin[:2] - samples, axis=2).min(1)
            assert away.max() < 5.1
            found += 1
    assert found >= 25


def pairs(rows: np.ndarray) -> set[tuple[int, int]]:
    return {(int(i), int(j)) for i, j in rows}


def away(points: np.ndarray, path: np.ndarray) -> float:
    """Largest distance of points to a polyline, m."""
    a, d = path[:-1], np.diff(path, axis=0)
    share = np.clip(((points[:, None] - a) * d).sum(2) / (d**2).sum(1), 0, 1)
    return float(np.linalg.norm(a + share[..., None] * d - points[:, None], axis=2).min(1).max())


def assert_same(graph: LaneGraph, again: LaneGraph, beside: bool = True) -> None:
    assert pairs(again.links) == pairs(graph.links)
    assert not beside or pairs(again.beside) == pairs(graph.beside)
    np.testing.assert_array_equal(again.feature, graph.feature)
    np.testing.assert_allclose(again.limit, graph.limit, rtol=1e-6)
    np.testing.assert_allclose(again.arc[again.last], graph.arc[graph.last], rtol=2e-3, atol=1e-3)
    for row in range(graph.count):
        one, two = graph.lane(row), again.lane(row)
        assert max(away(one[:, :2], two[:, :2]), away(two[:, :2], one[:, :2])) < 0.051
        assert away(two, one) < 0.6  # heights of middles
        np.testing.assert_allclose(two[[0, -1], :2], one[[0, -1], :2], atol=1e-4)


@pytest.mark.parametrize("linked", [True, False], ids=["given", "guessed"])
def test_the_graph_is_read_back_from_its_segments(linked: bool) -> None:
    s = np.arange(0.0, 101)
    ramp = MapFeature("lane", line(s - 200, 40, 0.06 * s), "ramp", speed_limit=9.0)
    for features in ([*straight_road(linked), ramp], junction(), ring_road(30.0)):
        graph = build_graph(features, [feature.points for feature in features])
        assert_same(graph, graph_of(lane_segments(graph)))
    assert graph_of(lane_segments(build_graph([], []))).count == 0


def test_the_graph_of_a_padded_scene_is_that_of_its_lanes() -> None:
    lanes = family_scene("four_way_signal").lanes
    graph = graph_of(lanes)
    again = graph_of(lane_segments(graph))
    assert graph.count == (lanes.id >= 0).sum() > 8
    assert_same(graph, again)
    assert all(np.hypot(*np.diff(graph.lane(k)[:, :2], axis=0).T).min() > 0 for k in range(graph.count))
    assert all(a <= b for a, b in itertools.pairwise(graph.offsets.tolist()))
