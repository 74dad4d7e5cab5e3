"""Intelligent driver model on the paths of a scene: vehicles and cyclists react, pedestrians replay the log.

Source: Treiber, Hennecke, Helbing 2000 (acceleration); following paths, the search for leaders and red lights: ours.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float32, Key

from gleanings.core.errors import ConfigError
from gleanings.driving.agents import SimAgent
from gleanings.driving.path import PathPoint, path_point, wrap_arc
from gleanings.driving.raw import RED, Kind
from gleanings.driving.scene import Pose, Scene
from gleanings.driving.state import SimState

_AHEAD = 64  # metres of path in which a leader is looked for
_STRIDE = 2  # metres between its samples
_MARGIN = 0.1  # metres kept beside the own half width
_SETTLE = 8.0  # metres over which an initial offset from the path decays
_BEFORE_LINE = 1.0  # metres from the stop line at which the leader of a red light stands
_FREE = 1e6  # gap where nothing is ahead
_NEAREST = 0.1  # least gap that the model sees


Among = tuple[Scene, SimState] | None


class Leader(NamedTuple):
    """What each object follows: free metres ahead of its front, and the speed (m/s) of what ends them; both [N]."""

    gap: Float32[Array, " N"]
    speed: Float32[Array, " N"]


class IDM(SimAgent):
    """Car following on `Scene.paths`. Source: Treiber, Hennecke, Helbing 2000.

    acceleration (a0), comfortable deceleration (b), m/s^2; headway (T), s; standstill (g0), m; hardest: largest
    deceleration, m/s^2. desired: free speed, the largest logged one (at least 2 m/s) or the limit of the lane.
    obey_lights: the next red stop line is a standing leader if it can be reached at 4 m/s^2. ConfigError: numbers
    below 0, another `desired`.
    """

    acceleration: float = 1.5
    deceleration: float = 2.0
    headway: float = 1.5
    standstill: float = 2.0
    hardest: float = 8.0
    desired: Literal["log", "limit"] = "log"
    obey_lights: bool = True

    def __check_init__(self) -> None:
        if self.desired not in ("log", "limit"):
            raise ConfigError(f"desired={self.desired!r}: 'log' or 'limit'")
        for name in ("acceleration", "deceleration", "headway", "standstill", "hardest"):
            value = getattr(self, name)
            least = 0 if name in ("headway", "standstill") else 1e-6
            if not isinstance(value, Tracer) and not np.all(np.asarray(value) >= least):
                raise ConfigError(f"{name}={value}: {'0 or more' if least == 0 else 'more than 0'}")

    def init(self, scene: Scene, key: Key[Array, ""]) -> tuple[()]:
        """Nothing."""
        return ()

    def act(
        self, scene: Scene, state: SimState, own: Any, key: Key[Array, ""], among: Among = None
    ) -> tuple[Pose, Bool[Array, " N"], Any]:
        """Poses at t + 1, which objects are then alive, and the empty state. among: as in `find_leader`."""
        here = point_at(scene, state.arc[:, None])
        speed = jnp.maximum(state.vx * here.tx[:, 0] + state.vy * here.ty[:, 0], 0.0)
        leader = find_leader(scene, state, here, among)
        if self.obey_lights:
            leader = _nearer(leader, red_line(scene, state, speed))
        rate = self.rate(speed, self._free_speed(scene, state), leader)
        return _follow(scene, state, here, *travel(speed, rate, scene.dt)), state.alive, own

    def replays(self, scene: Scene) -> Bool[Array, " N"]:
        """Pedestrians and objects of no known kind."""
        kind = scene.objects.kind
        return (kind != Kind.VEHICLE) & (kind != Kind.CYCLIST)

    def rate(self, speed: Float32[Array, " N"], free: Float32[Array, " N"], leader: Leader) -> Float32[Array, " N"]:
        """Acceleration, m/s^2, at a speed with a free speed `free` behind `leader`."""
        gap = jnp.maximum(leader.gap, _NEAREST)
        closing = speed * (speed - leader.speed) / (2.0 * (self.acceleration * self.deceleration) ** 0.5)
        wanted = self.standstill + jnp.maximum(0.0, speed * self.headway + closing)
        rate = self.acceleration * (1.0 - (speed / free) ** 4 - (wanted / gap) ** 2)
        return jnp.clip(rate, -self.hardest, self.acceleration)

    def _free_speed(self, scene: Scene, state: SimState) -> Float32[Array, " N"]:
        logged = jnp.maximum(scene.objects.top_speed, 2.0)
        if self.desired == "log":
            return logged
        arc = wrap_arc(state.arc, scene.paths.length, scene.paths.closed)
        sample = jnp.clip(arc.astype(jnp.int32), 0, scene.paths.limit.shape[1] - 1)
        limit = jnp.take_along_axis(scene.paths.limit, sample[:, None], axis=1)[:, 0]
        return jnp.where(jnp.isnan(limit), logged, jnp.maximum(limit, 2.0))


def point_at(scene: Scene, arc: Float32[Array, "N K"]) -> PathPoint:
    """Points of the paths of all objects at K arcs each (m), wrapped where a path is closed."""
    paths = scene.paths
    return path_point(paths.x, paths.y, paths.z, wrap_arc(arc, paths.length[:, None], paths.closed[:, None]))


def travel(
    speed: Float32[Array, " N"], rate: Float32[Array, " N"], dt: Float32[Array, ""]
) -> tuple[Float32[Array, " N"], Float32[Array, " N"]]:
    """Metres made good in `dt` seconds and the speed after them; who stops within the step stays there."""
    after = jnp.maximum(speed + rate * dt, 0.0)
    stops = speed + rate * dt < 0
    until_stop = speed * speed / (2.0 * jnp.maximum(-rate, 1e-3))
    return jnp.where(stops, until_stop, 0.5 * (speed + after) * dt), after


def find_leader(scene: Scene, state: SimState, here: PathPoint, among: Among = None) -> Leader:
    """The first box ahead on each path: gap from the own front, and its speed along the path.

    here: the path at the own arcs, [N, 1]. among: whose boxes count; None: those of the same objects. The path is
    sampled every 2 m to 64 m; boxes are grown by half the own width + 0.1 m; between the first sample within one and
    the sample before it the entry is exact. Boxes that hold the own centre and boxes at another height do not count.
    """
    objects, (_, them) = scene.objects, among or (scene, state)
    reach = 0.5 * objects.width + _MARGIN
    boxes = _Boxes.of(*(among or (scene, state)))
    inside_own = jnp.maximum(*boxes.excess(state.x[:, None], state.y[:, None])) < reach[:, None]
    skipped = inside_own | ~them.alive[None, :]
    x, y, z = _ahead(scene, state, here)
    first = _first_inside(boxes, objects.height, reach, skipped, x, y, z)
    found = first < x.shape[0]
    at = jnp.clip(first, 1, x.shape[0] - 1)[None]
    ends = [jnp.take_along_axis(points, at - k, axis=0)[0] for points in (x, y) for k in (1, 0)]
    share, box = _entry(boxes, reach, skipped, *ends)
    arc0 = jnp.floor(state.arc) + 1.0 - _STRIDE
    start = jnp.where(at[0] == 1, state.arc, arc0 + _STRIDE * (at[0] - 1))
    entry = start + share * (arc0 + _STRIDE * at[0] - start)
    gap = entry + reach - state.arc - 0.5 * objects.length
    dx, dy = ends[1] - ends[0], ends[3] - ends[2]
    speed = (them.vx[box] * dx + them.vy[box] * dy) / jnp.sqrt(jnp.maximum(dx * dx + dy * dy, 1e-6))
    return Leader(jnp.where(found, gap, _FREE), jnp.where(found, jnp.maximum(speed, 0.0), 0.0))


def red_line(scene: Scene, state: SimState, speed: Float32[Array, " N"]) -> Leader:
    """The next red stop line on each path as a standing leader, if braking at 4 m/s^2 stops before it."""
    lights = scene.lights
    t = jnp.minimum(state.t, lights.state.shape[0] - 1)
    shown = lax.dynamic_index_in_dim(lights.state, t, keepdims=False)
    red = lights.exists & jnp.isin(shown, jnp.asarray(RED, shown.dtype))
    front = state.arc + 0.5 * scene.objects.length
    paths = scene.paths
    ahead = lights.arc - front[:, None]
    ahead = jnp.where(paths.closed[:, None], jnp.mod(ahead, jnp.maximum(paths.length, 1.0)[:, None]), ahead)
    gap = jnp.min(jnp.where(red & (ahead >= 0), ahead, _FREE), axis=1) - _BEFORE_LINE
    # Who stands closer to the line than that leader must not take it for too late to stop.
    stops = speed * speed / 8.0 <= gap + _BEFORE_LINE
    return Leader(jnp.where(stops, gap, _FREE), jnp.zeros_like(gap))


def _follow(
    scene: Scene, state: SimState, here: PathPoint, metres: Float32[Array, " N"], speed: Float32[Array, " N"]
) -> Pose:
    """Poses `metres` further along the paths; offsets of place and yaw from the path decay with the way made."""
    there = point_at(scene, (state.arc + metres)[:, None])
    here, there = (PathPoint(*(field[:, 0] for field in point)) for point in (here, there))
    keep = jnp.exp(-metres / _SETTLE)
    side = keep * ((state.y - here.y) * here.tx - (state.x - here.x) * here.ty)
    turn = state.yaw - jnp.arctan2(here.ty, here.tx)
    turn = keep * jnp.arctan2(jnp.sin(turn), jnp.cos(turn))
    yaw = jnp.arctan2(there.ty, there.tx) + turn
    yaw = jnp.arctan2(jnp.sin(yaw), jnp.cos(yaw))
    x, y = there.x - side * there.ty, there.y + side * there.tx
    return Pose(x, y, state.z, yaw, speed * jnp.cos(yaw), speed * jnp.sin(yaw))


def _nearer(a: Leader, b: Leader) -> Leader:
    return Leader(jnp.minimum(a.gap, b.gap), jnp.where(a.gap <= b.gap, a.speed, b.speed))


class _Boxes(NamedTuple):
    """Boxes of all objects, in coordinates turned into each: [N] each."""

    cos: Array
    sin: Array
    along: Array
    across: Array
    half_length: Array
    half_width: Array
    z: Array
    half_height: Array

    @classmethod
    def of(cls, scene: Scene, state: SimState) -> "_Boxes":
        objects, cos, sin = scene.objects, jnp.cos(state.yaw), jnp.sin(state.yaw)
        along, across = state.x * cos + state.y * sin, state.y * cos - state.x * sin
        halves = (0.5 * objects.length, 0.5 * objects.width, state.z, 0.5 * objects.height)
        return cls(cos, sin, along, across, *halves)

    def excess(self, x: Array, y: Array) -> tuple[Array, Array]:
        """How far points lie beyond the length and beyond the width, negative inside; broadcast against [N]."""
        along = jnp.abs(x * self.cos + y * self.sin - self.along) - self.half_length
        return along, jnp.abs(y * self.cos - x * self.sin - self.across) - self.half_width


def _ahead(scene: Scene, state: SimState, here: PathPoint) -> tuple[Array, Array, Array]:
    """Points ahead [K + 1, N] and the heights of their road; the first is the own place on the path."""
    paths = scene.paths
    count = _AHEAD // _STRIDE
    arc = wrap_arc(state.arc, paths.length, paths.closed).astype(jnp.int32) + 1

    def ahead(samples: Float32[Array, "N Q"]) -> Float32[Array, "K N"]:
        longer = _continued(samples, paths.length, paths.closed)
        cut = jax.vmap(lambda row, start: lax.dynamic_slice(row, (start,), (_STRIDE * count,)))(longer, arc)
        return cut[:, ::_STRIDE].T

    first = (here.x.T, here.y.T, here.z.T)
    return tuple(jnp.concatenate(pair) for pair in zip(first, map(ahead, (paths.x, paths.y, paths.z)), strict=True))  # pyright: ignore[reportReturnType]


def _continued(
    samples: Float32[Array, "N Q"], length: Float32[Array, " N"], closed: Bool[Array, " N"]
) -> Float32[Array, "N R"]:
    """Path samples and 64 more, without which a view from near the last sample would not fit: round again, or on."""
    more = jnp.arange(1, _AHEAD + 1, dtype=jnp.float32)
    around = jnp.mod(samples.shape[1] - 1 + more, jnp.maximum(length, 1.0)[:, None])
    cell = jnp.clip(around.astype(jnp.int32), 0, samples.shape[1] - 2)
    low, high = (jnp.take_along_axis(samples, cell + k, axis=1) for k in (0, 1))
    straight = samples[:, -1:] + more * (samples[:, -1:] - samples[:, -2:-1])
    return jnp.concatenate(
        [samples, jnp.where(closed[:, None], low + (around - cell) * (high - low), straight)], axis=1
    )


def _first_inside(boxes: _Boxes, height: Array, reach: Array, skipped: Array, x: Array, y: Array, z: Array) -> Array:
    """Index of the first point [N] of each path in a grown box, K + 1 if there is none.

    A scan over the boxes with all points as its carry: three times as fast on a CPU as one reduction, since XLA
    vectorises neither minor minima of floats nor major ones.
    """
    middle = z + 0.5 * height
    # A skipped box is one at no height.
    reach_z = jnp.where(skipped.T, -_FREE, boxes.half_height[:, None] + 0.5 * height)
    reach_x, reach_y = boxes.half_length[:, None] + reach, boxes.half_width[:, None] + reach
    turned = jnp.stack([boxes.cos, boxes.sin, boxes.along, boxes.across, boxes.z], axis=1)

    def add(nearest: Array, box: tuple[Array, ...]) -> tuple[Array, None]:
        (cos, sin, along, across, level), half_x, half_y, half_z = box
        plan = jnp.maximum(jnp.abs(x * cos + y * sin - along) - half_x, jnp.abs(y * cos - x * sin - across) - half_y)
        return jnp.minimum(nearest, jnp.maximum(plan, jnp.abs(middle - level) - half_z)), None

    nearest, _ = lax.scan(add, jnp.full(x.shape, _FREE), (turned, reach_x, reach_y, reach_z))
    count = x.shape[0]
    return jnp.min(jnp.where(nearest < 0, jnp.arange(count, dtype=jnp.int32)[:, None], count), axis=0)


def _entry(
    boxes: _Boxes, reach: Array, skipped: Array, x0: Array, x1: Array, y0: Array, y1: Array
) -> tuple[Array, Array]:
    """Share of the way from (x0, y0) to (x1, y1) at which the first grown box is entered, and which; [N] each."""
    x, y = jnp.stack([x0, x1])[:, :, None], jnp.stack([y0, y1])[:, :, None]
    along0, along1 = x * boxes.cos + y * boxes.sin - boxes.along
    across0, across1 = y * boxes.cos - x * boxes.sin - boxes.across
    enter, leave = jnp.zeros_like(along0), jnp.ones_like(along0)
    for start, end, half in ((along0, along1, boxes.half_length), (across0, across1, boxes.half_width)):
        move = end - start
        slowness = 1.0 / jnp.where(jnp.abs(move) < 1e-6, 1e-6, move)
        middle, radius = -start * slowness, jnp.abs((half + reach[:, None]) * slowness)
        enter, leave = jnp.maximum(enter, middle - radius), jnp.minimum(leave, middle + radius)
    share = jnp.where((enter <= leave) & ~skipped, enter, 2.0)
    # Bits of a non-negative float sort like the float, and integer minima are vectorised; the low ones give way to
    # the index, which costs less than a millimetre.
    low = jnp.int32(2 ** (share.shape[1] - 1).bit_length() - 1)
    bits = lax.bitcast_convert_type(share, jnp.int32) & ~low
    least = jnp.min(bits | jnp.arange(share.shape[1], dtype=jnp.int32), axis=1)
    return jnp.minimum(lax.bitcast_convert_type(least & ~low, jnp.float32), 1.0), least & low
