"""What a simulator carries from step to step and what it returns."""

from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Bool, Float32, Int32, Key, UInt8, UInt32

from gleanings.driving.scene import Pose, Trajectory

# Bits of SimState.flags.
ALIVE, ENTERED, DONE, PARKED, INVALID_ACTION, CLIPPED_ACTION, LEFT_SCENE = (1 << bit for bit in range(7))


class Metric(NamedTuple):
    """A measured value and where it is defined; both [N] or of one shape. Undefined values hold 0 or False."""

    value: Array
    mask: Array


class Action(NamedTuple):
    """Actions of all objects [N, A], and which rows are to be used [N]; other rows take the null action."""

    value: Array
    mask: Array


class SimState(eqx.Module):
    """State at one time step; small, because it is carried through `lax.scan`: no log and no map.

    t: index of the present step. x ... vy: pose, velocity of the N objects; accel (m/s^2) and yaw_rate (rad/s) of the
    last step; arc: m along `Scene.paths`, counted on over the rounds of a closed one. flags: bits, see this module.
    excused: one bit a pair, j % 32 of word [i, j // 32]; met: likewise, pairs that were both alive at some step; both
    only for the objects i that are measured.
    agents: states of the simulated agents. ring: the last `SimConfig.history` poses before this one, newest first,
    [h, N]; None without history.
    """

    t: Int32[Array, "*batch"]
    x: Float32[Array, "*batch N"]
    y: Float32[Array, "*batch N"]
    z: Float32[Array, "*batch N"]
    yaw: Float32[Array, "*batch N"]
    vx: Float32[Array, "*batch N"]
    vy: Float32[Array, "*batch N"]
    accel: Float32[Array, "*batch N"]
    yaw_rate: Float32[Array, "*batch N"]
    arc: Float32[Array, "*batch N"]
    flags: UInt8[Array, "*batch N"]
    excused: UInt32[Array, "*batch N W"]
    key: Key[Array, "*batch"]
    index: Int32[Array, "*batch"]
    agents: Any
    ring: Trajectory | None
    met: UInt32[Array, "*batch N W"]

    @property
    def pose(self) -> Pose:
        """Pose of all objects."""
        return Pose(self.x, self.y, self.z, self.yaw, self.vx, self.vy)

    @property
    def alive(self) -> Bool[Array, "*batch N"]:
        """Which objects are in the scene."""
        return (self.flags & ALIVE) != 0


class StepOutput(NamedTuple):
    """Result of a step. metrics: by name, at t+1. reward: [N]. done: bool [N]. terminated, truncated: bool scalars.

    observation: of `Simulator(observation=...)`, else None. final_observation: with `AutoReset`, the one before it.
    """

    metrics: dict[str, Metric]
    reward: Array
    done: Array
    terminated: Array
    truncated: Array
    observation: Any = None
    final_observation: Any = None


class Rollout(NamedTuple):
    """A whole episode of T' steps. trajectory: [T'+1, N], row 0 = reset, None if it was not recorded.

    metrics: [T', N] by name. reward, done: [T', N]. terminated, truncated: [T']. actions: [T', N, A]. first: state
    index of row 0. controlled: bool [N]. state: the last one. observation: [T', ...] if recorded. flags: u8 [T', N].
    """

    trajectory: Trajectory | None
    metrics: dict[str, Metric]
    reward: Array
    done: Array
    terminated: Array
    truncated: Array
    actions: Array
    flags: Array
    first: Array
    controlled: Array
    state: SimState
    observation: Any = None
