"""Metrics of situations whose answer is known."""

import dataclasses

import jax
import numpy as np
import pytest

from gleanings.driving._log_arcs import log_arcs
from gleanings.driving.compile import compile_scene
from gleanings.driving.config import SimConfig
from gleanings.driving.metrics import measure
from gleanings.driving.paths import logged_arcs
from gleanings.driving.raw import Kind
from gleanings.driving.scene import Scene

from ._metric_random import STEPS, street
from ._metric_scenes import build, drive, track
from ._raw import driving, straight_road
from ._raw import scene as raw_scene

BUS = (12.0, 2.5, 3.0)
NO_LIGHTS = (np.zeros((3, STEPS)), np.zeros(3))


def _drift(x: float, y: float, speed: float, sideways: float) -> np.ndarray:
    """Eastbound with yaw 0, but moving `sideways` m/s to the left as well."""
    motion = drive(x, y, 0.0, speed, STEPS)
    motion[:, 1] += sideways * 0.1 * np.arange(STEPS)
    motion[:, 4] = sideways
    return motion


def _measured(scene: Scene, **changes) -> dict:
    trajectory = scene.log._replace(**changes)
    return {name: (np.asarray(value), np.asarray(mask)) for name, (value, mask) in measure(scene, trajectory).items()}


@pytest.fixture(scope="module")
def crashes() -> dict:
    return _measured(
        street(
            [
                track(drive(-58, -2, 0, 10, STEPS)),  # 0 drives into the standing 1
                track(drive(-44, -2, 0, 0, STEPS)),
                track(_drift(-20, 0.8, 3, -1.0), size=BUS, z=1.5),  # 2, between the lanes, drifts into 3
                track(drive(-20, -2, 0, 3, STEPS)),
                track(drive(10, -2, 0, 3, STEPS), size=BUS, z=1.5),  # 5 drifts into 4, which keeps its lane
                track(_drift(10, 0.8, 3, -1.0)),
                track(drive(40, 0, np.pi / 2, 1.4, STEPS), Kind.PEDESTRIAN),  # 6 walks into the standing 7
                track(drive(40, 3, 0, 0, STEPS)),
            ],
            *NO_LIGHTS,
        )
    )


def test_blame(crashes):
    value, mask = crashes["at_fault"]
    hit = crashes["collision"][0]
    assert hit.any(0).all()
    assert value.any(0).tolist() == [True, False, True, True, False, True, False, False]
    assert mask.any(0).tolist() == [True] * 6 + [False, True]
    for i in (0, 2, 5):
        assert value[:, i].sum() == 1
        assert np.argmax(value[:, i]) == np.argmax(hit[:, i])  # blamed once, when the contact begins


def test_time_to_collision_counts_down(crashes):
    seconds = crashes["ttc_s"][0][:, 0]
    gap = 14 - 4.6 - np.arange(1, STEPS)  # 10 m/s: a metre a step
    np.testing.assert_allclose(seconds[:18], np.maximum(gap[:18] / 10, 0), atol=1e-4)
    assert not crashes["ttc_low"][0][:, 1].any()  # the standing car


def test_a_pair_that_starts_in_contact_is_excused_until_it_parts():
    far = [track(drive(-50 + 12 * k, -2, 0, 0, STEPS)) for k in range(6)]
    away_and_back = drive(40, 2, 0, 0, STEPS)
    away_and_back[:, 0] += np.interp(np.arange(STEPS), [0, 10, 20], [4, 8, 4])
    scene = street([track(drive(40, 2, 0, 0, STEPS)), track(away_and_back), *far], *NO_LIGHTS)
    found = _measured(scene)
    hit, gap = found["collision"][0], found["overlap_gap"][0]
    overlap = away_and_back[1:, 0] - 40 < 4.6
    assert overlap[0]
    parted = np.maximum.accumulate(~overlap)
    np.testing.assert_array_equal(hit[:, 0], overlap & parted)
    np.testing.assert_array_equal(gap[:, 0] < 0, hit[:, 0])
    np.testing.assert_allclose(gap[parted, 0], (away_and_back[1:, 0] - 44.6)[parted], atol=1e-4)


