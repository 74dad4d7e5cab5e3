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

from gleanings.driving._arcs import next_arcs
from gleanings.driving.config import SimConfig
from gleanings.driving.dynamics import along, wrap
from gleanings.driving.geometry import FAR, Rows, gap_matrix, rows_of
from gleanings.driving.scene import Pose, Scene, Trajectory
from gleanings.driving.state import ALIVE, DONE, ENTERED, LEFT_SCENE, PARKED, SimState

Gaps = Float32[Array, "M N"] | None
CONTACT_METRICS = frozenset(("collision", "overlap_gap", "at_fault", "ttc_s", "ttc_low"))
_STICKY = ENTERED | DONE | PARKED | LEFT_SCENE


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


def measured_rows(scene: Scene, config: SimConfig) -> Rows:
    """Slots of the objects that are measured; None: all."""
    return None if config.measured == "all" else jnp.argmax(jnp.asarray(scene.objects.is_sdc))[None]


def gaps_of(scene: Scene, pose: Pose, alive: Bool[Array, " N"], rows: Rows = None) -> Float32[Array, "M N"]:
    """`geometry.gap_matrix` of the objects of a scene, m."""
    objects = scene.objects
    return gap_matrix(pose, objects.length, objects.width, objects.height, alive, rows)


def begin(
    scene: Scene,
    config: SimConfig,
    t: Int32[Array, ""],
    pose: Pose,
    alive: Bool[Array, " N"],
    key: Key[Array, ""],
    *,
    contacts: bool,
    ego_alone: bool = False,
    flags: UInt8[Array, " N"] | None = None,
    agents: Any = (),
    index: Int32[Array, ""] | None = None,
) -> tuple[SimState, Gaps]:
    """The first state, at index `t`, and the gaps of its pairs, m (None unless `contacts`), as from `advance`.

    flags: bits to be set beside ALIVE and ENTERED. The ring is filled from the log. Others as in `advance`.
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
    options: dict[str, Any] = {"contacts": contacts, "ego_alone": ego_alone}
    state, gaps = advance(scene, config, before, pose, alive, agents=agents, raised=flags, **options)
    return dataclasses.replace(state, ring=ring), gaps


def advance(
    scene: Scene,
    config: SimConfig,
    state: SimState,
    pose: Pose,
    alive: Bool[Array, " N"],
    *,
    contacts: bool,
    ego_alone: bool = False,
    raised: UInt8[Array, " N"] | None = None,
    agents: Any = (),
    gaps: Gaps = None,
) -> tuple[SimState, Gaps]:
    """The state one step after `state`, with these poses [N], and the gaps of measured objects to all then, m.

    contacts: whether gaps are to be taken and excused pairs followed (`follows_contacts`); else the gaps are None.
    ego_alone: whether the others are where the log has them, and so are their arcs. gaps: of all, if known already.
    raised: bits to be set beside ALIVE and ENTERED; all but those of actions last.
    agents: the state of the simulated agents. Poses of objects that are not alive become 0.
    """
    pose = _held(pose, alive)
    stays = alive & state.alive
    accel = jnp.where(stays, (along(pose) - along(state.pose)) / scene.dt, 0.0)
    yaw_rate = jnp.where(stays, wrap(pose.yaw - state.yaw) / scene.dt, 0.0)
    arc = next_arcs(scene, state, pose, alive, ego_alone=ego_alone)
    flags = (state.flags & _STICKY) | jnp.where(alive, ALIVE | ENTERED, 0).astype(jnp.uint8)
    flags = flags if raised is None else flags | raised
    excused, met = state.excused, state.met
    if contacts:
        rows = measured_rows(scene, config)
        gaps = gaps_of(scene, pose, alive, rows) if gaps is None else rows_of(gaps, rows)
        if config.excuse_overlap:
            excused, met = _excuse(excused, met, alive, gaps < 0, rows)
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


def _excuse(
    excused: UInt32[Array, "N W"],
    met: UInt32[Array, "N W"],
    alive: Bool[Array, " N"],
    touch: Bool[Array, "M N"],
    rows: Rows,
) -> tuple[UInt32[Array, "N W"], UInt32[Array, "N W"]]:
    """A pair is excused from the first step at which both are alive, if they touch then, until they no longer do.

    Words of other rows stay as they are.
    """
    own_alive, was, had = rows_of((alive, excused, met), rows)
    both_bits, touch_bits = pack_pairs(own_alive[:, None] & alive[None, :]), pack_pairs(touch)
    now, has = (was | ~had) & touch_bits & both_bits | (was & ~both_bits), had | both_bits
    if rows is None:
        return now, has
    here = (jnp.arange(len(alive))[:, None] == rows).any(1)[:, None]
    return jnp.where(here, now, excused), jnp.where(here, has, met)


def _held(pose: Pose, alive: Bool[Array, " N"]) -> Pose:
    """The pose, 0 where not alive."""
    return Pose(*(jnp.where(alive, field, 0.0) for field in pose))
