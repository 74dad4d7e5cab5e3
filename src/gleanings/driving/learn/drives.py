"""Drive many scenes with one driver: one program a size. Source: ours, design page 3.1, 7."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Key

from gleanings.core.errors import ConfigError, DataError, NumericsError
from gleanings.driving.comfort import comfort
from gleanings.driving.dynamics import Bicycle, along, limits_of
from gleanings.driving.learn.actions import physical
from gleanings.driving.learn.safety_reward import FAR_M
from gleanings.driving.learn.world import World, stopping
from gleanings.driving.scene import Pose, Scene, Trajectory
from gleanings.driving.sim import on_device
from gleanings.driving.state import SimState

_CPU_CHUNK, _CHUNK = 64, 2048  # scenes of one vmap


class Driver(eqx.Module):
    """Decides for the ego of a learning scene; any equinox module that is called alike will do."""

    @abc.abstractmethod
    def __call__(
        self, scene: Scene, state: SimState, obs: Float32[Array, " D"], key: Key[Array, ""]
    ) -> Float[Array, "2"]:
        """u in [-1, 1]^2 for the decision that begins at `state`."""


class Drives(NamedTuple):
    """C scenes of H decisions, NumPy. reward ... off_route: [C, H], as in `world.Decision`; u: [C, H, 2]; pose of the
    ego, at the start and after each decision: [C, H + 1]; comfort, and whether it is defined: bool [C]."""

    reward: Any
    clearance_m: Any
    progress_m: Any
    collision: Any
    at_fault: Any
    off_road: Any
    off_route: Any
    u: Any
    pose: Pose
    comfort: Any
    comfort_mask: Any


def drive(world: World, bank: Scene, driver: Any, key: Key[Array, ""]) -> Drives:
    """Drive each scene of a bank [C, ...] for the world's horizon; NumPy arrays.

    driver(scene, state, observation, key) -> u. Scene i has the key fold_in(key, i), however many run together.
    Once the log of a scene has ended nothing counts any more: no failure, reward 0, clearance 100 m; a scene in which
    nothing is logged after the start counts to its end. Compiled once a size. ConfigError: no bank, a policy made for
    another world, actions of another shape. DataError: scenes without an ego at their start. NumericsError: actions
    that are not finite; others are clipped.
    """
    if np.ndim(bank.log.x) != 3:
        raise ConfigError("expected scenes stacked by learn.make_bank")
    contract = getattr(driver, "contract", None)
    if contract is not None:
        steps = np.asarray(bank.dt)
        contract.check(world.config, float(steps[np.abs(steps - contract.dt).argmax()]))
    _check_egos(bank)
    chunk = _CPU_CHUNK if jax.default_backend() == "cpu" else _CHUNK
    drives = jax.tree.map(np.asarray, _drive(world, on_device(bank), driver, key, min(chunk, bank.log.x.shape[0])))
    lost = np.flatnonzero(~np.isfinite(drives.u).all((1, 2)))
    if len(lost):
        step = int(np.isfinite(drives.u[lost[0]]).all(1).argmin())
        raise NumericsError(f"the driver gave NaN or infinity in {_listed(bank, lost)}, first at decision {step}")
    return drives


def _check_egos(bank: Scene) -> None:
    starts = np.asarray(bank.log.valid)[np.arange(len(bank.start)), np.asarray(bank.start)]
    without = np.flatnonzero(~(starts & np.asarray(bank.objects.is_sdc)).any(1))
    if len(without):
        raise DataError(f"no ego at the start of {_listed(bank, without)}: leave these scenes out, or use `entire`")


def _listed(bank: Scene, rows: Int[np.ndarray, " K"]) -> str:
    names = [bytes(row).rstrip(b"\0").decode("ascii", "replace") for row in np.asarray(bank.scene_id)[rows[:4]]]
    return f"{len(rows)} scenes ({', '.join(names)}{', ...' if len(rows) > 4 else ''})"


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
    last = _last_logged(scene)

    def body(carry: tuple[SimState, Array], _: None) -> tuple[tuple[SimState, Array], Any]:
        state, seen = carry
        u = driver(scene, state, seen, jax.random.fold_in(jax.random.fold_in(key, state.t), 1))
        if jnp.shape(u) != (2,):
            raise ConfigError(f"the driver gives actions of shape {jnp.shape(u)}; expected (2,), in [-1, 1]")
        after, decision = world.decide(scene, state, u, key)
        counts = state.t < last
        kept = decision._replace(
            observation=None,
            reward=jnp.where(counts, decision.reward, 0.0),
            clearance_m=jnp.where(counts, decision.clearance_m, FAR_M),
            collision=decision.collision & counts,
            at_fault=decision.at_fault & counts,
            off_road=decision.off_road & counts,
            off_route=decision.off_route & counts,
        )
        return (after, decision.observation), (kept, u, _ego(after, slot))

    _, (decision, u, rows) = jax.lax.scan(body, (first, seen), None, length=world.config.horizon)
    pose = jax.tree.map(lambda row, rows: jnp.concatenate([row[None], rows]), _ego(first, slot), rows)
    value, mask = _comfort(world, scene, slot, pose, u)
    return Drives(*decision[1:], u=u, pose=pose, comfort=value, comfort_mask=mask)


def _last_logged(scene: Scene) -> Array:
    """The last step with anybody in the log; where there is none after the start, the last of all."""
    there = jnp.asarray(scene.log.valid).any(1)
    last = jnp.max(jnp.where(there, jnp.arange(len(there)), 0))
    return jnp.where(last > scene.start, last, len(there) - 1)


def _ego(state: SimState, slot: Array) -> Pose:
    return Pose(*(field[slot] for field in state.pose))


def _comfort(world: World, scene: Scene, slot: Array, pose: Pose, u: Array) -> tuple[Array, Array]:
    kind = jnp.asarray(scene.objects.kind)[slot]
    alone = scene._replace(objects=scene.objects._replace(kind=kind[None]))
    found = comfort(alone, _motion(world, scene, kind, pose, u))
    return found.value[0], found.mask[0]


def _motion(world: World, scene: Scene, kind: Array, pose: Pose, u: Array) -> Trajectory:
    """The ego at every step [T', 1], made again out of its poses at the decisions and the actions."""
    starts = Pose(*(field[:-1] for field in pose))

    def steps(pose: Pose, u: Array) -> Pose:
        action = physical(jnp.clip(u, -1.0, 1.0), along(pose))

        def body(pose: Pose, _: None) -> tuple[Pose, Pose]:
            held = stopping(action, along(pose), scene.dt)
            return Bicycle().forward(pose, held, scene.dt, limits_of(kind)), pose

        return jax.lax.scan(body, pose, None, length=world.config.every)[1]

    within = jax.vmap(steps)(starts, u)
    x, y, z, yaw, vx, vy = (
        jnp.append(field.reshape(-1), last[-1])[:, None] for field, last in zip(within, pose, strict=True)
    )
    return Trajectory(x, y, z, yaw, vx, vy, jnp.ones(x.shape, bool))
