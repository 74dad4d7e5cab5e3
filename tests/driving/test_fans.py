"""Fans of futures: each is the rollout of its own, and constant actions lead along circles."""

import equinox as eqx
import jax
import numpy as np
import pytest
from tests.driving._scenes import straight, tiny_scene, turning

from gleanings.core.errors import ConfigError
from gleanings.driving.agents import ConstantVelocity, LogPlayback
from gleanings.driving.config import SimConfig
from gleanings.driving.dynamics import Bicycle
from gleanings.driving.fans import Plan, constant_grid, fan, rank
from gleanings.driving.score import NEEDS
from gleanings.driving.sim import Simulator
from gleanings.driving.state import Action, SimState

KEY = jax.random.key(5)
SCENE = tiny_scene([straight(0, 0, 10), straight(20, 0, 4), turning(), straight(-9, 2, 0)])


def make(agents=None, **config) -> Simulator:
    return Simulator(SimConfig(**config), dynamics=Bicycle(), agents=agents or LogPlayback())


@pytest.fixture(scope="module")
def sim() -> Simulator:
    return make(ConstantVelocity(), controlled="all", metrics=("collision", "overlap_gap", "progress_m"))


@eqx.filter_jit
def planned(plan: Plan, state: SimState) -> Action:
    return plan(SCENE, state)


def test_each_future_is_its_own_rollout_step_by_step(sim):
    actions = np.random.default_rng(0).normal(0, (1, 0.02), (12, 10, 2)).astype(np.float32)
    state = sim.reset(SCENE, KEY)
    for _ in range(3):
        state, _ = sim.step(SCENE, state, planned(Plan(0 * actions[0], state.t), state), KEY)
    futures = jax.device_get(fan(sim, SCENE, state, actions, KEY)._replace(state=None))
    assert futures.trajectory is not None
    assert futures.trajectory.x.shape == (12, 11, 8)
    assert futures.first.tolist() == [3] * 12
    for k in (0, 11):  # of the first chunk and of the last
        now, plan = state, Plan(actions[k], state.t)
        for h in range(5):
            now, out = sim.step(SCENE, now, planned(plan, now), KEY)
            for name, metric in out.metrics.items():
                got = futures.metrics[name]
                np.testing.assert_array_equal(got.mask[k, h], metric.mask, name)
                np.testing.assert_allclose(got.value[k, h], metric.value, atol=1e-4, err_msg=name)
            np.testing.assert_allclose(futures.trajectory.x[k, h + 1], now.x, atol=1e-5)


def test_constant_actions_lead_along_circles(sim):
    """Exact arcs in float64: s = v t + a t^2 / 2, yaw = k s, position of a circle of radius 1 / k."""
    actions = constant_grid(10, (-2.0, 2.0), (0.01, 0.05), (2, 6))
    futures = fan(sim, SCENE, sim.reset(SCENE, KEY), actions, KEY)
    ego = jax.tree.map(lambda rows: np.asarray(rows)[:, :, 0], futures.trajectory)
    a, k = (actions[:, 0, c].astype(float) for c in (0, 1))
    assert len({*zip(a, k, strict=True)}) == 12
    assert sorted({*a}) == [-2, 2]
    for h in range(11):
        s = 10 * 0.1 * h + a * (0.1 * h) ** 2 / 2
        np.testing.assert_allclose(ego.yaw[:, h], k * s, atol=1e-5)
        np.testing.assert_allclose(ego.x[:, h], np.sin(k * s) / k, atol=1e-4)
        np.testing.assert_allclose(ego.y[:, h], (1 - np.cos(k * s)) / k, atol=1e-4)


@pytest.mark.slow
def test_policies_make_a_fan_and_the_one_that_runs_into_a_car_ranks_last():
    sim = make(metrics=(*NEEDS, "progress_m"))
    state = sim.reset(SCENE, KEY)
    brake = Plan(np.full((20, 2), [-3, 0], np.float32), state.t)
    hold = Plan(np.zeros((20, 2), np.float32), state.t)
    faster = Plan(np.full((20, 2), [4, 0], np.float32), state.t)
    futures = fan(sim, SCENE, state, [hold, faster, brake], KEY)
    assert futures.trajectory is not None
    assert futures.trajectory.x.shape == (3, 21, 8)
    hits = np.asarray(futures.metrics["at_fault"].value)[:, :, 0].any(1)
    assert hits.tolist() == [False, True, False]
    values, order = rank(SCENE, futures)
    assert order[-1] == 1
    assert values[1] == 0
    assert (np.diff(values[order]) <= 0).all()
    metrics = {name: futures.metrics[name] for name in NEEDS[1:]}
    with pytest.raises(ConfigError, match=f"missing: {NEEDS[0]}, progress_m"):
        rank(SCENE, futures._replace(metrics=metrics))


def test_what_cannot_be_fanned_is_refused():
    sim = make(controlled=(101,))
    state = sim.reset(SCENE, KEY)
    with pytest.raises(ConfigError, match="moves the ego"):
        fan(sim, SCENE, state, constant_grid(3), KEY)
    with pytest.raises(ConfigError, match="at least one"):
        fan(make(), SCENE, state, [], KEY)
    with pytest.raises(ConfigError, match="1 or more"):
        constant_grid(3, counts=(0, 2))
