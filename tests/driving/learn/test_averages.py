"""The averaged actor: its weights in closed form, and that it is what drives and what is exported."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gleanings.driving.learn import bc
from gleanings.driving.learn._descent import averaged
from gleanings.driving.learn.config import BCConfig, NetConfig, WorldConfig
from gleanings.driving.learn.demos import Demonstrations
from gleanings.driving.learn.training import driver_of, train
from gleanings.driving.observation import observation_size

CONFIG = BCConfig(net=NetConfig(width=4, trunk=(8,)), batch=8, gradient_steps=1, iterations=4)


def test_weights_grow_with_the_sixth_power_of_the_step():
    rows = np.random.default_rng(0).normal(size=(50, 3))
    mean = jnp.full(3, 9.0)  # what it starts from has no weight
    for step, row in enumerate(rows, 1):
        mean = averaged(mean, jnp.asarray(row), jnp.int32(step))
    weights = np.array([math.comb(step + 5, 6) for step in range(1, 51)], float)
    np.testing.assert_allclose(mean, weights @ rows / weights.sum(), rtol=1e-5, atol=1e-6)


def test_the_average_of_what_was_learnt_drives():
    obs = np.random.default_rng(0).normal(size=(16, observation_size(WorldConfig().observe))).astype(np.float32)
    demos = Demonstrations(obs, np.zeros((16, 2), np.float32), np.ones((16, 2), bool), *np.zeros((2, 16), np.int32))
    actors, average = [], None
    for event in train(CONFIG, (), demos, seeds=(3,), progress=False):
        actors.append(event.state.actor.trunk.out.weight[0])
        average = event.state
    weights = np.array([math.comb(step + 5, 6) for step in range(1, 5)], float)
    expected = np.tensordot(weights / weights.sum(), np.stack(actors), 1)
    driver = driver_of(CONFIG, average, 0)
    np.testing.assert_allclose(driver.actor.trunk.out.weight, expected, rtol=1e-5, atol=1e-6)
    state = jax.tree.map(lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, average)
    assert not np.allclose(state.actor.trunk.out.weight, expected, rtol=1e-5, atol=1e-6)
    mode = state.average.head.mode(state.average(jnp.asarray(obs[0])))
    np.testing.assert_array_equal(bc.act(CONFIG, state, jnp.asarray(obs[0])), mode)
