"""Coupled bits at one node of a binary decomposition, and the weight of each sample in the leave-one-out gradient.

At a node with probability p of a 1, let N be the samples that reach it, s_i = b_i - p and 1 + R the row sum of the
correlation matrix of their bits. The contribution of sample i is lambda s_i (f_i - mean f), with
lambda = 1 / (n - 1 - R). Source: ours; for n = 2 it is arXiv 2106.08056, section 3.

Probabilities come in pairs (p, 1 - p), each with full relative precision: near 1 a difference would lose it.
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt

Coupling = Literal["systematic", "pairs"]

_LOW_BITS = 8


class Split(NamedTuple):
    """P(bit = 1) and P(bit = 0) at nodes."""

    one: Float[Array, "*shape"]
    zero: Float[Array, "*shape"]


def split_masses(one: Float[Array, "*shape"], zero: Float[Array, "*shape"]) -> Split:
    """The split of two masses; nodes without mass, which no sample reaches, give 0."""
    total = one + zero
    safe = jnp.where(total > 0, total, 1)
    return Split(one / safe, jnp.where(total > 0, zero / safe, 1))


def masses(logits: Float[Array, "K *shape"]) -> Float[Array, "K *shape"]:
    """exp(logits), scaled so that the largest is 1."""
    return jnp.exp(logits - logits.max(0))


def couple(
    split: Split,
    together: Bool[Array, "n n *shape"],
    words: UInt[Array, "n *shape"],
    coupling: Coupling,
) -> tuple[Bool[Array, "n *shape"], Float[Array, "n *shape"]]:
    """Bits b_i with P(b_i = 1) = split.one_i, and lambda_i s_i.

    `together[i, j]` says that samples i and j stand at the same node, where they share `split`; samples at different
    nodes are independent. `words` are independent random words. "systematic" lets all samples at a node share one
    uniform u: u_i = (u + rank_i / c) mod 1 for c samples in random order. "pairs" couples them two by two, which for
    two samples is the antithetic pair (u, 1 - u). Source: ours.
    """
    n, dtype = together.shape[0], split.one.dtype
    rank = _ranks(words, together)
    if coupling == "pairs":
        together = together & ((rank // 2)[:, None] == (rank // 2)[None])
        rank = rank % 2
    size = together.sum(1, dtype=jnp.int32).astype(dtype)
    shared = jnp.where(together, (words >> _LOW_BITS)[None], 0).sum(1, dtype=jnp.uint32)
    shared = shared & (2**24 - 1)
    u = shared.astype(dtype) * 2.0**-24 + rank.astype(dtype) / size
    bits = jnp.where(u >= 1, u - 1, u) < split.one
    score = jnp.where(bits, split.zero, -split.one)
    return bits, score / (n - 1 - excess_correlation(split, size))


def _ranks(words: Array, together: Array) -> Array:
    """Random position of each sample among those at its node.

    Read from the low bits, of which the shared uniform is independent. Where these tie, the index decides: any fixed
    order is unbiased too, and random ones only serve to spread the partners.
    """
    n = words.shape[0]
    index = jnp.arange(n, dtype=jnp.int32).reshape(n, *[1] * (words.ndim - 1))
    order = (words & (2**_LOW_BITS - 1)).astype(jnp.int32) * n + index
    return (together & (order[None] < order[:, None])).sum(1, dtype=jnp.int32)


def excess_correlation(split: Split, size: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """R in [-1, 0], the sum of the correlations of a bit with its partners, for systematic coupling of `size` bits.

    fr (1 - fr) / (c p (1 - p)) - 1 with fr = frac(c p), the least that any coupling allows. Written in the smaller of
    p and 1 - p, which is finite for every split. Source: ours.
    """
    smaller, larger = jnp.minimum(split.one, split.zero), jnp.maximum(split.one, split.zero)
    t = size * smaller
    fraction = t - jnp.floor(t)
    general = fraction * (1 - fraction) / (jnp.maximum(t, 1) * larger) - 1
    return jnp.where(size == 0, 0, jnp.where(t < 1, -(size - 1) * smaller / larger, general))
