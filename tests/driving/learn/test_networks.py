"""Networks: every head with every encoder, sizes, and what critics can reach."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.driving.learn._observations import SMALL, flat, observation

from gleanings.core.errors import ConfigError
from gleanings.driving.learn.config import NetConfig
from gleanings.driving.learn.heads import Categorical, TanhGaussian, TanhMixture
from gleanings.driving.learn.layers import product
from gleanings.driving.learn.networks import Actor, Critic, QNetwork, Trunk

HEADS = (TanhGaussian(), TanhMixture(3), Categorical((3, 5)))
ROWS = np.stack([flat(observation(seed)) for seed in range(4)])


def split(key):
    return jax.random.split(key, len(ROWS))


def net(kind):
    return NetConfig(encoder=kind, width=8, trunk=(16, 16), heads=2, latents=3, blocks=1)


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 40), (128, 40), (256, 9), (128, 3), (6, 1)])
def test_gradients_of_a_layer_are_those_of_the_plain_product(inputs, outputs):
    """Narrow layers, and those whose rows share places in the cache, take another way; for many seeds too."""
    rng = np.random.default_rng(inputs + outputs)
    rows, weight, slope = (rng.normal(size=size) for size in ((3, 7, inputs), (3, inputs, outputs), (3, 7, outputs)))

    def found(x, w, slope):
        y, back = jax.vjp(product, x, w)
        return (y, *back(slope))

    wanted = (rows @ weight, slope @ weight.mT, rows.mT @ slope)
    for way in (lambda *given: [found(*one) for one in zip(*given, strict=True)], jax.vmap(found)):
        values = way(*(jnp.asarray(value, jnp.float32) for value in (rows, weight, slope)))
        for one, value in zip(wanted, zip(*values, strict=True) if isinstance(values, list) else values, strict=True):
            np.testing.assert_allclose(np.stack(value), one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["deep-set", "attention", "flat"])
@pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)
def test_every_head_on_every_encoder_fits(head, kind):
    """Shapes and types of all that a learner asks of an actor; numbers are in the tests of heads and encoders."""

    def run(rows, key):
        make, draw, loss = jax.random.split(key, 3)
        actor = Actor(net(kind), head, SMALL, make)
        params = jax.vmap(actor)(rows)
        u, log_prob = jax.vmap(head.sample)(params, split(draw))
        label = jax.vmap(head.log_prob, (0, 0, None))(params, u, jnp.ones(2, bool))
        value = functools.partial(Critic(net(kind), SMALL, jax.random.clone(make)), rows[0])
        slope = jax.vmap(jax.grad(head.actor_loss), (0, None, None, 0))(params, value, 0.1, split(loss))
        return params, slope, u, jax.vmap(head.mode)(params), log_prob, label

    found = jax.eval_shape(run, ROWS, jax.random.key(0))
    assert [part.shape for part in found] == [(4, head.size)] * 2 + [(4, 2)] * 2 + [(4,)] * 2
    assert {part.dtype for part in found} == {np.dtype(np.float32)}


def test_critics_take_many_actions_and_reach_values_of_both_signs():
    """Many actions of one observation as one by one; the output is linear, so that it turns with its weights."""
    critic = Critic(net("deep-set"), SMALL, jax.random.key(0))
    turned = eqx.tree_at(lambda c: c.trunk.out.weight, critic, replace_fn=lambda weight: -weight)

    @jax.jit
    def run(critic, rows, u):
        many = jax.vmap(lambda row: jax.vmap(lambda u: critic(row, u))(u))(rows)
        return many, jax.vmap(critic)(jnp.repeat(rows, len(u), 0), jnp.tile(u, (len(rows), 1)))

    actions = np.random.default_rng(0).uniform(-1, 1, (4, 2)).astype(np.float32)
    many, one = run(critic, ROWS, actions)
    np.testing.assert_allclose(many.reshape(-1), one, atol=1e-5)
    assert np.std(many, axis=1).min() > 1e-4
    assert np.std(many, axis=0).min() > 1e-4
    np.testing.assert_allclose(run(turned, ROWS, actions)[1], -one, atol=1e-6)


def test_a_critic_without_normalisation_is_products_and_rectifiers():
    critic = Critic(dataclasses.replace(net("flat"), norm=False), SMALL, jax.random.key(0))
    u = np.random.default_rng(0).uniform(-1, 1, (len(ROWS), 2)).astype(np.float32)
    first, second = critic.trunk.layers
    rows, u = jax.device_put((ROWS, u))
    hidden = np.maximum(critic.encoder(rows) @ first.weight + u @ critic.action.weight + first.bias, 0)
    hidden = np.maximum(hidden @ second.weight + second.bias, 0)
    np.testing.assert_allclose(critic(rows, u), (hidden @ critic.trunk.out.weight)[:, 0], atol=1e-5)


def test_the_observation_is_encoded_once_for_many_actions():
    critic = Critic(net("deep-set"), SMALL, jax.random.key(0))
    text = str(
        jax.make_jaxpr(lambda row, u: jax.vmap(lambda u: critic(row, u))(u))(ROWS[0], np.zeros((9, 2), np.float32))
    )
    with_actions = [line for line in text.splitlines() if "dot_general" in line and "f32[9," in line.split("=")[0]]
    assert len(with_actions) == 3  # of the action, the second hidden layer and the output


def test_values_of_all_actions():
    def run(rows, key):
        return jax.vmap(QNetwork(net("deep-set"), SMALL, 7, key))(rows)

    assert jax.eval_shape(run, ROWS, jax.random.key(0)).shape == (4, 7)


def test_a_trunk_has_a_hidden_layer():
    with pytest.raises(ConfigError, match="hidden layer"):
        Trunk((8,), 2)
