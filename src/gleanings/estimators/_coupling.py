"""Coupled bits at one node of a binary decomposition, and the weight of each sample in the leave-one-out gradient.

At a node with probability p of a 1, let N be the samples that reach it, s_i = b_i - p and 1 + R the row sum of the
correlation matrix of their bits. The contribution of sample i is lambda s_i (f_i - mean f), with
lambda = 1 / (n - 1 - R). Source: ours; for n = 2 it is arXiv 2106.08056, section 3.

The law of the bits is exchangeable among N, so samples are drawn without names: those at a node fill a run of *slots*
of which the last take the bit 1, and a random permutation names the slots afterwards, another one for every variable.

Probabilities come in pairs (p, 1 - p), each with full relative precision: near 1 a difference would lose it.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt

from gleanings.estimators._sampling import pick

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

    Also that probability; for two bits the coupling is antithetic. Source: ours.
    """
    expected = size.astype(one.dtype) * one
    floor = jnp.floor(expected)
    fraction = expected - floor
    return jnp.minimum(floor.astype(jnp.int32) + (u >= 1 - fraction), size), fraction


def lone_rank(
    size: Int[Array, "*shape"], ones: Int[Array, "*shape"], lone_one: Bool[Array, "*shape"], v: Float[Array, "*shape"]
) -> Int[Array, "*shape"]:
    """The rank, among `size` slots, of the one sample without a partner; -1 where all have one.

    It stands at a random one (uniform v) of the slots that take its bit: its lambda is another than that of the
    others, which must tell nothing about its later bits.
    """
    first = jnp.where(lone_one, size - ones, 0)
    count = jnp.where(lone_one, ones, size - ones)
    rank = first + jnp.minimum((v * count.astype(v.dtype)).astype(jnp.int32), count - 1)
    return jnp.where(size % 2 == 1, rank, -1)


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
    index = jnp.arange(len(words), dtype=jnp.int32)
    column = index.reshape(-1, *[1] * (words.ndim - 1))

    def name(sample: tuple[Array, Array]) -> tuple[Array, Array]:
        i, word = sample
        slot = ((words < word) | ((words == word) & (column < i))).sum(0, dtype=jnp.int32)
        return slot, pick(position, slot[None])[0]

    return jax.lax.map(name, (index, words))


def by_slot(values: Float[Array, "n *shape"], slot: Int[Array, "n *shape"]) -> Float[Array, "n *shape"]:
    """Values of the samples in the order of their slots."""
    places = (slot, *jnp.indices(slot.shape, dtype=jnp.int32, sparse=True)[1:])
    return jnp.zeros_like(values).at[places].set(values, unique_indices=True, mode="promise_in_bounds")
