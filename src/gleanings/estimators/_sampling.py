"""Sampling building blocks, laid out for speed: categories lead, `[K, *shape]`, so that the rest vectorises.

`shape` is `(*batch, D)`. On CPUs, steps over a leading axis in a scan run several times faster than sorts, cumulative
sums and searches along the last axis (measured by benchmarks/estimators.py).
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped, UInt

# Up to this many categories their ranks are counted, by one comparison with each other one.
_COUNT_LIMIT, _CHUNKS = 64, 4
# Keys sorted at a time: a block that stays in the cache halves the time of the network on CPU.
_BLOCK = 2**14
_IN_BOUNDS = "promise_in_bounds"


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
    return one_hot(first_above(cumulative, word), q.shape[-1], q.dtype)


def first_above(sorted_values: Shaped[Array, "K *shape"], x: Shaped[Array, "n *shape"]) -> Int[Array, "n *shape"]:
    """Index of the first entry above x, by bisection; x lies below the last entry."""
    last = sorted_values.shape[0] - 1

    def halve(index: Array, step: Array) -> tuple[Array, None]:
        probe = index + step - 1
        below = pick(sorted_values, jnp.minimum(probe, last)) <= x
        return jnp.where((probe < last) & below, index + step, index), None

    steps = 2 ** np.arange(last.bit_length(), dtype=np.int32)[::-1]
    return jax.lax.scan(halve, (x > x).astype(jnp.int32), jnp.asarray(steps))[0]


def uniform_midpoints(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Float[Array, "..."]:
    """Uniforms on the grid (i + 1/2) / 2^23, on which u and 1 - u are exact, never 0, 1/2 or 1."""
    bits = random_words(key, shape[:1], shape[1:]) >> 9
    return (bits.astype(dtype) + 0.5) * 2.0**-23


def ascending_ranks(logits: Float[Array, "*shape K"]) -> Int[Array, "*shape K"]:
    """The position of each category when the categories stand by ascending logit.

    The order is exact to about K float32 roundings of the distance from the largest logit. DisARM-IW needs no more:
    except for the last two categories, two or more of at least about the same mass follow. Source: ours.
    """
    k = logits.shape[-1]
    below = (logits - logits.max(-1, keepdims=True)).astype(jnp.float32).reshape(math.prod(logits.shape[:-1]), k)
    bits = jax.lax.bitcast_convert_type(below, jnp.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # integers in the order of the floats
    keys = (ordered & -_power_of_two(k)) | jnp.arange(k, dtype=jnp.int32)
    return (in_chunks(_counted_ranks, keys) if k <= _COUNT_LIMIT else _sorted_ranks(keys)).reshape(logits.shape)


def _counted_ranks(keys: Int[Array, "columns K"]) -> Int[Array, "columns K"]:
    """The number of smaller keys, all of which differ."""
    columns = [jax.lax.slice_in_dim(keys, j, j + 1, axis=1) for j in range(keys.shape[1])]
    return sum(((column < keys).astype(jnp.int32) for column in columns), start=jnp.zeros_like(keys))


def _sorted_ranks(keys: Int[Array, "columns K"]) -> Int[Array, "columns K"]:
    """The same for many categories, which the keys hold in their low bits."""
    columns, k = keys.shape
    default = functools.partial(jax.lax.sort, dimension=0)
    category = jax.lax.platform_dependent(keys.T, cpu=_network_sort, default=default) & (_power_of_two(k) - 1)
    index = category + k * jnp.arange(columns, dtype=jnp.int32)
    position = jnp.repeat(jnp.arange(k, dtype=jnp.int32), columns)
    return scattered(position, index.reshape(-1)).reshape(columns, k)


def scattered(values: Shaped[Array, " size"], index: Int[Array, " size"]) -> Shaped[Array, " size"]:
    """The values in the order of their indices, a permutation."""
    return jnp.zeros_like(values).at[index].set(values, unique_indices=True, mode=_IN_BOUNDS)


def in_chunks(function: Callable[[Array], Array], rows: Shaped[Array, "n *shape"]) -> Shaped[Array, "n *shape"]:
    """`function`, which treats each row alone, over a few chunks of the rows.

    What leaves a loop is computed once, while XLA for CPU may compute other intermediate results, even those behind
    a barrier, again for every use of every entry.
    """
    n = len(rows)
    chunks = min(n, _CHUNKS)
    size = -(-n // max(chunks, 1))
    rows = jnp.pad(rows, [(0, chunks * size - n)] + [(0, 0)] * (rows.ndim - 1))
    return jax.lax.map(function, rows.reshape(chunks, size, *rows.shape[1:])).reshape(rows.shape)[:n]


def _power_of_two(k: int) -> int:
    """The smallest power of two that is at least k."""
    return 2 ** (k - 1).bit_length()


def _network_sort(keys: Int[Array, "K columns"]) -> Int[Array, "K columns"]:
    """Ascending along the leading axis by a sorting network, which on CPU beats XLA's sort."""
    k, columns = keys.shape
    size = _power_of_two(k)
    width = min(max(_BLOCK // size, 1), max(columns, 1))
    blocks = -(-columns // width)
    keys = jnp.pad(keys, [(0, size - k), (0, blocks * width - columns)], constant_values=2**31 - 1)
    keys = jnp.moveaxis(keys.reshape(size, blocks, width), 1, 0)
    keys = jnp.moveaxis(jax.lax.map(_bitonic_sort, keys), 0, 1).reshape(size, blocks * width)
    return keys[:k, :columns]


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


def arrange(values: Float[Array, "*shape K"], rank: Int[Array, "*shape K"] | None) -> Float[Array, "K *shape"]:
    """By position, positions leading; in the given order where `rank` is None."""
    if rank is None:
        return leading(values)
    flat = scattered(values.reshape(-1), _leading_index(rank).reshape(-1))
    return flat.reshape(values.shape[-1], *values.shape[:-1])


def restore(values: Float[Array, "K *shape"], rank: Int[Array, "*shape K"] | None) -> Float[Array, "*shape K"]:
    """The inverse of `arrange`."""
    if rank is None:
        return trailing(values)
    flat = values.reshape(-1)
    return in_chunks(lambda index: flat.at[index].get(mode=_IN_BOUNDS), _leading_index(rank)).reshape(rank.shape)


def _leading_index(rank: Int[Array, "*shape K"]) -> Int[Array, "columns K"]:
    """Where in a flat `[K, *shape]` the category of that rank stands."""
    columns = math.prod(rank.shape[:-1])
    return rank.reshape(columns, rank.shape[-1]) * columns + jnp.arange(columns, dtype=jnp.int32)[:, None]


def one_hot_at(
    position: Int[Array, "n *shape"], rank: Int[Array, "*shape K"] | None, num_categories: int, dtype: jnp.dtype
) -> Float[Array, "n *shape K"]:
    """One-hot code of the categories that stand at `position`."""
    if rank is None:
        return one_hot(position, num_categories, dtype)
    return (position[..., None] == rank).astype(dtype)


def pick(values: Shaped[Array, "K *shape"], index: Int[Array, "n *shape"]) -> Shaped[Array, "n *shape"]:
    """values[index[i, ...], ...], without a check of the index: on CPU that costs as much as the reading."""
    return jnp.take_along_axis(values, index, 0, mode=_IN_BOUNDS)


def random_words(key: Array, leading_shape: tuple[int, ...], shape: tuple[int, ...]) -> UInt[Array, "..."]:
    """Random 32-bit words `[*leading_shape, *shape]`; drawn as a matrix, which compiles four times faster on CPU."""
    matrix = (math.prod(leading_shape), math.prod(shape))
    return jax.random.bits(key, matrix, jnp.uint32).reshape(*leading_shape, *shape)
