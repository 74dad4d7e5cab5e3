"""Sampling building blocks, laid out for speed: categories lead, `[K, *shape]`, so that the rest vectorises.

`shape` is `(*batch, D)`. On CPUs, steps over a leading axis in a scan run several times faster than sorts, cumulative
sums and searches along the last axis (measured by benchmarks/estimators.py).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped, UInt

# Keys sorted at a time: a block that stays in the cache halves the time of the network on CPU.
_BLOCK = 2**14


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
    word = random_words(key, (num_draws,), q.shape[:-1]) >> 2
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
    return jax.lax.scan(halve, jnp.zeros_like(x), jnp.asarray(steps))[0]


def uniform_midpoints(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Float[Array, "..."]:
    """Uniforms on the grid (i + 1/2) / 2^23, on which u and 1 - u are exact, never 0, 1/2 or 1."""
    bits = random_words(key, shape[:1], shape[1:]) >> 9
    return (bits.astype(dtype) + 0.5) * 2.0**-23


def ascending_order(logits: Float[Array, "*shape K"]) -> Int[Array, "*shape K"]:
    """The category at each position when the categories stand by ascending logit.

    On CPU the order is exact to about K relative float32 roundings and in the last pair, which DisARM-IW needs; the
    other estimators use the order only to reduce variance. Source: ours.
    """
    k = logits.shape[-1]
    columns = leading(logits).reshape(k, math.prod(logits.shape[:-1]))
    category = jax.lax.platform_dependent(columns, cpu=_network_order, default=_stable_order)
    return trailing(category.reshape(k, *logits.shape[:-1]))


def _stable_order(logits: Float[Array, "K columns"]) -> Int[Array, "K columns"]:
    # The index as a function of the logits, so that under shard_map it varies as they do.
    index = jnp.arange(logits.shape[0], dtype=jnp.int32)[:, None] + (logits != logits)
    return jax.lax.sort((logits, index), dimension=0, num_keys=1)[1]


def _network_order(logits: Float[Array, "K columns"]) -> Int[Array, "K columns"]:
    """Categories by ascending logit: a sorting network over integer keys that hold the category in their low bits."""
    k, columns = logits.shape
    mask = 2 ** (k - 1).bit_length() - 1
    bits = jax.lax.bitcast_convert_type(logits.astype(jnp.float32), jnp.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # integers in the order of the floats
    keys = (ordered & ~mask) | jnp.arange(k, dtype=jnp.int32)[:, None]
    width = min(max(_BLOCK // (mask + 1), 1), max(columns, 1))
    blocks = -(-columns // width)
    padding = [(0, mask + 1 - k), (0, blocks * width - columns)]
    keys = jnp.pad(keys, padding, constant_values=2**31 - 1)
    keys = jnp.moveaxis(keys.reshape(mask + 1, blocks, width), 1, 0)
    keys = jnp.moveaxis(jax.lax.map(_bitonic_sort, keys), 0, 1).reshape(mask + 1, blocks * width)
    category = (keys & mask)[:k, :columns]
    if k < 2:
        return category
    last = jnp.take_along_axis(logits, category[-2:], 0)
    return category.at[-2:].set(jnp.where(last[0] > last[1], category[-2:][::-1], category[-2:]))


def _bitonic_sort(keys: Int[Array, "K *shape"]) -> Int[Array, "K *shape"]:
    """Ascending along the leading axis, whose length is a power of two. Source: Batcher 1968."""
    partners, keeps_smaller = _bitonic_network(keys.shape[0])

    def compare(x: Array, stage: tuple[Array, Array]) -> tuple[Array, None]:
        partner, smaller = stage
        other = x[partner]
        smaller = smaller.reshape(-1, *[1] * (x.ndim - 1))
        return jnp.where(smaller, jnp.minimum(x, other), jnp.maximum(x, other)), None

    return jax.lax.scan(compare, keys, (jnp.asarray(partners), jnp.asarray(keeps_smaller)))[0]


def _bitonic_network(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Partner of each row and whether it keeps the smaller key, `[stages, size]`."""
    rows = np.arange(size)
    blocks = 2 ** np.arange(1, size.bit_length())
    stages = [(block, 2**j) for block in blocks for j in range(int(block).bit_length() - 2, -1, -1)]
    partners = np.array([rows ^ distance for _, distance in stages], np.int32)
    smaller = np.array([((rows & d) == 0) == ((rows & block) == 0) for block, d in stages], bool)
    return partners.reshape(-1, size), smaller.reshape(-1, size)


def arrange(values: Float[Array, "*shape K"], category: Int[Array, "*shape K"] | None) -> Float[Array, "K *shape"]:
    """By position, positions leading; in the given order where `category` is None."""
    return leading(values if category is None else jnp.take_along_axis(values, category, -1))


def restore(values: Float[Array, "K *shape"], category: Int[Array, "*shape K"] | None) -> Float[Array, "*shape K"]:
    """The inverse of `arrange`."""
    values = trailing(values)
    if category is None:
        return values
    rows = (math.prod(values.shape[:-1]), values.shape[-1])
    at = (jnp.arange(rows[0])[:, None], category.reshape(rows))
    return jnp.zeros(rows, values.dtype).at[at].set(values.reshape(rows), unique_indices=True).reshape(values.shape)


def one_hot_at(
    position: Int[Array, "n *shape"], category: Int[Array, "*shape K"] | None, num_categories: int, dtype: jnp.dtype
) -> Float[Array, "n *shape K"]:
    """One-hot code of the categories that stand at `position`."""
    if category is not None:
        position = jnp.take_along_axis(category[None], position[..., None], -1)[..., 0]
    return one_hot(position, num_categories, dtype)


def random_words(key: Array, leading_shape: tuple[int, ...], shape: tuple[int, ...]) -> UInt[Array, "..."]:
    """Random 32-bit words `[*leading_shape, *shape]`; drawn as a matrix, which compiles four times faster on CPU."""
    matrix = (math.prod(leading_shape), math.prod(shape))
    return jax.random.bits(key, matrix, jnp.uint32).reshape(*leading_shape, *shape)
