"""Coupled draws along a balanced binary tree over the categories: log2 K levels, one bit a level.

Bit 1 goes right. Nodes are numbered as in a heap: the root is 1, the children of i are 2 i and 2 i + 1. K is padded to
a power of two with categories of probability 0, which no sample reaches.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gleanings.estimators._coupling import Coupling, Split, couple, masses, split_masses
from gleanings.estimators._sampling import random_words


class Paths(NamedTuple):
    """Splits `[nodes, *shape]` by heap number, and for each level the node and lambda_i s_i of each sample."""

    split: Split
    node: Int[Array, "levels n *shape"]
    weight: Float[Array, "levels n *shape"]


def draw_tree(
    logits: Float[Array, "K *shape"], key: Array, num_draws: int, coupling: Coupling
) -> tuple[Int[Array, "n *shape"], Paths]:
    """n coupled positions in 0..K-1 and the paths that led to them. Source: ours (see couple)."""
    heap = _splits(masses(logits))
    nodes = heap.one.shape[0]
    words = random_words(key, (nodes.bit_length() - 1, num_draws), logits.shape[1:])

    def descend(node: Array, words: Array) -> tuple[Array, tuple[Array, Array]]:
        here = Split(*(jnp.take_along_axis(side, node, 0) for side in heap))
        bits, weight = couple(here, node[:, None] == node[None], words, coupling)
        return 2 * node + bits, (node, weight)

    # The root as a function of the logits, so that under shard_map it varies as they do.
    root = jnp.ones((num_draws, *logits.shape[1:]), jnp.int32) + (logits[0] != logits[0])
    leaf, (node, weight) = jax.lax.scan(descend, root, words)
    return leaf - nodes, Paths(heap, node, weight)


def tree_cotangent(paths: Paths, centred: Float[Array, "n *shape"], num_categories: int) -> Float[Array, "K *shape"]:
    """Cotangent in the logits for contributions weight_i * centred_i at each node.

    The derivative of each node's logit is passed down the tree: a node's share goes to its right child with
    probability p, to its left with 1 - p.
    """
    share = jnp.zeros((1, *centred.shape[1:]), centred.dtype)
    contributions = paths.weight * centred
    for level in range(paths.node.shape[0]):
        size = 2**level
        nodes = jnp.arange(size, 2 * size, dtype=jnp.int32).reshape(size, *[1] * (centred.ndim - 1))
        gradient = jnp.zeros_like(share)
        for node, contribution in zip(paths.node[level], contributions[level], strict=True):
            gradient = gradient + jnp.where(node == nodes, contribution, 0)
        left = share * paths.split.zero[size : 2 * size] - gradient
        right = share * paths.split.one[size : 2 * size] + gradient
        share = jnp.stack([left, right], 1).reshape(2 * size, *centred.shape[1:])
    return share[:num_categories]


def _splits(mass: Array) -> Split:
    """Splits of the nodes, entry 0 unused: `[2**levels, *shape]`."""
    k = mass.shape[0]
    depth = (k - 1).bit_length()
    mass = jnp.pad(mass, [(0, 2**depth - k)] + [(0, 0)] * (mass.ndim - 1))
    levels = []
    for _ in range(depth):
        pairs = mass.reshape(mass.shape[0] // 2, 2, *mass.shape[1:])
        levels.append(pairs)
        mass = pairs.sum(1)
    heap = jnp.concatenate([jnp.zeros((1, 2, *mass.shape[1:]), mass.dtype), *levels[::-1]])
    return split_masses(heap[:, 1], heap[:, 0])
