"""Networks: every head with every encoder, sizes, and what critics can reach."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.driving.learn._observations import SMALL, flat, observation

from gleanings.core.errors import ConfigError
from gleanings.driving.learn.config import NetConfig
from gleanings.driving.learn.heads import Categorical, TanhGaussian, TanhMixture
from gleanings.driving.learn.networks import Actor, Critic, QNetwork, Trunk

HEADS = (TanhGaussian(), TanhMixture(3), Categorical((3, 5)))
ROWS = np.stack([flat(observation(seed)) for seed in range(4)])


def square(u):
    return (u**2).sum()


def split(key):
    return jax.random.split(key, len(ROWS))


def net(kind):
    return NetConfig(encoder=kind, width=8, trunk=(16, 16), heads=2, latents=3, blocks=1)


@pytest.mark.parametrize("kind", ["deep-set", "attention"])
def test_every_head_on_every_encoder(kind):
    """Parameters, samples, modes, and losses whose gradient reaches all weights that can matter; in one program."""

    @jax.jit
    def run(rows, key):
        found = []
        for head, k in zip(HEADS, jax.random.split(key, len(HEADS)), strict=True):
            make, draw, loss = jax.random.split(k, 3)
            actor = Actor(net(kind), head, SMALL, make)
            params = jax.vmap(actor)(rows)
            u, log_prob = jax.vmap(head.sample)(params, split(draw))

            slope = jax.vmap(jax.grad(head.actor_loss), (0, None, None, 0))(params, square, 0.1, split(loss))
            found.append((params, u, log_prob, jax.vmap(head.mode)(params), slope))
        return found

    for head, (params, u, log_prob, mode, slope) in zip(HEADS, run(ROWS, jax.random.key(0)), strict=True):
        assert params.shape == slope.shape == (4, head.size)
        assert u.shape == mode.shape == (4, 2)
        assert all(np.isfinite(part).all() for part in (params, u, log_prob, mode, slope))
        assert np.abs(u).max() <= 1
        assert np.abs(params).max() < 3
        assert np.abs(slope).max() > 1e-4


@pytest.mark.parametrize("kind", ["deep-set", "attention"])
def test_many_actions_of_one_observation_are_as_one_by_one(kind):
    critic = Critic(net(kind), SMALL, jax.random.key(0))
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 5, 2)).astype(np.float32)
    many = jax.jit(jax.vmap(lambda row, u: jax.vmap(lambda u: critic(row, u))(u)))(ROWS, actions)
    one = jax.jit(jax.vmap(critic))(np.repeat(ROWS, 5, 0), actions.reshape(-1, 2))
    np.testing.assert_allclose(many.reshape(-1), one, atol=1e-5)
    assert np.std(many, axis=1).min() > 1e-4
    assert np.std(many, axis=0).min() > 1e-4


def test_the_observation_is_encoded_once_for_many_actions():
    critic = Critic(net("deep-set"), SMALL, jax.random.key(0))
    text = str(
        jax.make_jaxpr(lambda row, u: jax.vmap(lambda u: critic(row, u))(u))(ROWS[0], np.zeros((9, 2), np.float32))
    )
    with_actions = [line for line in text.splitlines() if "dot_general" in line and "f32[9," in line.split("=")[0]]
    assert len(with_actions) == 3  # of the action, the second hidden layer and the output


def test_critics_reach_negative_values():
    """The output is linear: a constant return of -2 is fitted."""

    def loss(critic, rows, u):
        return jnp.square(jax.vmap(critic)(rows, u) + 2).mean()

    @jax.jit
    def descend(critic, rows, u):
        def step(critic, _):
            slope = eqx.filter_grad(loss)(critic, rows, u)
            return jax.tree.map(lambda p, g: p - 0.05 * g, critic, slope), None

        critic = jax.lax.scan(step, critic, None, length=100)[0]
        return jax.vmap(critic)(rows, u)

    values = descend(Critic(net("deep-set"), SMALL, jax.random.key(1)), ROWS, np.zeros((4, 2), np.float32))
    np.testing.assert_allclose(values, -2, atol=0.05)


def test_values_of_all_actions():
    q = QNetwork(net("deep-set"), SMALL, 7, jax.random.key(0))
    assert jax.jit(jax.vmap(q))(ROWS).shape == (4, 7)
    assert len(q.trunk.norms) == 2
    assert not Actor(net("deep-set"), HEADS[0], SMALL, jax.random.key(0)).trunk.norms


def test_a_trunk_has_a_hidden_layer():
    with pytest.raises(ConfigError, match="hidden layer"):
        Trunk((8,), 2)
