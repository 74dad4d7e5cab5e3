"""Encoders: order and padding of rows do not count, empty sets are finite; against loops over the rows there are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.driving.learn._observations import SMALL, flat, observation

from gleanings.core.errors import ConfigError
from gleanings.driving.learn.config import NetConfig
from gleanings.driving.learn.encoders import Attention, DeepSetEncoder, Group, SetNet, inputs, make_encoder
from gleanings.driving.learn.layers import Dense, Norm, initialised
from gleanings.driving.observation import unflatten

KINDS = ("deep-set", "attention", "flat")
GROUPS = ("others", "road", "lights")


def build(kind, use_route=True):
    net = NetConfig(encoder=kind, width=8, trunk=(16,), heads=2, latents=3, blocks=1, use_route=use_route)
    return initialised(make_encoder(net, SMALL), jax.random.key(0))


@jax.jit
def encoded(encoder, rows):
    return jax.vmap(encoder)(rows)


def features(encoder, *seen):
    """Of six observations, always, so that one program serves all tests."""
    rows = [flat(one) for one in seen]
    return np.asarray(encoded(encoder, np.stack(rows + [rows[0]] * (6 - len(rows)))))[: len(rows)]


def permuted(seen, seed):
    rng, changed = np.random.default_rng(seed), {}
    for name in GROUPS:
        order = rng.permutation(len(getattr(seen, name)))
        changed |= {key: getattr(seen, key)[order] for key in (name, f"{name}_mask")}
    return seen._replace(**changed)


def with_padding_filled(seen):
    """Another number in every row that the mask leaves out."""
    changed = {}
    for name in (*GROUPS, "path"):
        rows, mask = getattr(seen, name), getattr(seen, f"{name}_mask")
        changed[name] = np.where(mask[..., None], rows, 3.0).astype(np.float32)
    return seen._replace(**changed)


def emptied(seen, *names):
    return seen._replace(
        **{name: np.zeros_like(getattr(seen, name)) for name in names},
        **{f"{name}_mask": np.zeros_like(getattr(seen, f"{name}_mask")) for name in names},
    )


@pytest.mark.parametrize("kind", KINDS)
def test_order_and_padding_do_not_count(kind):
    encoder = build(kind)
    for seed in range(10):
        seen = observation(seed)
        a, b, c, other = features(
            encoder, seen, permuted(seen, seed), with_padding_filled(seen), observation(seed + 10)
        )
        if kind != "flat":
            np.testing.assert_allclose(b, a, atol=1e-5)
            np.testing.assert_allclose(c, a, atol=1e-5)
        assert np.abs(other - a).max() > 1e-2
        assert a.shape == (encoder.size,)


@pytest.mark.parametrize("kind", KINDS)
def test_empty_sets_and_empty_observations_are_finite(kind):
    encoder, seen = build(kind), observation(0)
    everything = jax.tree.map(np.zeros_like, seen)
    cases = [emptied(seen, name) for name in (*GROUPS, "path")] + [emptied(seen, *GROUPS, "path"), everything]
    values = features(encoder, *cases)
    slopes = jax.jit(jax.grad(lambda net, rows: jnp.square(jax.vmap(net)(rows)).sum()))
    gradient = slopes(encoder, np.stack([flat(case) for case in cases]))
    assert np.isfinite(values).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    if kind == "deep-set":
        width = encoder.ego.weight.shape[1]
        for case, first in zip(values, (1, 3, 5), strict=False):
            assert (case[first * width : (first + 2) * width] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_route_nothing_of_it_is_seen(kind):
    with_route, without = build(kind), build(kind, use_route=False)
    assert jax.tree.map(jnp.shape, jax.tree.leaves(with_route)) == jax.tree.map(jnp.shape, jax.tree.leaves(without))
    seen, other = observation(1), observation(2)
    ego = seen.ego.copy()
    ego[4:6] = other.ego[4:6]
    moved = seen._replace(ego=ego, path=other.path, path_mask=other.path_mask)
    a, b = features(without, seen, moved)
    np.testing.assert_array_equal(a, b)
    a, b = features(with_route, seen, moved)
    assert np.abs(a - b).max() > 1e-2


def test_the_flat_encoder_scales_what_there_is():
    seen = observation(3)
    found = unflatten(features(build("flat"), seen)[0], SMALL)
    np.testing.assert_allclose(found.ego[:2], seen.ego[:2] / 10, rtol=1e-5)
    np.testing.assert_allclose(found.road[:, :2], seen.road_mask[:, None] * seen.road[:, :2] / 20, rtol=1e-5)
    np.testing.assert_allclose(found.others[..., 4:6], seen.others_mask[..., None] * seen.others[..., 4:6] / 10)
    np.testing.assert_array_equal(found.path_mask, seen.path_mask)


@pytest.mark.parametrize("kind", KINDS)
def test_leading_axes_are_a_batch(kind):
    encoder = build(kind)
    rows = np.stack([flat(observation(seed)) for seed in range(6)])
    found = jax.jit(lambda encoder, rows: encoder(rows))(encoder, rows.reshape(2, 3, -1))
    np.testing.assert_allclose(found.reshape(6, -1), encoded(encoder, rows), atol=1e-5)


def test_inputs_are_scaled_and_keep_kinds_apart():
    seen = observation(3)
    found = jax.jit(inputs, static_argnums=(1, 2))(flat(seen), SMALL, True)
    np.testing.assert_allclose(found.ego[:2], seen.ego[:2] / 10, rtol=1e-5)
    np.testing.assert_allclose(found.road.rows[:, :2], seen.road[:, :2] / 20, rtol=1e-5)
    np.testing.assert_array_equal(found.road.rows[:, 5:].argmax(1) * seen.road_mask, seen.road[:, 5])
    there = seen.others_mask.any(-1)
    np.testing.assert_array_equal(found.others.rows[:, -4:].argmax(1)[there], seen.others[there, 0, 8])
    np.testing.assert_allclose(found.others.rows[:, 6:8], seen.others[:, 1, :2] / 20, rtol=1e-5)
    np.testing.assert_array_equal(found.others.mask, there)


def test_a_set_is_the_maximum_and_mean_over_its_rows():
    net = initialised(SetNet(5, 8), jax.random.key(0))
    rng = np.random.default_rng(0)
    rows, mask = rng.normal(size=(6, 5)).astype(np.float32), np.array([1, 0, 1, 1, 0, 0], bool)
    found = jax.jit(lambda rows, mask: net(Group(rows, mask)))(rows, mask)
    hidden = []
    for row in rows[mask]:
        first = np.maximum(row @ net.first.weight + net.first.bias, 0)
        hidden.append(np.maximum(first @ net.second.weight + net.second.bias, 0))
    np.testing.assert_allclose(found, np.concatenate([np.max(hidden, 0), np.mean(hidden, 0)]), atol=1e-5)


def test_attention_is_a_loop_over_the_tokens_there_are():
    net = initialised(Attention(8, 2), jax.random.key(1))
    rng = np.random.default_rng(1)
    queries, tokens = (rng.normal(size=(n, 8)).astype(np.float32) for n in (3, 5))
    mask = np.array([1, 0, 1, 0, 1], bool)
    attend = jax.jit(lambda *parts: net(*parts))
    read = np.zeros((3, 8))
    for i, query in enumerate(queries):
        for head in (slice(0, 4), slice(4, 8)):
            q = (query @ net.query.weight)[head]
            keys_values = [token @ net.key_value.weight for token in tokens[mask]]
            weights = np.exp([q @ kv[:8][head] / 2 for kv in keys_values])
            read[i, head] = sum(w * kv[8:][head] for w, kv in zip(weights, keys_values, strict=True)) / weights.sum()
    np.testing.assert_allclose(attend(queries, tokens, mask), read @ net.out.weight + net.out.bias, atol=1e-5)
    nothing = attend(queries, tokens, np.zeros(5, bool))
    np.testing.assert_array_equal(nothing, np.broadcast_to(net.out.bias, (3, 8)))
    huge = attend(1e4 * queries, tokens, mask)
    assert np.isfinite(huge).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_one_matrix_product_per_layer(kind):
    """No product with weights has a batch axis of its own."""
    encoder = build(kind)
    text = str(jax.make_jaxpr(jax.vmap(encoder))(np.zeros((7, len(flat(observation(0)))), np.float32)))
    layers = [node for node in jax.tree.leaves(encoder, is_leaf=is_dense) if is_dense(node)]
    products = [line for line in text.splitlines() if "dot_general" in line]
    spare = 4 if kind == "attention" else 0  # scores and readings of two attentions
    latents = kind == "attention"  # a weight that is no layer
    assert len(products) == len(layers) - latents + spare


def is_dense(node):
    return isinstance(node, Dense)


def test_layers():
    net = initialised((Dense(200, 300), Dense(50, 400, gain=0.1), Norm(6)), jax.random.key(0))
    for layer, deviation in zip(net[:2], (0.1, 0.02), strict=True):
        assert abs(np.std(layer.weight) / deviation - 1) < 0.03
        assert (np.asarray(layer.bias) == 0).all()
    row = np.random.default_rng(0).normal(3, 2, (2, 6)).astype(np.float32)
    found = jax.jit(lambda row: net[2](row))(row)
    np.testing.assert_allclose(found, (row - row.mean(1, keepdims=True)) / row.std(1, keepdims=True), atol=1e-4)


def test_settings_that_do_not_fit():
    with pytest.raises(ConfigError, match="heads"):
        make_encoder(NetConfig(encoder="attention", width=10, heads=4), SMALL)
    for wrong in ({"width": 0}, {"heads": 0}, {"latents": 0}, {"blocks": -1}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is"):
            NetConfig(**wrong)
    assert isinstance(make_encoder(NetConfig(), SMALL), DeepSetEncoder)


@pytest.mark.parametrize("kind", KINDS)
def test_prepared_observations_stand_for_observations(kind):
    encoder, rows = build(kind), np.stack([flat(observation(seed)) for seed in range(6)])
    np.testing.assert_array_equal(
        encoded(encoder, jax.jit(lambda encoder, rows: encoder.prepared(rows))(encoder, rows)), encoded(encoder, rows)
    )


def test_the_slope_of_a_set_is_that_of_its_maximum_and_mean():
    net = initialised(SetNet(3, 4), jax.random.key(1))
    rows = np.random.default_rng(2).normal(size=(5, 6, 3)).astype(np.float32)
    mask = np.arange(6) < np.arange(5)[:, None]

    def plain(net, rows):
        hidden = jax.nn.relu(net.second(jax.nn.relu(net.first(rows)))) * mask[..., None]
        return jnp.concatenate([hidden.max(1), hidden.sum(1) / jnp.maximum(mask.sum(1, keepdims=True), 1)], -1)

    slopes = [
        jax.jit(jax.grad(lambda net, rows, f=f: jnp.sin(f(net, rows)).sum(), (0, 1)))(net, rows)
        for f in (plain, lambda net, rows: net(Group(rows, mask)))
    ]
    for a, b in zip(*map(jax.tree.leaves, slopes), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
