"""What the estimator benchmarks time: one gradient of a trivial f, and one step of a VAE (784-200-200)."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gleanings.estimators import expect

PIXELS, HIDDEN, BATCH = 784, 200, 100


def bare(estimator: Any, shape: tuple[int, ...], batch: int = BATCH) -> tuple[Callable, tuple]:
    """A gradient with f(z) = sum w z, and its arguments: f is next to nothing, so the estimator is timed."""
    weights_key, logits_key, key = jax.random.split(jax.random.key(0), 3)
    weights = jax.random.normal(weights_key, shape)
    logits = jax.random.normal(logits_key, (batch, *shape))
    axes = tuple(range(-len(shape), 0))

    def gradient(logits: jax.Array, weights: jax.Array, key: jax.Array) -> tuple:
        return estimator(lambda z: jnp.sum(z * weights, axes), logits, key)

    return gradient, (logits, weights, key)


def _network(key: jax.Array, inputs: int, outputs: int) -> list[tuple[jax.Array, jax.Array]]:
    sizes = [(inputs, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, outputs)]
    keys = jax.random.split(key, len(sizes))
    return [
        (jax.random.normal(k, size) / jnp.sqrt(size[0]), jnp.zeros(size[1]))
        for k, size in zip(keys, sizes, strict=True)
    ]


def _apply(network: list[tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
    *hidden, (weight, bias) = network
    for w, b in hidden:
        x = jax.nn.leaky_relu(jnp.dot(x, w) + b[(None,) * (x.ndim - 1)], 0.2)
    return jnp.dot(x, weight) + bias[(None,) * (x.ndim - 1)]


def _log_mass(logits: jax.Array, z: jax.Array, binary: bool) -> jax.Array:
    logits = logits[(None,) * (z.ndim - logits.ndim)]
    if binary:
        return jnp.sum(z * logits - jax.nn.softplus(logits), -1)
    return jnp.sum(z * jax.nn.log_softmax(logits), (-2, -1))


def _bound(live: dict[str, Any], z: jax.Array, binary: bool) -> jax.Array:
    """log p(x|z) + log p(z) - log q(z|x), [n, batch], of samples z [n, batch, ...]."""
    latents = live["prior"].ndim
    x = live["x"][(None,) * (z.ndim - latents - 1)]
    pixels = _apply(live["decoder"], (2 * z - 1).reshape(*z.shape[:-latents], -1))
    log_likelihood = jnp.sum(x * pixels - jax.nn.softplus(pixels), -1)
    return log_likelihood + _log_mass(live["prior"], z, binary) - _log_mass(live["logits"], z, binary)


def vae(estimator: Any, shape: tuple[int, ...], seed: int = 0) -> tuple[Callable, tuple]:
    """`step(state, x) -> (state, loss)` and its arguments; latents of `shape` [V, K], or [D] where binary.

    The explicit derivative of log q has mean zero, so log q enters through stopped logits.
    """
    binary, size = len(shape) == 1, math.prod(shape)
    encoder_key, decoder_key, x_key, key = jax.random.split(jax.random.key(seed), 4)
    params = {
        "encoder": _network(encoder_key, PIXELS, size),
        "decoder": _network(decoder_key, size, PIXELS),
        "prior": jnp.zeros(shape),
    }
    adam = optax.adam(1e-3)
    objective = expect(estimator)(lambda live, z: _bound(live, z, binary))

    def loss(params: dict[str, Any], x: jax.Array, key: jax.Array) -> jax.Array:
        logits = _apply(params["encoder"], 2 * x - 1).reshape(x.shape[0], *shape)
        live = {"decoder": params["decoder"], "prior": params["prior"], "x": x}
        return -jnp.mean(objective(live | {"logits": jax.lax.stop_gradient(logits)}, logits, key))

    def step(state: tuple, x: jax.Array) -> tuple:
        params, moments, key = state
        key, draw = jax.random.split(key)
        value, gradient = jax.value_and_grad(loss)(params, x, draw)
        updates, moments = adam.update(gradient, moments)
        return (optax.apply_updates(params, updates), moments, key), value

    x = jax.random.bernoulli(x_key, 0.3, (BATCH, PIXELS)).astype(jnp.float32)
    return step, ((params, adam.init(params), key), x)


def running(executable: Callable, arguments: tuple) -> Callable[[], Any]:
    """Calls a donating `step(state, x)` again and again, each time with the state last returned."""
    state, x = arguments

    def call() -> Any:
        nonlocal state
        state, value = executable(state, x)
        return value

    return call
