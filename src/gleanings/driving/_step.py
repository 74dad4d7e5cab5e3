"""What `Simulator` does in a step: who moves, who enters and leaves, and what comes of it."""

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32

from gleanings.driving._ground import height_on_ground
from gleanings.driving._motion import Moved, check_action, moved
from gleanings.driving.advance import advance, begin, follows_contacts, gaps_of, log_at, within
from gleanings.driving.alone import alone, state_alone
from gleanings.driving.config import SimConfig
from gleanings.driving.metrics import StepContext, measure_step
from gleanings.driving.scene import Pose, Scene
from gleanings.driving.state import (
    CLIPPED_ACTION,
    DONE,
    ENTERED,
    INVALID_ACTION,
    LEFT_SCENE,
    PARKED,
    Action,
    SimState,
    StepOutput,
)

if TYPE_CHECKING:
    from gleanings.driving.sim import Simulator

_PARKED_M = 2.0  # log extent below which an object is parked
_PARKED_MPS = 2.0  # largest logged speed of a parked object that was seen for a moment only
_ROOM_M = 1.0  # free space around an object that waited to enter
_INIT = 2**31  # folded into the key of the agents' first state; steps fold in less


class _Roles(NamedTuple):
    """Who moves each object; all [N] and exclusive, but that parked ones are reactive."""

    controlled: Array
    played: Array
    reactive: Array
    parked: Array


@eqx.filter_jit
def first_state(sim: "Simulator", scene: Scene, key: Array, index: Array) -> SimState:
    """The state at the start."""
    t, roles = sim.start(scene), _roles_of(sim, scene)
    pose, valid = log_at(scene, t)
    parked = roles.parked & (t >= scene.objects.first)
    pose, alive = _choose(parked, _parking(scene), pose), (valid | parked) & scene.objects.exists
    flags = jnp.where(parked, PARKED, 0).astype(jnp.uint8)
    agents = sim.agents.init(scene, jax.random.fold_in(key, _INIT))
    options: dict[str, Any] = {"contacts": follows_contacts(sim.names), "ego_alone": sim.ego_alone}
    return begin(scene, sim.config, t, pose, alive, key, flags=flags, agents=agents, index=index, **options)[0]


def next_state(
    sim: "Simulator", scene: Scene, state: SimState, action: Any, key: Array
) -> tuple[SimState, StepOutput, Array]:
    """The next state, what came of it, and the actions that were applied."""
    config, objects, roles = sim.config, scene.objects, _roles_of(sim, scene)
    logged, valid = log_at(scene, state.t + 1)
    acts = _moved(sim, scene, state, action)
    own_key = jax.random.fold_in(jax.random.fold_in(key, state.t), 0)
    driven, present, agents = sim.agents.act(scene, state, state.agents, own_key)
    pose = _choose(roles.controlled, acts.pose, driven)
    sound = jnp.all(jnp.stack([jnp.isfinite(field) for field in pose]), axis=0)
    stands = roles.parked | (((state.flags & DONE) != 0) & (config.on_done == "stop"))
    pose = _choose(sound & ~stands, pose, _at_rest(state.pose))
    if config.follow_ground:
        pose = pose._replace(z=jnp.where(stands, pose.z, height_on_ground(scene, pose.x, pose.y, state.z)))

    stays, left = _stays(config, scene, roles, state, present)
    enters = ~roles.played & ((state.flags & ENTERED) == 0) & objects.exists
    enters = enters & (valid | roles.parked & (state.t + 1 >= objects.first))
    pose = _choose(roles.played | enters & ~roles.parked, logged, _choose(enters, _parking(scene), pose))
    alive, gaps = jnp.where(roles.played, valid, stays), None
    if config.spawn == "wait":
        gaps = gaps_of(scene, pose, alive | enters)
        enters = enters & _free(gaps, alive, enters)
    alive = alive | enters
    if gaps is not None:
        gaps = within(gaps, alive)
    raised = _raised(roles, state, acts, sound, stands, left, alive)
    options: dict[str, Any] = {"contacts": follows_contacts(sim.names), "ego_alone": sim.ego_alone}
    after, gaps = advance(scene, config, state, pose, alive, raised=raised, agents=agents, gaps=gaps, **options)
    after, out = _outcome(sim, scene, roles, state, after, gaps)
    return after, out, acts.action


def _moved(sim: "Simulator", scene: Scene, state: SimState, action: Any) -> Moved:
    """What the actions lead to; where the ego acts alone, for all objects as for it, but for `action`."""
    acts = moved(sim.dynamics, scene, state.pose, action)
    if not sim.ego_alone:
        return acts
    slot = jnp.argmax(jnp.asarray(scene.objects.is_sdc))
    if action is not None:
        action = Action(*(field[slot][None] for field in check_action(sim.dynamics, state.x.shape[0], action)))
    one = moved(sim.dynamics, alone(scene, slot), state_alone(state, slot).pose, action)
    return jax.tree.map(lambda own, every: jnp.broadcast_to(own, every.shape), one, acts)._replace(action=acts.action)


