"""Realism against likelihoods counted by hand, and the noise against its closed-form moments."""

import collections
import math
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.driving._scenes import straight, tiny_scene, turning

from gleanings.core.errors import ConfigError
from gleanings.driving import likelihood as module
from gleanings.driving.agents import ConstantVelocity, LogPlayback, Mixed
from gleanings.driving.config import SimConfig
from gleanings.driving.dynamics import Bicycle
from gleanings.driving.families import make_scenes
from gleanings.driving.idm import IDM
from gleanings.driving.likelihood import FEATURES, METRICS, realism, sample
from gleanings.driving.noise import Noisy
from gleanings.driving.scene import Trajectory
from gleanings.driving.sim import Simulator

KEY = jax.random.key(11)
SCENE = jax.device_put(
    tiny_scene([turning(), straight(20, 5, 6), straight(40, -5, 9, valid=slice(4, 15)), straight(-9, 2, 0)])
)


def make(agents, metrics=METRICS) -> Simulator:
    return Simulator(SimConfig(controlled=(), metrics=metrics), dynamics=Bicycle(), agents=agents)


def by_hand(feature, simulated, logged) -> float:
    """exp of the mean log share of the logged values' bins among the simulated values of one object."""
    edges = np.linspace(feature.low, feature.high, feature.bins + 1)

    def place(value: float) -> int:
        return min(max(int(np.searchsorted(edges, value, "right")) - 1, 0), feature.bins - 1)

    counts = collections.Counter(place(value) for value in simulated)
    total = len(simulated) + 0.1 * feature.bins
    return math.exp(np.mean([math.log((counts[place(value)] + 0.1) / total) for value in logged]))


@pytest.mark.parametrize("name", ["speed_mps", "overlap_gap", "collision"])
def test_a_likelihood_is_the_one_counted_by_hand(name: str):
    rng, feature = np.random.default_rng(3), FEATURES[name]
    wide = 1.3 * (feature.high - feature.low)
    value = rng.uniform(feature.low - 0.2 * wide, feature.high + 0.2 * wide, (5, 9, 4))
    mask, group = rng.random(value.shape) < 0.8, np.array([True, True, False, True])
    logged, known = value[0, :6] + 0.3, rng.random((6, 4)) < 0.7
    known[:, 3] = False
    found = module._likelihood(name, (value, mask), (logged, known), group)
    wanted = [by_hand(feature, value[:, :, n][mask[:, :, n]], logged[:, n][known[:, n]]) for n in (0, 1)]
    assert found == pytest.approx(np.mean(wanted))
    assert math.isnan(module._likelihood(name, (value, mask), (logged, known & False), group))


def test_motion_on_a_circle_has_the_features_of_a_circle():
    t, w, r = np.arange(12) * 0.1, 0.8, 20.0
    yaw = (w * t + 3.0 + np.pi) % (2 * np.pi) - np.pi  # passes through pi
    x, y, zero = r * np.sin(w * t + 3.0), -r * np.cos(w * t + 3.0), np.zeros(12)
    valid = np.arange(12) != 6
    motion = Trajectory(*(v[:, None] for v in (x, y, zero, yaw, zero, zero, valid)))
    metrics = {name: SimpleNamespace(value=np.zeros((11, 1)), mask=np.ones((11, 1), bool)) for name in METRICS}
    metrics = {
        name: (one.value.astype(bool) if name in module._EVENTS else one.value, one.mask)
        for name, one in metrics.items()
    }
    found = module._features(motion, metrics, 0.1)
    chord = 2 * r * math.sin(w * 0.05) / 0.1
    for name, value, steps in (
        ("speed_mps", chord, 9),
        ("yaw_rate", w, 9),
        ("acceleration_mps2", 0, 7),
        ("yaw_acceleration", 0, 7),
    ):
        got, mask = found[name]
        assert mask.sum() == steps
        np.testing.assert_allclose(got[mask], value, atol=1e-9)


def test_a_rollout_without_the_object_is_not_the_best():
    here, there = np.ones((3, 1), bool), np.zeros((3, 1))
    log = Trajectory(*[there] * 6, here)
    motion = Trajectory(*[np.stack([there + 3, there + 4]) for _ in range(6)], np.stack([here, ~here]))
    assert module._least_ade(motion, log, np.array([True])) == pytest.approx(math.hypot(3, 3))


