"""The simulator: pure functions of (scene, state, action, key), for one scene; `jax.vmap` makes batches.

The order of a step: actions and agents move on the state at t, the log plays, objects enter, heights follow the road,
then flags and metrics at t + 1 are taken once for reward and termination. Source: design page 3.1, 3.4 (ours).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float32, Key, Shaped

from gleanings.core.errors import ConfigError
from gleanings.driving._ground import height_on_ground
from gleanings.driving._motion import Moved, moved
from gleanings.driving.advance import advance, begin, follows_contacts, gaps_of, log_at, within
from gleanings.driving.agents import Policy, SimAgent, selected
from gleanings.driving.config import ObserveConfig, SimConfig
from gleanings.driving.dynamics import Dynamics, limits_of
from gleanings.driving.metrics import StepContext, check_names, measure_step
from gleanings.driving.raw import Kind
from gleanings.driving.scene import Pose, Scene, Trajectory
from gleanings.driving.state import (
    CLIPPED_ACTION,
    DONE,
    ENTERED,
    INVALID_ACTION,
    LEFT_SCENE,
    PARKED,
    Rollout,
    SimState,
    StepOutput,
)

Reward = Callable[[Scene, SimState, SimState, dict], Array]
_PARKED_M = 2.0  # log extent below which an object is parked
_ROOM_M = 1.0  # free space around an object that waited to enter
_INIT = 2**31  # folded into the key of the agents' first state; steps fold in less


class ActionSpec(NamedTuple):
    """Least and largest value [A] of the actions of one object, shape (A,) and dtype. Tighter bounds may hold by
    kind and speed; what exceeds them is clipped."""

    low: Shaped[np.ndarray, " A"]
    high: Shaped[np.ndarray, " A"]
    shape: tuple[int, ...]
    dtype: Any


class _Roles(NamedTuple):
    """Who moves each object; all [N] and exclusive, but that parked ones are reactive."""

    controlled: Array
    played: Array
    reactive: Array
    parked: Array


class Simulator(eqx.Module):
    """A simulator without state of its own. Methods take one scene, whose arrays may be NumPy's.

    dynamics: of the controlled objects. agents: moves all others. reward(scene, previous, state, metrics) -> [N];
    its attribute `names`, if it has one, lists metrics it needs; None: 0. observation: an `ObserveConfig` or a
    function of (scene, state); None: none. ConfigError: unknown metrics, settings that cannot be meant.
    """

    config: SimConfig = eqx.field(static=True)
    dynamics: Dynamics
    agents: SimAgent
    reward: Reward | None
    observation: Any

    def __init__(
        self,
        config: SimConfig | None = None,
        *,
        dynamics: Dynamics,
        agents: SimAgent,
        reward: Reward | None = None,
        observation: ObserveConfig | Callable[[Scene, SimState], Any] | None = None,
    ) -> None:
        self.config = SimConfig() if config is None else config
        self.dynamics, self.agents, self.reward, self.observation = dynamics, agents, reward, observation
        _check(self.config, self._names)

    @property
    def _names(self) -> tuple[str, ...]:
        """Metrics measured at each step."""
        return tuple(dict.fromkeys((*self.config.metrics, *self.config.terminate_on, *getattr(self.reward, "names", ()))))

    @property
    def action_spec(self) -> ActionSpec:
        """Bounds, shape and dtype of the actions of an object at rest: of vehicles, or of any kind where all act."""
        kind = [Kind.VEHICLE] if self.config.controlled in ("sdc", "vehicles") else list(Kind)
        rest = Pose(*(jnp.zeros(len(kind)),) * 6)
        low, high = jax.vmap(self.dynamics.bounds, (0, None, 0))(rest, 0.1, limits_of(jnp.asarray(kind)))
        return ActionSpec(np.asarray(low.min(0)), np.asarray(high.max(0)), (self.dynamics.size,), np.dtype(low.dtype))

    def controlled(self, scene: Scene) -> Bool[Array, " N"]:
        """Objects that take actions."""
        return selected(scene, self.config.controlled)

    def null_action(self, scene: Scene, state: SimState | None = None) -> Shaped[Array, "N A"]:
        """Actions that keep speed and heading.

        Without a `state`: (0, 0) of `Bicycle` and its bin; of dynamics whose null action depends on the speed, rows
        that mean nothing (NaN, -1), for which the simulator takes the null action and raises INVALID_ACTION.
        """
        kind = jnp.asarray(scene.objects.kind)
        zero = jnp.zeros(kind.shape, jnp.float32)

        def of(pose: Pose) -> Array:
            return jax.vmap(self.dynamics.null, (0, None, 0))(pose, scene.dt, limits_of(kind))

        if state is not None:
            return of(state.pose)
        still, moving = of(Pose(*(zero,) * 6)), of(Pose(*(zero,) * 4, zero + 3.0, zero))
        return jnp.where(jnp.all(still == moving), still, -1 if self.dynamics.integer else jnp.nan)

    def observe(self, scene: Scene, state: SimState) -> Any:
        """What `observation` shows of the state. ConfigError: the simulator was made without."""
        if self.observation is None:
            raise ConfigError("this simulator observes nothing: make it with observation=ObserveConfig()")
        if isinstance(self.observation, ObserveConfig):
            from gleanings.driving.observe import observe

            return observe(scene, state, self.observation)
        return self.observation(scene, state)

    def reset(self, scene: Scene, key: Key[Array, ""], index: Array | int = 0) -> SimState:
        """The first state, at `SimConfig.start` or `Scene.start`. index: kept in `SimState.index`.

        ConfigError: no object to control (where the scene is not traced), a start outside the log.
        """
        self._check_scene(scene)
        return _reset(self, _on_device(scene), key, jnp.asarray(index, jnp.int32))

    def step(self, scene: Scene, state: SimState, action: Any, key: Key[Array, ""]) -> tuple[SimState, StepOutput]:
        """One step. action: [N, A], `Action`, or None: all coast. key: may be the same at every step.

        Rows of objects that are not controlled or not alive are ignored. ConfigError: another shape or dtype.
        """
        state, out, _ = _step(self, scene, state, action, key)
        return state, out

    def rollout(
        self,
        scene: Scene,
        policy: Policy | None = None,
        key: Key[Array, ""] | None = None,
        steps: int | None = None,
        record: Literal["pose", "metrics", "all"] = "pose",
        state: SimState | None = None,
    ) -> Rollout:
        """An episode in one `lax.scan`; it goes on when terminated or truncated.

        policy(scene, state, key) -> action; None: all coast. key: None is seed 0. steps: None is to the end of the log
        or `SimConfig.steps`. record: "metrics" keeps no trajectory, "all" also the observations. state: go on from
        there, with the same key, instead of a reset. ConfigError: steps that a traced scene leaves unknown.
        """
        if record not in ("pose", "metrics", "all"):
            raise ConfigError(f"record {record!r}: pose, metrics or all")
        if state is None:
            self._check_scene(scene)
        key = jax.random.key(0) if key is None else key
        steps = self._steps(scene, state) if steps is None else steps
        return _rollout(self, _on_device(scene), policy, key, steps, record, state)

    def _start(self, scene: Scene) -> Array:
        return jnp.asarray(scene.start if self.config.start is None else self.config.start, jnp.int32)

    def _steps(self, scene: Scene, state: SimState | None) -> int:
        first = self.config.start if self.config.start is not None else scene.start
        now = first if state is None else state.t
        if isinstance(now, jax.core.Tracer) or isinstance(first, jax.core.Tracer):
            raise ConfigError("the start of a traced scene is not known: give rollout(steps=...)")
        last = scene.log.x.shape[0] - 1
        if self.config.steps is not None:
            last = min(last, int(first) + self.config.steps)
        return max(last - int(now), 0)

    def _check_scene(self, scene: Scene) -> None:
        """ConfigError where nobody would take actions, or the start lies outside the log."""
        steps, start = scene.log.x.shape[0], self.config.start
        if start is not None and start >= steps - 1:
            raise ConfigError(f"start {start} leaves no step: the log has {steps} states")
        controlled = self.config.controlled
        if controlled == "all" or isinstance(scene.objects.kind, jax.core.Tracer):
            return
        ids = np.asarray(scene.objects.id)[np.asarray(scene.objects.exists)].tolist()
        if isinstance(controlled, tuple):
            missing = sorted(set(controlled) - set(ids))
            if missing:
                raise ConfigError(f"controlled={controlled}: no object has id {missing}; ids here: {ids}")
        elif controlled == "sdc" and not np.asarray(self.controlled(scene)).any():
            raise ConfigError('controlled="sdc": this scene has no ego; use "vehicles", "all", "predict" or ids')

    def _roles(self, scene: Scene) -> _Roles:
        objects, controlled = scene.objects, self.controlled(scene)
        played = objects.exists & ~controlled & self.agents.replays(scene)
        reactive = objects.exists & ~controlled & ~played
        return _Roles(controlled, played, reactive, reactive & (objects.extent < _PARKED_M) & (objects.first >= 0))


def _check(config: SimConfig, names: tuple[str, ...]) -> None:
    """ConfigError for settings that cannot be meant."""
    try:
        hash(config)
    except TypeError:
        raise ConfigError("SimConfig holds a list: metrics, terminate_on and controlled are tuples") from None
    check_names(names)
    if config.start is not None and config.start < 0:
        raise ConfigError(f"start {config.start}: 0 or more")
    if config.steps is not None and config.steps < 1:
        raise ConfigError(f"steps {config.steps}: 1 or more")
    if config.history < 0:
        raise ConfigError(f"history {config.history}: 0 or more")
    known = ("sdc", "all", "vehicles", "predict")
    if not isinstance(config.controlled, tuple) and config.controlled not in known:
        raise ConfigError(f"controlled={config.controlled!r}: {', '.join(known)} or a tuple of ids")


def _on_device(scene: Scene) -> Scene:
    return jax.tree.map(jnp.asarray, scene)


@eqx.filter_jit
def _reset(sim: Simulator, scene: Scene, key: Array, index: Array) -> SimState:
    t, roles = sim._start(scene), sim._roles(scene)
    pose, valid = log_at(scene, t)
    parked = roles.parked & (t >= scene.objects.first)
    pose, alive = _choose(parked, _parking(scene), pose), (valid | parked) & scene.objects.exists
    flags = jnp.where(parked, PARKED, 0).astype(jnp.uint8)
    agents = sim.agents.init(scene, jax.random.fold_in(key, _INIT))
    contacts = follows_contacts(sim._names)
    return begin(
        scene, sim.config, t, pose, alive, key, contacts=contacts, flags=flags, agents=agents, index=index
    )[0]


def _step(sim: Simulator, scene: Scene, state: SimState, action: Any, key: Array) -> tuple[SimState, StepOutput, Array]:
    """The next state, what came of it, and the actions that were applied."""
    config, objects, roles = sim.config, scene.objects, sim._roles(scene)
    logged, valid = log_at(scene, state.t + 1)
    acts = moved(sim.dynamics, scene, state.pose, action)
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
    contacts = follows_contacts(sim._names)
    after, gaps = advance(
        scene, config, state, pose, alive, contacts=contacts, raised=raised, agents=agents, gaps=gaps
    )
    after, out = _outcome(sim, scene, roles, state, after, gaps)
    return after, out, acts.action


def _stays(config: SimConfig, scene: Scene, roles: _Roles, state: SimState, present: Array) -> tuple[Array, Array]:
    """Which objects that live on their own stay in the scene, and which left it: gone by the agent, or path at its end."""
    paths = scene.paths
    ended = (paths.length > 0) & ~paths.closed & (state.arc >= paths.length - 0.01)
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
    sim: Simulator, scene: Scene, roles: _Roles, before: SimState, after: SimState, gaps: Array | None
) -> tuple[SimState, StepOutput]:
    """Metrics, and what reward and termination make of them."""
    config = sim.config
    metrics = measure_step(StepContext(scene, config, before, after, gaps), sim._names)
    done = (after.flags & DONE) != 0
    for name in config.terminate_on:
        value, mask = metrics[name]
        if value.dtype != bool:
            raise ConfigError(f"terminate_on={name!r}: only metrics that are true or false can end an episode")
        done = done | (roles.controlled & mask & value)
    done = done | (roles.controlled & ((after.flags & ENTERED) != 0) & ~after.alive)
    after = dataclasses.replace(after, flags=after.flags | jnp.where(done, DONE, 0).astype(jnp.uint8))
    reward = jnp.zeros(done.shape, jnp.float32)
    if sim.reward is not None:
        reward = sim.reward(scene, before, after, metrics)
    over = jnp.any(roles.controlled) & jnp.all(done | ~roles.controlled)
    used = after.t - sim._start(scene)
    truncated = after.t >= scene.log.x.shape[0] - 1
    if config.steps is not None:
        truncated = truncated | (used >= config.steps)
    seen = None if sim.observation is None else sim.observe(scene, after)
    return after, StepOutput(metrics, reward, done, over, truncated, seen)


@eqx.filter_jit
def _rollout(
    sim: Simulator, scene: Scene, policy: Any, key: Array, steps: int, record: str, state: SimState | None
) -> Rollout:
    first = _reset(sim, scene, key, jnp.int32(0)) if state is None else state

    def body(state: SimState, _: None) -> tuple[SimState, Any]:
        own_key = jax.random.fold_in(jax.random.fold_in(key, state.t), 1)
        action = None if policy is None else policy(scene, state, own_key)
        after, out, used = _step(sim, scene, state, action, key)
        row = None if record == "metrics" else Trajectory(*after.pose, after.alive)
        out = out if record == "all" else out._replace(observation=None)
        return after, (row, out, used, after.flags)

    last, (rows, out, used, flags) = lax.scan(body, first, None, length=steps)
    trajectory = None
    if rows is not None:
        start = Trajectory(*first.pose, first.alive)
        trajectory = jax.tree.map(lambda row, rows: jnp.concatenate([row[None], rows]), start, rows)
    return Rollout(
        trajectory,
        out.metrics,
        out.reward,
        out.done,
        out.terminated,
        out.truncated,
        used,
        flags,
        first.t,
        sim.controlled(scene),
        last,
        out.observation,
    )


def _choose(which: Array, pose: Pose, other: Pose) -> Pose:
    return Pose(*(jnp.where(which, a, b) for a, b in zip(pose, other, strict=True)))


def _at_rest(pose: Pose) -> Pose:
    return pose._replace(vx=jnp.zeros_like(pose.vx), vy=jnp.zeros_like(pose.vy))


def _parking(scene: Scene) -> Pose:
    """The last valid logged pose of each object, at rest."""
    last = jnp.clip(jnp.asarray(scene.objects.last), 0)[None]
    return _at_rest(Pose(*(jnp.take_along_axis(jnp.asarray(field), last, axis=0)[0] for field in scene.log[:6])))
