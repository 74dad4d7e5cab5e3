"""Who drives in part C of the study: an ego that follows its logged path more slowly, others that replay or react.

Both take what an arm of the experiment changes as arrays, so that all arms share one compiled program.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Key

from gleanings.driving.agents import SimAgent
from gleanings.driving.dynamics import Dynamics, along, limits_of
from gleanings.driving.idm import IDM, point_at
from gleanings.driving.policies import expert
from gleanings.driving.scene import Pose, Scene
from gleanings.driving.state import SimState


class Profile(NamedTuple):
    """How the ego changes its speed; scalars. brake: m/s^2 at most. share: of the logged speed below which it does not
    brake. follow: the log itself, by the expert; the others do not count then."""

    brake: Any
    share: Any
    follow: Any


EGOS = {
    "expert": Profile(0.0, 1.0, True),
    "brake-1": Profile(1.0, 0.0, False),
    "brake-3": Profile(3.0, 0.0, False),
    "slow-0.6": Profile(2.0, 0.6, False),
}
BRAKING = tuple(name for name in EGOS if name != "expert")


class SlowedEgo(eqx.Module):
    """Drives along `Scene.paths` with the speed max(v - brake dt, share x logged speed), from the start on.

    Action: the inverse dynamics of the place on the path after a step of that mean speed. Source: ours.
    """

    profile: Profile
    dynamics: Dynamics

    def __call__(self, scene: Scene, state: SimState, key: Key[Array, ""]) -> Float32[Array, "N A"]:
        """Actions of all objects; only the ego's are used."""
        speed = jnp.maximum(along(state.pose), 0.0)
        logged = self.profile.share * _logged_speed(scene, state)
        after = jnp.maximum(speed - self.profile.brake * scene.dt, logged)
        there = point_at(scene, (state.arc + 0.5 * (speed + after) * scene.dt)[:, None])
        yaw = jnp.arctan2(there.ty[:, 0], there.tx[:, 0])
        target = Pose(there.x[:, 0], there.y[:, 0], state.z, yaw, after * jnp.cos(yaw), after * jnp.sin(yaw))

        def one(pose: Pose, target: Pose, kind: Array) -> Array:
            return self.dynamics.inverse(pose, target, scene.dt, limits_of(kind))

        slowed = jax.vmap(one)(state.pose, target, scene.objects.kind)
        return jnp.where(self.profile.follow, expert(self.dynamics)(scene, state), slowed)


class ReactIf(SimAgent):
    """Vehicles and cyclists by `IDM` if `reacts`, else, like all others, as logged."""

    reacts: Bool[Array, ""]
    model: IDM = IDM()

    def init(self, scene: Scene, key: Key[Array, ""]) -> tuple[()]:
        """Nothing."""
        return ()

    def act(self, scene: Scene, state: SimState, own: Any, key: Key[Array, ""]) -> tuple[Pose, Bool[Array, " N"], Any]:
        """The model's poses; the simulator does not look at those of objects that replay."""
        return self.model.act(scene, state, own, key)

    def replays(self, scene: Scene) -> Bool[Array, " N"]:
        """All, or those that the model leaves to the log."""
        return ~self.reacts | self.model.replays(scene)


def _logged_speed(scene: Scene, state: SimState) -> Float32[Array, " N"]:
    """Speed in the log at t + 1, m/s; at the last valid step where that is later."""
    log = scene.log
    row = jnp.minimum(state.t + 1, jnp.maximum(scene.objects.last, 0))[None]
    return jnp.hypot(*(jnp.take_along_axis(field, row, axis=0)[0] for field in (log.vx, log.vy)))