@pytest.fixture(scope="module")
def street_scene() -> Scene:
    """Light 0 (x = 0, eastbound) is red until step 11, light 1 (x = 30, westbound) is always red."""
    states = np.full((3, STEPS), 6)
    states[0, :12], states[1] = 4, 7
    short = np.arange(STEPS) < 5
    bent = np.array([[-40.0, -2.0], [-28.0, -2.0], [-28.0, 40.0]])
    return street(
        [
            track(drive(-50, 2, 0, 5, STEPS)),  # 0 against the westbound lane
            track(drive(-50, -2, 0, 5, STEPS), Kind.CYCLIST),
            track(drive(-7.25, -2, 0, 10, STEPS)),  # 2 passes light 0 between states 4 and 5
            track(drive(-16.25, -2, 0, 10, STEPS)),  # 3 between 13 and 14
            track(drive(20, 2, 0, 10, STEPS), goal=(30, 2, 2)),  # 4 passes light 1 against its direction
            track(drive(-20, 12, 0, 8, STEPS), valid=short),  # 5 has a short log, and leaves the road
            track(drive(-40, -2, 0, 12, STEPS), path=bent),  # 6 leaves its path, which turns left
            track(drive(50, -2, 0, 0, STEPS), valid=np.zeros(STEPS, bool)),  # 7 has no log at all
        ],
        states,
        np.array([0.0, 30.0, 500.0]),
    )


@pytest.fixture(scope="module")
def driven(street_scene) -> dict:
    """All drive on to the end, the one without a log too."""
    log = street_scene.log
    five, seven = drive(-20, 12, 0, 8, STEPS), drive(50, -2, 0, 0, STEPS)
    columns = [np.array(field) for field in log]
    for i, motion in ((5, five), (7, seven)):
        for column, values in zip(
            columns, (*motion[:, :2].T, np.full(STEPS, 0.8), *motion[:, 2:].T, True), strict=True
        ):
            column[:, i] = values
    return _measured(street_scene, **dict(zip(log._fields, columns, strict=True)))


def test_wrong_way_is_of_moving_vehicles_near_lanes(driven):
    value, mask = driven["wrong_way"]
    assert value.any(0).tolist() == [True, False, False, False, True, False, False, False]
    assert mask.all(0).tolist() == [True, False, True, True, True, False, True, True]


def test_red_light_needs_red_before_and_after_and_the_direction(driven):
    value, mask = driven["red_light"]
    assert mask.all()
    assert np.argwhere(value).tolist() == [[4, 2]]


def test_speeding_against_the_nearest_aligned_lane(driven):
    value, mask = driven["speeding_mps"]
    np.testing.assert_allclose(value[:, 2], 2.0, atol=1e-5)
    assert not mask[:, 0].any()  # the only lane near it runs the other way
    assert mask[:, 7].all()


def test_road_edge(driven):
    off, metres = driven["off_road"][0], driven["off_road_m"][0]
    assert off.all(0).tolist() == [False] * 5 + [True, False, False]
    np.testing.assert_allclose(metres[:, 2], -4 + 0.95, atol=1e-4)
    np.testing.assert_allclose(metres[:, 5], 5 + 0.95, atol=1e-4)


def test_route_and_progress(driven):
    distance, gained, ratio = (driven[name][0][:, 6] for name in ("off_route_m", "progress_m", "progress_ratio"))
    x = -40 + 1.2 * np.arange(1, STEPS)
    straight = x <= -28
    np.testing.assert_allclose(distance, np.where(straight, 0, x + 28), atol=1e-3)
    np.testing.assert_array_equal(driven["off_route"][0][:, 6], x + 28 > 4)
    np.testing.assert_allclose(gained, np.minimum(x, -28) + 40, atol=1e-3)
    np.testing.assert_allclose(ratio, gained / 12, atol=1e-3)
    np.testing.assert_allclose(driven["progress_ratio"][0][-1, :4], 1, atol=1e-4)


