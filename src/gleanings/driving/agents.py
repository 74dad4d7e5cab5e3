"""Who moves the objects that take no actions: playback of the log, coasting, a policy, or a mixture.

`idm.IDM` is another member. An agent moves all objects; the simulator takes from it those that are not controlled,
lets them enter and stand still, and sees to heights. Source: ours.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Key

from gleanings.core.errors import ConfigError
from gleanings.driving._motion import moved
from gleanings.driving.advance import log_at
from gleanings.driving.dynamics import Dynamics
from gleanings.driving.raw import Kind
from gleanings.driving.scene import Pose, Scene
from gleanings.driving.state import SimState

Selector = str | tuple[int, ...] | Callable[[Scene], Bool[Array, " N"]]
Policy = Callable[[Scene, SimState, Array], Any]
_KINDS = {"vehicles": Kind.VEHICLE, "cyclists": Kind.CYCLIST, "pedestrians": Kind.PEDESTRIAN}


def selected(scene: Scene, selector: Selector) -> Bool[Array, " N"]:
    """Objects that a name, ids of `Scene.objects.id` or a function of the scene select; never empty slots.

    ConfigError: an unknown name.
    """
    objects = scene.objects
    if isinstance(selector, str):
        if selector in _KINDS:
            found = objects.kind == int(_KINDS[selector])
        else:
            marks = {"sdc": objects.is_sdc, "predict": objects.to_predict, "interest": objects.of_interest}
            marks["all"] = objects.exists
            if selector not in marks:
                known = ", ".join(sorted([*marks, *_KINDS]))
                raise ConfigError(f"selector {selector!r} is not known; known: {known}, ids or a function of the scene")
            found = marks[selector]
    elif callable(selector):
        found = selector(scene)
    else:
        found = jnp.isin(objects.id, jnp.asarray(selector, jnp.int32))
    return jnp.asarray(found) & objects.exists


class SimAgent(eqx.Module):
    """Moves objects without actions of the user. S: a state of its own, any pytree, carried in `SimState.agents`."""

    @abc.abstractmethod
    def init(self, scene: Scene, key: Key[Array, ""]) -> Any:
        """S at the start of an episode."""

    @abc.abstractmethod
    def act(self, scene: Scene, state: SimState, own: Any, key: Key[Array, ""]) -> tuple[Pose, Bool[Array, " N"], Any]:
        """Poses [N] at t + 1 of all objects, whether they are in the scene then, and S.

        An object that was alive and is not any more has left the scene, unless it `replays`.
        """

    def replays(self, scene: Scene) -> Bool[Array, " N"]:
        """Objects that it moves as logged: these come and go with the log, and the simulator leaves them alone."""
        return jnp.zeros(scene.objects.kind.shape, bool)


class LogPlayback(SimAgent):
    """All objects as logged; what is not valid in the log is not there."""

    def init(self, scene: Scene, key: Key[Array, ""]) -> tuple[()]:
        """Nothing."""
        return ()

    def act(self, scene: Scene, state: SimState, own: Any, key: Key[Array, ""]) -> tuple[Pose, Bool[Array, " N"], Any]:
        """The log at t + 1."""
        return *log_at(scene, state.t + 1), own

    def replays(self, scene: Scene) -> Bool[Array, " N"]:
        """All."""
        return jnp.ones(scene.objects.kind.shape, bool)


class ConstantVelocity(SimAgent):
    """All objects keep velocity and heading."""

    def init(self, scene: Scene, key: Key[Array, ""]) -> tuple[()]:
        """Nothing."""
        return ()

    def act(self, scene: Scene, state: SimState, own: Any, key: Key[Array, ""]) -> tuple[Pose, Bool[Array, " N"], Any]:
        """x + vx dt, y + vy dt."""
        pose = state.pose
        return pose._replace(x=pose.x + pose.vx * scene.dt, y=pose.y + pose.vy * scene.dt), state.alive, own


class PolicyAgent(SimAgent):
    """Objects that a policy drives: policy(scene, state, key) -> action [N, A], `Action` or None, as for `rollout`.

    Actions that cannot be used become coasting, others are clipped.
    """

    policy: Policy
    dynamics: Dynamics

    def init(self, scene: Scene, key: Key[Array, ""]) -> tuple[()]:
        """Nothing."""
        return ()

    def act(self, scene: Scene, state: SimState, own: Any, key: Key[Array, ""]) -> tuple[Pose, Bool[Array, " N"], Any]:
        """The poses that the actions lead to."""
        return moved(self.dynamics, scene, state.pose, self.policy(scene, state, key)).pose, state.alive, own


class Mixed(SimAgent):
    """Several agents: members = ((selector, agent), ...); the first selector that holds an object moves it.

    Objects that none holds play the log. Selectors as in `selected`.
    """

    members: tuple[tuple[Selector, SimAgent], ...]

    def init(self, scene: Scene, key: Key[Array, ""]) -> tuple[Any, ...]:
        """One S a member."""
        return tuple(agent.init(scene, jax.random.fold_in(key, i)) for i, (_, agent) in enumerate(self.members))

    def act(self, scene: Scene, state: SimState, own: Any, key: Key[Array, ""]) -> tuple[Pose, Bool[Array, " N"], Any]:
        """Each member's poses where it moves the object."""
        pose, alive = log_at(scene, state.t + 1)
        after = [()] * len(self.members)
        for i, (selector, agent) in reversed(list(enumerate(self.members))):
            pose_i, alive_i, after[i] = agent.act(scene, state, own[i], jax.random.fold_in(key, i))
            chosen = selected(scene, selector)
            pose = Pose(*(jnp.where(chosen, a, b) for a, b in zip(pose_i, pose, strict=True)))
            alive = jnp.where(chosen, alive_i, alive)
        return pose, alive, tuple(after)

    def replays(self, scene: Scene) -> Bool[Array, " N"]:
        """Those of the members that replay, and the rest."""
        found = jnp.ones(scene.objects.kind.shape, bool)
        for selector, agent in reversed(self.members):
            found = jnp.where(selected(scene, selector), agent.replays(scene), found)
        return found
