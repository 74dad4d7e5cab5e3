"""Experience: episodes of a policy in scenes drawn from a bank, in one program. Source: ours."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float32, Key

from gleanings.driving.learn.replay import Episodes
from gleanings.driving.learn.world import Decision, World
from gleanings.driving.scene import Scene

Explore = Callable[[Float32[Array, " D"], Key[Array, ""]], Float32[Array, "2"]]

_CPU_BATCH = 64  # scenes that step together: more of them leave the cache of a core
_SATURATED = 0.95


def collect(
    world: World, bank: Scene, act: Explore, key: Key[Array, ""], environments: int
) -> tuple[Episodes, dict[str, Float32[Array, ""]]]:
    """`environments` whole episodes, each in a scene drawn from the bank [C, ...], and their averages.

    act(obs [D], key) -> u [2]. Averages: `collect/failure` (episodes with one), `collect/reward` (of a decision),
    `collect/progress` (metres of an episode), `collect/saturated` (decisions with |u| > 0.95 in any dimension).
    """
    scene_key, drive_key = jax.random.split(key)
    count = bank.start.shape[0]
    rows = jax.random.randint(scene_key, (environments,), 0, count)
    keys = jax.random.split(drive_key, environments)

    def one(row: Array, key: Array) -> tuple[Episodes, dict[str, Array]]:
        scene = jax.tree.map(lambda leaf: jnp.asarray(leaf)[row], bank)
        return _episode(world, scene, act, key)

    together = _divisor(environments) if jax.default_backend() == "cpu" else environments
    if together == environments:
        episodes, stats = jax.vmap(one)(rows, keys)
    else:
        episodes, stats = lax.map(lambda item: one(*item), (rows, keys), batch_size=together)
    return episodes, {f"collect/{name}": value.mean() for name, value in stats.items()}


def _episode(world: World, scene: Scene, act: Explore, key: Array) -> tuple[Episodes, dict[str, Array]]:
    begin_key, world_key, act_key = jax.random.split(key, 3)
    state, obs = world.begin(scene, begin_key)

    def decide(carry: tuple, t: Array) -> tuple[tuple, tuple[Array, Array, Decision]]:
        state, obs = carry
        u = act(obs, jax.random.fold_in(act_key, t))
        state, decision = world.decide(scene, state, u, world_key)
        return (state, decision.observation), (obs, u, decision)

    (_, last), (seen, u, decisions) = lax.scan(decide, (state, obs), jnp.arange(world.config.horizon))
    failed = world.failed(decisions)
    reward = decisions.reward
    if world.config.after_failure == "absorb":
        reward = jnp.where(lax.cummax(jnp.asarray(failed, jnp.int32)) > 0, world.reward.worst, reward)
    stats = {
        "failure": failed.any().astype(jnp.float32),
        "reward": reward.mean(),
        "progress": decisions.progress_m[-1],
        "saturated": (jnp.abs(u) > _SATURATED).any(-1).astype(jnp.float32).mean(),
    }
    return Episodes(jnp.concatenate([seen, last[None]]), u, reward), stats


def _divisor(environments: int) -> int:
    """The largest batch that a core steps at once and that leaves no rest."""
    return max(size for size in range(1, min(environments, _CPU_BATCH) + 1) if environments % size == 0)
