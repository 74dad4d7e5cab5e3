"""A ring of whole episodes on the device, from which decisions are drawn. Source: ours.

Rows are drawn as (episode, decision), and what follows is the next row of the same episode: no pair crosses a reset.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float, Float16, Float32, Int, Int32, UInt32

from gleanings.core.errors import ConfigError


class Episodes(NamedTuple):
    """What was seen, done and paid in E episodes of H decisions; the last observation follows the last decision."""

    obs: Float32[Array, "E H1 D"]
    action: Float32[Array, "E H 2"]
    reward: Float32[Array, "E H"]


class Rows(NamedTuple):
    """Decisions: the observation, u in [-1, 1]^2, the reward, and the observation that followed."""

    obs: Float32[Array, "B D"]
    action: Float32[Array, "B 2"]
    reward: Float32[Array, " B"]
    next_obs: Float32[Array, "B D"]


class Replay(eqx.Module):
    """P episodes; index: where the next one is written; count: how many there are."""

    obs: Float16[Array, "*seeds P H1 D"]
    action: Float32[Array, "*seeds P H 2"]
    reward: Float32[Array, "*seeds P H"]
    index: Int32[Array, "*seeds"]
    count: Int32[Array, "*seeds"]


def make_replay(capacity: int, horizon: int, observation_size: int, environments: int) -> Replay:
    """An empty ring of `capacity` episodes, written `environments` at a time. ConfigError: they do not divide it."""
    if environments < 1 or capacity < environments or capacity % environments:
        raise ConfigError(
            f"capacity is {capacity} episodes; it must be a multiple of environments={environments}, at least once"
        )
    zero = jnp.zeros((), jnp.int32)
    return Replay(
        jnp.zeros((capacity, horizon + 1, observation_size), jnp.float16),
        jnp.zeros((capacity, horizon, 2), jnp.float32),
        jnp.zeros((capacity, horizon), jnp.float32),
        zero,
        zero,
    )


def write(replay: Replay, episodes: Episodes) -> Replay:
    """The ring with the oldest episodes replaced by new ones."""
    capacity, count = replay.obs.shape[0], episodes.reward.shape[0]
    return Replay(
        put(replay.obs, episodes.obs.astype(jnp.float16), replay.index),
        put(replay.action, episodes.action, replay.index),
        put(replay.reward, episodes.reward, replay.index),
        (replay.index + count) % capacity,
        jnp.minimum(replay.count + count, capacity),
    )


def draw(replay: Replay, bits: UInt32[Array, " B"]) -> Rows:
    """Decisions drawn uniformly, with replacement, from the episodes that there are, one for each random number."""
    horizon = replay.reward.shape[1]
    row = below(replay.count * horizon, bits)
    return take(replay, row // horizon, row % horizon)


def below(count: int | Int32[Array, ""], bits: UInt32[Array, " B"]) -> Int32[Array, " B"]:
    """Random numbers as whole ones in [0, count), uniform but for count / 2^32; cheaper than `jax.random.randint`."""
    return (bits % jnp.asarray(count, jnp.uint32)).astype(jnp.int32)


def take(replay: Replay, episode: Int[Array, " B"], step: Int[Array, " B"]) -> Rows:
    """Decision `step` < H of each episode."""
    obs = replay.obs[episode, step].astype(jnp.float32)
    following = replay.obs[episode, step + 1].astype(jnp.float32)
    return Rows(obs, replay.action[episode, step], replay.reward[episode, step], following)


@custom_vmap
def put(ring: Float[Array, "P *row"], rows: Float[Array, "E *row"], index: Int32[Array, ""]) -> Float[Array, "P *row"]:
    """The ring with rows written from `index` on. Under `vmap` all seeds write where the first one does.

    Seeds step together, so that their indices are equal; with an index for each the write would become a scatter.
    """
    return lax.dynamic_update_slice_in_dim(ring, rows, index, 0)


@put.def_vmap
def _put_seeds(size: int, batched: list[bool], ring: Array, rows: Array, index: Array) -> tuple[Array, bool]:
    ring, rows = (
        value if seeds else jnp.broadcast_to(value, (size, *value.shape))
        for value, seeds in zip((ring, rows), batched, strict=False)
    )
    return lax.dynamic_update_slice_in_dim(ring, rows, index[0] if batched[2] else index, 1), True
