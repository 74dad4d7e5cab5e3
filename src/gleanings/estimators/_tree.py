"""Coupled draws along a balanced binary tree over the categories: log2 K levels, one bit a level.

Bit 1 goes right. Nodes are numbered as in a heap: the root is 1, the children of i are 2 i and 2 i + 1. K is padded to
a power of two with categories of probability 0, which no sample reaches. The samples at a node fill a run of slots.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gleanings.estimators._coupling import (
    Coupling,
    Split,
    count_ones,
    lone_rank,
    name_slots,
    scatter_rows,
    split_masses,
    uniform,
    weight_of,
)
from gleanings.estimators._sampling import pick, random_words


class Run(NamedTuple):
    """The node of the sample in each slot, the first slot of the samples at that node, how many they are; uniforms.

    A run uses those that stand at its slots, and what is left of them goes on: all are always independent.
    """

    node: Int[Array, "n *shape"]
    first: Int[Array, "n *shape"]
    size: Int[Array, "n *shape"]
    u: Float[Array, "n *shape"]


class Paths(NamedTuple):
    """Masses of the nodes by heap number; for each level the node and lambda_i s_i of each slot; the samples' slots."""

    mass: Float[Array, "nodes *shape"]
    node: Int[Array, "levels n *shape"]
    weight: Float[Array, "levels n *shape"]
    slot: Int[Array, "n *shape"]


def draw_tree(
    mass: Float[Array, "K *shape"], key: Array, num_draws: int, coupling: Coupling
) -> tuple[Int[Array, "n *shape"], Paths]:
    """n coupled positions in 0..K-1, and the paths that led to them. Source: ours (see _coupling)."""
    mass, shape = _heap(mass), mass.shape[1:]
    leaves = len(mass) // 2
    names, words = random_words(key, (2, num_draws), shape)

    def descend(run: Run, _: None) -> tuple[Run, tuple[Array, Array]]:
        split = split_masses(pick(mass, 2 * run.node + 1), pick(mass, 2 * run.node))
        bits, ones, weight, u = _couple(split, run, coupling)
        first = run.first + jnp.where(bits, run.size - ones, 0)
        return Run(2 * run.node + bits, first, jnp.where(bits, ones, run.size - ones), u), (run.node, weight)

    # The root as a function of the masses, so that under shard_map it varies as they do.
    root = jnp.ones((num_draws, *shape), jnp.int32) + (mass[0] != mass[0])
    start = Run(root, root - 1, num_draws * root, uniform(words, mass.dtype))
    run, (node, weight) = jax.lax.scan(descend, start, length=leaves.bit_length() - 1)
    slot, position = name_slots(names, run.node - leaves)
    return position, Paths(mass, node, weight, slot)


def _couple(
    split: Split, run: Run, coupling: Coupling
) -> tuple[Bool[Array, "n *shape"], Int[Array, "n *shape"], Float[Array, "n *shape"], Float[Array, "n *shape"]]:
    """For each slot its bit, the number of ones at its node, lambda_i s_i, and what is left of its uniform."""
    n = len(run.u)
    rank = jnp.arange(n, dtype=jnp.int32).reshape(n, *[1] * (run.u.ndim - 1)) - run.first
    if coupling == "systematic" or n == 2:
        size = run.size
        ones, left = count_ones(split.one, size, run.u)
        ones, u = pick(ones, run.first), jnp.where(rank == 0, left, run.u)
    else:
        pairs = (split.one, jnp.where(rank % 2 == 0, jnp.minimum(run.size - rank, 2), 0), run.u)
        pair_ones, u = jax.lax.map(lambda pair: count_ones(*pair), pairs)
        parts = [jnp.where(run.first == first, own, 0) for first, own in zip(run.first, pair_ones, strict=True)]
        ones = sum(parts, start=jnp.zeros_like(rank))
        lone_one = pick(pair_ones, run.first + run.size - 1) == 1
        v = pick(run.u, jnp.minimum(run.first + 1, n - 1))  # no pair begins at an odd rank
        lone, v = lone_rank(run.size, ones, lone_one, v)
        u = jnp.where(rank == 1, v, u)
        size = jnp.where(rank == lone, 1, 2)
    bits = rank >= run.size - ones
    return bits, ones, jnp.where(bits, split.zero, -split.one) * weight_of(split, size, n), u


def tree_cotangent(paths: Paths, values: Float[Array, "n *shape"], num_categories: int) -> Float[Array, "K *shape"]:
    """Cotangent in the logits for contributions lambda_i s_i * values_i at each node.

    The derivative of each node's logit is passed down the tree: a node's share goes to its right child with
    probability p, to its left with 1 - p.
    """
    contributions = paths.weight * scatter_rows(values, paths.slot)
    share = jnp.zeros((1, *values.shape[1:]), values.dtype)
    for level in range(paths.node.shape[0]):
        size = 2**level
        nodes = jnp.arange(size, 2 * size, dtype=jnp.int32).reshape(size, *[1] * (values.ndim - 1))
        gradient = jnp.zeros_like(share)
        for node, contribution in zip(paths.node[level], contributions[level], strict=True):
            gradient = gradient + jnp.where(node == nodes, contribution, 0)
        zero, one = paths.mass[2 * size : 4 * size : 2], paths.mass[2 * size + 1 : 4 * size : 2]
        rate = jnp.where(one + zero > 0, share / (one + zero), 0)
        share = jnp.stack([rate * zero - gradient, rate * one + gradient], 1).reshape(2 * size, *values.shape[1:])
    return share[:num_categories]


def _heap(mass: Float[Array, "K *shape"]) -> Float[Array, "nodes *shape"]:
    """Masses of the nodes, entry 0 unused: `[2 * leaves, *shape]`."""
    k = len(mass)
    levels = [jnp.pad(mass, [(0, 2 ** (k - 1).bit_length() - k)] + [(0, 0)] * (mass.ndim - 1))]
    while len(levels[-1]) > 1:
        levels.append(levels[-1][::2] + levels[-1][1::2])
    return jnp.concatenate([jnp.zeros_like(levels[-1]), *levels[::-1]])
