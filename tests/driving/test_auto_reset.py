"""Auto-reset by hand: three scenes that differ in where the ego starts, episodes of four steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.driving._scenes import straight, tiny_scene

from gleanings.core.errors import ConfigError
from gleanings.driving.agents import LogPlayback
from gleanings.driving.auto_reset import AutoReset
from gleanings.driving.config import SimConfig
from gleanings.driving.dynamics import Bicycle
from gleanings.driving.sim import Simulator

STARTS = [0.0, 100.0, 200.0]
BANK = jax.tree.map(lambda *leaves: np.stack(leaves), *(tiny_scene([straight(x, 0, 10)]) for x in STARTS))
KEY = jax.random.key(5)


def make(**config) -> AutoReset:
    config = SimConfig(**({"metrics": (), "steps": 4} | config))
    sim = Simulator(
        config,
        dynamics=Bicycle(),
        agents=LogPlayback(),
        observation=lambda scene, state: (scene.log.x[0, 0], state.x[0]),
    )
    return AutoReset(sim)


@pytest.mark.slow
def test_an_episode_that_is_over_makes_room_for_another():
    auto = make()
    state = auto.reset(jax.device_put(BANK), KEY)
    step = jax.jit(auto.step)
    indices = [int(state.index)]
    for episode in range(12):
        start = STARTS[indices[-1]]
        assert float(state.x[0]) == start
        assert int(state.t) == 0
        for t in range(1, 5):
            state, out = step(BANK, state, None, KEY)
            origin, x = out.final_observation
            assert (float(origin), round(float(x), 3)) == (start, start + t)  # always of the old scene
            assert bool(out.truncated) == (t == 4)
            if t < 4:
                assert int(state.index) == indices[-1]
                assert out.observation[1] == out.final_observation[1]
        indices.append(int(state.index))
        assert float(out.observation[0]) == float(out.observation[1]) == STARTS[indices[-1]], episode
    assert set(indices) == {0, 1, 2}


def test_a_bank_with_a_scene_that_starts_at_its_end_is_refused():
    bank = BANK._replace(start=jnp.asarray([0, 20, 0], jnp.int32))
    with pytest.raises(ConfigError, match="start 20 leaves no step"):
        make().reset(bank, KEY)


@pytest.mark.slow
def test_many_environments_share_one_bank():
    auto = make()
    states = jax.vmap(auto.reset, (None, 0))(BANK, jax.random.split(KEY, 16))
    step = jax.jit(jax.vmap(auto.step, (None, 0, 0, None)))
    action = jnp.zeros((16, 8, 2))
    for _ in range(5):
        states, out = step(BANK, states, action, KEY)
    assert set(states.index.tolist()) == {0, 1, 2}
    assert np.all(states.t == 1)
    assert np.allclose(states.x[:, 0], np.asarray(STARTS)[states.index] + 1)
    assert out.observation[0].shape == (16,)


def test_termination_resets_too():
    scene = tiny_scene([straight(0, 0, 10), straight(6, 0, 0)])
    bank = jax.tree.map(lambda leaf: np.asarray(leaf)[None], scene)
    auto = make(metrics=("collision",), terminate_on=("collision",), steps=None)
    state, step = jax.jit(auto.reset)(bank, KEY), jax.jit(auto.step)
    for t in range(1, 3):
        state, out = step(bank, state, None, KEY)
        assert bool(out.terminated) == (t == 2)
    assert bool(out.metrics["collision"].value[0])
    assert (int(state.t), float(state.x[0])) == (0, 0.0)
    assert int(state.flags[0]) == 3


def test_banks_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="stack_scenes"):
        make().reset(tiny_scene([straight()]), KEY)
    without = jax.tree.map(lambda *leaves: np.stack(leaves), tiny_scene([straight()]), tiny_scene([straight()], sdc=-1))
    with pytest.raises(ConfigError, match="ego"):
        make().reset(without, KEY)
