"""One controlled object as a Gymnasium environment. Needs the extra `driving`. Source: Gymnasium's interface; ours."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Key

from gleanings.core.errors import ConfigError
from gleanings.driving.config import ObserveConfig
from gleanings.driving.observation import flatten, observation_size, observe_ego
from gleanings.driving.reward import LinearReward
from gleanings.driving.scene import Scene, Trajectory
from gleanings.driving.sim import Simulator
from gleanings.driving.state import CLIPPED_ACTION, INVALID_ACTION, Metric, SimState, StepOutput
from gleanings.driving.video import draw_frame

try:
    import gymnasium
except ImportError:
    raise ConfigError("environments need Gymnasium: pip install 'gleanings[driving]'") from None

DEFAULT_REWARD = {"collision": -1.0, "off_road": -1.0, "log_divergence": -0.01}
"""Weights of the `LinearReward` of an environment whose simulator has no reward."""
_OBSERVE = ObserveConfig()


class EgoView(eqx.Module):
    """What the controlled object sees, as one row: the observation of an environment's simulator."""

    config: ObserveConfig = eqx.field(static=True)
    ego: str | tuple[int, ...] = eqx.field(static=True)

    def __call__(self, scene: Scene, state: SimState) -> Float32[Array, " D"]:
        """`flatten` of `observe_ego`."""
        return flatten(observe_ego(scene, state, self.config, self.ego))


class Told(NamedTuple):
    """What a step tells of the controlled object, scalars but for the row `seen` [D]."""

    seen: Array
    reward: Array
    terminated: Array
    truncated: Array
    metrics: dict[str, Metric]
    flags: Array
    t: Array


class DrivingEnv(gymnasium.Env[np.ndarray, Any]):
    """An episode is one of `scenes`, drawn with equal chances; the simulator's one controlled object is the agent.

    sim: controls "sdc" or one id; its observation is replaced by `observe`, and a missing reward by `LinearReward` of
    `DEFAULT_REWARD`. Observations are rows of `observe.flatten`, actions those of `sim.spec_at` the dt of the scenes, a
    Box or Discrete. Actions that cannot be used (NaN) are coasting. `reset(options={"scene": 3})` chooses the scene.
    seed: of the first `reset` that is given none. info: "scene", "t" and after a step each metric that is defined,
    "invalid_action" and "clipped_action". Scenes may differ in size; each size is compiled once.

    ConfigError: no scenes, not exactly one controlled object, an action of another shape, a step before `reset`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        scenes: Sequence[Scene],
        sim: Simulator,
        *,
        seed: int | None = None,
        observe: ObserveConfig = _OBSERVE,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode {render_mode!r}: None or 'rgb_array'")
        self.sim = environment_sim(scenes, sim, observe)
        self.scenes, self.render_mode = scenes, render_mode
        self.observation_space, self.action_space = spaces_of(self.sim, observe, scenes)
        self._seed, self._index = seed, 0
        self._scene: Scene | None = None
        self._state: SimState | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """The first observation of an episode, and info."""
        seed, self._seed = self._seed if seed is None else seed, None
        super().reset(seed=seed)
        index = int(self.np_random.integers(len(self.scenes)))
        key = jax.random.key(int(self.np_random.integers(2**32)))
        index = (options or {}).get("scene", index)
        if not isinstance(index, int | np.integer) or not 0 <= index < len(self.scenes):
            raise ConfigError(f"scene {index!r}: there are {len(self.scenes)} scenes, counted from 0")
        index, scene = int(index), self._scene
        if scene is None or index != self._index:
            scene = jax.device_put(self.scenes[index])
        self._index, self._scene = index, scene
        self._state, seen = first(self.sim, scene, key)
        return np.array(seen), {"scene": self._index, "t": int(self._state.t)}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Observation, reward, terminated, truncated and info after an action."""
        if self._scene is None or self._state is None:
            raise ConfigError("call reset() before step()")
        action = actions_of(action, self.action_space, self.sim)
        self._state, told = follow(self.sim, self._scene, self._state, action)
        told = jax.device_get(told)
        info = {name: metric.value.item() for name, metric in told.metrics.items() if metric.mask}
        info |= {"scene": self._index, "t": int(told.t)} | marks_of(int(told.flags))
        return np.array(told.seen), float(told.reward), bool(told.terminated), bool(told.truncated), info

    def render(self) -> Any:
        """A picture [640, 640, 3] of 100 m around the object; None unless made with render_mode="rgb_array"."""
        if self.render_mode is None:
            return None
        if self._scene is None or self._state is None:
            raise ConfigError("call reset() before render()")
        now = Trajectory(*self._state.pose, self._state.alive)
        shown = jax.device_get((now, self._state.t, self.sim.controlled(self._scene)))
        return draw_frame(self.scenes[self._index], *shown)

    def close(self) -> None:
        """Let go of the present scene and state."""
        self._scene = self._state = None


