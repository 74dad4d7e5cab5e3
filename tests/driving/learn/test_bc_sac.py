"""SAC and its sum with imitation: tables against soft value iteration, then whole iterations in a toy world."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import Var

from gleanings.core.errors import ConfigError
from gleanings.driving.crop import crop_scene
from gleanings.driving.families import make_scenes
from gleanings.driving.learn import bc_sac
from gleanings.driving.learn.bank import make_bank
from gleanings.driving.learn.bc import bc_loss
from gleanings.driving.learn.collect import collect
from gleanings.driving.learn.config import BCSACConfig, NetConfig, WorldConfig
from gleanings.driving.learn.networks import Actor, Critic
from gleanings.driving.learn.replay import Rows, draw, write
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
    critics = bc_sac.Critics((Table(jnp.zeros(size)), Table(jnp.zeros(size))))
    optimiser = optax.adam(0.03)
    state = critics, critics, Table(jnp.zeros(size)), optimiser.init(critics), optimiser.init(Table(jnp.zeros(size)))

    noise = jnp.zeros((len(rows.reward), *GRID.noise_shape))  # a sum over all actions needs none

    def step(state, _):
        critics, targets, actor, moments, actor_moments = state
        y = bc_sac.soft_targets(actor, targets, GRID, rows, alpha, discount, noise)
        slope, _ = jax.grad(bc_sac.critic_loss, has_aux=True)(critics, rows, y)
        change, moments = optimiser.update(slope, moments)
        critics = optax.apply_updates(critics, change)
        slope, _ = jax.grad(bc_sac.rl_loss, has_aux=True)(actor, critics, GRID, rows.obs, alpha, noise)
        change, actor_moments = optimiser.update(slope, actor_moments)
        actor = optax.apply_updates(actor, change)
        return (critics, optax.incremental_update(critics, targets, 0.1), actor, moments, actor_moments), None

    return jax.lax.scan(step, state, jnp.arange(3000))[0][0].each[0].values


def test_tables_reach_soft_value_iteration():
    process = random_process()
    q = tabular(process, 0.8, 0.3)
    np.testing.assert_allclose(q, process.solve(0.8, 0.3), atol=0.05)


def test_a_crash_is_worth_less_than_driving_on():
    process = crash_or_drive()
    q = np.asarray(tabular(process, 0.9, 0.01))
    np.testing.assert_allclose(q, process.solve(0.9, 0.01), atol=0.5)  # of values down to -30
    assert q[0, 0] < q[0, 1:].min() - 20
    ended = process.reward[0, 0]
    assert ended > process.solve(0.9, 0.0)[0, 1]  # had it ended there, the crash would have paid


@pytest.fixture(scope="module")
def losses():
    """Gradients of the actor loss by its weights, and the loss at scaled critics."""
    keys = jax.random.split(jax.random.key(1), 3)
    head = bc_sac.make_head("gaussian")
    actor = Actor(NET, head, TINY, keys[0])
    critics = bc_sac.Critics(tuple(Critic(NET, TINY, key) for key in keys[1:]))
    labels = jax.device_put(toy_labels(32))
    obs, alpha = labels.obs[::2], jnp.float32(0.2)
    noise = jax.random.normal(jax.random.key(2), (16, *head.noise_shape))

    @eqx.filter_jit
    def compute(actor, critics, obs, labels, noise):
        def value(actor, weights, scale=1.0, with_labels=True):
            given = labels if with_labels else None
            return bc_sac.actor_loss(
                actor, lambda *row: scale * critics(*row), obs, given, weights, scale * alpha, noise
            )[0]

        grad = eqx.filter_grad(value)
        slopes = {"both": grad(actor, (1.0, 0.3)), "imitation": grad(actor, (0.0, 0.3))}
        slopes["rl"] = grad(actor, (1.0, 0.0), 1.0, False)
        slopes["bc"] = eqx.filter_grad(lambda a: bc_loss(a, labels.obs, labels.action, labels.mask)[0])(actor)
        return slopes, value(actor, (1.0, 0.3)), value(actor, (1.0, 2.1), 7.0)

    return compute(actor, critics, obs, labels, noise)


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


LEARNER = dataclasses.replace(SAC, environments=16, capacity=160, gradient_steps=40, batch=32)
LEARNER = dataclasses.replace(LEARNER, learning_rate=1e-2, temperature=0.02)


def sac(config, state, bank, key):
    """An iteration of SAC as it is written everywhere; actor and critics."""
    collect_key, learn_key = jax.random.split(key)
    act = lambda obs, key: bc_sac.act(config, state, obs, key)  # noqa: E731
    replay = write(state.replay, collect(WORLD, bank, act, collect_key, config.environments)[0])
    adam, head = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(config.learning_rate)), state.actor.head
    alpha = jnp.exp(state.log_alpha)

    def step(carry, i):
        actor, critics, targets, actor_moments, moments = carry
        drawn = bc_sac.chances(config, head, jax.random.fold_in(learn_key, i))
        rows = draw(replay, drawn.rows)
        y = bc_sac.soft_targets(actor, targets, head, rows, alpha, config.discount, drawn.target)
        slope, _ = jax.grad(bc_sac.rl_loss, has_aux=True)(actor, critics, head, rows.obs, alpha, drawn.actor)
        moved, actor_moments = adam.update(slope, actor_moments)
        slope, _ = jax.grad(bc_sac.critic_loss, has_aux=True)(critics, rows, y)
        change, moments = adam.update(slope, moments)
        critics = optax.apply_updates(critics, change)
        targets = jax.tree.map(
            lambda old, new: (1 - config.target_rate) * old + config.target_rate * new, targets, critics
        )
        return (optax.apply_updates(actor, moved), critics, targets, actor_moments, moments), None

    first = state.actor, state.critics, state.targets, adam.init(state.actor), adam.init(state.critics)
    return jax.lax.scan(step, first, jnp.arange(config.gradient_steps))[0][:2]


class Training:
    """Fourteen iterations of SAC in the toy world with two seeds: states, and the mean reward in each."""

    def __init__(self):
        self.traces, self.bank = 0, jax.device_put(toy_bank())
        self.seeds = [bc_sac.init(LEARNER, WORLD, jax.random.key(seed)) for seed in (0, 9)]

        def update(state, bank, key, labels=None):
            self.traces += 1
            return bc_sac.update(LEARNER, WORLD, state, bank, labels, key)

        self.update = update
        state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *self.seeds)
        self.ring = state.replay
        keys = [jax.random.split(jax.random.key(i)) for i in range(14)]
        many = jax.jit(jax.vmap(update, in_axes=(0, None, 0)), donate_argnums=0)
        lowered = many.lower(state, self.bank, keys[0])
        self.text, self.program = lowered.as_text(), lowered.compile()
        self.after, self.metrics = [], []
        for key in keys:
            state, metrics = self.program(state, self.bank, key)
            self.after.append((state.actor, state.critics))
            self.metrics.append(metrics)
            state = jax.tree.map(jnp.array, state)
        self.last = state


@pytest.fixture(scope="module")
def training():
    return Training()


def test_sac_learns_to_steer(training):
    rewards = np.stack([metrics["collect/reward"] for metrics in training.metrics])
    assert (rewards[0] < -0.7).all()  # standing still: -1
    assert (rewards[-2:].mean(0) > rewards[0] + 0.2).all()
    assert rewards[-2:].mean() > -0.35  # the best is about -0.1: two moves at most
    assert training.traces == 1
    assert all(np.isfinite(np.asarray(value)).all() for row in training.metrics for value in row.values())
    np.testing.assert_array_equal(training.last.step, 14 * 40)
    np.testing.assert_array_equal(training.last.replay.count, 160)


def test_a_seed_among_others_learns_as_sac_does_alone(training):
    """Against an iteration written here."""
    key = jax.random.split(jax.random.key(0))[0]
    other = jax.jit(lambda *args: sac(LEARNER, *args))(training.seeds[0], training.bank, key)
    leaves_close(jax.tree.map(lambda leaf: leaf[0], training.after[0]), other, atol=1e-3)


def test_seeds_share_where_they_write(training):
    """So that the ring needs no scatter, and its memory is used again."""
    ring = "x".join(map(str, training.ring.obs.shape))
    lines = [line for line in training.text.splitlines() if f"tensor<{ring}xf16>" in line]
    assert lines
    assert not [line for line in lines if "scatter" in line]
    replay = sum(leaf.nbytes for leaf in jax.tree.leaves(training.last.replay))
    assert training.program.memory_analysis().alias_size_in_bytes >= replay


def test_without_imitation_the_program_is_that_of_sac(training):
    """Operation for operation: demonstrations that are given are not read. Nothing large is baked in."""
    key, labels = jax.random.key(0), jax.device_put(toy_labels())
    given = jax.make_jaxpr(training.update)(training.seeds[0], training.bank, key, labels)
    without = jax.make_jaxpr(training.update)(training.seeds[0], training.bank, key)
    read = {v for eqn in given.jaxpr.eqns for v in eqn.invars if isinstance(v, Var)}
    assert not read & {*given.jaxpr.invars[-3:]}
    assert [str(eqn.primitive) for eqn in given.jaxpr.eqns] == [str(eqn.primitive) for eqn in without.jaxpr.eqns]
    assert sum(getattr(value, "nbytes", 0) for value in given.consts) < 2**20


def test_critics_reach_below_zero():
    """A penalty of 0.1 for ever, at a discount of 0.95, is worth -2."""
    labels = jax.device_put(toy_labels(32))
    rows = Rows(labels.obs, labels.action, jnp.full(32, -0.1), labels.obs)
    critics = bc_sac.Critics((Critic(NET, TINY, jax.random.key(0)),))
    adam = optax.adam(1e-2)

    @jax.jit
    def train(critics):
        def step(carry, _):
            critics, moments = carry
            y = rows.reward + 0.95 * critics.rows(rows.next_obs, rows.action)[0]
            slope, _ = jax.grad(bc_sac.critic_loss, has_aux=True)(critics, rows, y)
            change, moments = adam.update(slope, moments)
            return (optax.apply_updates(critics, change), moments), None

        (critics, _), _ = jax.lax.scan(step, (critics, adam.init(critics)), length=1500)
        return critics.rows(rows.obs, rows.action)

    np.testing.assert_allclose(train(critics), -2.0, atol=0.1)


def family_bank(count):
    return jax.device_put(make_bank([crop_scene(with_lane_route(s)) for s in make_scenes("all", seed=0, count=count)]))


def test_an_iteration_with_imitation_keeps_shapes():
    labels, config = toy_labels(), dataclasses.replace(CONFIG, target_entropy=-2.0)
    state = bc_sac.init(config, WORLD, jax.random.key(0))
    after, metrics = eqx.filter_eval_shape(bc_sac.update, config, WORLD, state, toy_bank(), labels, jax.random.key(0))
    same = jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, state, after)
    assert all(jax.tree.leaves(same))
    assert {"actor/bc_nll", "actor/entropy", "actor/q", "critic/loss", "critic/q", "collect/failure"} <= set(metrics)


ACTOR = ("actor", "average", "log_alpha", "actor_moments", "alpha_moments")


def test_in_the_first_steps_only_critics_learn():
    plain = dataclasses.replace(CONFIG, target_entropy=-2.0, gradient_steps=2)
    labels, bank = jax.device_put((toy_labels(), toy_bank()))
    first = jax.jit(lambda key: bc_sac.init(plain, WORLD, key))(jax.random.key(0))

    @functools.cache
    def step(critic_first):
        config = dataclasses.replace(plain, critic_first=critic_first)
        return jax.jit(lambda *args: bc_sac.update(config, WORLD, *args, jax.random.key(1))[0])

    def after(state, critic_first):
        return step(critic_first)(state, bank, labels)

    usual, waiting = after(first, 0), after(first, 2)
    for name in ACTOR:
        old, held, new = (jax.tree.leaves(getattr(one, name)) for one in (first, waiting, usual))
        assert all(map(np.array_equal, old, held))
        assert not all(map(np.array_equal, old, new))
    assert int(waiting.step) == 2
    assert not all(map(np.array_equal, jax.tree.leaves(first.critics), jax.tree.leaves(waiting.critics)))
    # Once these steps are over, everything is as without them.
    for one, other in zip(jax.tree.leaves(after(waiting, 2)), jax.tree.leaves(after(waiting, 0)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
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
        bc_sac.update(CONFIG, WORLD, bc_sac.init(SAC, WORLD, jax.random.key(0)), toy_bank(), None, jax.random.key(0))
