"""Coupled draws by stick-breaking: category k is taken with probability sigmoid(a_k), else the sample passes on.

a_k = theta_k - logsumexp_{j>k} theta_j. K - 1 sequential bits, in constant program size.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gleanings.estimators._coupling import Coupling, couple
from gleanings.estimators._sampling import random_words


class Sticks(NamedTuple):
    """Stick logits, and lambda_i s_i of each sample, zero where it does not reach the stick."""

    logits: Float[Array, "sticks *shape"]
    weight: Float[Array, "sticks n *shape"]


def stick_logits(logits: Float[Array, "K *shape"]) -> Float[Array, "sticks *shape"]:
    """a_k for k < K. Source: arXiv 2106.08056, section 3.2."""

    def step(tail: Array, logit: Array) -> tuple[Array, Array]:
        return jnp.logaddexp(tail, logit), logit - tail

    return jax.lax.scan(step, logits[-1], logits[:-1], reverse=True)[1]


def draw_sticks(
    logits: Float[Array, "K *shape"], key: Array, num_draws: int, coupling: Coupling
) -> tuple[Int[Array, "n *shape"], Sticks]:
    """n coupled positions in 0..K-1 and the sticks that led to them. Source: ours (see couple)."""
    sticks = stick_logits(logits)
    words = random_words(key, (sticks.shape[0], num_draws), sticks.shape[1:])
    # Samples that have stopped stand alone; their bits are not read.
    alone = jnp.eye(num_draws, dtype=bool).reshape(num_draws, num_draws, *[1] * (logits.ndim - 1))

    def step(carry: tuple[Array, Array], stick: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        alive, position = carry
        logit, words = stick
        together = alone | (alive[:, None] & alive[None])
        bits, weight = couple(jnp.broadcast_to(logit, alive.shape), together, words, coupling)
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

    def step(mass: Array, stick: tuple[Array, Array]) -> tuple[Array, Array]:
        logit, weight = stick
        gradient = (weight * centred).sum(0)
        taken = mass * jax.nn.sigmoid(logit) + gradient
        return mass * jax.nn.sigmoid(-logit) - gradient, taken

    rest, taken = jax.lax.scan(step, jnp.zeros_like(centred[0]), sticks)
    return jnp.concatenate([taken, rest[None]])
