"""Noise on the motion of simulated agents, so that rollouts of one scene differ."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Key

from gleanings.driving.agents import SimAgent
from gleanings.driving.scene import Pose, Scene
from gleanings.driving.state import SimState

_CALM_MPS = 2.0  # slower objects get less noise, standing ones none


class Noisy(SimAgent):
    """An agent whose objects accelerate and turn a little at random; what it replays is left alone.

    acceleration (m/s^2) and curvature (1/m): standard deviations of two processes an object, Gaussian and, over
    `memory` seconds, correlated (Ornstein-Uhlenbeck), that are added to the agent's motion of each step. Nobody is
    made to drive backwards, and below 2 m/s the noise fades with the speed. Source: ours.
    """

    agent: SimAgent
    acceleration: float = 0.5
    curvature: float = 0.002
    memory: float = 2.0

    def init(self, scene: Scene, key: Key[Array, ""]) -> tuple[Any, Float32[Array, "2 N"]]:
        """The agent's state, and the processes in units of their deviation."""
        own = self.agent.init(scene, jax.random.fold_in(key, 0))
        return own, jax.random.normal(jax.random.fold_in(key, 1), (2, scene.objects.kind.shape[0]), jnp.float32)

    def act(self, scene: Scene, state: SimState, own: Any, key: Key[Array, ""]) -> tuple[Pose, Bool[Array, " N"], Any]:
        """The agent's poses at t + 1, their velocity scaled and turned, and moved on by half of what that adds."""
        inner, level = own
        pose, alive, inner = self.agent.act(scene, state, inner, jax.random.fold_in(key, 0))
        fresh = jax.random.normal(jax.random.fold_in(key, 1), level.shape, level.dtype)
        keep = jnp.exp(-scene.dt / self.memory) if self.memory > 0 else 0.0
        level = keep * level + jnp.sqrt(1 - keep * keep) * fresh
        speed = jnp.hypot(pose.vx, pose.vy)
        calm = jnp.where(self.agent.replays(scene), 0.0, jnp.clip(speed / _CALM_MPS, 0, 1))
        faster = jnp.maximum(speed + calm * self.acceleration * level[0] * scene.dt, 0.0)
        turn = calm * self.curvature * level[1] * faster * scene.dt
        grow = faster / jnp.maximum(speed, 1e-3)
        vx = grow * (pose.vx * jnp.cos(turn) - pose.vy * jnp.sin(turn))
        vy = grow * (pose.vx * jnp.sin(turn) + pose.vy * jnp.cos(turn))
        x, y = (
            at + (after - before) * scene.dt / 2 for at, after, before in zip(pose, (vx, vy), pose[4:], strict=False)
        )
        yaw = jnp.arctan2(jnp.sin(pose.yaw + turn), jnp.cos(pose.yaw + turn))
        noisy = Pose(x, y, pose.z, yaw, vx, vy)
        moved = Pose(*(jnp.where(calm > 0, a, b) for a, b in zip(noisy, pose, strict=True)))
        return moved, alive, (inner, level)

    def replays(self, scene: Scene) -> Bool[Array, " N"]:
        """Those that the agent replays."""
        return self.agent.replays(scene)
