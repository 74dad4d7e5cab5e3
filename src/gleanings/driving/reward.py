"""Rewards of a simulator: a value for each object from one step. Source: ours."""

from collections.abc import Mapping
from typing import Protocol

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float32

from gleanings.driving.metrics import check_names
from gleanings.driving.scene import Scene
from gleanings.driving.state import Metric, SimState


class Reward(Protocol):
    """What a simulator calls at each step. `names`: metrics that it needs, which the simulator then measures."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the metrics it reads."""
        ...

    def __call__(
        self, scene: Scene, previous: SimState, state: SimState, metrics: dict[str, Metric]
    ) -> Float32[Array, " N"]:
        """Reward [N] of the step from `previous` to `state`, whose metrics are given."""
        ...


class LinearReward(eqx.Module):
    """Weighted sum of metrics; an undefined metric counts 0, and so does an object that is not alive.

    weights: by metric name, such as {"collision": -1.0, "off_road": -1.0, "progress_m": 0.1}. ConfigError: an unknown
    name. Note that most metrics are states, not changes: `progress_m` is the progress so far.
    """

    weights: tuple[tuple[str, float], ...] = eqx.field(static=True)

    def __init__(self, weights: Mapping[str, float]) -> None:
        check_names(weights)
        self.weights = tuple(sorted((name, float(weight)) for name, weight in weights.items()))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the metrics it reads."""
        return tuple(name for name, _ in self.weights)

    def __call__(
        self, scene: Scene, previous: SimState, state: SimState, metrics: dict[str, Metric]
    ) -> Float32[Array, " N"]:
        """Reward [N] of the step."""
        total = jnp.zeros(state.x.shape, jnp.float32)
        for name, weight in self.weights:
            total += weight * metrics[name].value.astype(jnp.float32)
        return total


class GoalReward(eqx.Module):
    """Metres gained towards the goal times `approach`, `reached` on entering the goal, weights of bad events on top.

    Objects without a goal, and the step at which an object appears, get only the events. collision, off_road: added at
    each step at which the metric holds.
    """

    approach: float = eqx.field(static=True, default=0.1)
    reached: float = eqx.field(static=True, default=1.0)
    collision: float = eqx.field(static=True, default=-1.0)
    off_road: float = eqx.field(static=True, default=-1.0)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the metrics it reads."""
        return ("goal_reached", "collision", "off_road")

    def __call__(
        self, scene: Scene, previous: SimState, state: SimState, metrics: dict[str, Metric]
    ) -> Float32[Array, " N"]:
        """Reward [N] of the step."""
        goals = scene.goals
        before, after = (jnp.hypot(s.x - goals.x, s.y - goals.y) for s in (previous, state))
        lives = previous.alive & state.alive & goals.exists
        enters = metrics["goal_reached"].value & (before > goals.radius)
        gained = jnp.where(lives, self.approach * (before - after) + self.reached * enters, 0.0)
        events = self.collision * metrics["collision"].value + self.off_road * metrics["off_road"].value
        return (gained + events).astype(jnp.float32)
