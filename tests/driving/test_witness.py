"""Witnesses: every event has one, and each is confirmed by looking at all pairs, corners, segments, lights, lanes."""

from types import SimpleNamespace

import numpy as np
import pytest

from gleanings.core.errors import ConfigError
from gleanings.driving.families import make_scenes
from gleanings.driving.metrics import measure
from gleanings.driving.scene import Scene, Trajectory
from gleanings.driving.witness import EVENTS, Witness, witnesses

from . import _metric_oracle as oracle
from ._metric_random import random_scene, street
from ._metric_scenes import drive, track

NEAR = 2e-3


def seen_in(scene: Scene, trajectory: Trajectory) -> SimpleNamespace:
    """What stands for a rollout: the motion and its measured events."""
    return SimpleNamespace(trajectory=trajectory, metrics=measure(scene, trajectory, EVENTS), first=int(scene.start))


def confirm(scene: Scene, rollout: SimpleNamespace) -> dict[str, int]:
    """Asserts that exactly the events have witnesses and that all of these are true; how many of each."""
    found = witnesses(scene, rollout)
    counts: dict[str, int] = dict.fromkeys(EVENTS, 0)
    wanted = {
        (name, int(t), int(n)) for name in EVENTS for t, n in np.argwhere(np.asarray(rollout.metrics[name].value))
    }
    assert {one[:3] for one in found} == wanted
    assert len(found) == len(wanted)
    assert [one.step for one in found] == sorted(one.step for one in found)
    *rows, valid = (np.asarray(field) for field in rollout.trajectory)
    rows = [*(field.astype(float) for field in rows), valid]
    before, now = ([Trajectory(*(field[one.step + k] for field in rows)) for one in found] for k in (0, 1))
    for one, then, here in zip(found, before, now, strict=True):
        _CHECKS[one.event](scene, one, then, here, rollout.first + one.step + 1)
        counts[one.event] += 1
    return counts


def corners(scene: Scene, pose: Trajectory, n: int) -> np.ndarray:
    return oracle.box(pose.x[n], pose.y[n], pose.yaw[n], float(scene.objects.length[n]), float(scene.objects.width[n]))


def gap(scene: Scene, pose: Trajectory, i: int, j: int) -> float:
    """Gap of a pair, m; infinite where it cannot touch."""
    level = abs(pose.z[i] - pose.z[j]) < (scene.objects.height[i] + scene.objects.height[j]) / 2
    if i == j or not (pose.valid[i] and pose.valid[j] and level):
        return np.inf
    return oracle.gap(corners(scene, pose, i), corners(scene, pose, j), (pose.yaw[i], pose.yaw[j]))


def check_pair(scene: Scene, one: Witness, then: Trajectory, here: Trajectory, t: int) -> None:
    assert gap(scene, here, one.object, one.partner) < NEAR
    for n in (one.object, one.partner):  # the point of contact lies in both boxes
        front, rear, right, _ = corners(scene, here, n)
        for side, origin in ((front - rear, rear), (rear - right, right)):
            share = (np.array(one.place[:2]) - origin) @ side / (side @ side)
            assert -1e-3 <= share <= 1 + 1e-3
    np.testing.assert_allclose(one.place[2:], (here.x[one.partner], here.y[one.partner]))


def check_blame(scene: Scene, one: Witness, then: Trajectory, here: Trajectory, t: int) -> None:
    check_pair(scene, one, then, here, t)
    assert gap(scene, then, one.object, one.partner) > -NEAR
    every = [corners(scene, here, n) for n in range(len(here.x))]
    judge = oracle._Pairs(scene)._blame
    speed = np.hypot(here.vx, here.vy)
    blamed, doubt = judge(one.object, one.partner, here, every, speed, lambda i: oracle._lanes(scene, here, i))
    assert blamed or doubt


def check_edge(scene: Scene, one: Witness, then: Trajectory, here: Trajectory, t: int) -> None:
    every, base = corners(scene, here, one.object), here.z[one.object] - float(scene.objects.height[one.object]) / 2
    np.testing.assert_allclose(every[one.corner], one.place[:2], atol=1e-4)
    values, ties = oracle.signed_distance(scene, *every.T, base)
    value, doubt, worst = values[one.corner], ties[one.corner], values.max()
    assert doubt or (value > -NEAR and value > worst - NEAR)
    if value < 30:
        assert abs(np.hypot(*np.subtract(one.place[2:], one.place[:2])) - value) < NEAR
    e, k = scene.edges, one.partner
    a, d = np.array([e.ax[k], e.ay[k]], float), np.array([e.dx[k], e.dy[k]], float)
    foot = np.array(one.place[2:]) - a
    assert abs(e.z[k] - base) <= 2.5 + NEAR
    assert abs(foot[0] * d[1] - foot[1] * d[0]) / np.hypot(*d) < NEAR
    assert -NEAR <= foot @ d / (d @ d) <= 1 + NEAR


