"""The reward: distance of boxes against sampled boundaries, who counts, and its bounds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import KDTree
from tests.driving._scenes import Track, straight, tiny_scene

from gleanings.driving.config import SimConfig
from gleanings.driving.learn.safety_reward import BinaryReward, SafetyReward, clearance
from gleanings.driving.scene import Scene
from gleanings.driving.sim import Simulator
from gleanings.driving.state import Metric, SimState

near = jax.jit(clearance)
SIM = Simulator(SimConfig(metrics=("collision", "off_road_m"), measured="sdc"))
reset = jax.jit(SIM.reset)


def standing(x: float, y: float, yaw: float, length: float, width: float) -> Track:
    track = straight(x, y, 0.0, steps=3, yaw=yaw)
    return dataclasses.replace(track, size=(length, width, 1.6))


def started(scene: Scene) -> SimState:
    return reset(scene, jax.random.key(0))


def boundary(x: float, y: float, yaw: float, length: float, width: float) -> np.ndarray:
    """Points of the sides of a box, at most 5 mm apart."""
    a, b = np.linspace(-1, 1, int(length / 0.005) + 2), np.linspace(-1, 1, int(width / 0.005) + 2)
    sides = [*((a, 0 * a + side) for side in (-1, 1)), *((0 * b + side, b) for side in (-1, 1))]
    u, v = (np.concatenate(part) for part in zip(*sides, strict=True))
    lon, lat = u * length / 2, v * width / 2
    return np.stack([x + lon * np.cos(yaw) - lat * np.sin(yaw), y + lon * np.sin(yaw) + lat * np.cos(yaw)], 1)


def sampled(one: tuple, two: tuple) -> float:
    """Distance of two boxes, m: 0 where a sampled point of the one lies in the other."""
    points = [boundary(*box) for box in (one, two)]
    for (x, y, yaw, length, width), other in ((one, points[1]), (two, points[0])):
        dx, dy = (other - [x, y]).T
        lon, lat = np.cos(yaw) * dx + np.sin(yaw) * dy, np.cos(yaw) * dy - np.sin(yaw) * dx
        if ((np.abs(lon) <= length / 2) & (np.abs(lat) <= width / 2)).any():
            return 0.0
    return float(KDTree(points[0]).query(points[1])[0].min())


def test_clearance_is_the_distance_of_sampled_boundaries() -> None:
    rng, seen = np.random.default_rng(0), []
    for _ in range(60):
        ego = (0.0, 0.0, rng.uniform(-3, 3), rng.uniform(3, 6), rng.uniform(1.5, 2.5))
        others = [(*rng.uniform(-9, 9, 2), rng.uniform(-3, 3), rng.uniform(0.6, 12), rng.uniform(0.6, 3)) for _ in "ab"]
        scene = tiny_scene([standing(*box) for box in (ego, *others)])
        state = started(scene)
        state = dataclasses.replace(state, excused=jnp.zeros_like(state.excused))
        expected = min(sampled(ego, other) for other in others)
        assert abs(float(near(scene, state)) - expected) < 1e-2
        seen.append(expected)
    assert 5 < np.sum(np.array(seen) == 0) < 40


def test_boxes_in_a_cross_have_no_corner_inside_and_no_distance() -> None:
    scene = tiny_scene([standing(0, 0, 0, 6, 1), standing(0, 0, np.pi / 2, 6, 1)])
    state = dataclasses.replace(started(scene), excused=jnp.zeros((8, 1), jnp.uint32))
    assert float(near(scene, state)) == 0


def test_corner_to_corner_is_farther_than_any_axis_says() -> None:
    scene = tiny_scene([standing(0, 0, 0, 4, 2), standing(5, 4, 0, 4, 2)])
    assert abs(float(near(scene, started(scene))) - np.hypot(1, 2)) < 1e-5


def test_who_does_not_count() -> None:
    boxes = [standing(0, 0, 0, 4, 2), standing(3, 0, 0, 4, 2), standing(0, 4, 0, 4, 2), standing(-9, 0, 0, 4, 2)]
    scene = tiny_scene(boxes)
    state = started(scene)  # the second box touches from the start
    assert abs(float(near(scene, state)) - 2.0) < 1e-5
    assert float(near(scene, dataclasses.replace(state, excused=jnp.zeros_like(state.excused)))) == 0
    high = dataclasses.replace(state, z=state.z + jnp.asarray([0, 0, 1.7, 0, 0, 0, 0, 0]))
    assert abs(float(near(scene, high)) - 5.0) < 1e-5
    low = dataclasses.replace(state, z=state.z + jnp.asarray([0, 0, 1.5, 0, 0, 0, 0, 0]))
    assert abs(float(near(scene, low)) - 2.0) < 1e-5
    gone = dataclasses.replace(state, flags=state.flags * jnp.asarray([1, 1, 0, 0, 0, 0, 0, 0], jnp.uint8))
    assert float(near(scene, gone)) == 100
    assert float(near(*alone())) == 100


def alone() -> tuple[Scene, SimState]:
    scene = tiny_scene([standing(0, 0, 0, 4, 2)])
    return scene, started(scene)


@pytest.mark.parametrize(
    ("distance", "edge", "known", "expected"),
    [
        (3.0, -4.0, True, 0.0),
        (0.4, -4.0, True, -0.6),
        (3.0, -0.2, True, -0.3),
        (3.0, 9.0, True, -2.0),
        (0.0, 9.0, True, -3.0),
        (3.0, 9.0, False, 0.0),
    ],
)
def test_the_reward_by_hand(distance: float, edge: float, known: bool, expected: float) -> None:
    scene = tiny_scene([standing(0, 0, 0, 4, 2), standing(4 + distance, 0, 0, 4, 2)])
    state = started(scene)
    state = dataclasses.replace(state, excused=jnp.zeros_like(state.excused))
    metrics = {"off_road_m": Metric(jnp.full(8, edge), jnp.full(8, known))}
    reward = np.asarray(SafetyReward()(scene, state, state, metrics))
    assert abs(reward[0] - expected) < 1e-5
    assert not reward[1:].any()


def test_the_worst_reward_and_weights() -> None:
    reward = SafetyReward(clearance_m=2.0, edge_m=0.5, clearance_weight=0.5, edge_weight=3.0)
    assert reward.worst == -7.0
    scene = tiny_scene([standing(0, 0, 0, 4, 2), standing(2, 0.5, 0, 4, 2)])
    state = dataclasses.replace(started(scene), excused=jnp.zeros((8, 1), jnp.uint32))
    metrics = {"off_road_m": Metric(jnp.full(8, 30.0), jnp.ones(8, bool))}
    assert float(reward(scene, state, state, metrics)[0]) == reward.worst


def test_without_offsets_contact_costs_nothing() -> None:
    scene = tiny_scene([standing(0, 0, 0, 4, 2), standing(2, 0.5, 0, 4, 2)])
    state = dataclasses.replace(started(scene), excused=jnp.zeros((8, 1), jnp.uint32))
    reward = SafetyReward(clearance_m=0.0, edge_m=0.0)
    for edge, expected in ((-4.0, 0.0), (-0.1, 0.0), (0.5, -0.5), (9.0, -2.0)):
        metrics = {"off_road_m": Metric(jnp.full(8, edge), jnp.ones(8, bool))}
        assert float(reward(scene, state, state, metrics)[0]) == expected
    assert reward.worst == -2.0


@pytest.mark.parametrize(("collision", "off_road"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_the_binary_reward_is_minus_one_for_any_event(collision: int, off_road: int) -> None:
    scene, state = alone()
    known = jnp.ones(8, bool)
    metrics = {
        name: Metric(jnp.full(8, x, bool), known) for name, x in (("collision", collision), ("off_road", off_road))
    }
    reward = BinaryReward()
    assert np.asarray(reward(scene, state, state, metrics)).tolist() == [-max(collision, off_road), *[0] * 7]
    gone = dataclasses.replace(state, flags=state.flags * jnp.uint8(0))
    assert not np.asarray(reward(scene, gone, gone, metrics)).any()
    assert set(reward.names) == {"collision", "off_road"}


def test_a_decision_is_the_mean_of_its_steps_or_the_least() -> None:
    rewards = jnp.asarray([0.0, -1.0, 0.0, 0.0])
    assert float(SafetyReward().of_decision(rewards)) == -0.25
    assert float(BinaryReward().of_decision(rewards)) == BinaryReward().worst == -1.0