@pytest.mark.parametrize(("speed", "samples"), [(20.0, 257), (35.0, 513), (120.0, 1025)])
def test_a_path_is_as_long_as_its_log_up_to_a_kilometre_and_no_log_is_off_it(speed, samples):
    scene = compile_scene(raw_scene([driving(speed)], straight_road()))
    assert scene.paths.x.shape[1] == samples
    found = measure(scene, scene.log, ("off_route", "off_route_m", "progress_m"))
    assert not found["off_route"].value.any()
    arcs = speed / 10 * np.arange(1, 91)
    assert found["off_route_m"].mask[:, 0].tolist() == (arcs < 1024).tolist()
    np.testing.assert_allclose(found["progress_m"].value[:, 0], np.minimum(arcs, 1024) - speed, atol=0.02)  # start: 1 s


def test_a_step_of_half_a_second_at_highway_speed_keeps_its_place_on_the_path():
    raw = raw_scene([driving(175.0)], straight_road())
    scene = compile_scene(dataclasses.replace(raw, times=5 * raw.times))
    found = measure(scene, scene.log, ("off_route_m", "progress_m"))
    arcs = 17.5 * np.arange(1, 91)
    np.testing.assert_allclose(found["progress_m"].value[:, 0], np.minimum(arcs, 1024) - 175, atol=0.02)
    assert found["off_route_m"].value.max() < 0.02


def test_progress_counts_the_rounds_of_a_loop_and_not_the_jitter_of_standing():
    scene = street([track(drive(0, 0, 0, 10, STEPS))], *NO_LIGHTS)
    samples, radius = np.arange(257), 126 / (2 * np.pi)
    paths = [np.array(field) for field in scene.paths]
    paths[0][0], paths[1][0] = radius * np.sin(samples / radius), radius * (1 - np.cos(samples / radius))
    paths[4][0], paths[5][0] = 126, True
    way = np.minimum(14.0 * np.arange(STEPS), 200.0)  # drives 200 m, then stands
    jitter = np.where(way < 200, 0, np.random.default_rng(0).normal(0, 0.3, (2, STEPS)))
    x, y, yaw = (np.array(field, float) for field in (scene.log.x, scene.log.y, scene.log.yaw))
    x[:, 0], y[:, 0] = np.array([radius * np.sin(way / radius), radius * (1 - np.cos(way / radius))]) + jitter
    yaw[:, 0] = (way / radius + np.pi) % (2 * np.pi) - np.pi
    paths[-1] = logged_arcs(*(paths[k] for k in (0, 1, 4, 5)), x, y, yaw, scene.log.valid)
    log = scene.log._replace(**{k: v.astype(np.float32) for k, v in (("x", x), ("y", y), ("yaw", yaw))})
    scene = scene._replace(paths=type(scene.paths)(*paths), log=log)
    found = measure(scene, scene.log, ("progress_m", "progress_ratio"))
    np.testing.assert_allclose(found["progress_m"].value[:, 0], way[1:], atol=1.5)
    assert abs(found["progress_ratio"].value[-1, 0] - 1) < 0.01
    first = measure(scene, type(log)(*(rows[5:] for rows in log)), ("progress_m",), first=5)["progress_m"]
    assert abs(first.value[0, 0] - 14) < 0.5


