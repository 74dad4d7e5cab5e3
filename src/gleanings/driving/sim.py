"""The simulator: pure functions of (scene, state, action, key), for one scene; `jax.vmap` makes batches.

The order of a step: actions and agents move on the state at t, the log plays, objects enter, heights follow the road,
then flags and metrics at t + 1 are taken once for reward and termination. Source: design page 3.1, 3.4 (ours).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Int32, Key, Shaped

from gleanings.core.errors import ConfigError
from gleanings.driving._settings import check_settings
from gleanings.driving._step import first_state, next_state
from gleanings.driving.agents import LogPlayback, Policy, SimAgent, selected
from gleanings.driving.config import ObserveConfig, SimConfig
from gleanings.driving.dynamics import Bicycle, Dynamics, Scalar, limits_of
from gleanings.driving.raw import Kind
from gleanings.driving.scene import Pose, Scene, Trajectory
from gleanings.driving.state import Rollout, SimState, StepOutput

_next_state = eqx.filter_jit(next_state)
Reward = Callable[[Scene, SimState, SimState, dict], Array]


class ActionSpec(NamedTuple):
    """Least and largest value [A] of the actions of one object, shape (A,) and dtype. Tighter bounds may hold by
    kind and speed; what exceeds them is clipped."""

    low: Shaped[np.ndarray, " A"]
    high: Shaped[np.ndarray, " A"]
    shape: tuple[int, ...]
    dtype: Any


class Simulator(eqx.Module):
    """A simulator without state of its own. Methods take one scene, whose arrays may be NumPy's.

    dynamics: of the controlled objects, `Bicycle` if not given. agents: moves all others, `LogPlayback` if not given.
    reward(scene, previous, state, metrics) -> [N]; its attribute `names`, if it has one, lists the metrics it needs;
    None: 0. observation: an `ObserveConfig` or a function of (scene, state); None: none. ConfigError: unknown metrics,
    settings that cannot be meant.
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
        dynamics: Dynamics | None = None,
        agents: SimAgent | None = None,
        reward: Reward | None = None,
        observation: ObserveConfig | Callable[[Scene, SimState], Any] | None = None,
    ) -> None:
        self.config = SimConfig() if config is None else config
        self.dynamics = Bicycle() if dynamics is None else dynamics
        self.agents = LogPlayback() if agents is None else agents
        self.reward, self.observation = reward, observation
        if not isinstance(self.dynamics, Dynamics) or not isinstance(self.agents, SimAgent):
            raise ConfigError(f"dynamics and agents are objects such as Bicycle() and IDM(), not {dynamics}, {agents}")
        check_settings(self.config, self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """Metrics measured at each step."""
        return tuple(
            dict.fromkeys((*self.config.metrics, *self.config.terminate_on, *getattr(self.reward, "names", ())))
        )

    @property
    def ego_alone(self) -> bool:
        """Whether only the ego acts and is measured, among others that do as logged: no more is computed of these."""
        config = self.config
        return config.controlled == config.measured == "sdc" and type(self.agents) is LogPlayback

    @property
    def action_spec(self) -> ActionSpec:
        """`spec_at` steps of 0.1 s."""
        return self.spec_at(0.1)

    def spec_at(self, dt: float) -> ActionSpec:
        """Bounds, shape and dtype of the actions of an object at rest: of vehicles, or of any kind where all act.

        dt: of the scenes, s; `DeltaLocal` and `DeltaGlobal` go farther in a longer step.
        """
        kind = [Kind.VEHICLE] if self.config.controlled in ("sdc", "vehicles") else list(Kind)
        zero = jnp.zeros(len(kind))
        rest = Pose(zero, zero, zero, zero, zero, zero)
        low, high = _bounds(self.dynamics, rest, dt, jnp.asarray(kind))
        return ActionSpec(np.asarray(low.min(0)), np.asarray(high.max(0)), (self.dynamics.size,), np.dtype(low.dtype))

    def controlled(self, scene: Scene) -> Bool[Array, " N"]:
        """Objects that take actions."""
        return selected(scene, self.config.controlled)

    def null_action(self, scene: Scene, state: SimState | None = None) -> Shaped[Array, "N A"]:
        """Actions that keep speed and heading.

        Without a `state`: (0, 0) of `Bicycle` and its bin; of dynamics whose null action depends on the speed, rows
        that mean nothing (NaN, -1), for which the simulator takes the null action and raises INVALID_ACTION.
        """
        scene = on_device(scene)
        kind = scene.objects.kind
        zero = jnp.zeros(kind.shape, jnp.float32)

        if state is not None:
            return _null(self.dynamics, state.pose, scene.dt, kind)
        rest = Pose(zero, zero, zero, zero, zero, zero)
        still, moving = (_null(self.dynamics, rest._replace(vx=zero + v), scene.dt, kind) for v in (0.0, 3.0))
        return jnp.where(jnp.all(still == moving), still, -1 if self.dynamics.integer else jnp.nan)

    def observe(self, scene: Scene, state: SimState) -> Any:
        """What `observation` shows of the state. ConfigError: the simulator was made without."""
        if self.observation is None:
            raise ConfigError("this simulator observes nothing: make it with observation=ObserveConfig()")
        if isinstance(self.observation, ObserveConfig):
            from gleanings.driving.observation import observe

            return observe(scene, state, self.observation)
        return self.observation(scene, state)

    def reset(self, scene: Scene, key: Key[Array, ""], index: Array | int = 0) -> SimState:
        """The first state, at `SimConfig.start` or `Scene.start`. index: kept in `SimState.index`.

        ConfigError: no object to control (where the scene is not traced), a start outside the log.
        """
        self.check(scene)
        _check_key(key)
        return first_state(self, on_device(scene), key, jnp.asarray(index, jnp.int32))

    def step(self, scene: Scene, state: SimState, action: Any, key: Key[Array, ""]) -> tuple[SimState, StepOutput]:
        """One step. action: [N, A], `Action`, or None: all coast. key: may be the same at every step.

        Rows of objects that are not controlled or not alive are ignored. ConfigError: another shape or dtype.
        """
        state, out, _ = _next_state(self, on_device(scene), state, action, key)
        _check_reward(out, state)
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
            self.check(scene)
        key = jax.random.key(0) if key is None else key
        _check_key(key)
        steps = self._steps(scene, state) if steps is None else steps
        if steps < 0:
            raise ConfigError(f"steps is {steps}; expected 0 or more")
        return _rollout(self, on_device(scene), policy, key, steps, record, state)

    def start(self, scene: Scene) -> Int32[Array, ""]:
        """State index at which episodes start."""
        return jnp.asarray(scene.start if self.config.start is None else self.config.start, jnp.int32)

    def _steps(self, scene: Scene, state: SimState | None) -> int:
        first = self.config.start if self.config.start is not None else scene.start
        now = first if state is None else state.t
        if isinstance(now, Tracer) or isinstance(first, Tracer):
            raise ConfigError("the start of a traced scene is not known: give rollout(steps=...)")
        last = scene.log.x.shape[0] - 1
        if self.config.steps is not None:
            last = min(last, int(first) + self.config.steps)
        return max(last - int(now), 0)

    def check(self, scene: Scene) -> None:
        """ConfigError where nobody would take actions, the start lies outside the log, or it is not one scene."""
        if not isinstance(scene, Scene) or np.ndim(scene.log.x) != 2:
            raise ConfigError("expected one Scene: jax.vmap this method over a stack, or give a list to `evaluate`")
        steps, start = scene.log.x.shape[0], self.config.start
        start = scene.start if start is None else start
        if not isinstance(start, Tracer) and start >= steps - 1:
            raise ConfigError(f"start {int(start)} leaves no step: the log has {steps} states")
        controlled = self.config.controlled
        if controlled == "all" or isinstance(scene.objects.kind, Tracer):
            return
        ids = np.asarray(scene.objects.id)[np.asarray(scene.objects.exists)].tolist()
        if isinstance(controlled, tuple):
            missing = sorted(set(controlled) - set(ids))
            if missing:
                raise ConfigError(f"controlled={controlled}: no object has id {missing}; ids here: {ids}")
        elif controlled == "sdc" and not np.asarray(scene.objects.is_sdc).any():
            raise ConfigError('controlled="sdc": this scene has no ego; use "vehicles", "all", "predict" or ids')


def _check_key(key: Any) -> None:
    if not hasattr(key, "dtype") or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise ConfigError(f"key is {key!r}; expected a typed key such as jax.random.key(0)")


def on_device(scene: Scene) -> Scene:
    """The scene with arrays of jax; `jnp.asarray` would compile a program for each shape."""
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else jax.device_put(leaf), scene)