def _stays(config: SimConfig, scene: Scene, roles: _Roles, state: SimState, present: Array) -> tuple[Array, Array]:
    """Which objects that live on their own stay, and which left: by their agent, or at the end of the path."""
    paths = scene.paths
    # A path as long as its array is cut, not over: there an object drives straight on.
    whole = ~paths.closed & (paths.length < paths.x.shape[1] - 1)
    ended = whole & (paths.length > 0) & (state.arc >= paths.length - 0.01)
    left = state.alive & roles.reactive & ~roles.parked & (~present | ended)
    stays = state.alive & ~left
    if config.log_end == "remove":
        stays = stays & (roles.parked | (state.t + 1 <= scene.objects.last))
    if config.on_done == "remove":
        stays = stays & ((state.flags & DONE) == 0)
    return stays, left


def _free(gaps: Float32[Array, "N N"], alive: Bool[Array, " N"], enters: Bool[Array, " N"]) -> Bool[Array, " N"]:
    """Whether no object that is there, or may enter before it in the order of slots, is within a metre."""
    index = jnp.arange(len(alive))
    first = alive[None, :] | enters[None, :] & (index[None, :] < index[:, None])
    return ~jnp.any(first & (gaps < _ROOM_M), axis=1)


def _raised(
    roles: _Roles, state: SimState, acts: Moved, sound: Array, stands: Array, left: Array, alive: Array
) -> Array:
    """Bits of the flags that this step sets."""
    acting = state.alive & roles.controlled & ~stands
    invalid = (acting & acts.invalid) | (state.alive & roles.reactive & ~sound)
    bits = ((INVALID_ACTION, invalid), (CLIPPED_ACTION, acting & acts.clipped), (LEFT_SCENE, left))
    return sum(jnp.where(on, bit, 0).astype(jnp.uint8) for bit, on in (*bits, (PARKED, roles.parked & alive)))  # pyright: ignore[reportReturnType]


def _outcome(
    sim: "Simulator", scene: Scene, roles: _Roles, before: SimState, after: SimState, gaps: Array | None
) -> tuple[SimState, StepOutput]:
    """Metrics, and what reward and termination make of them."""
    config = sim.config
    metrics = measure_step(StepContext(scene, config, before, after, gaps), sim.names)
    done = (after.flags & DONE) != 0
    for name in config.terminate_on:
        value, mask = metrics[name]
        done = done | (roles.controlled & mask & value)
    done = done | (roles.controlled & ((after.flags & ENTERED) != 0) & ~after.alive)
    after = dataclasses.replace(after, flags=after.flags | jnp.where(done, DONE, 0).astype(jnp.uint8))
    reward = jnp.zeros(done.shape, jnp.float32)
    if sim.reward is not None:
        reward = sim.reward(scene, before, after, metrics)
    over = jnp.any(roles.controlled) & jnp.all(done | ~roles.controlled)
    used = after.t - sim.start(scene)
    truncated = after.t >= scene.log.x.shape[0] - 1
    if config.steps is not None:
        truncated = truncated | (used >= config.steps)
    seen = None if sim.observation is None else sim.observe(scene, after)
    return after, StepOutput(metrics, reward, done, over, truncated, seen)


def _roles_of(sim: "Simulator", scene: Scene) -> _Roles:
    objects, controlled = scene.objects, sim.controlled(scene)
    played = objects.exists & ~controlled & sim.agents.replays(scene)
    reactive = objects.exists & ~controlled & ~played
    # What is seen so briefly that it cannot have gone far, but fast, passes by.
    passes = (objects.top_speed > _PARKED_MPS) & (objects.extent >= (objects.last - objects.first) * scene.dt)
    parked = reactive & (objects.extent < _PARKED_M) & ~passes & (objects.first >= 0)
    return _Roles(controlled, played, reactive, parked)


def _choose(which: Array, pose: Pose, other: Pose) -> Pose:
    return Pose(*(jnp.where(which, a, b) for a, b in zip(pose, other, strict=True)))


def _at_rest(pose: Pose) -> Pose:
    return pose._replace(vx=jnp.zeros_like(pose.vx), vy=jnp.zeros_like(pose.vy))


def _parking(scene: Scene) -> Pose:
    """The last valid logged pose of each object, at rest."""
    last = jnp.clip(jnp.asarray(scene.objects.last), 0)[None]
    return _at_rest(Pose(*(jnp.take_along_axis(jnp.asarray(field), last, axis=0)[0] for field in scene.log[:6])))
