"""Agents, selectors and policies: who moves whom, and where to."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.driving._scenes import straight, tiny_scene, turning

from gleanings.core.errors import ConfigError
from gleanings.driving.agents import ConstantVelocity, LogPlayback, Mixed, PolicyAgent, SimAgent, selected
from gleanings.driving.config import SimConfig
from gleanings.driving.dynamics import Bicycle, DeltaLocal
from gleanings.driving.policies import driven_by, expert, null
from gleanings.driving.raw import Kind
from gleanings.driving.sim import Simulator
from gleanings.driving.state import INVALID_ACTION, Action

KEY = jax.random.key(1)
T = 21
KINDS = [Kind.VEHICLE, Kind.VEHICLE, Kind.CYCLIST, Kind.PEDESTRIAN, Kind.OTHER]
SCENE = tiny_scene([turning(8 - i) if i < 2 else straight(9 * i, 2, 3, kind=kind) for i, kind in enumerate(KINDS)])


def run(agents: SimAgent, policy=None, dynamics=None, **config):
    config = SimConfig(**({"metrics": ()} | config))
    return Simulator(config, dynamics=dynamics or Bicycle(), agents=agents).rollout(SCENE, policy, KEY)


@pytest.mark.parametrize(
    ("selector", "slots"),
    [
        ("sdc", [0]),
        ("all", [0, 1, 2, 3, 4]),
        ("vehicles", [0, 1]),
        ("cyclists", [2]),
        ("pedestrians", [3]),
        ("predict", []),
        ("interest", []),
        ((101, 103, 999, -1), [1, 3]),
        ((), []),
        (lambda scene: scene.objects.width > 1, [0, 1]),
    ],
)
def test_selectors(selector, slots):
    assert np.flatnonzero(selected(SCENE, selector)).tolist() == slots


def test_unknown_selectors_are_refused():
    with pytest.raises(ConfigError, match=r"'trucks'.*vehicles"):
        run(Mixed((("trucks", ConstantVelocity()),)))


class Counter(SimAgent):
    """Moves its objects to x = number of calls, with a state of its own."""

    def init(self, scene, key):
        return {"calls": jnp.int32(0), "draw": jax.random.uniform(key)}

    def act(self, scene, state, own, key):
        own = own | {"calls": own["calls"] + 1}
        return state.pose._replace(x=jnp.full_like(state.x, own["calls"])), state.alive, own


def test_the_first_selector_that_holds_an_object_moves_it():
    agents = Mixed((("vehicles", ConstantVelocity()), ((101, 102), Counter()), ("pedestrians", LogPlayback())))
    roll = run(agents)
    x, log = np.asarray(roll.trajectory.x), SCENE.log.x
    assert np.allclose(x[:, 1], np.arange(T) * SCENE.log.vx[0, 1] * 0.1, atol=1e-3)
    assert np.array_equal(x[1:, 2], np.arange(1, T))
    assert np.array_equal(x[:, 3], log[:, 3])
    assert np.array_equal(x[:, 4], log[:, 4])
    assert int(roll.state.agents[1]["calls"]) == T - 1
    assert np.flatnonzero(agents.replays(SCENE)).tolist() == [3, 4, 5, 6, 7]


@pytest.mark.slow
def test_a_policy_as_agent_moves_as_a_policy_that_controls():
    agent = PolicyAgent(expert(Bicycle()), Bicycle())
    ours, theirs = run(agent), run(LogPlayback(), expert(Bicycle()), controlled="all")
    for a, b in zip(ours.trajectory, theirs.trajectory, strict=True):
        assert np.allclose(a[:, 1:], b[:, 1:], atol=2e-3)


class Steer(NamedTuple):
    """A learned policy: its weights are an array."""

    weight: jax.Array

    def __call__(self, scene, state, key):
        return jnp.full((8, 2), self.weight) * jnp.asarray([1.0, 0.0])


def test_a_policy_with_weights_is_not_compiled_again_for_new_weights():
    traces = []

    class Traced(Steer):
        def __call__(self, scene, state, key):
            traces.append(1)
            return super().__call__(scene, state, key)

    ends = [float(run(LogPlayback(), Traced(jnp.float32(a))).state.vx[0]) for a in (0.0, 1.0, -1.0)]
    assert np.allclose(np.subtract(ends, ends[0]), [0, 2, -2], atol=1e-3)
    assert len(traces) == 1


def test_null_coasts_without_a_flag():
    roll = run(ConstantVelocity(), null, dynamics=DeltaLocal(), controlled="all")
    assert np.allclose(roll.trajectory.x[:, 0], SCENE.log.vx[0, 0] * 0.1 * np.arange(T), atol=1e-3)
    assert not (np.asarray(roll.flags) & INVALID_ACTION).any()


@pytest.mark.slow
def test_driven_by_an_agent_goes_where_the_agent_would():
    coasting = run(ConstantVelocity(), driven_by(ConstantVelocity(), DeltaLocal()), DeltaLocal(), controlled="all")
    assert np.allclose(coasting.trajectory.x[:, :5], run(ConstantVelocity()).trajectory.x[:, :5], atol=1e-3)
    replaying = run(ConstantVelocity(), driven_by(LogPlayback(), DeltaLocal()), DeltaLocal(), controlled="all")
    assert np.allclose(replaying.trajectory.x[:, :5], SCENE.log.x[:, :5], atol=1e-3)


def test_policies_may_act_for_some_objects_only():
    def policy(scene, state, key):
        return Action(jnp.ones((8, 2)) * jnp.asarray([2.0, 0.0]), jnp.arange(8) == 1)

    roll = run(LogPlayback(), policy, controlled="all")
    assert np.isclose(roll.state.accel[1], 2, atol=1e-3)
    assert np.isclose(roll.state.accel[0], 0, atol=1e-3)
    assert np.array_equal(roll.flags[-1] & INVALID_ACTION != 0, [1, 0, 1, 1, 1, 0, 0, 0])