@pytest.mark.slow
def test_nothing_is_more_likely_than_the_log_and_noise_is_worse():
    scores = []
    for agent in (LogPlayback(), Noisy(ConstantVelocity(), 8.0, 0.2, 0.3)):
        rollouts = sample(make(agent), SCENE, KEY, count=8)
        assert rollouts.trajectory is not None
        assert rollouts.trajectory.x.shape == (8, 21, 8)
        scores.append(realism(SCENE, rollouts))
    log, wild = scores
    assert log["n"] == 3
    assert log["min_ade_m"] == 0
    assert wild["min_ade_m"] > 0
    assert math.isnan(log["red_light"])
    for name in FEATURES:
        assert math.isnan(log[name]) or 1.02 * log[name] >= wild[name], name
    assert log["realism"] > 1.3 * wild["realism"]
    known = [name for name in FEATURES if name != "red_light"]
    mean = sum(FEATURES[name].weight * log[name] for name in known) / sum(FEATURES[name].weight for name in known)
    assert log["realism"] == pytest.approx(mean)
    assert sum(feature.weight for feature in FEATURES.values()) == pytest.approx(1)
    with pytest.raises(ConfigError, match="missing"):
        realism(SCENE, rollouts._replace(metrics={}))
    with pytest.raises(ConfigError, match="1 or more"):
        sample(make(LogPlayback()), SCENE, KEY, count=0)


@pytest.mark.slow
def test_noise_has_the_deviation_and_the_memory_that_it_says():
    """An Ornstein-Uhlenbeck process has correlation exp(-dt / memory) between steps, and constant deviation."""
    agent = Noisy(ConstantVelocity(), 0.4, 0.01, 0.5)
    rows = sample(make(agent, ()), SCENE, KEY, count=512).trajectory
    assert rows is not None
    speed = np.hypot(rows.vx, rows.vy)[:, :, 1]
    gain, turn = np.diff(speed, axis=1) / 0.1, np.diff(rows.yaw[:, :, 1], axis=1) / (speed[:, 1:] * 0.1)
    for values, deviation in ((gain, 0.4), (turn, 0.01)):
        assert abs(values.mean()) < 0.1 * deviation
        assert np.std(values[:, 0]) == pytest.approx(deviation, rel=0.1)
        assert np.std(values[:, -1]) == pytest.approx(deviation, rel=0.1)
        assert np.corrcoef(values[:, 3], values[:, 4])[0, 1] == pytest.approx(math.exp(-0.2), abs=0.05)
    still = np.asarray(rows.x[:, :, 3])
    assert (still == still[0, 0]).all(), "what stands still is not moved"
    forwards = np.asarray(rows.vx * np.cos(rows.yaw) + rows.vy * np.sin(rows.yaw))
    assert forwards.min() > -1e-5


def test_without_noise_and_for_what_is_replayed_the_agent_is_itself():
    inner = Mixed(((lambda scene: jnp.arange(8) == 1, ConstantVelocity()),))
    state = make(inner, ()).reset(SCENE, KEY)
    for deviation, same in ((0.0, [True, True]), (2.0, [True, False])):
        agent = Noisy(inner, deviation, deviation / 100)
        noisy, alive, _ = eqx.filter_jit(agent.act)(SCENE, state, agent.init(SCENE, KEY), jax.random.key(1))
        plain, present, _ = eqx.filter_jit(inner.act)(SCENE, state, inner.init(SCENE, KEY), jax.random.key(2))
        assert [bool(np.allclose(noisy.vx[n], plain.vx[n], atol=1e-5)) for n in (0, 1)] == same
        np.testing.assert_array_equal(alive, present)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["merge", "four_way_signal", "roundabout", "curve"])
def test_the_log_is_more_real_than_idm_than_coasting_than_chance(family: str):
    scene = jax.device_put(make_scenes(family, seed=4)[0])
    agents = (LogPlayback(), Noisy(IDM()), Noisy(ConstantVelocity()), Noisy(ConstantVelocity(), 4.0, 0.1, 0.5))
    scores = [realism(scene, sample(make(agent), scene, KEY))["realism"] for agent in agents]
    assert scores == sorted(scores, reverse=True)
