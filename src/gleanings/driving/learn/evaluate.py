"""Drive many scenes with one driver, and say what came of it. Source: ours, design page 3.10."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from gleanings.core.errors import ConfigError
from gleanings.driving.comfort import comfort
from gleanings.driving.dynamics import Bicycle, along, limits_of
from gleanings.driving.learn.actions import physical
from gleanings.driving.learn.outcomes import Outcomes
from gleanings.driving.learn.world import World
from gleanings.driving.scene import Pose, Scene, Trajectory
from gleanings.driving.sim import on_device
from gleanings.driving.state import SimState

_CPU_CHUNK, _CHUNK = 64, 2048  # scenes of one vmap
_SHORT_M = 5.0
_SATURATED = 0.95


class Drives(NamedTuple):
    """C scenes of H decisions. reward ... off_road: [C, H], as in `world.Decision`; u: [C, H, 2]; pose of the ego,
    at the start and after each decision: [C, H + 1]; comfort, and whether it is defined: bool [C]."""

    reward: Array
    clearance_m: Array
    progress_m: Array
    collision: Array
    at_fault: Array
    off_road: Array
    u: Array
    pose: Pose
    comfort: Array
    comfort_mask: Array


def drive(world: World, bank: Scene, driver: Any, key: Key[Array, ""]) -> Drives:
    """Drive each scene of a bank [C, ...] for the world's horizon; NumPy arrays.

    driver(scene, state, observation, key) -> u. Scene i has the key fold_in(key, i), however many run together.
    Compiled once a size. ConfigError: no bank, a policy made for another world.
    """
    if np.ndim(bank.log.x) != 3:
        raise ConfigError("expected scenes stacked by learn.make_bank")
    chunk = _CPU_CHUNK if jax.default_backend() == "cpu" else _CHUNK
    drives = _drive(world, on_device(bank), driver, key, min(chunk, bank.log.x.shape[0]))
    return jax.tree.map(np.asarray, drives)


@eqx.filter_jit
def _drive(world: World, bank: Scene, driver: Any, key: Array, chunk: int) -> Drives:
    count = bank.log.x.shape[0]

    def some(rows: Array) -> Drives:
        scenes = jax.tree.map(lambda leaf: leaf[rows], bank)
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
        return jax.vmap(lambda scene, key: _episode(world, scene, driver, key))(scenes, keys)

    # The last chunk is filled up with the last scene, so that one program serves all.
    rows = jnp.minimum(jnp.arange(-(-count // chunk) * chunk), count - 1).reshape(-1, chunk)
    drives = jax.lax.map(some, rows)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], drives)


def _episode(world: World, scene: Scene, driver: Any, key: Array) -> Drives:
    slot = jnp.argmax(jnp.asarray(scene.objects.is_sdc))
    first, seen = world.begin(scene, key)

    def body(carry: tuple[SimState, Array], _: None) -> tuple[tuple[SimState, Array], Any]:
        state, seen = carry
        u = driver(scene, state, seen, jax.random.fold_in(jax.random.fold_in(key, state.t), 1))
        after, decision = world.decide(scene, state, u, key)
        return (after, decision.observation), (decision._replace(observation=None), u, _ego(after, slot))

    _, (decision, u, rows) = jax.lax.scan(body, (first, seen), None, length=world.config.horizon)
    pose = jax.tree.map(lambda row, rows: jnp.concatenate([row[None], rows]), _ego(first, slot), rows)
    value, mask = _comfort(world, scene, slot, pose, u)
    return Drives(*decision[1:], u, pose, value, mask)


def _ego(state: SimState, slot: Array) -> Pose:
    return Pose(*(field[slot] for field in state.pose))


def _comfort(world: World, scene: Scene, slot: Array, pose: Pose, u: Array) -> tuple[Array, Array]:
    """Comfort of the ego from its poses at every step, made again out of the actions."""
    every, kind = world.config.every, jnp.asarray(scene.objects.kind)[slot]
    starts = Pose(*(field[:-1] for field in pose))
    actions = physical(jnp.clip(u, -1.0, 1.0), along(starts))

    def steps(pose: Pose, action: Array) -> Pose:
        def body(pose: Pose, _: None) -> tuple[Pose, Pose]:
            return Bicycle().forward(pose, action, scene.dt, limits_of(kind)), pose

        return jax.lax.scan(body, pose, None, length=every)[1]

    within = jax.vmap(steps)(starts, actions)
    rows = [jnp.append(field.reshape(-1), last[-1])[:, None] for field, last in zip(within, pose, strict=True)]
    alone = scene._replace(objects=scene.objects._replace(kind=kind[None]))
    found = comfort(alone, Trajectory(*rows, jnp.ones(rows[0].shape, bool)))
    return found.value[0], found.mask[0]


def outcomes_of(world: World, bank: Scene, drives: Drives) -> Outcomes:
    """One value a scene out of the drives of a bank (NumPy or on a device)."""
    failed = drives.collision | drives.off_road
    gained, ratio, ade = _against_log(world, bank, drives)
    return Outcomes(
        collision=drives.collision.any(1),
        at_fault=drives.at_fault.any(1),
        off_road=drives.off_road.any(1),
        first_failure=np.where(failed.any(1), failed.argmax(1), -1),
        progress_m=gained,
        progress_ratio=ratio,
        clearance_m=drives.clearance_m.min(1).astype(float),
        comfort=np.where(drives.comfort_mask, drives.comfort, np.nan),
        ade_m=ade,
        saturated=(np.abs(drives.u) > _SATURATED).mean((1, 2)),
        reward=drives.reward.mean(1, dtype=float),
    )


def _against_log(world: World, bank: Scene, drives: Drives) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Progress (m), its ratio to the log's and the mean distance to the log (m), over the decisions it lasts."""
    count, horizon = drives.reward.shape
    rows = np.arange(count)
    slot = np.asarray(bank.objects.is_sdc).argmax(1)
    steps = np.asarray(bank.start)[:, None] + world.config.every * np.arange(horizon + 1)
    inside = steps < bank.log.x.shape[1]
    steps = np.minimum(steps, bank.log.x.shape[1] - 1)

    def logged(field: Any) -> np.ndarray:
        return np.asarray(field)[rows[:, None], steps, slot[:, None]]

    valid = logged(bank.log.valid) & inside
    arc = np.asarray(bank.paths.logged)[rows[:, None], slot[:, None], steps].astype(float)
    has_path = np.asarray(bank.paths.length)[rows, slot] > 0
    last = horizon - valid[:, :0:-1].argmax(1)  # decision after which the log is seen last
    made = arc[rows, last] - arc[:, 0]
    known = valid[:, 0] & valid[:, 1:].any(1) & has_path & (made >= _SHORT_M)
    gained = drives.progress_m.astype(float)
    ratio = np.where(known, gained[rows, last - 1] / np.maximum(made, _SHORT_M), np.nan)
    away = np.hypot(drives.pose.x - logged(bank.log.x), drives.pose.y - logged(bank.log.y))[:, 1:]
    seen = valid[:, 1:]
    ade = np.where(seen, away, 0.0).sum(1) / np.maximum(seen.sum(1), 1)
    return gained[:, -1], ratio, np.where(seen.any(1), ade, np.nan)
