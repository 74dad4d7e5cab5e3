"""Coupled bits at one node of a binary decomposition, and the weight of each sample in the leave-one-out gradient.

At a node with probability p of a 1, let N be the samples that reach it, s_i = b_i - p and 1 + R the row sum of the
correlation matrix of their bits. The contribution of sample i is lambda s_i (f_i - mean f), with
lambda = 1 / (n - 1 - R). Source: ours; for n = 2 it is arXiv 2106.08056, section 3.

The law of the bits is exchangeable among N, so samples are drawn without names: those at a node fill a run of *slots*
of which the last take the bit 1, and a random permutation names the slots afterwards, another one for every variable.

Probabilities come in pairs (p, 1 - p), each with full relative precision: near 1 a difference would lose it.
"""

import math
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt

from gleanings.estimators._sampling import scattered

Coupling = Literal["systematic", "pairs"]


class Split(NamedTuple):
    """P(bit = 1) and P(bit = 0) at nodes."""

    one: Float[Array, "*shape"]
    zero: Float[Array, "*shape"]


def split_masses(one: Float[Array, "*shape"], zero: Float[Array, "*shape"]) -> Split:
    """The split of two masses; nodes without mass, which no sample reaches, give 0."""
    total = one + zero
    safe = jnp.where(total > 0, total, 1)
    return Split(one / safe, jnp.where(total > 0, zero / safe, 1))


def masses(logits: Float[Array, "*shape K"]) -> Float[Array, "*shape K"]:
    """exp(logits), scaled so that the largest is 1."""
    return jnp.exp(logits - logits.max(-1, keepdims=True))


def uniform(words: UInt[Array, "*shape"], dtype: jnp.dtype) -> Float[Array, "*shape"]:
    """Uniforms i / 2^24 in [0, 1) from random words."""
    return (words >> 8).astype(dtype) * 2.0**-24


def count_ones(
    one: Float[Array, "*#shape"], size: Int[Array, "*shape"], u: Float[Array, "*shape"]
) -> tuple[Int[Array, "*shape"], Float[Array, "*shape"]]:
    """How many of `size` systematically coupled bits are 1: size * p rounded up with probability frac(size * p).

    Also what is left of the uniform u, a uniform that does not depend on that number. Each such use takes from its 24
    bits what the number tells. For two bits the coupling is antithetic. Source: ours.
    """
    expected = size.astype(one.dtype) * one
    floor = jnp.floor(expected)
    fraction = expected - floor
    up = u >= 1 - fraction
    ones = jnp.minimum(floor.astype(jnp.int32) + up, size)
    return ones, _below_one(jnp.where(up, (u - 1 + fraction) / jnp.where(up, fraction, 1), u / (1 - fraction)))


def lone_rank(
    size: Int[Array, "*shape"], ones: Int[Array, "*shape"], lone_one: Bool[Array, "*shape"], v: Float[Array, "*shape"]
) -> tuple[Int[Array, "*shape"], Float[Array, "*shape"]]:
    """The rank, among `size` slots, of the one sample without a partner, or -1; also what is left of the uniform v.

    It stands at a random one (uniform v) of the slots that take its bit: its lambda is another than that of the
    others, which must tell nothing about its later bits.
    """
    count = jnp.where(lone_one, ones, size - ones)
    scaled = v * count.astype(v.dtype)
    index = jnp.minimum(scaled.astype(jnp.int32), count - 1)
    is_odd = size % 2 == 1
    rank = jnp.where(is_odd, jnp.where(lone_one, size - ones, 0) + index, -1)
    return rank, jnp.where(is_odd, _below_one(scaled - index.astype(v.dtype)), v)


def _below_one(u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return jnp.minimum(u, 1 - 2.0**-24)


def weight_of(split: Split, size: Int[Array, "*#shape"] | int, num_draws: int) -> Float[Array, "*shape"]:
    """lambda of samples whose bits are coupled in sets of `size`. Source: ours."""
    return 1 / (num_draws - 1 - excess_correlation(split, jnp.asarray(size, split.one.dtype)))


def excess_correlation(split: Split, size: Float[Array, "*#shape"]) -> Float[Array, "*shape"]:
    """R in [-1, 0], the sum of the correlations of a bit with its partners, for systematic coupling of `size` bits.

    fr (1 - fr) / (c p (1 - p)) - 1 with fr = frac(c p), the least that any coupling allows. Written in the smaller of
    p and 1 - p, which is finite for every split. Source: ours.
    """
    smaller, larger = jnp.minimum(split.one, split.zero), jnp.maximum(split.one, split.zero)
    t = size * smaller
    fraction = t - jnp.floor(t)
    general = fraction * (1 - fraction) / (jnp.maximum(t, 1) * larger) - 1
    return jnp.where(size == 0, 0, jnp.where(t < 1, -(size - 1) * smaller / larger, general))


def name_slots(
    words: UInt[Array, "n *shape"], position: Int[Array, "n *shape"]
) -> tuple[Int[Array, "n *shape"], Int[Array, "n *shape"]]:
    """The slot of each sample, a random permutation for each entry of `shape`, and the position in that slot.

    The permutation is that of the ranks of random words.
    """
    n = len(words)
    slot = jnp.arange(n, dtype=jnp.int32).reshape(n, *[1] * (words.ndim - 1))
    smaller = [(other < words) | ((other == words) & (i < slot)) for i, other in enumerate(words)]
    name = sum((x.astype(jnp.int32) for x in smaller), start=jnp.zeros_like(position))
    by_name = scatter_rows(position * n + slot, name)
    return by_name % n, by_name // n


def scatter_rows(values: Shaped[Array, "n *shape"], row: Int[Array, "n *shape"]) -> Shaped[Array, "n *shape"]:
    """The values of each column in the order of their rows, a permutation."""
    columns = math.prod(values.shape[1:])
    index = row.reshape(len(row), columns) * columns + jnp.arange(columns, dtype=jnp.int32)
    return scattered(values.reshape(-1), index.reshape(-1)).reshape(values.shape)
