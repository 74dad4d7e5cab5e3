"""Coupled draws by stick-breaking: category k is taken with probability p_k = q_k / sum_{j>=k} q_j, else passed.

K sequential bits, of which the last is 1, in constant program size. Those who have passed all sticks so far fill the
first slots.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gleanings.estimators._coupling import (
    Coupling,
    count_ones,
    lone_rank,
    name_slots,
    split_masses,
    uniform,
    weight_of,
)
from gleanings.estimators._sampling import random_words


class Sticks(NamedTuple):
    """Masses, the mass later than each stick, and position and slot of each sample.

    Also, unless all samples form one set, at each stick the slot of the one without a partner or -1.
    """

    mass: Float[Array, "K *shape"]
    later: Float[Array, "K *shape"]
    position: Int[Array, "n *shape"]
    slot: Int[Array, "n *shape"]
    lone: Int[Array, "K *shape"] | None


def later_masses(mass: Float[Array, "K *shape"]) -> Float[Array, "K *shape"]:
    """sum_{j>k} q_j. Source: arXiv 2106.08056, section 3.2."""
    return jax.lax.scan(lambda tail, own: (tail + own, tail), 0 * mass[0], mass, reverse=True)[1]


def draw_sticks(
    mass: Float[Array, "K *shape"], key: Array, num_draws: int, coupling: Coupling
) -> tuple[Int[Array, "n *shape"], Sticks]:
    """n coupled positions in 0..K-1, and the sticks that led to them. Source: ours (see _coupling).

    The sets of coupled samples, one or the pairs, have a uniform each. As long as none of a set takes a stick its
    uniform is stretched and used again, which inverts the distribution of where the first of them does; then it is
    replaced by one that belongs to the number of samples left.
    """
    shape = mass.shape[1:]
    width = num_draws if coupling == "systematic" else 2
    sets = -(-num_draws // width)
    words = random_words(key, (num_draws * (1 + sets) + (len(mass) if sets > 1 else 0),), shape)
    names, fresh, places = jnp.split(words, [num_draws, num_draws * (1 + sets)])
    first, *by_left = uniform(fresh.reshape(num_draws, sets, *shape), mass.dtype)
    first_slot = width * jnp.arange(sets, dtype=jnp.int32).reshape(sets, *[1] * len(shape))
    slots = jnp.arange(num_draws, dtype=jnp.int32).reshape(num_draws, *[1] * len(shape))

    def step(carry: tuple[Array, Array, Array], stick: tuple) -> tuple[tuple[Array, Array, Array], Array | None]:
        reached, u, position = carry
        own, later, place = stick
        size = jnp.clip(reached - first_slot, 0, width)
        ones, stretched = count_ones(split_masses(own, later).one, size, u)
        taken = ones.sum(0, dtype=jnp.int32)
        left = reached - taken
        renewed = by_left[0]
        for count, uniforms in enumerate(by_left[1:], 2):
            renewed = jnp.where(left == count, uniforms, renewed)
        u = jnp.where(ones > 0, renewed, stretched)
        lone_taken = ((size == 1) & (ones == 1)).any(0)
        lone = None if place is None else lone_rank(reached, taken, lone_taken, place)[0]
        return (left, u, position + (slots < left)), lone

    # Nothing, as a function of the masses, so that under shard_map the start varies as they do.
    nothing = mass[0] != mass[0]
    start = (num_draws + nothing, first + nothing, 0 * slots + nothing)
    later = later_masses(mass)
    sticks = (mass, later, uniform(places, mass.dtype) if sets > 1 else None)
    (_, _, position), lone = jax.lax.scan(step, start, sticks)
    slot, position = name_slots(names, position)
    return position, Sticks(mass, later, position, slot, lone)


def stick_cotangent(sticks: Sticks, values: Float[Array, "n *shape"]) -> Float[Array, "K *shape"]:
    """Cotangent in the logits for contributions lambda_i s_i * values_i at each stick.

    With g_k the derivative of stick k's logit and Q_k the mass later than k it is g_k - q_k sum_{j<k} g_j / Q_j.
    """
    mass, later, n = sticks.mass, sticks.later, len(values)
    split = split_masses(mass, later)
    stick = jnp.arange(len(mass), dtype=jnp.int32).reshape(-1, *[1] * (mass.ndim - 1))
    reached = sum((stick <= position).astype(jnp.int32) for position in sticks.position)
    together = weight_of(split, reached if sticks.lone is None else 2, n)
    gradient = jnp.zeros_like(mass)
    for position, slot, value in zip(sticks.position, sticks.slot, values, strict=True):
        score = jnp.where(stick == position, split.zero, -split.one)
        weight = together if sticks.lone is None else jnp.where(sticks.lone == slot, 1 / (n - 1), together)
        gradient = gradient + jnp.where(stick <= position, weight * score * value, 0)

    rate = jnp.where(later > 0, gradient / jnp.where(later > 0, later, 1), 0)
    _, earlier = jax.lax.scan(lambda total, own: (total + own, total), jnp.zeros_like(rate[0]), rate)
    return gradient - mass * earlier
