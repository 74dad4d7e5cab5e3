"""Coupled draws by stick-breaking: category k is taken with probability p_k = q_k / sum_{j>=k} q_j, else passed.

K - 1 sequential bits, in constant program size.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gleanings.estimators._coupling import Coupling, Split, couple, masses, split_masses
from gleanings.estimators._sampling import random_words


class Sticks(NamedTuple):
    """Splits `[sticks, *shape]`, and lambda_i s_i of each sample, zero where it does not reach the stick."""

    split: Split
    weight: Float[Array, "sticks n *shape"]


def stick_splits(logits: Float[Array, "K *shape"]) -> Split:
    """p_k and 1 - p_k for k < K, `[sticks, *shape]`. Source: arXiv 2106.08056, section 3.2."""
    mass = masses(logits)
    _, later = jax.lax.scan(lambda tail, m: (tail + m, tail), mass[-1], mass[:-1], reverse=True)
    return split_masses(mass[:-1], later)


def draw_sticks(
    logits: Float[Array, "K *shape"], key: Array, num_draws: int, coupling: Coupling
) -> tuple[Int[Array, "n *shape"], Sticks]:
    """n coupled positions in 0..K-1 and the sticks that led to them. Source: ours (see couple)."""
    sticks = stick_splits(logits)
    words = random_words(key, (len(sticks.one), num_draws), logits.shape[1:])
    # Samples that have stopped stand alone; their bits are not read.
    alone = jnp.eye(num_draws, dtype=bool).reshape(num_draws, num_draws, *[1] * (logits.ndim - 1))

    def step(carry: tuple[Array, Array], stick: tuple[Split, Array]) -> tuple[tuple[Array, Array], Array]:
        alive, position = carry
        split, words = stick
        together = alone | (alive[:, None] & alive[None])
        split = Split(*(jnp.broadcast_to(side, alive.shape) for side in split))
        bits, weight = couple(split, together, words, coupling)
        passed = alive & ~bits
        return (passed, position + passed), jnp.where(alive, weight, 0)

    shape = (num_draws, *logits.shape[1:])
    # Starts that are functions of the logits, so that under shard_map they vary as these do.
    alive = jnp.broadcast_to(logits[0] == logits[0], shape)
    start = (alive, jnp.zeros_like(alive, jnp.int32))
    (_, position), weight = jax.lax.scan(step, start, (sticks, words))
    return position, Sticks(sticks, weight)


def stick_cotangent(sticks: Sticks, centred: Float[Array, "n *shape"]) -> Float[Array, "K *shape"]:
    """Cotangent in the logits for contributions weight_i * centred_i at each stick."""

    def step(share: Array, stick: Sticks) -> tuple[Array, Array]:
        gradient = (stick.weight * centred).sum(0)
        return share * stick.split.zero - gradient, share * stick.split.one + gradient

    rest, taken = jax.lax.scan(step, jnp.zeros_like(centred[0]), sticks)
    return jnp.concatenate([taken, rest[None]])
