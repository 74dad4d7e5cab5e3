"""Drives of several drivers through the same scenes, side by side as pieces of HTML. Source: ours, design page 6."""

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from gleanings.core.errors import ConfigError
from gleanings.driving.clips import clip_fragment
from gleanings.driving.learn.bank import make_bank
from gleanings.driving.learn.outcomes import Outcomes
from gleanings.driving.learn.world import World
from gleanings.driving.scene import Scene, Trajectory
from gleanings.driving.state import SimState

_BATCH = 4  # scenes of one program, whatever their number


def episode_clips(
    world: World, scenes: Sequence[Scene], drivers: Mapping[str, Any], *, key: Key[Array, ""] | None = None
) -> list[str]:
    """A fragment of `clip_fragment` for each learning scene: a panel a driver, in step, with the log as a ghost.

    A frame is a decision; from the first one with contact or off the road a panel says that it failed. Scene i has the
    key fold_in(key, i), as in `drives.drive`. Drivers that differ in their arrays alone share a compiled program.
    ConfigError: no drivers, a policy made for another world, more panels than fit in 60 KB.
    """
    if not drivers:
        raise ConfigError("clips need at least one driver")
    if not scenes:
        return []
    for driver in drivers.values():
        if (contract := getattr(driver, "contract", None)) is not None:
            contract.check(world.config, max(float(scene.dt) for scene in scenes))
    bank = make_bank(scenes)
    key = jax.random.key(0) if key is None else key
    driven = {name: _record_all(world, bank, driver, key) for name, driver in drivers.items()}
    return [
        clip_fragment(
            scene,
            {name: Trajectory(*(field[i] for field in rows)) for name, (rows, _) in driven.items()},
            every=world.config.every,
            marks={name: int(failed[i].argmax()) for name, (_, failed) in driven.items() if failed[i].any()},
        )
        for i, scene in enumerate(scenes)
    ]


def worst_failures(outcomes: Outcomes, difficulty: Float[np.ndarray, " C"], count: int) -> Int[np.ndarray, " K"]:
    """Indices of at most `count` failures, those of the most difficult scenes first, then in the order of the scenes.

    Only what can be seen counts: contact, and off the road.
    ConfigError: not one number a scene.
    """
    seen = outcomes.collision | outcomes.off_road
    if len(difficulty) != len(seen):
        raise ConfigError(f"{len(difficulty)} difficulties of {len(seen)} scenes")
    order = np.argsort(-difficulty, kind="stable")
    return order[seen[order]][:count]


def _record_all(world: World, bank: Scene, driver: Any, key: Array) -> tuple[Trajectory, np.ndarray]:
    """Poses of all objects at the start and after each decision [C, H + 1, N], and where the ego has failed [C, H + 1];
    batch by batch, the last one filled up with its last scene."""
    count = bank.log.x.shape[0]
    parts = []
    for first in range(0, count, _BATCH):
        rows = np.minimum(np.arange(first, first + _BATCH), count - 1)
        part = jax.device_put(jax.tree.map(lambda leaf, rows=rows: leaf[rows], bank))
        parts.append(jax.device_get(_record(world, part, driver, key, jax.device_put(rows.astype(np.uint32)))))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)


@eqx.filter_jit
def _record(world: World, bank: Scene, driver: Any, key: Array, rows: Array) -> tuple[Trajectory, Array]:
    return jax.vmap(lambda scene, row: _episode(world, scene, driver, jax.random.fold_in(key, row)))(bank, rows)


def _episode(world: World, scene: Scene, driver: Any, key: Array) -> tuple[Trajectory, Array]:
    first, seen = world.begin(scene, key)

    def body(carry: tuple[SimState, Array], _: None) -> tuple[tuple[SimState, Array], tuple[Trajectory, Array]]:
        state, seen = carry
        u = driver(scene, state, seen, jax.random.fold_in(jax.random.fold_in(key, state.t), 1))
        after, decision = world.decide(scene, state, u, key)
        return (after, decision.observation), (_row(after), jnp.asarray(world.failed(decision)))

    _, (rows, failed) = jax.lax.scan(body, (first, seen), None, length=world.config.horizon)
    rows = jax.tree.map(lambda row, rows: jnp.concatenate([row[None], rows]), _row(first), rows)
    return rows, jnp.concatenate([jnp.zeros(1, bool), failed])


def _row(state: SimState) -> Trajectory:
    return Trajectory(*state.pose, state.alive)