def environment_sim(scenes: Sequence[Scene], sim: Simulator, observe: ObserveConfig) -> Simulator:
    """The simulator of an environment, which observes and rewards. ConfigError: see `DrivingEnv`."""
    controlled, needed = sim.config.controlled, observe.frames - 1
    if len(scenes) == 0:
        raise ConfigError("an environment needs at least one scene")
    if controlled != "sdc" and not (isinstance(controlled, tuple) and len(controlled) == 1):
        raise ConfigError(f'controlled={controlled!r}: an environment drives one object, "sdc" or (id,)')
    reward = LinearReward(DEFAULT_REWARD) if sim.reward is None else sim.reward
    metrics = tuple(dict.fromkeys((*sim.config.metrics, *getattr(reward, "names", ()))))
    config = dataclasses.replace(sim.config, metrics=metrics, history=max(sim.config.history, needed))
    view = EgoView(observe, controlled)
    sim = Simulator(config, dynamics=sim.dynamics, agents=sim.agents, reward=reward, observation=view)
    for scene in scenes:
        sim.check(scene)
    return sim


def spaces_of(
    sim: Simulator, observe: ObserveConfig, scenes: Sequence[Scene]
) -> tuple[gymnasium.spaces.Box, gymnasium.Space]:
    """Spaces of the observations and actions of one object, at the longest steps of the scenes."""
    spec = sim.spec_at(max(float(scene.dt) for scene in scenes))
    seen = gymnasium.spaces.Box(-np.inf, np.inf, (observation_size(observe),), np.float32)
    if sim.dynamics.integer:
        return seen, gymnasium.spaces.Discrete(int(spec.high[0]) + 1)
    return seen, gymnasium.spaces.Box(spec.low, spec.high, spec.shape, np.float32)


def actions_of(action: Any, space: gymnasium.Space, sim: Simulator) -> np.ndarray:
    """Actions as the simulator takes them. ConfigError: another shape than the space's, or not numbers."""
    try:
        found = np.asarray(action, np.int32 if sim.dynamics.integer else np.float32)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"action {action!r} is no array of numbers") from None
    if found.shape != space.shape:
        raise ConfigError(f"action of shape {found.shape}; the action space has {space.shape}")
    return found[..., None] if sim.dynamics.integer else found


@eqx.filter_jit
def first(sim: Simulator, scene: Scene, key: Key[Array, ""]) -> tuple[SimState, Array]:
    """The first state and what it shows."""
    state = sim.reset(scene, key)
    return state, sim.observe(scene, state)


@eqx.filter_jit
def follow(sim: Simulator, scene: Scene, state: SimState, action: Array) -> tuple[SimState, Told]:
    """The next state under an action [A] of the controlled object, and what is told of it."""
    every = jnp.broadcast_to(action, (*state.x.shape, *action.shape))
    state, out = sim.step(scene, state, every, state.key)
    return state, told_of(sim.controlled(scene), state, out)


def told_of(controlled: Array, state: SimState, out: StepOutput) -> Told:
    """What a step tells of the one controlled object."""
    slot = jnp.argmax(controlled)
    metrics = {name: Metric(metric.value[slot], metric.mask[slot]) for name, metric in out.metrics.items()}
    over = out.terminated, out.truncated
    return Told(out.observation, out.reward[slot], *over, metrics, state.flags[slot], state.t)


def marks_of(flags: Any) -> dict[str, Any]:
    """Whether the action could not be used, and whether it was clipped."""
    return {"invalid_action": flags & INVALID_ACTION != 0, "clipped_action": flags & CLIPPED_ACTION != 0}