def _check_reward(out: StepOutput, state: SimState) -> None:
    if jnp.shape(out.reward) != state.x.shape:
        raise ConfigError(f"a reward of shape {jnp.shape(out.reward)}; one value an object is needed, {state.x.shape}")


@eqx.filter_jit
def _null(dynamics: Dynamics, pose: Pose, dt: Scalar, kind: Array) -> Shaped[Array, "N A"]:
    return jax.vmap(dynamics.null, (0, None, 0))(pose, dt, limits_of(kind))


@eqx.filter_jit
def _bounds(dynamics: Dynamics, pose: Pose, dt: Scalar, kind: Array) -> tuple[Array, Array]:
    return jax.vmap(dynamics.bounds, (0, None, 0))(pose, dt, limits_of(kind))


@eqx.filter_jit
def _rollout(
    sim: Simulator, scene: Scene, policy: Any, key: Array, steps: int, record: str, state: SimState | None
) -> Rollout:
    first = first_state(sim, scene, key, jnp.int32(0)) if state is None else state

    def body(state: SimState, _: None) -> tuple[SimState, Any]:
        own_key = jax.random.fold_in(jax.random.fold_in(key, state.t), 1)
        action = None if policy is None else policy(scene, state, own_key)
        after, out, used = next_state(sim, scene, state, action, key)
        _check_reward(out, state)
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
