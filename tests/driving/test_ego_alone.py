"""What is spared where only the ego acts and is measured among others as logged: nothing of the ego, no pose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.driving._scenes import straight, tiny_scene, turning

from gleanings.core.errors import ConfigError
from gleanings.driving.agents import ConstantVelocity
from gleanings.driving.config import PER_STEP_METRICS, SimConfig
from gleanings.driving.dynamics import Bicycle, DeltaLocal, Discrete
from gleanings.driving.metrics import step_metrics
from gleanings.driving.sim import Simulator

KEY = jax.random.key(5)
AHEAD, LATE, BEHIND = straight(9, 0, 2), straight(25, -5, 9, valid=slice(4, 15)), straight(-7, 0.5, 14)
SCENE = tiny_scene([turning(), AHEAD, LATE, BEHIND, straight(3, 1, 0)])  # the last one overlaps the ego at first
POSE = ("x", "y", "z", "yaw", "vx", "vy", "accel", "yaw_rate", "flags")


def wobble(scene, state, key):
    """Random actions, some beyond the bounds."""
    return jax.random.normal(key, (scene.objects.kind.shape[0], 2)) * jnp.asarray([4.0, 0.1])


def made(dynamics, metrics):
    """All are measured, or the ego alone."""
    found = [Simulator(SimConfig(metrics=metrics, measured=measured), dynamics=dynamics) for measured in ("all", "sdc")]
    assert [sim.ego_alone for sim in found] == [False, True]
    return found


def rollouts(*metrics):
    return [sim.rollout(SCENE, wobble, KEY) for sim in made(Bicycle(), metrics)]


def test_the_ego_is_measured_as_among_all():
    every, alone = rollouts(*PER_STEP_METRICS)
    ego = int(np.argmax(np.asarray(SCENE.objects.is_sdc)))
    assert every.metrics["collision"].value[:, ego].any()
    assert np.asarray(Simulator(SimConfig(metrics=("collision",))).reset(SCENE, KEY).excused)[ego].any()
    for name, (value, mask) in every.metrics.items():
        found, there = (np.asarray(leaf) for leaf in alone.metrics[name])
        np.testing.assert_array_equal(there[:, ego], mask[:, ego], err_msg=name)
        np.testing.assert_allclose(found[:, ego], value[:, ego], atol=1e-4, err_msg=name)
        assert not np.delete(there, ego, axis=1).any()
    for name in POSE:
        np.testing.assert_allclose(getattr(alone.state, name), getattr(every.state, name), atol=1e-4, err_msg=name)
    np.testing.assert_array_equal(alone.state.excused[ego], every.state.excused[ego])
    np.testing.assert_array_equal(alone.actions, every.actions)
    np.testing.assert_array_equal(alone.flags, every.flags)


def test_arcs_of_the_others_are_those_of_their_logs():
    every, alone = rollouts("collision")
    ego = np.asarray(SCENE.objects.is_sdc)
    last = np.asarray(every.state.alive) & ~ego
    assert last.sum() >= 2
    t = int(every.state.t)
    np.testing.assert_array_equal(np.asarray(alone.state.arc)[last], np.asarray(SCENE.paths.logged)[last, t])
    np.testing.assert_allclose(alone.state.arc, every.state.arc, atol=0.01)


@pytest.mark.parametrize("changed", [{"controlled": "vehicles"}, {"measured": "all"}])
def test_others_that_act_or_are_measured_are_not_spared(changed):
    config = SimConfig(**({"metrics": ("collision",), "measured": "sdc"} | changed))
    assert not Simulator(config).ego_alone


def test_others_that_react_are_not_spared():
    assert not Simulator(SimConfig(measured="sdc"), agents=ConstantVelocity()).ego_alone


def test_states_that_follow_the_ego_alone_do_not_measure_the_others():
    config = SimConfig(metrics=("collision",), measured="sdc")
    sim = Simulator(config)
    first = sim.reset(SCENE, KEY)
    second, out = sim.step(SCENE, first, None, KEY)
    found = step_metrics(SCENE, first, second, ("collision",), config)
    np.testing.assert_array_equal(found["collision"].value, out.metrics["collision"].value)
    with pytest.raises(ConfigError, match="do not say which overlaps are excused"):
        step_metrics(SCENE, first, second, ("collision",))


@pytest.mark.parametrize("dynamics", [Bicycle(), DeltaLocal(), Discrete()])
def test_bad_actions_of_the_ego_are_flagged_and_replaced_as_among_all(dynamics):
    every, alone = made(dynamics, ("collision",))
    first = every.reset(SCENE, KEY)
    good = np.array(every.null_action(SCENE, first))
    for value in (-1, 999) if dynamics.integer else (np.nan, 99.0):
        bad = jnp.asarray(np.full_like(good, value))
        one, other = (sim.step(SCENE, first, bad, KEY)[0] for sim in (every, alone))
        np.testing.assert_array_equal(other.flags, one.flags)
        np.testing.assert_allclose(np.stack(other.pose), np.stack(one.pose), atol=1e-5)
    with pytest.raises(ConfigError, match="are needed"):
        alone.step(SCENE, first, good[:2], KEY)
