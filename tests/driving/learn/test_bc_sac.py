"""SAC and its sum with imitation: tables against soft value iteration, then whole iterations in a toy world."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gleanings.core.errors import ConfigError
from gleanings.driving.crop import crop_scene
from gleanings.driving.families import make_scenes
from gleanings.driving.learn import bc_sac
from gleanings.driving.learn.bank import make_bank
from gleanings.driving.learn.bc import bc_loss
from gleanings.driving.learn.config import BCSACConfig, NetConfig, WorldConfig
from gleanings.driving.learn.networks import Actor, Critic
from gleanings.driving.learn.replay import Rows
from gleanings.driving.learn.world import World
from gleanings.driving.routes import with_lane_route

from ._toys import GRID, TINY, Table, Toy, crash_or_drive, random_process, toy_bank, toy_labels

NET = NetConfig(width=4, trunk=(16,))
CONFIG = BCSACConfig(net=NET, batch=16, environments=4, gradient_steps=3, capacity=8, temperature=0.1)
SAC = dataclasses.replace(CONFIG, imitation_weight=0.0)
WORLD = Toy()


def leaves_close(one, other, **bounds):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, **bounds)


def tabular(process, discount, alpha):
    """Q [S, A] of tables trained by the losses of this module on every state and action."""
    return _tabular(process.rows(), process.reward.shape, discount, jax.device_put(np.float32(alpha)))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _tabular(rows, size, discount, alpha):
    critics = Table(jnp.zeros(size)), Table(jnp.zeros(size))
    optimiser = optax.adam(0.03)
    state = critics, critics, Table(jnp.zeros(size)), optimiser.init(critics), optimiser.init(critics[0])

    def step(state, i):
        critics, targets, actor, moments, actor_moments = state
        key = jax.random.fold_in(jax.random.key(0), i)
        y = bc_sac.soft_targets(actor, targets, GRID, rows, alpha, discount, key)
        slope, _ = jax.grad(bc_sac.critic_loss, has_aux=True)(critics, rows, y)
        change, moments = optimiser.update(slope, moments)
        critics = optax.apply_updates(critics, change)
        slope, _ = jax.grad(bc_sac.rl_loss, has_aux=True)(actor, critics, GRID, rows.obs, alpha, key)
        change, actor_moments = optimiser.update(slope, actor_moments)
        actor = optax.apply_updates(actor, change)
        return (critics, optax.incremental_update(critics, targets, 0.1), actor, moments, actor_moments), None

    return jax.lax.scan(step, state, jnp.arange(3000))[0][0][0].values


def test_tables_reach_soft_value_iteration():
    process = random_process()
    q = tabular(process, 0.8, 0.3)
    np.testing.assert_allclose(q, process.solve(0.8, 0.3), atol=0.05)


def test_a_crash_is_worth_less_than_driving_on():
    process = crash_or_drive()
    q = np.asarray(tabular(process, 0.95, 0.01))
    np.testing.assert_allclose(q, process.solve(0.95, 0.01), atol=1.0)  # of values down to -60
    assert q[0, 0] < q[0, 1:].min() - 40
    ended = process.reward[0, 0]
    assert ended > process.solve(0.95, 0.0)[0, 1]  # had it ended there, the crash would have paid


@pytest.fixture(scope="module")
def losses():
    """Gradients of the actor loss by its weights, and the loss at scaled critics."""
    keys = jax.random.split(jax.random.key(1), 3)
    head = bc_sac.make_head("gaussian")
    actor = Actor(NET, head, TINY, keys[0])
    critics = Critic(NET, TINY, keys[1]), Critic(NET, TINY, keys[2])
    labels = jax.device_put(toy_labels(32))
    obs, key, alpha = labels.obs[::2], jax.random.key(2), jnp.float32(0.2)

    @eqx.filter_jit
    def compute(actor, critics, obs, labels, key):
        def value(actor, weights, scale=1.0, with_labels=True):
            scaled = tuple(lambda obs, u, c=c: scale * c(obs, u) for c in critics)
            given = labels if with_labels else None
            return bc_sac.actor_loss(actor, scaled, obs, given, weights, scale * alpha, jax.random.clone(key))[0]

        grad = eqx.filter_grad(value)
        slopes = {"both": grad(actor, (1.0, 0.3)), "imitation": grad(actor, (0.0, 0.3))}
        slopes["rl"] = grad(actor, (1.0, 0.0), 1.0, False)
        slopes["bc"] = eqx.filter_grad(lambda a: bc_loss(a, labels.obs, labels.action, labels.mask)[0])(actor)
        return slopes, value(actor, (1.0, 0.3)), value(actor, (1.0, 2.1), 7.0)

    return compute(actor, critics, obs, labels, key)


def test_the_gradient_is_the_sum_of_both_terms(losses):
    slopes, *_ = losses
    total = jax.tree.map(lambda rl, bc: rl + 0.3 * bc, slopes["rl"], slopes["bc"])
    leaves_close(slopes["both"], total, atol=1e-6, rtol=1e-5)
    leaves_close(slopes["imitation"], jax.tree.map(lambda bc: 0.3 * bc, slopes["bc"]), atol=1e-6, rtol=1e-5)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slopes["rl"])) > 1e-3


def test_values_temperature_and_imitation_scale_together(losses):
    _, one, seven = losses
    np.testing.assert_allclose(7 * one, seven, rtol=1e-5)


def test_the_temperature_falls_where_entropy_exceeds_its_target():
    slope = jax.grad(bc_sac.alpha_loss)
    assert slope(jnp.float32(-1), jnp.float32(3), 2.0) > 0 > slope(jnp.float32(-1), jnp.float32(1), 2.0)


def replayed(config, writes=1):
    """A state whose replay holds toy episodes."""
    state = bc_sac.init(config, WORLD, jax.random.key(3))
    seen = np.tile(toy_labels(9 * 4).obs.reshape(4, 9, -1), (2, 1, 1)).astype(np.float16)
    rng = np.random.default_rng(1)
    parts = seen, rng.uniform(-1, 1, (8, 8, 2)).astype("f4"), -rng.uniform(0, 1, (8, 8)).astype("f4")
    filled = dataclasses.replace(state.replay, count=jnp.int32(8))
    filled = eqx.tree_at(lambda r: (r.obs, r.action, r.reward), filled, tuple(map(jax.device_put, parts)))
    return dataclasses.replace(state, replay=filled)


def sac_step(config, state, key):
    """SAC as it is written everywhere, from the losses."""
    rows_key, _, target_key, actor_key = jax.random.split(key, 4)
    rows = bc_sac.draw(state.replay, config.batch, rows_key)
    alpha, head = jnp.exp(state.log_alpha), state.actor.head
    adam = optax.chain(optax.clip_by_global_norm(config.clip_norm), optax.adam(config.learning_rate))
    y = bc_sac.soft_targets(state.actor, state.targets, head, rows, alpha, config.discount, target_key)
    slope, _ = jax.grad(bc_sac.critic_loss, has_aux=True)(state.critics, rows, y)
    change, _ = adam.update(slope, state.critic_moments)
    critics = optax.apply_updates(state.critics, change)
    slope, _ = jax.grad(bc_sac.rl_loss, has_aux=True)(state.actor, critics, head, rows.obs, alpha, actor_key)
    change, _ = adam.update(slope, state.actor_moments)
    return optax.apply_updates(state.actor, change), critics


def test_without_imitation_it_is_sac_bit_for_bit():
    state, labels = replayed(SAC), toy_labels()

    def ours(state, labels, key):
        after, _ = bc_sac.gradient_step(SAC, state, state.replay, labels if SAC.imitation_weight else None, key)
        return after.actor, after.critics

    one = jax.jit(ours)(state, labels, jax.random.key(0))
    other = jax.jit(lambda state, key: sac_step(SAC, state, key))(state, jax.random.key(0))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


class Programs:
    """One iteration in the toy world, compiled for one seed and for three."""

    def __init__(self):
        self.traces = 0
        self.bank, self.labels = jax.device_put(toy_bank()), jax.device_put(toy_labels())

        def update(state, bank, labels, key):
            self.traces += 1
            return bc_sac.update(CONFIG, WORLD, state, bank, labels, key)

        self.plain = update
        self.one = jax.jit(update, donate_argnums=0)
        self.many = jax.jit(jax.vmap(update, in_axes=(0, None, None, 0)))
        self.states = [bc_sac.init(CONFIG, WORLD, jax.random.key(seed)) for seed in range(2)]


@pytest.fixture(scope="module")
def programs():
    return Programs()


def test_an_iteration_is_traced_once_and_reuses_the_memory_of_the_replay(programs):
    state = jax.tree.map(jnp.array, programs.states[0])
    before = programs.traces
    for i in range(3):
        state, metrics = programs.one(state, programs.bank, programs.labels, jax.random.key(i))
        assert all(np.isfinite(float(value)) for value in metrics.values())
    assert programs.traces == before + 1
    assert int(state.step) == 9
    assert int(state.replay.count) == 8
    lowered = programs.one.lower(state, programs.bank, programs.labels, jax.random.key(0))
    memory = lowered.compile().memory_analysis()
    assert memory.alias_size_in_bytes >= sum(leaf.nbytes for leaf in jax.tree.leaves(state.replay))


def test_nothing_large_is_baked_in(programs):
    closed = jax.make_jaxpr(programs.plain)(programs.states[0], programs.bank, programs.labels, jax.random.key(0))
    assert sum(np.size(value) * value.dtype.itemsize for value in closed.consts if hasattr(value, "dtype")) < 2**20


def test_a_seed_among_others_learns_what_it_learns_alone(programs):
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *programs.states)
    keys = jax.random.split(jax.random.key(5), 2)
    text = programs.many.lower(together, programs.bank, programs.labels, keys).as_text()
    ring = "x".join(map(str, together.replay.obs.shape))
    assert f"tensor<{ring}xf16>" in text
    assert not [line for line in text.splitlines() if "scatter" in line and f"tensor<{ring}xf16>" in line]
    seeds, _ = programs.many(together, programs.bank, programs.labels, keys)
    alone = jax.tree.map(jnp.array, programs.states[1])
    alone, _ = programs.one(alone, programs.bank, programs.labels, keys[1])
    leaves_close(jax.tree.map(lambda leaf: leaf[1], seeds), alone, atol=1e-4, rtol=1e-3)


def test_critics_reach_below_zero():
    """A penalty of 0.1 for ever, at a discount of 0.95, is worth -2."""
    labels = jax.device_put(toy_labels(32))
    rows = Rows(labels.obs, labels.action, jnp.full(32, -0.1), labels.obs)
    critic, adam = Critic(NET, TINY, jax.random.key(0)), optax.adam(1e-2)

    @jax.jit
    def train(critic):
        def step(carry, _):
            critic, moments = carry
            y = rows.reward + 0.95 * jax.vmap(critic)(rows.next_obs, rows.action)
            slope, _ = jax.grad(bc_sac.critic_loss, has_aux=True)((critic,), rows, y)
            change, moments = adam.update(slope[0], moments)
            return (optax.apply_updates(critic, change), moments), None

        (critic, _), _ = jax.lax.scan(step, (critic, adam.init(critic)), length=1500)
        return jax.vmap(critic)(rows.obs, rows.action)

    np.testing.assert_allclose(train(critic), -2.0, atol=0.1)


def test_sac_learns_to_steer():
    config = dataclasses.replace(SAC, environments=16, capacity=160, gradient_steps=60, batch=64, learning_rate=3e-3)
    config = dataclasses.replace(config, temperature=0.02)
    state, bank = bc_sac.init(config, WORLD, jax.random.key(0)), jax.device_put(toy_bank())
    update = jax.jit(lambda state, bank, key: bc_sac.update(config, WORLD, state, bank, None, key))
    rewards = []
    for i in range(10):
        state, metrics = update(state, bank, jax.random.key(i))
        rewards.append(float(metrics["collect/reward"]))
    assert rewards[0] < -0.8  # standing still: -1
    assert rewards[-1] > -0.35  # the best is about -0.1: two moves at most


def family_bank(count):
    return jax.device_put(make_bank([crop_scene(with_lane_route(s)) for s in make_scenes("all", seed=0, count=count)]))


def test_an_iteration_on_generated_scenes_is_finite():
    world, bank = World(WorldConfig(after_failure="absorb")), family_bank(16)
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(32, world.observation_size)).astype(np.float32)
    labels = toy_labels(32)._replace(obs=seen)
    config = dataclasses.replace(CONFIG, gradient_steps=4, target_entropy=-2.0)
    state = bc_sac.init(config, world, jax.random.key(0))
    state, metrics = jax.jit(lambda *args: bc_sac.update(config, world, *args))(
        state, bank, jax.device_put(labels), jax.random.key(1)
    )
    for leaf in jax.tree.leaves((state, metrics)):
        assert np.isfinite(np.asarray(leaf, np.float32)).all()
    reward = np.asarray(state.replay.reward[:4])
    assert ((reward >= -3) & (reward <= 0)).all()
    assert (np.abs(state.replay.action) <= 1).all()
    assert (state.log_alpha != np.log(np.float32(0.1))).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"imitation_weight": -1.0}, "at least 0"),
        ({"imitation_weight": 0.0, "rl_weight": 0.0}, "not both 0"),
        ({"discount": 1.0}, "discount=1.0"),
        ({"rl_weight": 0.0, "target_entropy": -2.0}, "rl_weight above 0"),
        ({"capacity": 9}, "multiple"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        bc_sac.init(dataclasses.replace(CONFIG, **changes), WORLD, jax.random.key(0))


def test_imitation_needs_demonstrations():
    with pytest.raises(ConfigError, match="demonstrations"):
        bc_sac.update(CONFIG, WORLD, replayed(SAC), toy_bank(), None, jax.random.key(0))
