"""Double DQN: tables against value iteration, draws against their probabilities, an iteration in a toy world."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import chisquare

from gleanings.core.errors import ConfigError
from gleanings.driving.learn import dqn
from gleanings.driving.learn._descent import descend
from gleanings.driving.learn.config import DQNConfig, NetConfig
from gleanings.driving.learn.heads import Categorical
from gleanings.driving.learn.world import World

from ._toys import GRID, Table, Toy, crash_or_drive, random_process, toy_bank

CONFIG = DQNConfig(
    net=NetConfig(width=4, trunk=(16,)),
    bins=(3, 5),
    batch=32,
    environments=16,
    gradient_steps=40,
    capacity=32,
    iterations=14,
    learning_rate=1e-2,
)
WORLD = Toy()


@functools.partial(jax.jit, static_argnums=(1, 2))
def tabular(rows, size, discount):
    """Q [S, A] of a table trained by the losses of this module on every state and action."""
    first = Table(jnp.zeros(size))
    optimiser, weight = optax.adam(0.03), jnp.ones(len(rows.reward))

    def step(state, _):
        net, target, moments = state
        y = dqn.double_targets(net, target, rows, discount)
        slope, _ = jax.grad(dqn.loss, has_aux=True)(net, rows.obs, dqn.index_of(rows.action, GRID), y, weight)
        change, moments = optimiser.update(slope, moments)
        net = optax.apply_updates(net, change)
        return (net, optax.incremental_update(net, target, 0.1), moments), None

    return jax.lax.scan(step, (first, first, optimiser.init(first)), length=4000)[0][0].values


def test_tables_reach_value_iteration():
    process = random_process()
    np.testing.assert_allclose(tabular(process.rows(), process.reward.shape, 0.8), process.solve(0.8, 0.0), atol=0.05)


def test_a_crash_is_worth_less_than_driving_on():
    process = crash_or_drive()
    q = np.asarray(tabular(process.rows(), process.reward.shape, 0.9))
    assert q[0, 0] < q[0, 1:].min() - 20


def test_the_second_network_judges_the_choice_of_the_first():
    obs = jnp.eye(2, dtype=jnp.float32)
    rows = dqn.Rows(obs, jnp.zeros((2, 2)), jnp.asarray([-1.0, -2.0]), obs)
    net, target = Table(jnp.asarray([[0.0, 1.0], [5.0, 1.0]])), Table(jnp.asarray([[9.0, -4.0], [-6.0, 7.0]]))
    np.testing.assert_allclose(dqn.double_targets(net, target, rows, 0.5), [-3.0, -5.0])


def test_observations_prepared_once_give_the_step_of_raw_ones():
    """Against `jax.vmap` over rows that each network prepares for itself."""
    world, config = World(), dataclasses.replace(CONFIG, net=NetConfig(width=4, trunk=(16,)), gradient_steps=1)
    state = jax.jit(lambda key: dqn.init(config, world, key))(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 3)
    obs = jax.random.normal(keys[0], state.replay.obs.shape).astype(jnp.float16)
    action = jax.random.uniform(keys[1], state.replay.action.shape, minval=-1.0)
    reward = -jax.random.uniform(keys[2], state.replay.reward.shape)
    replay = dqn.Replay(obs, action, reward, jnp.int32(0), jnp.int32(32))
    state = eqx.tree_at(lambda s: (s.replay, s.priority), state, (replay, jnp.ones_like(state.priority)))
    state = eqx.tree_at(lambda s: s.target, state, jax.tree.map(lambda leaf: 0.9 * leaf, state.net))

    @jax.jit
    def reference(state, key):
        rows = dqn.draw_by_priority(state.priority, replay.count, config.batch, jnp.float32(0.4), key)
        rows, weight = dqn.take(replay, rows.episode, rows.step), rows.weight
        y = dqn.double_targets(jax.vmap(state.net), jax.vmap(state.target), rows, config.discount)
        index = dqn.index_of(rows.action, Categorical(config.bins))

        def loss(net):
            return dqn.loss(jax.vmap(net), rows.obs, index, y, weight)[0]

        value, slope = eqx.filter_value_and_grad(loss)(state.net)
        return value, descend(dqn.make_optimiser(config), state.net, slope, state.moments)[0]

    found, metrics = jax.jit(lambda state, key: dqn.gradient_step(config, state, replay, key))(state, jax.random.key(2))
    value, net = reference(state, jax.random.key(2))
    np.testing.assert_allclose(metrics["critic/loss"], value, rtol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(found.net), jax.tree.leaves(net), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    # The average has seen one step alone; what it began with has no weight.
    for ours, theirs in zip(jax.tree.leaves(found.average), jax.tree.leaves(found.net), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_bins_are_numbered_as_those_of_the_head():
    np.testing.assert_array_equal(dqn.index_of(GRID.actions().astype(jnp.float32), GRID), np.arange(GRID.size))


@pytest.fixture(scope="module")
def drawn():
    """Priorities [6, 5] of which four episodes are there, 2,000 batches of 16 rows, and their weights."""
    priority = np.random.default_rng(0).gamma(0.5, size=(6, 5)).astype(np.float32) + 0.01
    priority[4:] = 0

    @jax.jit
    def draw(priority, key):
        return jax.vmap(lambda key: dqn.draw_by_priority(priority, jnp.int32(4), 16, jnp.float32(0.7), key))(
            jax.random.split(key, 2000)
        )

    return priority, jax.tree.map(np.asarray, draw(priority, jax.random.key(0)))


def test_draws_follow_the_priorities(drawn):
    priority, rows = drawn
    counts = np.zeros(priority.shape)
    np.add.at(counts, (rows.episode, rows.step), 1)
    assert not counts[4:].any()
    expected = priority[:4].astype(np.float64)
    expected *= counts.sum() / expected.sum()
    assert chisquare(counts[:4].ravel(), expected.ravel()).pvalue > 1e-3


def test_each_share_of_the_sum_gives_one_row(drawn):
    priority, rows = drawn
    edge = np.cumsum(priority.ravel().astype(np.float64)) / priority.sum()
    row = rows.episode * 5 + rows.step
    below = np.concatenate([[0.0], edge])[row]
    share = np.arange(16) / 16
    assert (below <= share + 1 / 16 + 1e-6).all()
    assert (edge[row] >= share - 1e-6).all()


def test_weights_undo_the_priorities(drawn):
    priority, rows = drawn
    weight = (20 * priority[rows.episode, rows.step] / priority.sum()) ** -0.7
    np.testing.assert_allclose(rows.weight, weight / weight.max(1, keepdims=True), rtol=1e-4)


@pytest.fixture(scope="module")
def trained():
    """States after each iteration, and metrics."""
    update = jax.jit(lambda state, bank, key: dqn.update(CONFIG, WORLD, state, bank, key))
    states, metrics = [dqn.init(CONFIG, WORLD, jax.random.key(0))], []
    for i in range(14):
        state, values = update(states[-1], jax.device_put(toy_bank()), jax.random.key(i))
        states.append(state)
        metrics.append({name: float(value) for name, value in values.items()})
    assert update._cache_size() == 1
    return states, metrics


def test_it_learns_to_steer(trained):
    states, metrics = trained
    rewards = [row["collect/reward"] for row in metrics]
    assert np.mean(rewards[:2]) < -0.8
    assert np.mean(rewards[-3:]) > -0.45
    assert all(np.isfinite(list(row.values())).all() for row in metrics)
    assert int(states[-1].step) == 14 * 40


def test_the_average_of_the_last_steps_drives(trained):
    states, _ = trained
    driver, last = dqn.driver(CONFIG, states[-1]), states[-1]
    assert driver.net is last.average
    weights = [state.net.trunk.out.weight for state in (last, *states[-3:])]
    average, spread = last.average.trunk.out.weight, np.ptp(weights, 0).max()
    assert 0 < np.abs(average - weights[0]).max() < spread


def test_exploration_ends_halfway(trained):
    _, metrics = trained
    shares = [row["collect/exploration"] for row in metrics]
    np.testing.assert_allclose(shares, np.maximum(1 - 0.95 * np.arange(14) / 7, 0.05), rtol=1e-5)


def test_priorities_are_those_of_the_rows_there_are(trained):
    (_, first, second, *_), _ = trained
    assert (np.asarray(first.priority[:16]) > 0).all()
    assert (np.asarray(first.priority[16:]) == 0).all()
    assert float(second.largest) >= float(first.largest) >= max(1.0, float(first.priority.max()))
    assert (np.asarray(second.priority) > 0).all()


def test_actions_are_middles_of_bins(trained):
    states, _ = trained
    kept = np.asarray(states[-1].replay.action)
    np.testing.assert_allclose(kept * np.array([1, 2]), np.round(kept * np.array([1, 2])), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"bins": (4, 5)}, "odd"), ({"discount": 1.0}, "discount=1.0"), ({"capacity": 33}, "multiple")],
)
def test_settings_that_cannot_be_meant_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        dqn.init(dataclasses.replace(CONFIG, **changes), WORLD, jax.random.key(0))
