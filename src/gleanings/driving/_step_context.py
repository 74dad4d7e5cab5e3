"""What the metrics of one step share: each intermediate result is computed on first use and then kept."""

from functools import cached_property
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, Shaped

from gleanings.driving import geometry, road
from gleanings.driving._log_arcs import log_arcs
from gleanings.driving.advance import gaps_of, measured_rows, unpack_pairs
from gleanings.driving.config import SimConfig
from gleanings.driving.raw import Kind
from gleanings.driving.scene import Scene
from gleanings.driving.state import Metric, SimState

T = TypeVar("T")
LEVEL_M = 2.5
"""A stop line this much above or below an object's base does not concern it."""
_AWAY = 1e6  # m


def defined(value: Array, mask: Array) -> Metric:
    """A Metric that holds 0 or False where it is not defined."""
    return Metric(jnp.where(mask, value, jnp.zeros((), value.dtype)), mask)


def last_defined(metric: Metric, otherwise: float) -> Array:
    """Last defined value [N] of a metric [T', N]; `otherwise` where there is none."""
    rows = jnp.arange(metric.mask.shape[0])[:, None]
    row = jnp.where(metric.mask, rows, -1).max(0)
    value = jnp.take_along_axis(metric.value, jnp.maximum(row, 0)[None], axis=0)[0]
    return jnp.where(row >= 0, value, otherwise)


class StepContext:
    """One step of one scene, for the metrics at t+1.

    previous, state: at t and at t+1. gaps: of the M measured objects to all N at t+1, m; None: computed if needed. Not
    a pytree: it lives inside one trace.
    """

    def __init__(
        self,
        scene: Scene,
        config: SimConfig,
        previous: SimState,
        state: SimState,
        gaps: Float32[Array, "M N"] | None = None,
        first: Int32[Array, ""] | None = None,
    ) -> None:
        self.scene = jax.tree.map(jnp.asarray, scene)
        self.config, self.previous, self.state, self._first = config, previous, state, first
        self._rows = measured_rows(self.scene, config)
        if gaps is not None:
            self.gaps = gaps

    @cached_property
    def gaps(self) -> Float32[Array, "M N"]:
        """Gaps of measured objects to all at t+1, m."""
        return gaps_of(self.scene, self.state.pose, self.state.alive, self._rows)

    @cached_property
    def excused(self) -> Bool[Array, "M N"]:
        """Pairs whose overlap does not count at t+1."""
        return unpack_pairs(self.measured_of(self.state.excused), self.state.x.shape[0])

    @cached_property
    def least_gap(self) -> Float32[Array, " N"]:
        """Least gap to another object, m; excused pairs do not count."""
        # A minimum of floats: XLA's CPU code for `any` of booleans is several times slower.
        return self.of_all(jnp.where(self.excused, geometry.FAR, self.gaps).min(1))

    @cached_property
    def gaps_before(self) -> Float32[Array, "M N"]:
        """Gaps of measured objects to all at t, m."""
        return gaps_of(self.scene, self.previous.pose, self.previous.alive, self._rows)

    @cached_property
    def boxes(self) -> geometry.Boxes:
        """Boxes at t+1."""
        objects = self.scene.objects
        return geometry.boxes(self.state.pose, objects.length, objects.width)

    @cached_property
    def alive(self) -> Bool[Array, " N"]:
        """Objects in the scene at t+1."""
        return self.state.alive

    @cached_property
    def speed(self) -> Float32[Array, " N"]:
        """Speed at t+1, m/s."""
        return jnp.hypot(self.state.vx, self.state.vy)

    @cached_property
    def base(self) -> Float32[Array, " N"]:
        """Height of the foot of each object at t+1, m."""
        return self.state.z - self.scene.objects.height / 2

    @cached_property
    def edge(self) -> Metric:
        """Signed distance, m, to the road edge of the corner farthest off the road; positive: off it."""
        objects, state = self.scene.objects, self.state
        points = geometry.side_points if self.config.off_road_points == 8 else geometry.corners
        alive, base, *box = (
            self.measured_of(value)
            for value in (self.alive, self.base, state.x, state.y, state.yaw, objects.length, objects.width)
        )
        x, y = points(*box)
        # Off the map, where no list is read: objects that are not there all stand at 0, often in a crowded cell.
        x = jnp.where(alive[:, None], x, _AWAY)
        z = jnp.broadcast_to(base[:, None], x.shape)
        value, known = road.signed_distance(self.scene, x, y, z, self.config.road)
        return defined(self.of_all(value.max(-1)), self.of_all(known.all(-1) & alive))

    @cached_property
    def lanes(self) -> road.LaneMatch:
        """Lanes near the centre of each object at t+1."""
        pose = (self.measured_of(value) for value in (self.state.x, self.state.y, self.base, self.state.yaw))
        return jax.tree.map(self.of_all, road.near_lanes(self.scene, *pose))

    @cached_property
    def least_ttc(self) -> Float32[Array, " N"]:
        """Least time to collision with another object, s, at most 5; excused pairs do not count."""
        objects = self.scene.objects
        pairs = (self.gaps < geometry.FAR / 2) & ~self.excused
        times = geometry.time_to_collision(self.state.pose, objects.length, objects.width, pairs, self._rows)
        return self.of_all(times.min(1))

    @cached_property
    def log_arcs(self) -> tuple[Float32[Array, " N"], Float32[Array, " N"]]:
        """Arcs at which an object's log starts (at or after the first step of the episode) and ends, m."""
        start = self.scene.start if self.config.start is None else self.config.start
        return log_arcs(self.scene, jnp.asarray(start if self._first is None else self._first, jnp.int32))

    @cached_property
    def measured(self) -> Bool[Array, " N"]:
        """Objects that are measured."""
        if self.config.measured == "all":
            return jnp.ones(self.alive.shape, bool)
        return jnp.asarray(self.scene.objects.is_sdc)

    def measured_of(self, values: T) -> T:
        """Values of the objects that are measured, of arrays [N, ...]."""
        return geometry.rows_of(values, self._rows)

    def of_all(self, values: Shaped[Array, " M"]) -> Shaped[Array, " N"]:
        """Values of the objects that are measured in their slots, 0 in all others."""
        if self.config.measured == "all":
            return values
        return jnp.where(self.measured, values, jnp.zeros((), values.dtype))

    def is_kind(self, *kinds: Kind) -> Bool[Array, " N"]:
        """Objects alive at t+1 that are of one of `kinds`."""
        kind = self.scene.objects.kind
        found = jnp.zeros(kind.shape, bool)
        for one in kinds:
            found = found | (kind == int(one))
        return found & self.alive
