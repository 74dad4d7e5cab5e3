"""What an object sees, in its own frame (x forward, y left): itself, others, road, traffic lights and its path.

Nothing tells the action that led here: no acceleration, no turn rate, no past of the object itself; and nothing of its
goal. Source: design page 3.8 (ours).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float32, Int, Int32

from gleanings.core.errors import ConfigError
from gleanings.driving.agents import Selector, selected
from gleanings.driving.config import ObserveConfig
from gleanings.driving.dynamics import wrap
from gleanings.driving.path import path_point, wrap_arc
from gleanings.driving.raw import Light
from gleanings.driving.scene import GATE_M, Scene, Trajectory
from gleanings.driving.state import SimState
from gleanings.driving.visibility import hidden

_SLOPE = 0.1  # heights further apart than GATE_M + _SLOPE * distance are another level of the road
_EDGE = 2  # kind of the road edge in `Scene.road`
_COLOUR = {Light.ARROW_CAUTION: 2, Light.CAUTION: 2, Light.FLASHING_CAUTION: 2, Light.ARROW_GO: 3, Light.GO: 3}
_COLOUR |= {Light.STOP: 1, Light.ARROW_STOP: 1, Light.FLASHING_STOP: 1, Light.UNKNOWN: 0}
_COLOURS = tuple(_COLOUR[light] for light in sorted(Light))


class Observation(NamedTuple):
    """What one object sees (more of them: leading axes). Metres, m/s, rad; padding holds 0 and its mask is False.

    ego [8]: speed forward, speed to the left, length, width, distance to the left of its path, heading relative to its
    path, speed limit there (0: unknown), `raw.Kind`. others [K, H, 9], nearest first, frames newest first: x, y, cosine
    and sine of the heading, velocity minus the ego's present one (2), length, width, `raw.Kind`. road [R, 7], nearest
    first: x, y, direction (2), height above the ego's foot, kind as in `scene.Road`, 1 at the road edge. lights [S, 8],
    nearest first: stop point, cosine and sine of its lane, 1 for unknown, red, amber or green. path [Q, 3], evenly
    spaced from the ego on: x, y, speed limit (0: unknown); up to the end of the path. alive: whether the ego is in the
    scene; if not, all is 0 and False.

    Seen is what lies within `radius_m` (centre to centre, in plan) and not on another level: heights of the feet differ
    by at most 2.5 m + distance / 10. With `line_of_sight` nothing is seen that is `visibility.hidden`. Others are
    picked by where they are now; their earlier frames are in the present frame of the ego, masked where they were not
    in the scene.
    """

    ego: Array
    others: Array
    road: Array
    lights: Array
    path: Array
    alive: Array
    others_mask: Array
    road_mask: Array
    lights_mask: Array
    path_mask: Array


def observe(scene: Scene, state: SimState, config: ObserveConfig) -> Observation:
    """What each of the N objects sees: arrays [N, ...]. ConfigError: sizes below 0, frames that the ring lacks."""
    tables = _tables(scene, state, config)
    slots = jnp.arange(state.x.shape[0])
    return jax.vmap(lambda slot: _seen_by(scene, state, config, tables, slot))(slots)


def observe_one(scene: Scene, state: SimState, config: ObserveConfig, slot: Int[Array, ""] | int) -> Observation:
    """What the object in `slot` sees. ConfigError: as `observe`."""
    return _seen_by(scene, state, config, _tables(scene, state, config), jnp.asarray(slot))


def observe_ego(scene: Scene, state: SimState, config: ObserveConfig, ego: Selector = "sdc") -> Observation:
    """What the first object that the selector holds sees; without one, nothing. ConfigError: as `observe`."""
    found = selected(scene, ego)
    seen = observe_one(scene, state, config, jnp.argmax(found))
    return jax.tree.map(lambda leaf: jnp.where(found.any(), leaf, jnp.zeros((), leaf.dtype)), seen)


def flatten(observation: Observation) -> Float32[Array, "*batch D"]:
    """All arrays and then all masks (0 or 1) of an observation in one row; its leading axes are kept."""
    batch = observation.alive.shape
    parts = [jnp.asarray(leaf).astype(jnp.float32).reshape(*batch, -1) for leaf in observation]
    return jnp.concatenate(parts, axis=-1)


def unflatten(flat: Float32[Array | np.ndarray, "*batch D"], config: ObserveConfig) -> Observation:
    """The inverse of `flatten`. ConfigError: rows of another size than `config` makes."""
    if flat.shape[-1] != observation_size(config):
        raise ConfigError(f"rows of {flat.shape[-1]} numbers; {config} makes rows of {observation_size(config)}")
    parts, at = [], 0
    for name, shape in _shapes(config).items():
        size = _product(shape)
        part = flat[..., at : at + size].reshape((*flat.shape[:-1], *shape))
        parts.append(part != 0 if name == "alive" or name.endswith("_mask") else part)
        at += size
    return Observation(*parts)


def observation_size(config: ObserveConfig) -> int:
    """D, numbers in a row of `flatten`."""
    return sum(map(_product, _shapes(config).values()))


def _shapes(config: ObserveConfig) -> dict[str, tuple[int, ...]]:
    sizes = (config.objects, config.frames), (config.road,), (config.lights,), (config.route,)
    features = dict(zip(("others", "road", "lights", "path"), sizes, strict=True))
    width = {"others": 9, "road": 7, "lights": 8, "path": 3}
    arrays = {name: (*shape, width[name]) for name, shape in features.items()}
    return {"ego": (8,)} | arrays | {"alive": ()} | {f"{name}_mask": shape for name, shape in features.items()}


def _product(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


class _Tables(NamedTuple):
    """What all observers share, a row a thing: features in the local frame, whether it is there, its height."""

    objects: Float32[Array, "N H 9"]
    seen: Bool[Array, "N H"]
    base: Float32[Array, " N"]
    road: Float32[Array, "P 7"]
    lights: Float32[Array, "S 8"]


def _tables(scene: Scene, state: SimState, config: ObserveConfig) -> _Tables:
    objects, road, lights = jax.tree.map(jnp.asarray, (scene.objects, scene.road, scene.lights))
    rows = _frames(state, config)
    fixed = jnp.stack([objects.length, objects.width, objects.kind.astype(jnp.float32)], -1)
    moving = jnp.stack([rows.x, rows.y, jnp.cos(rows.yaw), jnp.sin(rows.yaw), rows.vx, rows.vy], -1)
    moving = jnp.moveaxis(moving, 0, 1)
    every = jnp.broadcast_to(fixed[:, None], (*moving.shape[:2], 3))
    kind = road.kind.astype(jnp.float32)
    colour = jnp.asarray(_COLOURS)[lights.state[jnp.clip(state.t, 0, lights.state.shape[0] - 1)]]
    lit = jax.nn.one_hot(colour, 4, dtype=jnp.float32)
    stops = jnp.stack([lights.x, lights.y, jnp.cos(lights.yaw), jnp.sin(lights.yaw)], -1)
    return _Tables(
        jnp.concatenate([moving, every], -1),
        rows.valid.T,
        state.z - objects.height / 2,
        jnp.stack([road.x, road.y, road.dx, road.dy, road.z, kind, (road.kind == _EDGE).astype(jnp.float32)], -1),
        jnp.concatenate([stops, lit], -1),
    )


def _frames(state: SimState, config: ObserveConfig) -> Trajectory:
    """The present poses and those of the ring, newest first: [H, N]."""
    if min(config.objects, config.road, config.lights, config.route) < 0 or config.frames < 1 or config.spacing_m <= 0:
        raise ConfigError(f"{config}: sizes are 0 or more, frames 1 or more, spacing_m above 0")
    past, kept = config.frames - 1, 0 if state.ring is None else state.ring.x.shape[0]
    if kept < past:
        raise ConfigError(f"frames={config.frames} needs SimConfig(history={past}) or more; it is {kept}")
    now = jax.tree.map(lambda row: row[None], Trajectory(*state.pose, state.alive))
    if not past:
        return now
    return jax.tree.map(lambda row, rows: jnp.concatenate([row, rows[:past]]), now, state.ring)


class _Ego(NamedTuple):
    """Where an observer stands, scalars: position, height of its foot, cosine and sine of its heading, velocity."""

    x: Array
    y: Array
    base: Array
    cos: Array
    sin: Array
    vx: Array
    vy: Array


def _seen_by(scene: Scene, state: SimState, config: ObserveConfig, tables: _Tables, slot: Array) -> Observation:
    row, alive = tables.objects[slot, 0], state.alive[slot]
    me = _Ego(row[0], row[1], tables.base[slot], *(row[k] for k in (2, 3, 4, 5)))
    others, others_mask = _others(config, tables, me, slot)
    road, road_mask = _road(scene, config, tables, me)
    lights, lights_mask = _lights(scene, config, tables, me)
    ego, path, path_mask = _path(scene, state, config, me, row, slot)
    masks = (others_mask, road_mask, lights_mask, path_mask)
    arrays = (ego, others, road, lights, path)
    parts = [jnp.where(alive, part, jnp.zeros((), part.dtype)) for part in (*arrays, alive, *masks)]
    return Observation(*parts)


def _others(
    config: ObserveConfig, tables: _Tables, me: _Ego, slot: Array
) -> tuple[Float32[Array, "K H 9"], Bool[Array, "K H"]]:
    now = tables.objects[:, 0]
    there = tables.seen[:, 0] & (jnp.arange(now.shape[0]) != slot)
    if config.line_of_sight:
        x, y, cos, sin, _, _, length, width, _ = now.T
        blocks = there & (jnp.abs(tables.base - me.base) <= GATE_M)
        there = there & ~hidden(me.x, me.y, x, y, cos, sin, length, width, blocks)
    at, near = _nearest(config, me, now[:, 0], now[:, 1], tables.base, there, config.objects)
    rows = tables.objects[at]
    moved = rows - jnp.stack([me.x, me.y, *_zeros(2), me.vx, me.vy, *_zeros(3)])
    seen = tables.seen[at] & near[:, None]
    parts = [
        *_turned(me, moved, 0),
        *_turned(me, moved, 2),
        *_turned(me, moved, 4),
        *jnp.unstack(rows[..., 6:], axis=-1),
    ]
    return jnp.where(seen[..., None], jnp.stack(parts, -1), 0.0), seen


def _road(scene: Scene, config: ObserveConfig, tables: _Tables, me: _Ego) -> tuple[Array, Bool[Array, " R"]]:
    road = scene.road
    there = jnp.asarray(road.kind) > 0
    at, near = _nearest(config, me, road.x, road.y, road.z, there, config.road)
    moved = tables.road[at] - jnp.stack([me.x, me.y, *_zeros(2), me.base, *_zeros(2)])
    parts = [*_turned(me, moved, 0), *_turned(me, moved, 2), *jnp.unstack(moved[..., 4:], axis=-1)]
    return jnp.where(near[:, None], jnp.stack(parts, -1), 0.0), near


def _lights(scene: Scene, config: ObserveConfig, tables: _Tables, me: _Ego) -> tuple[Array, Bool[Array, " S"]]:
    lights = scene.lights
    at, near = _nearest(config, me, lights.x, lights.y, lights.z, jnp.asarray(lights.exists), config.lights)
    moved = tables.lights[at] - jnp.stack([me.x, me.y, *_zeros(6)])
    parts = [*_turned(me, moved, 0), *_turned(me, moved, 2), *jnp.unstack(moved[..., 4:], axis=-1)]
    return jnp.where(near[:, None], jnp.stack(parts, -1), 0.0), near


def _path(
    scene: Scene, state: SimState, config: ObserveConfig, me: _Ego, row: Float32[Array, "9"], slot: Array
) -> tuple[Float32[Array, "8"], Float32[Array, "Q 3"], Bool[Array, " Q"]]:
    """The ego's own features, which need its path, and the path ahead."""
    x, y, z, limits, length, closed = (jnp.asarray(field)[slot] for field in scene.paths[:6])
    ahead = state.arc[slot] + config.spacing_m * jnp.arange(config.route + 1, dtype=jnp.float32)
    arc = wrap_arc(ahead, jnp.full_like(ahead, length), jnp.full(ahead.shape, closed))
    known = (length > 0) & (closed | (arc <= length))
    point = path_point(x[None], y[None], z[None], arc[None])
    dx, dy, tx, ty = (part[0] for part in (point.x - me.x, point.y - me.y, point.tx, point.ty))
    limit = jnp.nan_to_num(limits[jnp.clip(jnp.floor(arc).astype(jnp.int32), 0, limits.shape[0] - 1)])
    left = jnp.where(length > 0, ty[0] * dx[0] - tx[0] * dy[0], 0.0)
    turned = jnp.where(
        length > 0, wrap(jnp.arctan2(me.sin * tx[0] - me.cos * ty[0], me.cos * tx[0] + me.sin * ty[0])), 0.0
    )
    forward = me.cos * me.vx + me.sin * me.vy
    sideways = me.cos * me.vy - me.sin * me.vx
    ego = jnp.stack([forward, sideways, row[6], row[7], left, turned, jnp.where(length > 0, limit[0], 0.0), row[8]])
    path = jnp.stack([me.cos * dx + me.sin * dy, me.cos * dy - me.sin * dx, limit], -1)[1:]
    return ego, jnp.where(known[1:, None], path, 0.0), known[1:]


def _nearest(
    config: ObserveConfig, me: _Ego, x: Any, y: Any, z: Any, there: Bool[Array, " P"], count: int
) -> tuple[Int32[Array, " K"], Bool[Array, " K"]]:
    """Indices of the `count` nearest points in sight, nearest first, and which there are."""
    dx, dy, dz = x - me.x, y - me.y, jnp.maximum(jnp.abs(z - me.base) - GATE_M, 0.0)
    square = dx * dx + dy * dy
    there = there & (square <= config.radius_m**2) & (dz * dz <= _SLOPE**2 * square)
    key = jnp.where(there, -square, -jnp.inf)
    best, at = lax.top_k(key, min(count, key.shape[0]))
    missing = (0, count - at.shape[0])
    return jnp.pad(at, missing), jnp.pad(best, missing, constant_values=-jnp.inf) > -jnp.inf


def _turned(me: _Ego, rows: Float32[Array, "*K F"], column: int) -> tuple[Array, Array]:
    """A vector, from two columns of features, in the frame of the ego."""
    x, y = rows[..., column], rows[..., column + 1]
    return me.cos * x + me.sin * y, me.cos * y - me.sin * x


def _zeros(count: int) -> list[Array]:
    return [jnp.float32(0)] * count