def test_a_car_starts_on_the_first_round_of_a_path_that_goes_round_twice():
    scene = street([track(drive(0, 0, 0, 10, STEPS))], *NO_LIGHTS)
    turn = np.arange(257) / 35.4  # 222 m a round
    paths = [np.array(field) for field in scene.paths]
    paths[0][0], paths[1][0], paths[4][0] = 35.4 * np.sin(turn), 35.4 * (1 - np.cos(turn)), 256
    at = 4 + np.arange(STEPS)
    x, y, yaw = (np.array(field) for field in (scene.log.x, scene.log.y, scene.log.yaw))
    x[:, 0], y[:, 0], yaw[:, 0] = np.interp(at, np.arange(257), paths[0][0]), paths[1][0][at], at / 35.4
    paths[-1] = logged_arcs(*(paths[k] for k in (0, 1, 4, 5)), x, y, yaw, scene.log.valid)
    scene = scene._replace(paths=type(scene.paths)(*paths), log=scene.log._replace(x=x, y=y, yaw=yaw))
    found = measure(scene, scene.log, ("off_route_m", "progress_m"))
    np.testing.assert_allclose(found["off_route_m"].value[:, 0], 0, atol=1e-3)
    np.testing.assert_allclose(found["progress_m"].value[:, 0], np.arange(1, STEPS), atol=1e-2)


def test_what_has_no_log_has_no_metrics_of_it(driven):
    for name in ("log_divergence", "off_route", "off_route_m", "progress_m", "progress_ratio", "ade_m", "fde_m"):
        value, mask = driven[name]
        assert not mask[..., 7].any()
        assert not value[..., 7].any()
    assert driven["log_divergence"][1][:, 5].tolist() == [True] * 4 + [False] * (STEPS - 5)
    assert not driven["progress_ratio"][1][:, 5].any()  # 3.2 m of log
    assert driven["collision"][1][:, 7].all()


def test_goal(driven):
    value, mask = driven["goal_reached"]
    assert mask.any(0).tolist() == [False] * 4 + [True] + [False] * 3
    np.testing.assert_array_equal(value[:, 4], np.abs(np.arange(1, STEPS) - 10) <= 2)


def test_infeasible_steps(driven, street_scene):
    assert not driven["infeasible"][0].any()
    log = street_scene.log
    vx, yaw = np.array(log.vx), np.array(log.yaw)
    vx[10:, 2] += 0.5  # 5 m/s^2
    vx[10:, 3] -= 0.79  # -7.9 m/s^2
    yaw[10:, 1] += 0.28  # 0.28 rad in 0.5 m, limit 0.4 for a cyclist at 5 m/s: 10 / v^2
    value = _measured(street_scene, vx=vx, yaw=yaw)["infeasible"][0]
    assert np.argwhere(value).tolist() == [[9, 1], [9, 2]]


def test_the_log_is_found_again_on_a_path_that_crosses_itself():
    turns = np.concatenate([np.zeros(30), np.full(80, 2 * np.pi / 80), np.zeros(30)]).cumsum()
    step = np.stack([np.cos(turns), np.sin(turns)], 1)
    place = np.concatenate([[[0.0, 0.0]], step.cumsum(0)])[:-1]
    motion = np.concatenate([place, np.angle(np.exp(1j * turns))[:, None], step * 10], 1)
    scene = build([track(motion)], start=5)
    found = {name: np.asarray(value) for name, (value, _) in measure(scene, _from(scene, 5), ["progress_m"]).items()}
    assert np.hypot(*(place[-1] - place[5])) < 60 < 130 < found["progress_m"][-1]
    start, end = map(np.asarray, jax.jit(log_arcs)(scene, np.int32(5)))
    np.testing.assert_allclose(end - start, found["progress_m"][-1], atol=1e-3)


def _from(scene: Scene, first: int):
    return type(scene.log)(*(field[first:] for field in scene.log))


@pytest.mark.parametrize(("road", "points"), [("dense", 4), ("grid", 8)])
def test_ways_to_find_the_edge_agree(street_scene, road, points):
    names = ["off_road", "off_road_m"]
    expected = measure(street_scene, street_scene.log, names)
    found = measure(street_scene, street_scene.log, names, SimConfig(road=road, off_road_points=points))
    for name in names:
        np.testing.assert_array_equal(found[name].mask, expected[name].mask)
        # The edges are straight: no middle of a side is farther off than both its corners.
        np.testing.assert_allclose(np.asarray(found[name].value, float), expected[name].value, atol=1e-4)
