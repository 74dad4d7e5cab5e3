"""Coupled draws by stick-breaking: category k is taken with probability p_k = q_k / sum_{j>=k} q_j, else passed.

K - 1 sequential bits, in constant program size. Those who have passed all sticks so far fill the first slots.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gleanings.estimators._coupling import (
    Coupling,
    Split,
    by_slot,
    count_ones,
    lone_rank,
    name_slots,
    split_masses,
    uniform,
    weight_of,
)
from gleanings.estimators._sampling import random_words

# The largest float32 below 1.
_BELOW_ONE = 1 - 2.0**-24


class Sticks(NamedTuple):
    """At each stick its split, how many samples reach it and take it, the slot of the one without a partner or -1."""

    split: Split
    reached: Int[Array, "sticks *shape"]
    taken: Int[Array, "sticks *shape"]
    lone: Int[Array, "sticks *shape"]
    slot: Int[Array, "n *shape"]


def stick_splits(mass: Float[Array, "K *shape"]) -> Split:
    """p_k and 1 - p_k for k < K, `[sticks, *shape]`. Source: arXiv 2106.08056, section 3.2."""
    _, later = jax.lax.scan(lambda tail, m: (tail + m, tail), mass[-1], mass[:-1], reverse=True)
    return split_masses(mass[:-1], later)


def draw_sticks(
    mass: Float[Array, "K *shape"], key: Array, num_draws: int, coupling: Coupling
) -> tuple[Int[Array, "n *shape"], Sticks]:
    """n coupled positions in 0..K-1, and the sticks that led to them. Source: ours (see _coupling).

    The sets of coupled samples, one or the pairs, have a uniform each. As long as none of a set takes a stick its
    uniform is stretched and used again, which inverts the distribution of where the first of them does; then it is
    replaced by one that belongs to the number of samples left.
    """
    sticks = stick_splits(mass)
    shape = mass.shape[1:]
    width = num_draws if coupling == "systematic" else 2
    sets = -(-num_draws // width)
    placed = len(sticks.one) if sets > 1 else 0
    words = random_words(key, (num_draws * (1 + sets) + placed,), shape)
    places = uniform(words[num_draws * (1 + sets) :], mass.dtype) if sets > 1 else None
    words = words[: num_draws * (1 + sets)]
    first, *by_left = uniform(words[num_draws:].reshape(num_draws, sets, *shape), mass.dtype)
    first_slot = width * jnp.arange(sets, dtype=jnp.int32).reshape(sets, *[1] * len(shape))
    slots = jnp.arange(num_draws, dtype=jnp.int32).reshape(num_draws, *[1] * len(shape))

    def step(carry: tuple[Array, Array, Array], stick: tuple) -> tuple[tuple[Array, Array, Array], tuple]:
        reached, u, position = carry
        split, place = stick
        size = jnp.clip(reached - first_slot, 0, width)
        ones, fraction = count_ones(split.one, size, u)
        taken = ones.sum(0, dtype=jnp.int32)
        left = reached - taken
        renewed = by_left[0]
        for count, fresh in enumerate(by_left[1:], 2):
            renewed = jnp.where(left == count, fresh, renewed)
        u = jnp.where(ones > 0, renewed, jnp.minimum(u / (1 - fraction), _BELOW_ONE))
        lone_taken = ((size == 1) & (ones == 1)).any(0)
        lone = 0 * left - 1 if place is None else lone_rank(reached, taken, lone_taken, place)
        return (left, u, position + (slots < left)), (reached, taken, lone)

    # Nothing, as a function of the masses, so that under shard_map the start varies as they do.
    nothing = mass[0] != mass[0]
    start = (num_draws + nothing, first + nothing, 0 * slots + nothing)
    (_, _, position), (reached, taken, lone) = jax.lax.scan(step, start, (sticks, places))
    slot, position = name_slots(words[:num_draws], position)
    return position, Sticks(sticks, reached, taken, lone, slot)


def stick_cotangent(sticks: Sticks, values: Float[Array, "n *shape"], coupling: Coupling) -> Float[Array, "K *shape"]:
    """Cotangent in the logits for contributions lambda_i s_i * values_i at each stick."""
    split, reached, taken, lone, _ = sticks
    values, n = by_slot(values, sticks.slot), len(values)
    together = weight_of(split, reached if coupling == "systematic" or n == 2 else 2, n)
    gradient = jnp.zeros_like(split.one)
    for slot, value in enumerate(values):
        score = jnp.where(slot < reached - taken, -split.one, split.zero)
        weight = jnp.where(lone == slot, 1 / (n - 1), together)
        gradient = gradient + jnp.where(slot < reached, weight * score * value, 0)

    def step(share: Array, stick: tuple[Split, Array]) -> tuple[Array, Array]:
        split, gradient = stick
        return share * split.zero - gradient, share * split.one + gradient

    rest, by_stick = jax.lax.scan(step, jnp.zeros_like(values[0]), (split, gradient))
    return jnp.concatenate([by_stick, rest[None]])
