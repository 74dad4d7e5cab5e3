"""Noisy CartPole as a log and as a simulator: reward nearly everywhere 1, so that a constant looks almost consistent.

Deviation from the classic task: normal noise on both velocities after each step, an action that is uniform half of the
time in the log, and a cap of 200 steps that truncates and does not end.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gleanings.selection.classes import RandomFourier
from gleanings.selection.prefix import Rows

DISCOUNT = 0.97
FEATURES = RandomFourier(405, 0.7)
MAX_STEPS = 200
_GRAVITY, _POLE_MASS, _TOTAL_MASS, _HALF_LENGTH = 9.8, 0.1, 1.1, 0.5
_FORCE, _SECONDS, _NOISE = 10.0, 0.02, 0.05
_MAX_POSITION, _MAX_ANGLE, _START = 2.4, 0.2095, 0.05


class Log(NamedTuple):
    """Steps in the order they were made. States are (position / m, velocity, angle / rad, angular velocity)."""

    state: Float[Array, "n 4"]
    action: Int[Array, " n"]
    next_state: Float[Array, "n 4"]
    failed: Bool[Array, " n"]


def observation(state: Float[Array, "*batch 4"]) -> Float[Array, "*batch 4"]:
    """The state with its angle in tenths of a radian."""
    return state * jnp.array([1.0, 1.0, 10.0, 1.0])


def step(state: Float[Array, "*batch 4"], action: Int[Array, "*batch"], key: Array) -> Float[Array, "*batch 4"]:
    """One Euler step of 20 ms with a push of 10 N to the left (0) or right (1).

    Source: Barto, Sutton & Anderson 1983, with the constants that are in common use; the noise is ours.
    """
    _, velocity, angle, spin = jnp.moveaxis(state, -1, 0)
    push = _FORCE * (2 * action - 1)
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    common = (push + _POLE_MASS * _HALF_LENGTH * spin**2 * sine) / _TOTAL_MASS
    turn = (_GRAVITY * sine - cosine * common) / (_HALF_LENGTH * (4 / 3 - _POLE_MASS * cosine**2 / _TOTAL_MASS))
    acceleration = common - _POLE_MASS * _HALF_LENGTH * turn * cosine / _TOTAL_MASS
    change = jnp.stack([velocity, acceleration, spin, turn], -1)
    noise = _NOISE * jax.random.normal(key, state.shape) * jnp.array([0.0, 1.0, 0.0, 1.0])
    return state + _SECONDS * change + noise


def failed(state: Float[Array, "*batch 4"]) -> Bool[Array, "*batch"]:
    """Off the track, or the pole beyond 12 degrees."""
    return (jnp.abs(state[..., 0]) > _MAX_POSITION) | (jnp.abs(state[..., 2]) > _MAX_ANGLE)


def start(shape: tuple[int, ...], key: Array) -> Float[Array, "*shape 4"]:
    """First states, uniform near rest."""
    return jax.random.uniform(key, (*shape, 4), minval=-_START, maxval=_START)


def cartpole_log(n: int, key: Array) -> Log:
    """n steps in a row; half of the actions uniform, the others from a rule that balances for a while."""

    def one(carry: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], Log]:
        state, age = carry
        keys = jax.random.split(key, 4)
        balance = (state @ jnp.array([0.1, 0.2, 3.0, 0.5]) > 0).astype(jnp.int32)
        anything = jax.random.randint(keys[0], (), 0, 2)
        action = jnp.where(jax.random.bernoulli(keys[1]), anything, balance)
        following = step(state, action, keys[2])
        ended = failed(following)
        over = ended | (age + 1 >= MAX_STEPS)
        again = jnp.where(over, start((), keys[3]), following)
        return (again, jnp.where(over, 0, age + 1)), Log(state, action, following, ended)

    first, rest = jax.random.split(key)
    return jax.lax.scan(one, (start((), first), jnp.int32(0)), jax.random.split(rest, n))[1]


def cartpole_rows(log: Log, key: Array) -> Rows:
    """The log as rows of one stage, a random fifth of them for validation."""
    n = len(log.action)
    valid = (jax.random.permutation(key, n) < n // 5).astype(jnp.float32)
    going = 1 - log.failed.astype(jnp.float32)
    rows = Rows(
        features=FEATURES(observation(log.state)),
        action=log.action,
        reward=going,
        next_features=FEATURES(observation(log.next_state)),
        discount=DISCOUNT * going,
        train=1 - valid,
        valid=valid,
    )
    return jax.tree.map(lambda x: x[None], rows)


def cartpole_returns(weights: Float[Array, "M A D"], episodes: int, key: Array) -> Float[Array, " M"]:
    """Mean number of steps, at most 200, that the greedy policy of each class survives."""

    def one(carry: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], Array]:
        state, alive = carry
        values = jnp.einsum("med,mad->mea", FEATURES(observation(state.reshape(-1, 4))).reshape(shape), weights)
        state = step(state, values.argmax(-1), key)
        alive = alive & ~failed(state)
        return (state, alive), alive

    shape = (len(weights), episodes, FEATURES.total)
    first, rest = jax.random.split(key)
    # All classes face the same starts.
    begin = jnp.broadcast_to(start((episodes,), first), (len(weights), episodes, 4))
    alive = jnp.ones((len(weights), episodes), bool)
    _, survived = jax.lax.scan(one, (begin, alive), jax.random.split(rest, MAX_STEPS))
    return survived.sum(0).mean(-1)
