"""Coupled draws along a balanced binary tree over the categories: log2 K levels, one bit a level.

A node's logit is logsumexp(right half) - logsumexp(left half); bit 1 goes right. Nodes are numbered as in a heap: the
root is 1, the children of i are 2 i and 2 i + 1. K is padded to a power of two with categories of probability 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gleanings.estimators._coupling import Coupling, couple
from gleanings.estimators._logits import EXCLUDED
from gleanings.estimators._sampling import random_words


class Paths(NamedTuple):
    """Node logits by heap number, and for each level the node and lambda_i s_i of each sample."""

    logits: Float[Array, "nodes *shape"]
    node: Int[Array, "levels n *shape"]
    weight: Float[Array, "levels n *shape"]


def draw_tree(
    logits: Float[Array, "K *shape"], key: Array, num_draws: int, coupling: Coupling
) -> tuple[Int[Array, "n *shape"], Paths]:
    """n coupled positions in 0..K-1 and the paths that led to them. Source: ours (see couple)."""
    heap = _node_logits(logits)
    levels = heap.shape[0].bit_length() - 1
    words = random_words(key, (levels, num_draws), logits.shape[1:])

    def descend(node: Array, words: Array) -> tuple[Array, tuple[Array, Array]]:
        logit = jnp.take_along_axis(heap, node, 0)
        bits, weight = couple(logit, node[:, None] == node[None], words, coupling)
        return 2 * node + bits, (node, weight)

    # The root as a function of the logits, so that under shard_map it varies as they do.
    root = jnp.ones((num_draws, *logits.shape[1:]), jnp.int32) + (logits[0] != logits[0])
    leaf, (node, weight) = jax.lax.scan(descend, root, words)
    return leaf - heap.shape[0], Paths(heap, node, weight)


def tree_cotangent(paths: Paths, centred: Float[Array, "n *shape"], num_categories: int) -> Float[Array, "K *shape"]:
    """Cotangent in the logits for contributions weight_i * centred_i at each node.

    The derivative of each node's logit is passed down the tree: a node's share goes to its right child with
    probability p, to its left with 1 - p.
    """
    mass = jnp.zeros((1, *centred.shape[1:]), centred.dtype)
    contributions = paths.weight * centred
    for level in range(paths.node.shape[0]):
        size = 2**level
        nodes = jnp.arange(size, 2 * size, dtype=jnp.int32).reshape(size, *[1] * (centred.ndim - 1))
        gradient = jnp.zeros_like(mass)
        for node, contribution in zip(paths.node[level], contributions[level], strict=True):
            gradient = gradient + jnp.where(node == nodes, contribution, 0)
        logits = paths.logits[size : 2 * size]
        left = mass * jax.nn.sigmoid(-logits) - gradient
        right = mass * jax.nn.sigmoid(logits) + gradient
        mass = jnp.stack([left, right], 1).reshape(2 * size, *centred.shape[1:])
    return mass[:num_categories]


def _node_logits(logits: Array) -> Array:
    """Logits of the nodes, entry 0 unused: `[2**levels, *shape]`."""
    k = logits.shape[0]
    depth = (k - 1).bit_length()
    mass = jnp.pad(logits, [(0, 2**depth - k)] + [(0, 0)] * (logits.ndim - 1), constant_values=EXCLUDED)
    heap = []
    for _ in range(depth):
        pairs = mass.reshape(mass.shape[0] // 2, 2, *mass.shape[1:])
        heap.append(pairs[:, 1] - pairs[:, 0])
        mass = jnp.logaddexp(pairs[:, 0], pairs[:, 1])
    return jnp.concatenate([jnp.zeros_like(mass), *heap[::-1]])
