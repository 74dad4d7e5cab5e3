"""Drivers that learn nothing: what every result is held against. Source: ours, design page 6.

A driver is `driver(scene, state, obs [D], key) -> u [2]` in [-1, 1]; these look at scene and state themselves.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, Key

from gleanings.driving.advance import log_at
from gleanings.driving.dynamics import along
from gleanings.driving.idm import IDM, find_leader, point_at, red_line
from gleanings.driving.learn.actions import normalised
from gleanings.driving.learn.drives import Driver
from gleanings.driving.learn.labels import towards
from gleanings.driving.path import PathPoint
from gleanings.driving.scene import Pose, Scene
from gleanings.driving.state import SimState

_AHEAD_M, _AHEAD_S = 8.0, 1.0  # how far ahead on the route one steers to


class ExpertReplay(Driver):
    """Steers towards where the log is at the end of the decision (`every` steps on); coasts where it is not valid."""

    every: int = 2

    def __call__(
        self, scene: Scene, state: SimState, obs: Float32[Array, " D"], key: Key[Array, ""]
    ) -> Float32[Array, "2"]:
        """The label of the decision, taken from where the ego is."""
        pose, slot = _ego(scene, state)
        logged, valid = log_at(scene, state.t + self.every)
        target = Pose(*(field[slot] for field in logged))
        size = (jnp.asarray(scene.objects.length)[slot], jnp.asarray(scene.objects.width)[slot])
        u, _, _ = towards(pose, target, size, scene.dt, self.every)
        return jnp.where(valid[slot], u, 0.0)


class IdmOnRoute(Driver):
    """Follows the lane route with the speed of the intelligent driver model; red lights are obeyed."""

    idm: IDM = IDM()
    every: int = 2

    def __call__(
        self, scene: Scene, state: SimState, obs: Float32[Array, " D"], key: Key[Array, ""]
    ) -> Float32[Array, "2"]:
        """Acceleration of `idm.IDM`, held for the decision."""
        here = point_at(scene, state.arc[:, None])
        speed = jnp.maximum(along(state.pose), 0.0)
        leader, red = find_leader(scene, state, here), red_line(scene, state, speed)
        rates = [self.idm.rate(speed, jnp.maximum(scene.objects.top_speed, 2.0), one) for one in (leader, red)]
        rate = jnp.minimum(*rates)[_ego(scene, state)[1]]
        return _on_route(scene, state, rate, self.every)


class ConstantSpeed(Driver):
    """Follows the lane route at the speed it has, whatever is in the way."""

    every: int = 2

    def __call__(
        self, scene: Scene, state: SimState, obs: Float32[Array, " D"], key: Key[Array, ""]
    ) -> Float32[Array, "2"]:
        """No acceleration."""
        return _on_route(scene, state, jnp.float32(0.0), self.every)


class BrakeToStop(Driver):
    """Brakes on the lane route and stands. rate: deceleration, m/s^2."""

    rate: float = 4.0
    every: int = 2

    def __call__(
        self, scene: Scene, state: SimState, obs: Float32[Array, " D"], key: Key[Array, ""]
    ) -> Float32[Array, "2"]:
        """The deceleration, less where it would end in reverse."""
        return _on_route(scene, state, jnp.float32(-self.rate), self.every)


class Random(Driver):
    """Uniform in [-1, 1]^2, anew at each decision."""

    def __call__(
        self, scene: Scene, state: SimState, obs: Float32[Array, " D"], key: Key[Array, ""]
    ) -> Float32[Array, "2"]:
        """A draw."""
        return jax.random.uniform(key, (2,), jnp.float32, -1.0, 1.0)


class Choice(Driver):
    """One of some drivers, by an index that is data: all of them run in one compiled program."""

    members: tuple[Driver, ...]
    index: Int32[Array, ""]

    def __call__(
        self, scene: Scene, state: SimState, obs: Float32[Array, " D"], key: Key[Array, ""]
    ) -> Float[Array, "2"]:
        """What the chosen one does."""
        branches = [lambda args, one=one: one(*args) for one in self.members]
        return jax.lax.switch(self.index, branches, (scene, state, obs, key))


def controls(every: int = 2) -> dict[str, Driver]:
    """The controls by name, as choices of one program. every: simulation steps of a decision, as in `WorldConfig`."""
    members = {
        "expert replay": ExpertReplay(every),
        "IDM on route": IdmOnRoute(every=every),
        "constant speed": ConstantSpeed(every),
        "brake to stop": BrakeToStop(every=every),
        "random": Random(),
    }
    chosen = tuple(members.values())
    return {name: Choice(chosen, jax.device_put(np.int32(k))) for k, name in enumerate(members)}


def _ego(scene: Scene, state: SimState) -> tuple[Pose, Array]:
    slot = jnp.argmax(jnp.asarray(scene.objects.is_sdc))
    return Pose(*(field[slot] for field in state.pose)), slot


def _on_route(scene: Scene, state: SimState, rate: Float[Array, ""], every: int) -> Float32[Array, "2"]:
    """The action with an acceleration (m/s^2), less where it would end in reverse, on an arc to a point of the route.

    The point lies 8 m ahead, or as far as one drives in a second. Source: Coulter 1992 (pure pursuit).
    """
    pose, slot = _ego(scene, state)
    speed = along(pose)
    rate = jnp.maximum(rate, -jnp.maximum(speed, 0.0) / (scene.dt * every))
    ahead = jnp.maximum(speed * _AHEAD_S, _AHEAD_M)
    arcs = jnp.broadcast_to(state.arc[slot] + ahead, (state.x.shape[0], 1))
    point = PathPoint(*(field[slot, 0] for field in point_at(scene, arcs)))
    dx, dy = point.x - pose.x, point.y - pose.y
    side = jnp.cos(pose.yaw) * dy - jnp.sin(pose.yaw) * dx
    curvature = 2.0 * side / jnp.maximum(dx * dx + dy * dy, 1.0)
    return normalised(jnp.stack([rate, curvature]), speed)