def check_light(scene: Scene, one: Witness, then: Trajectory, here: Trajectory, t: int) -> None:
    alone = scene.lights._replace(exists=np.arange(len(scene.lights.x)) == one.partner)
    value, _, doubt = oracle._red(scene._replace(lights=alone), then, here, t)["red_light"]
    assert value[one.object] or doubt[one.object]
    assert one.place[2:] == (scene.lights.x[one.partner], scene.lights.y[one.partner])


def check_lane(scene: Scene, one: Witness, then: Trajectory, here: Trajectory, t: int) -> None:
    near, aligned, _, doubt, _ = oracle._lanes(scene, here, one.object)
    assert doubt or (near and not aligned)
    distance = np.hypot(*np.subtract(one.place[2:], one.place[:2]))
    found = []
    for k in np.flatnonzero(np.isfinite(scene.lanes.z)):
        d = np.array([scene.lanes.dx[k], scene.lanes.dy[k]], float)
        q = np.subtract(one.place[:2], [scene.lanes.ax[k], scene.lanes.ay[k]])
        found.append((np.linalg.norm(q - d * np.clip(q @ d / (d @ d), 0, 1)), int(scene.lanes.lane[k])))
    least = min(found)[0]
    assert abs(distance - least) < NEAR
    assert one.partner in {lane for apart, lane in found if apart < least + NEAR}


_CHECKS = dict(zip(EVENTS, (check_pair, check_blame, check_edge, check_light, check_lane), strict=True))


@pytest.mark.parametrize("start", [0, pytest.param(30, marks=pytest.mark.slow)])
def test_all_witnesses_of_random_motions_are_true(start: int):
    total: dict[str, int] = dict.fromkeys(EVENTS, 0)
    for seed in range(start, start + (8 if start == 0 else 200)):
        scene, trajectory = random_scene(seed)
        for name, count in confirm(scene, seen_in(scene, trajectory)).items():
            total[name] += count
    assert min(total.values()) > 0, total
    assert sum(total.values()) > 150


def test_a_red_light_has_a_witness():
    states = np.full((3, 12), 4)
    scene = street([track(drive(-8, -2, 0, 10, 12)), track(drive(30, 2, np.pi, 1, 12))], states, np.array([0, 5, 60]))
    rollout = seen_in(scene, scene.log)
    assert confirm(scene, rollout)["red_light"] == 1
    (one,) = witnesses(scene, rollout, ["red_light"])
    assert one.partner == 0
    np.testing.assert_allclose(one.place[2:], (0, -2), atol=1e-6)


def test_a_car_that_is_struck_later_is_the_partner():
    """A pair that overlaps from the first step on is excused, so that another one is the witness."""
    tracks = [track(drive(0, 0, 0, 10, 20)), track(drive(1, 0, 0, 10, 20)), track(drive(12, 0, 0, 0, 20))]
    scene = street(tracks, np.zeros((3, 20)), np.zeros(3))
    found = [one for one in witnesses(scene, seen_in(scene, scene.log)) if one.event in ("collision", "at_fault")]
    assert {(one.object, one.partner) for one in found if one.object != 2} == {(0, 2), (1, 2)}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["four_way_signal", "overpass", "roundabout", "narrow"])
def test_all_witnesses_of_a_family_are_true(family: str):
    """The log, turned and shifted a little more with every step."""
    scene = make_scenes(family, seed=2)[0]
    log, grow = scene.log, np.linspace(0, 4, len(scene.log.x), dtype=np.float32)[:, None]
    side = np.random.default_rng(0).normal(0, 1, log.x.shape[1]).astype(np.float32)
    shifted = log._replace(x=log.x - grow * side * np.sin(log.yaw), y=log.y + grow * side * np.cos(log.yaw))
    moved = Trajectory(*(np.where(log.valid, field, 0).astype(field.dtype) for field in shifted))
    assert sum(confirm(scene, seen_in(scene, moved)).values()) > 50


def test_what_has_no_witness_is_refused():
    scene, trajectory = random_scene(1)
    with pytest.raises(ConfigError, match="have no witnesses"):
        witnesses(scene, seen_in(scene, trajectory), ["speed"])
    with pytest.raises(ConfigError, match="no trajectory"):
        witnesses(scene, SimpleNamespace(trajectory=None, metrics={}, first=0))
