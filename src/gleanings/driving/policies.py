"""Policies: callables (scene, state, key) -> action [N, A], `Action`, or None for coasting."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Key, Shaped

from gleanings.driving.advance import log_at
from gleanings.driving.agents import SimAgent
from gleanings.driving.config import ObserveConfig
from gleanings.driving.dynamics import Dynamics, limits_of
from gleanings.driving.scene import Pose, Scene
from gleanings.driving.state import SimState


class Expert(eqx.Module):
    """Takes the action that leads from where an object is to its next logged pose; coasts where there is none."""

    dynamics: Dynamics

    def __call__(self, scene: Scene, state: SimState, key: Array | None = None) -> Shaped[Array, "N A"]:
        """The inverse dynamics of log[t + 1], for all objects; the key is not used."""
        return _towards(self.dynamics, scene, state, *log_at(scene, state.t + 1))


class DrivenBy(eqx.Module):
    """Takes the action that leads to where an agent without a state of its own would move the object."""

    agent: SimAgent
    dynamics: Dynamics

    def __call__(self, scene: Scene, state: SimState, key: Key[Array, ""], *among: Any) -> Shaped[Array, "N A"]:
        """The inverse dynamics of the agent's poses, or of the log where the agent replays it. among: see `IDM.act`."""
        pose, alive, _ = self.agent.act(scene, state, self.agent.init(scene, key), key, *among)
        logged, valid = log_at(scene, state.t + 1)
        plays = self.agent.replays(scene)
        target = Pose(*(jnp.where(plays, a, b) for a, b in zip(logged, pose, strict=True)))
        return _towards(self.dynamics, scene, state, target, jnp.where(plays, valid, alive))


def expert(dynamics: Dynamics) -> Expert:
    """The policy that follows the log through `dynamics`. Source: ours, 3.3."""
    return Expert(dynamics)


def driven_by(agent: SimAgent, dynamics: Dynamics) -> DrivenBy:
    """The policy that moves controlled objects through `dynamics` as `agent`, one without a state, would. Ours."""
    return DrivenBy(agent, dynamics)


def null(scene: Scene, state: SimState, key: Array | None = None) -> None:
    """Coasts: None is the action that keeps speed and heading, whatever the dynamics."""
    return


def policy_from(act: Callable[[Any, Array], Any], config: ObserveConfig) -> Callable[[Scene, SimState, Array], Any]:
    """The policy that calls a learner's act(observation, key) with what `config` shows of the state."""
    return _Observing(act, config)


class _Observing(eqx.Module):
    act: Callable[[Any, Array], Any]
    config: ObserveConfig = eqx.field(static=True)

    def __call__(self, scene: Scene, state: SimState, key: Array) -> Any:
        from gleanings.driving.observation import observe

        return self.act(observe(scene, state, self.config), key)


def _towards(
    dynamics: Dynamics, scene: Scene, state: SimState, target: Pose, known: Bool[Array, " N"]
) -> Shaped[Array, "N A"]:
    """Actions of all objects towards `target`; where that is not known they coast."""

    def one(pose: Pose, target: Pose, known: Array, kind: Array) -> Array:
        limits = limits_of(kind)
        action = dynamics.inverse(pose, target, scene.dt, limits)
        return jnp.where(known, action, dynamics.null(pose, scene.dt, limits))

    return jax.vmap(one)(state.pose, target, known, jnp.asarray(scene.objects.kind))
