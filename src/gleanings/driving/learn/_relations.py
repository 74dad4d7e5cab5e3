"""How the others and the route stand to the ego: what a small network would need many scenes to find out. Ours."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gleanings.driving.observation import Observation

COUNT = 10
"""Features of an object."""
_BRAKE, _SIDEWAYS = 4.0, 4.0  # m/s^2
_EARLIER = 0.01  # m^2 by which a piece must be nearer than the one before it
_WIDE, _NEAR_M = 2.0, 10.0


def relations(seen: Observation, use_route: bool = True) -> Float[Array, "*batch K 10"]:
    """Scaled features of each object as it is now: arc and offset on the route ahead, gap to it and closing speed along
    the route and across, the share of the gap closed in a second, the deceleration that would keep the gap, how near it
    is, how far it is in the way, and the ego's speed. Beside no route, all is measured along the ego's heading.
    """
    now = jnp.where(seen.others_mask[..., :1], seen.others[..., 0, :], 0.0)
    x, y = now[..., 0], now[..., 1]
    speed = seen.ego[..., None, 0]
    arc, left, cos, sin = _on_path(seen, x, y, use_route)
    vx, vy = now[..., 4] + speed, now[..., 5]
    closing = speed - (vx * cos + vy * sin)
    across = vy * cos - vx * sin
    gap = arc - (now[..., 6] + seen.ego[..., None, 2]) / 2
    ahead = x > 0
    room = jnp.maximum(gap, 1.0)
    needed = jnp.maximum(closing, 0.0) ** 2 / (2 * room)
    return jnp.stack(
        [
            arc / 20,
            left / 3,
            gap / 20,
            closing / 10,
            across / 5,
            jnp.clip(closing / room, -1.0, 3.0),
            jnp.where(ahead, jnp.minimum(needed / _BRAKE, 3.0), 0.0),
            jnp.where(ahead, jnp.exp(-jnp.maximum(gap, 0.0) / _NEAR_M), 0.0),
            jnp.where(ahead, jnp.exp(-((left / _WIDE) ** 2)), 0.0),
            jnp.broadcast_to(speed / 10, x.shape),
        ],
        -1,
    )


def bends(seen: Observation, spacing_m: float) -> Float[Array, "*batch Q"]:
    """The lateral acceleration, scaled, that the ego's speed needs at each point of the route; the last one's is 0."""
    points = seen.path[..., :2]
    legs = points - jnp.concatenate([jnp.zeros_like(points[..., :1, :]), points[..., :-1, :]], -2)
    before, after = legs[..., :-1, :], legs[..., 1:, :]
    cross = before[..., 0] * after[..., 1] - before[..., 1] * after[..., 0]
    turn = jnp.arctan2(cross, (before * after).sum(-1))
    needed = turn / spacing_m * seen.ego[..., None, 0] ** 2 / _SIDEWAYS
    there = seen.path_mask[..., :-1] & seen.path_mask[..., 1:]
    there &= jnp.concatenate([jnp.ones_like(there[..., :1]), seen.path_mask[..., :-2]], -1)
    needed = jnp.where(there, jnp.clip(needed, -3.0, 3.0), 0.0)
    return jnp.concatenate([needed, jnp.zeros_like(seen.path[..., :1, 0])], -1)


def _on_path(seen: Observation, x: Array, y: Array, use_route: bool) -> tuple[Array, Array, Array, Array]:
    """Of points [..., K]: arc and metres to the left on the route's nearest piece, and the direction of that piece."""
    mask = seen.path_mask & use_route
    joined = jnp.concatenate([jnp.ones_like(mask[..., :1]), mask[..., :-1]], -1)
    there: Bool[Array, "*batch 1 Q"] = (mask & joined)[..., None, :]
    ends = seen.path[..., None, :, :2]
    starts = jnp.concatenate([jnp.zeros_like(ends[..., :1, :]), ends[..., :-1, :]], -2)
    dx, dy = jnp.moveaxis(ends - starts, -1, 0)
    length = jnp.sqrt(jnp.maximum(dx * dx + dy * dy, 1e-6))
    cos, sin = dx / length, dy / length
    ax, ay = x[..., None] - starts[..., 0], y[..., None] - starts[..., 1]
    along = jnp.clip(ax * cos + ay * sin, 0.0, length)
    left = ay * cos - ax * sin
    away = jnp.where(there, (ax - along * cos) ** 2 + (ay - along * sin) ** 2, jnp.inf)
    # Beside a corner two pieces are equally near; rounding must not choose.
    nearest = jnp.argmin(away + _EARLIER * jnp.arange(away.shape[-1]), -1, keepdims=True)
    length = jnp.where(there, length, 0.0)
    before = jnp.cumsum(length, -1) - length

    def taken(values: Array, other: Array | float) -> Array:
        found = jnp.take_along_axis(jnp.broadcast_to(values, away.shape), nearest, -1)[..., 0]
        return jnp.where(there.any(-1), found, other)

    return taken(before + along, x), taken(left, y), taken(cos, 1.0), taken(sin, 0.0)
