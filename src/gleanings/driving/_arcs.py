"""Arcs: how far along its path each object is. Source: ours."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float32

from gleanings.driving.alone import alone, state_alone
from gleanings.driving.path import project_on_path
from gleanings.driving.scene import Pose, Scene
from gleanings.driving.state import SimState

_project = jax.vmap(project_on_path)
_COARSE = 8  # metres between the path samples among which an entering object is looked for


def next_arcs(
    scene: Scene, state: SimState, pose: Pose, alive: Bool[Array, " N"], *, ego_alone: bool = False
) -> Float32[Array, " N"]:
    """Arcs, m, one step after `state`, with these poses [N]; of objects that are not alive as they were.

    ego_alone: only the ego is looked for, the others are as far as the log has them.
    """
    if not ego_alone:
        return _projected(scene, state, pose, alive)
    is_ego = jnp.asarray(scene.objects.is_sdc)
    slot = jnp.argmax(is_ego)
    own = Pose(*(field[slot][None] for field in pose))
    arc = _projected(alone(scene, slot), state_alone(state, slot), own, alive[slot][None])
    row = jnp.clip(state.t + 1, 0, scene.log.x.shape[0] - 1)
    logged = jnp.where(alive & (scene.paths.length > 0), jnp.asarray(scene.paths.logged)[:, row], state.arc)
    return jnp.where(is_ego, arc, logged)


def _projected(scene: Scene, state: SimState, pose: Pose, alive: Bool[Array, " N"]) -> Float32[Array, " N"]:
    paths = scene.paths
    # A long step, of 0.5 s say, would leave the window around the last arc.
    went = (pose.x - state.x) * jnp.cos(state.yaw) + (pose.y - state.y) * jnp.sin(state.yaw)
    hint = jnp.where(state.alive, state.arc + went, _entry_arc(scene, state, pose))
    arc, _ = _project(paths.x, paths.y, paths.length, paths.closed, pose.x, pose.y, hint)
    return jnp.where(alive, jnp.where(paths.length > 0, arc, 0.0), state.arc)


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
