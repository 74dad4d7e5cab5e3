"""Sampling building blocks, laid out for speed: categories lead, `[K, *shape]`, so that the rest vectorises.

`shape` is `(*batch, D)`. On CPUs, steps over a leading axis in a scan run several times faster than sorts, cumulative
sums and searches along the last axis (measured by benchmarks/estimators.py).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped


class Order(NamedTuple):
    """An order of the categories: `category[j]` stands at position j, category k at position `position[k]`."""

    category: Int[Array, "K *shape"]
    position: Int[Array, "K *shape"]


def leading(x: Shaped[Array, "*shape K"]) -> Shaped[Array, "K *shape"]:
    """Categories first."""
    return jnp.moveaxis(x, -1, 0)


def trailing(x: Shaped[Array, "K *shape"]) -> Shaped[Array, "*shape K"]:
    """Categories last."""
    return jnp.moveaxis(x, 0, -1)


def one_hot(index: Int[Array, "*shape"], num_categories: int, dtype: jnp.dtype) -> Float[Array, "*shape K"]:
    """One-hot code of `index`."""
    return (index[..., None] == jnp.arange(num_categories, dtype=index.dtype)).astype(dtype)


def sample_categorical(q: Float[Array, "*batch D K"], key: Array, num_draws: int) -> Float[Array, "n *batch D K"]:
    """Independent one-hot draws from the probabilities `q`, `[n, *batch, D, K]`.

    Inversion of the distribution function in integers of 30 bits: sums of integers are exact, so a category of
    probability 0 is never drawn, and one random word a draw suffices. Source: ours.
    """
    mass = leading(jnp.round(q * 2.0**30).astype(jnp.int32))
    _, cumulative = jax.lax.scan(lambda total, m: (total + m, total + m), jnp.zeros_like(mass[0]), mass)
    word = jax.random.bits(key, (num_draws, *q.shape[:-1]), jnp.uint32) >> 2
    word = jnp.minimum(word.astype(jnp.int32), cumulative[-1] - 1)
    return one_hot(_first_above(cumulative, word), q.shape[-1], q.dtype)


def _first_above(sorted_values: Int[Array, "K *shape"], x: Int[Array, "n *shape"]) -> Int[Array, "n *shape"]:
    """Index of the first entry above x, by bisection; x lies below the last entry."""
    last = sorted_values.shape[0] - 1

    def halve(index: Array, step: Array) -> tuple[Array, None]:
        probe = index + step - 1
        below = jnp.take_along_axis(sorted_values, jnp.minimum(probe, last), 0) <= x
        return jnp.where((probe < last) & below, index + step, index), None

    steps = 2 ** np.arange(last.bit_length(), dtype=np.int32)[::-1]
    return jax.lax.scan(halve, jnp.zeros(x.shape, jnp.int32), steps)[0]


def uniform_midpoints(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Float[Array, "..."]:
    """Uniforms on the grid (i + 1/2) / 2^23, on which u and 1 - u are exact, never 0, 1/2 or 1."""
    bits = jax.random.bits(key, shape, jnp.uint32) >> 9
    return (bits.astype(dtype) + 0.5) * 2.0**-23


def ascending_order(logits: Float[Array, "K *shape"]) -> Order:
    """Categories by ascending logit, exact to about K relative float32 roundings, and exact in the last two.

    A bitonic network over integer keys that carry the category in their low bits; ties go by category. DisARM-IW needs
    the last pair in exact order; the others use the order only to reduce variance. Source: Batcher 1968.
    """
    k = logits.shape[0]
    shape = logits.shape[1:]
    mask = 2 ** (k - 1).bit_length() - 1
    bits = jax.lax.bitcast_convert_type(logits.astype(jnp.float32), jnp.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # integers in the order of the floats
    index = jnp.arange(k, dtype=jnp.int32).reshape(k, *[1] * len(shape))
    keys = jnp.pad((ordered & ~mask) | index, [(0, mask + 1 - k)] + [(0, 0)] * len(shape), constant_values=2**31 - 1)
    category = (_bitonic_sort(keys) & mask)[:k]
    category = _order_last_two(category, logits)
    flat = category.reshape(k, -1)
    position = jnp.zeros_like(flat).at[flat, jnp.arange(flat.shape[1])]
    position = position.set(jnp.arange(k, dtype=jnp.int32)[:, None], unique_indices=True)
    return Order(category, position.reshape(logits.shape))


def _order_last_two(category: Array, logits: Array) -> Array:
    if category.shape[0] < 2:
        return category
    last = jnp.take_along_axis(logits, category[-2:], 0)
    return category.at[-2:].set(jnp.where(last[0] > last[1], category[-2:][::-1], category[-2:]))


def _bitonic_sort(keys: Int[Array, "K *shape"]) -> Int[Array, "K *shape"]:
    """Ascending along the leading axis, whose length is a power of two."""
    partners, keeps_smaller = _bitonic_network(keys.shape[0])
    if not len(partners):
        return keys

    def compare(x: Array, stage: tuple[Array, Array]) -> tuple[Array, None]:
        partner, smaller = stage
        other = x[partner]
        smaller = smaller.reshape(-1, *[1] * (x.ndim - 1))
        return jnp.where(smaller, jnp.minimum(x, other), jnp.maximum(x, other)), None

    return jax.lax.scan(compare, keys, (partners, keeps_smaller))[0]


def _bitonic_network(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Partner of each row and whether it keeps the smaller key, `[stages, size]`."""
    rows = np.arange(size)
    blocks = 2 ** np.arange(1, size.bit_length())
    stages = [(block, 2**j) for block in blocks for j in range(int(block).bit_length() - 2, -1, -1)]
    partners = np.array([rows ^ distance for _, distance in stages], np.int32)
    smaller = np.array([((rows & d) == 0) == ((rows & block) == 0) for block, d in stages])
    return partners, smaller


def arrange(values: Shaped[Array, "K *shape"], order: Order | None) -> Shaped[Array, "K *shape"]:
    """By position; the identity where `order` is None."""
    return values if order is None else jnp.take_along_axis(values, order.category, 0)


def restore(values: Shaped[Array, "K *shape"], order: Order | None) -> Shaped[Array, "K *shape"]:
    """By category: the inverse of `arrange`."""
    return values if order is None else jnp.take_along_axis(values, order.position, 0)


def one_hot_at(
    position: Int[Array, "n *shape"], order: Order | None, num_categories: int, dtype: jnp.dtype
) -> Float[Array, "n *shape K"]:
    """One-hot code of the categories that stand at `position`."""
    if order is None:
        return one_hot(position, num_categories, dtype)
    return one_hot(jnp.take_along_axis(order.category, position, 0), num_categories, dtype)
