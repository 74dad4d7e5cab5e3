"""From a state and the poses one step later to the next state: rates, arcs, flags, pairs in contact.

Shared by the simulator, which makes the poses, and by the measuring of any trajectory, which is given them.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float32, Int32, Key, UInt8, UInt32

from gleanings.driving.config import SimConfig
from gleanings.driving.dynamics import along, wrap
from gleanings.driving.geometry import FAR, gap_matrix
from gleanings.driving.path import project_on_path
from gleanings.driving.scene import Pose, Scene, Trajectory
from gleanings.driving.state import ALIVE, DONE, ENTERED, LEFT_SCENE, PARKED, SimState

Gaps = Float32[Array, "N N"] | None
CONTACT_METRICS = frozenset(("collision", "overlap_gap", "at_fault", "ttc_s", "ttc_low"))
_STICKY = ENTERED | DONE | PARKED | LEFT_SCENE
_project = jax.vmap(project_on_path)
_COARSE = 8  # metres between the path samples among which an entering object is looked for


def follows_contacts(names: Iterable[str]) -> bool:
    """Whether these metrics need the gaps of all pairs, and which pairs are excused."""
    return not CONTACT_METRICS.isdisjoint(names)


def log_at(scene: Scene, t: Int32[Array, ""]) -> tuple[Pose, Bool[Array, " N"]]:
    """Logged poses [N] at state index `t`, and which are valid; outside the log none is."""
    log = scene.log
    *pose, valid = (lax.dynamic_index_in_dim(jnp.asarray(field), t, keepdims=False) for field in log)
    return Pose(*pose), valid & (t >= 0) & (t < log.x.shape[0])


def pack_pairs(pairs: Bool[Array, "N M"]) -> UInt32[Array, "N W"]:
    """Element [i, j] as bit j % 32 of word [i, j // 32]."""
    n, m = pairs.shape
    bits = jnp.pad(pairs, ((0, 0), (0, -m % 32))).reshape(n, -1, 32).astype(jnp.uint32)
    return jnp.sum(bits << jnp.arange(32, dtype=jnp.uint32), axis=-1, dtype=jnp.uint32)


def unpack_pairs(words: UInt32[Array, "N W"], count: int) -> Bool[Array, "N M"]:
    """The first `count` columns of what `pack_pairs` packed."""
    bits = (words[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
    return bits.reshape(words.shape[0], -1)[:, :count] != 0


def gaps_of(scene: Scene, pose: Pose, alive: Bool[Array, " N"]) -> Float32[Array, "N N"]:
    """`geometry.gap_matrix` of the objects of a scene, m."""
    objects = scene.objects
    return gap_matrix(pose, objects.length, objects.width, objects.height, alive)


def begin(
    scene: Scene,
    config: SimConfig,
    t: Int32[Array, ""],
    pose: Pose,
    alive: Bool[Array, " N"],
    key: Key[Array, ""],
    *,
    contacts: bool,
    flags: UInt8[Array, " N"] | None = None,
    agents: Any = (),
    index: Int32[Array, ""] | None = None,
) -> tuple[SimState, Gaps]:
    """The first state, at index `t`, and the gaps of its pairs, m (None unless `contacts`).

    flags: bits to be set beside ALIVE and ENTERED. The ring is filled from the log.
    """
    n = alive.shape[0]
    zero, words = jnp.zeros(n, jnp.float32), jnp.zeros((n, -(-n // 32)), jnp.uint32)
    ring = None
    if config.history:
        past = [log_at(scene, t - back - 1) for back in range(config.history)]
        rows = [Trajectory(*_held(pose, valid), valid) for pose, valid in past]
        ring = jax.tree.map(lambda *rows: jnp.stack(rows), *rows)
    before = SimState(
        t - 1,
        *(zero,) * 9,
        flags=jnp.zeros(n, jnp.uint8) if flags is None else flags,
        excused=words,
        key=key,
        index=jnp.int32(0) if index is None else index,
        agents=agents,
        ring=None,
        met=words,
    )
    state, gaps = advance(scene, config, before, pose, alive, contacts=contacts, agents=agents, raised=flags)
    return dataclasses.replace(state, ring=ring), gaps


def advance(
    scene: Scene,
    config: SimConfig,
    state: SimState,
    pose: Pose,
    alive: Bool[Array, " N"],
    *,
    contacts: bool,
    raised: UInt8[Array, " N"] | None = None,
    agents: Any = (),
    gaps: Gaps = None,
) -> tuple[SimState, Gaps]:
    """The state one step after `state`, with these poses [N], and the gaps of all pairs then, m.

    contacts: whether gaps are to be taken and excused pairs followed (`follows_contacts`); else the gaps are None.
    gaps: if they are known already. raised: bits to be set beside ALIVE and ENTERED; all but those of actions last.
    agents: the state of the simulated agents. Poses of objects that are not alive become 0.
    """
    pose = _held(pose, alive)
    stays = alive & state.alive
    accel = jnp.where(stays, (along(pose) - along(state.pose)) / scene.dt, 0.0)
    yaw_rate = jnp.where(stays, wrap(pose.yaw - state.yaw) / scene.dt, 0.0)
    paths = scene.paths
    # A long step, of 0.5 s say, would leave the window around the last arc.
    went = (pose.x - state.x) * jnp.cos(state.yaw) + (pose.y - state.y) * jnp.sin(state.yaw)
    hint = jnp.where(state.alive, state.arc + went, _entry_arc(scene, state, pose))
    arc, _ = _project(paths.x, paths.y, paths.length, paths.closed, pose.x, pose.y, hint)
    arc = jnp.where(alive, jnp.where(paths.length > 0, arc, 0.0), state.arc)
    flags = (state.flags & _STICKY) | jnp.where(alive, ALIVE | ENTERED, 0).astype(jnp.uint8)
    flags = flags if raised is None else flags | raised
    excused, met = state.excused, state.met
    if contacts:
        gaps = gaps_of(scene, pose, alive) if gaps is None else gaps
        if config.excuse_overlap:
            excused, met = _excuse(excused, met, alive, gaps < 0)
    ring = state.ring
    if ring is not None:
        now = Trajectory(*state.pose, state.alive)
        ring = jax.tree.map(lambda row, rows: jnp.concatenate([row[None], rows[:-1]]), now, ring)
    after = SimState(
        state.t + 1, *pose, accel, yaw_rate, arc, flags, excused, state.key, state.index, agents, ring, met
    )
    return after, gaps if contacts else None


def within(gaps: Float32[Array, "N N"], alive: Bool[Array, " N"]) -> Float32[Array, "N N"]:
    """The gaps, m, with those of objects that are not alive made `FAR`."""
    return jnp.where(alive[:, None] & alive[None, :], gaps, FAR)


def _excuse(excused: Array, met: Array, alive: Bool[Array, " N"], touch: Bool[Array, "N N"]) -> tuple[Array, Array]:
    """A pair is excused from the first step at which both are alive, if they touch then, until they no longer do."""
    both = alive[:, None] & alive[None, :]
    both_bits, touch_bits = pack_pairs(both), pack_pairs(touch)
    return (excused | ~met) & touch_bits & both_bits | (excused & ~both_bits), met | both_bits


def _entry_arc(scene: Scene, state: SimState, pose: Pose) -> Float32[Array, " N"]:
    """Arc, m, of the path sample nearest to each object that enters.

    Limbs of other directions count as farther away, and so does what is far from the logged arc, or where the log is
    not valid from the last one: where a path meets itself an object stays on its limb.
    """
    paths, row = scene.paths, jnp.clip(state.t + 1, 0, scene.log.x.shape[0] - 1)
    expected = jnp.where(jnp.asarray(scene.log.valid)[row], jnp.asarray(paths.logged)[:, row], state.arc)
    x, y = jnp.asarray(paths.x)[:, ::_COARSE], jnp.asarray(paths.y)[:, ::_COARSE]
    dx, dy = jnp.diff(x, axis=1), jnp.diff(y, axis=1)
    square = (x[:, :-1] - pose.x[:, None]) ** 2 + (y[:, :-1] - pose.y[:, None]) ** 2
    ahead = dx * jnp.cos(pose.yaw)[:, None] + dy * jnp.sin(pose.yaw)[:, None]
    moved = _COARSE * jnp.arange(square.shape[1]) - expected[:, None]
    length = jnp.maximum(paths.length, 1.0)[:, None]
    moved = jnp.where(paths.closed[:, None], moved - length * jnp.round(moved / length), moved)
    cost = square - 2 * _COARSE * jnp.minimum(ahead, 0.0) + 0.02 * moved * moved
    # Bits of a non-negative float sort like the float; XLA's CPU code for integer minima is vectorised.
    bits = lax.bitcast_convert_type(cost, jnp.int32)
    return expected + jnp.min(jnp.where(bits == bits.min(1, keepdims=True), moved, jnp.inf), axis=1)


def _held(pose: Pose, alive: Bool[Array, " N"]) -> Pose:
    """The pose, 0 where not alive."""
    return Pose(*(jnp.where(alive, field, 0.0) for field in pose))
