"""Drivers as policies of the simulator, for its rollouts, replays and evaluations. Source: ours."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float32, Key

from gleanings.driving.dynamics import along
from gleanings.driving.learn.actions import physical
from gleanings.driving.learn.config import WorldConfig
from gleanings.driving.learn.drives import Driver
from gleanings.driving.learn.world import World, action_rows
from gleanings.driving.scene import Scene
from gleanings.driving.state import SimState


class SimulatorPolicy(eqx.Module):
    """Drives the ego of one scene, deciding at each step."""

    driver: Driver
    world: World

    def __call__(self, scene: Scene, state: SimState, key: Key[Array, ""]) -> Float32[Array, "N 2"]:
        """Acceleration (m/s^2) and curvature (1/m), the ego's in every row."""
        slot = jnp.argmax(jnp.asarray(scene.objects.is_sdc))
        u = self.driver(scene, state, self.world.observe(scene, state), key)
        return action_rows(scene, state, physical(jnp.clip(u, -1.0, 1.0), along(state.pose)[slot]))


def simulator_policy(driver: Driver, world: WorldConfig | None = None) -> SimulatorPolicy:
    """A `Policy` or another driver for `rollout`, `evaluate`, `fan` and replays, with its simulator in `.world.sim`.

    It decides at every step, not at every `WorldConfig.every`-th as in training. world: what it sees and what the
    others do; None: as it was trained. A simulator of your own needs `Bicycle`, `controlled="sdc"` and a `history` of
    at least `ObserveConfig.frames` - 1.
    """
    contract = getattr(driver, "contract", None)
    return SimulatorPolicy(driver, World(world or (contract.world if contract else None)))
