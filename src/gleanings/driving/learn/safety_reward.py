"""The rewards of learning to drive: keep away from others and from the road edge. Source: arXiv 2212.11419, IV-C.

The formulas are second-hand and agree with the paper's text; weights and offsets are ours (design page 3.7), and so is
the binary reward.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from gleanings.driving import geometry
from gleanings.driving.advance import unpack_pairs
from gleanings.driving.scene import Scene
from gleanings.driving.state import Metric, SimState

FAR_M = 100.0


class SafetyReward(eqx.Module):
    """w_c min(d - d_c, 0) + w_o clip(-d_o - e, -2, 0) for the ego, 0 for all others; in [-3, 0] with weights of 1.

    d: `clearance`, 0 in contact. e: `off_road_m`; where the map has no edge that term is 0.
    """

    clearance_m: float = eqx.field(static=True, default=1.0)
    edge_m: float = eqx.field(static=True, default=0.5)
    clearance_weight: float = eqx.field(static=True, default=1.0)
    edge_weight: float = eqx.field(static=True, default=1.0)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the metrics it reads."""
        return ("off_road_m",)

    @property
    def worst(self) -> float:
        """The least reward, and that of every decision after a failure that absorbs."""
        return -self.clearance_weight * self.clearance_m - 2 * self.edge_weight

    def of_decision(self, rewards: Float32[Array, " m"]) -> Float32[Array, ""]:
        """Reward of a decision from those of its steps: their mean."""
        return rewards.mean()

    def __call__(
        self, scene: Scene, previous: SimState, state: SimState, metrics: dict[str, Metric]
    ) -> Float32[Array, " N"]:
        """Reward [N] of the step."""
        edge, known = metrics["off_road_m"]
        near = self.clearance_weight * jnp.minimum(clearance(scene, state) - self.clearance_m, 0.0)
        off = jnp.where(known, jnp.clip(-self.edge_m - edge, -2.0, 0.0), 0.0)
        ego = jnp.asarray(scene.objects.is_sdc) & state.alive
        return jnp.where(ego, near + self.edge_weight * off, 0.0)


class BinaryReward(eqx.Module):
    """-1 for the ego in contact or off the road, else 0; 0 for all others. It goes on after a failure: nothing ends."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the metrics it reads."""
        return ("collision", "off_road")

    @property
    def worst(self) -> float:
        """The least reward, and that of every decision after a failure that absorbs."""
        return -1.0

    def of_decision(self, rewards: Float32[Array, " m"]) -> Float32[Array, ""]:
        """Reward of a decision from those of its steps: the least, so that one step with an event is enough."""
        return rewards.min()

    def __call__(
        self, scene: Scene, previous: SimState, state: SimState, metrics: dict[str, Metric]
    ) -> Float32[Array, " N"]:
        """Reward [N] of the step."""
        failed = (metrics["collision"].value > 0) | (metrics["off_road"].value > 0)
        return jnp.where(jnp.asarray(scene.objects.is_sdc) & state.alive & failed, -1.0, 0.0)


def clearance(scene: Scene, state: SimState) -> Float32[Array, ""]:
    """Euclidean distance, m, from the ego's box to the nearest box at its height, at most 100; 0 in contact.

    Pairs that have overlapped since they met are excused, as in the metrics of contact.
    """
    objects = jax.tree.map(jnp.asarray, scene.objects)
    slot = jnp.argmax(objects.is_sdc)
    boxes = geometry.boxes(state.pose, objects.length, objects.width)
    own = geometry.Boxes(*(field[slot][None] for field in boxes))
    level = jnp.abs(state.z - state.z[slot]) < (objects.height + objects.height[slot]) / 2
    excused = unpack_pairs(state.excused[slot][None], len(state.x))[0]
    others = level & state.alive & ~excused & (jnp.arange(len(state.x)) != slot)
    return jnp.minimum(jnp.where(others, geometry.box_distance(own, boxes)[0], FAR_M).min(), FAR_M)
