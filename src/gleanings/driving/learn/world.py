"""The decision process of learning to drive: one action for several steps of the simulator. Source: ours.

Nothing ends an episode: the reward is never positive, so that ending at a crash would pay the crash. A failure is
recorded and the episode goes on.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Key

from gleanings.core.errors import ConfigError
from gleanings.driving.agents import LogPlayback, SimAgent
from gleanings.driving.config import SimConfig
from gleanings.driving.dynamics import Bicycle, Scalar, along
from gleanings.driving.idm import IDM
from gleanings.driving.learn.actions import physical
from gleanings.driving.learn.config import WorldConfig
from gleanings.driving.learn.safety_reward import BinaryReward, SafetyReward, clearance
from gleanings.driving.observation import flatten, observation_size, observe_ego
from gleanings.driving.scene import Scene
from gleanings.driving.sim import Simulator
from gleanings.driving.state import SimState, StepOutput

FAILURES = ("collision", "off_road")
METRICS = ("collision", "at_fault", "off_road", "off_road_m", "off_route", "progress_m")
_EVENTS = ("collision", "at_fault", "off_road", "off_route")


class Decision(NamedTuple):
    """What came of a decision. observation [D]; reward, clearance_m (least, to other boxes) and progress_m (along the
    route since the start) are scalars; collision, at_fault, off_road, off_route (more than 4 m from the route): whether
    at any step. All float32 or bool."""

    observation: Array
    reward: Array
    clearance_m: Array
    progress_m: Array
    collision: Array
    at_fault: Array
    off_road: Array
    off_route: Array


class World(eqx.Module):
    """The ego of a scene from `crop.crop_scene` decides, the simulator moves. For one scene; `jax.vmap` batches."""

    config: WorldConfig = eqx.field(static=True)
    reward: SafetyReward | BinaryReward
    sim: Simulator

    def __init__(self, config: WorldConfig | None = None) -> None:
        self.config = WorldConfig() if config is None else config
        agents: SimAgent = IDM() if self.config.others == "idm" else LogPlayback()
        c = self.config
        safety = SafetyReward(c.clearance_m, c.edge_m, c.clearance_weight, c.edge_weight)
        self.reward = BinaryReward() if c.reward == "binary" else safety
        history = max(c.observe.frames - 1, 0)
        sim = SimConfig(metrics=METRICS, measured="sdc", follow_ground=False, history=history)
        self.sim = Simulator(sim, dynamics=Bicycle(), agents=agents, reward=self.reward)

    @property
    def observation_size(self) -> int:
        """D, numbers in an observation."""
        return observation_size(self.config.observe)

    def begin(self, scene: Scene, key: Key[Array, ""]) -> tuple[SimState, Float32[Array, " D"]]:
        """The first state and what the ego sees. ConfigError: an episode longer than the log, or not one scene."""
        self._check(scene)
        state = self.sim.reset(scene, key)
        return state, self.observe(scene, state)

    def observe(self, scene: Scene, state: SimState) -> Float32[Array, " D"]:
        """What the ego sees, flat."""
        return flatten(observe_ego(scene, state, self.config.observe))

    def decide(
        self, scene: Scene, state: SimState, u: Float32[Array, "2"], key: Key[Array, ""]
    ) -> tuple[SimState, Decision]:
        """`config.every` steps under the action u in [-1, 1]^2.

        Braking ends in standing, never in reverse. What exceeds the range of u is clipped; where u is not finite the
        ego coasts. The reward is the mean over the steps, of the binary one the least, and with `progress_weight` what
        is gained along the route.
        """
        slot = jnp.argmax(jnp.asarray(scene.objects.is_sdc))
        arc = state.arc[slot]

        def read(state: SimState, out: StepOutput) -> tuple[Array, ...]:
            seen = (out.metrics[name].value[slot] for name in (*_EVENTS, "progress_m"))
            return out.reward[slot], clearance(scene, state), *seen

        state, (reward, near, *events, progress) = self._move(self.sim, scene, state, u, key, read)
        gained = self.config.progress_weight * (state.arc[slot] - arc) / 10
        return state, Decision(
            self.observe(scene, state),
            self.reward.of_decision(reward) + gained,
            near.min(),
            progress[-1],
            *(event.any() for event in events),
        )

    @property
    def judge(self) -> Simulator:
        """The simulator that measures only what `failed` needs, for which it reads no lanes."""
        config = SimConfig(metrics=FAILURES, measured="sdc", follow_ground=False)
        return Simulator(config, dynamics=self.sim.dynamics, agents=self.sim.agents)

    def fails(
        self, scene: Scene, state: SimState, u: Float32[Array, "2"], key: Key[Array, ""]
    ) -> tuple[SimState, Bool[Array, ""]]:
        """The next state and whether the decision failed, as by `decide` and `failed`. state: of `judge`."""
        slot = jnp.argmax(jnp.asarray(scene.objects.is_sdc))

        def read(state: SimState, out: StepOutput) -> tuple[Array, ...]:
            return tuple(out.metrics[name].value[slot] for name in FAILURES)

        state, (collision, off_road) = self._move(self.judge, scene, state, u, key, read)
        return state, (collision | off_road).any()

    def _move(
        self,
        sim: Simulator,
        scene: Scene,
        state: SimState,
        u: Float32[Array, "2"],
        key: Key[Array, ""],
        read: Callable[[SimState, StepOutput], tuple[Array, ...]],
    ) -> tuple[SimState, tuple[Array, ...]]:
        """The state after the steps of a decision, and what is read of each."""
        slot = jnp.argmax(jnp.asarray(scene.objects.is_sdc))
        action = physical(jnp.clip(u, -1.0, 1.0), along(state.pose)[slot])

        def step(state: SimState, _: None) -> tuple[SimState, tuple[Array, ...]]:
            state, out = sim.step(scene, state, action_rows(scene, state, action), key)
            return state, read(state, out)

        return jax.lax.scan(step, state, None, length=self.config.every)

    def _check(self, scene: Scene) -> None:
        if np.ndim(scene.log.x) != 2:
            raise ConfigError("expected one scene; `jax.vmap` drives in a bank")
        needed, there = self.config.every * self.config.horizon, scene.log.x.shape[0] - 1
        if needed > there:
            raise ConfigError(
                f"horizon={self.config.horizon} decisions of {self.config.every} steps need {needed} steps after the "
                f"start, scenes have at most {there}: horizon 1 to {there // self.config.every}, or longer crops"
            )

    def failed(self, decision: Decision) -> Bool[Array | np.ndarray, "*batch"]:
        """Contact or off the road."""
        return decision.collision | decision.off_road


def action_rows(scene: Scene, state: SimState, action: Float32[Array, "2"]) -> Float32[Array, "N 2"]:
    """Acceleration and curvature of the ego for the simulator, which reads its row alone; braking ends in standing."""
    slot = jnp.argmax(jnp.asarray(scene.objects.is_sdc))
    return jnp.broadcast_to(stopping(action, along(state.pose)[slot], jnp.asarray(scene.dt)), (state.x.shape[0], 2))


def stopping(action: Float32[Array, "2"], speed: Float[Array, ""], dt: Scalar) -> Float32[Array, "2"]:
    """The action, which brakes a step of dt seconds no harder than to a stand."""
    return action.at[0].max(-jnp.maximum(speed, 0.0) / dt)
