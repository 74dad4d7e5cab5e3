"""The plans among which the expert chooses, and what they cost. Source: ours (design page 3.4)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float32

from gleanings.driving.dynamics import largest_curvature, limits_of, on_arc
from gleanings.driving.raw import Kind
from gleanings.driving.scene import Pose

RATES = (-6.0, -3.5, -1.5, -0.5, 0.0, 0.8, 1.8)
TARGETS = (0.0, 0.9, -0.9, 3.5, -3.5)
EDGE_M, EDGE_STEP_M = 8.0, 0.5
"""How far to either side of the way the distance to the road edge is tabled, and how densely."""
_STEPS, _DT, _FADE, _LAST = 15, 0.2, 0.93, 6.0
_CONTACT_M, _NEAR_M, _EDGE_ROOM_M = 0.05, 1.2, 0.35
_LATERAL = 4.0  # m/s^2, of a plan
_FAR = 1e3
_PULL_OUT_M = 5.0  # room that is left behind who stands, so as to get past
_STANDING_MPS, _CREEP_MPS, _OCCLUDER_M, _OCCLUDER_AHEAD_M, _BLOCKED_M = 0.3, 3.0, 2.0, 35.0, 30.0


class Way(NamedTuple):
    """The route: points a metre apart, x, y, cosine and sine of the direction, curvature (1/m), speed (m/s) [Q, 6];
    edge [Q, W]: distance to the road edge, m, `EDGE_STEP_M` apart from -`EDGE_M` (right) to +`EDGE_M` (left) of it;
    stops [S]: arcs of stop lines, m."""

    points: Any
    edge: Any
    stops: Any


class Style(NamedTuple):
    """headway: s. length, width: of the own car, m."""

    headway: Any
    length: Any
    width: Any


class Foreseen(NamedTuple):
    """Others over the next 3 s: x, y, cos, sin [15, N]; length, width, speed (now), drives, known [N]."""

    x: Array
    y: Array
    cos: Array
    sin: Array
    length: Array
    width: Array
    speed: Array
    drives: Array
    known: Array


class Place(NamedTuple):
    """A pose beside the way: arc, metres to the left; the curvature and speed of the way, and its direction there."""

    arc: Array
    left: Array
    bend: Array
    speed: Array
    cos: Array
    sin: Array


class _Rolled(NamedTuple):
    """Plans [P] over the 15 steps, [15, P]: pose, speed, place on the way, metres beyond the road edge."""

    x: Array
    y: Array
    cos: Array
    sin: Array
    speed: Array
    arc: Array
    left: Array
    wish: Array
    off: Array


def place_on(way: Way, x: Array, y: Array, arc: Array) -> Place:
    """Places of points, with a guess of their arcs that is right within a few metres."""
    row = jnp.clip(jnp.round(arc), 0, way.points.shape[0] - 1)
    px, py, cos, sin, bend, speed = jnp.moveaxis(way.points[row.astype(jnp.int32)], -1, 0)
    ahead, left = (x - px) * cos + (y - py) * sin, (y - py) * cos - (x - px) * sin
    ahead = ahead / jnp.maximum(1 - bend * left, 0.3)
    turn = bend * ahead
    arc = row + ahead
    return Place(arc, left - bend * ahead**2 / 2, bend, speed, cos - sin * turn, sin + cos * turn)


def choose(
    way: Way,
    style: Style,
    others: Foreseen,
    red: Bool[Array, " S"],
    pose: Pose,
    arc: Float32[Array, ""],
    before: Float32[Array, ""],
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    """Acceleration and curvature with which the cheapest plan begins; `before`: the acceleration up to now."""
    rate, target = (jnp.asarray(v).reshape(-1) for v in jnp.meshgrid(jnp.asarray(RATES), jnp.asarray(TARGETS)))
    rolled, bend = _roll(way, style, pose, arc, rate, target)
    cost = _cost(way, style, others, red, rolled, arc, jnp.abs(target) > 2)
    fades = sum(_FADE**i for i in range(_STEPS))
    cost = cost + fades * 0.02 * rate**2 + 0.05 * ((rate - before) / _DT) ** 2
    best = jnp.argmin(cost)
    return rate[best], bend[best]


def _roll(
    way: Way, style: Style, pose: Pose, arc: Array, rate: Float32[Array, " P"], target: Float32[Array, " P"]
) -> tuple[_Rolled, Float32[Array, " P"]]:
    """All plans over 3 s, and the curvature with which each begins."""
    limits = limits_of(jnp.asarray(int(Kind.VEHICLE)))

    # The sines of the heading are kept from the step before: XLA takes them for cheap and would take them many times.
    def step(carry: tuple[Pose, Array, Array, Array], _: None) -> tuple[tuple[Pose, Array, Array, Array], Any]:
        pose, cos, sin, arc = carry
        v = pose.vx * cos + pose.vy * sin
        speed, most = jnp.maximum(v, 0.0), largest_curvature(v, limits)
        bend = _steer(place_on(way, pose.x, pose.y, arc), pose, speed, target)
        braked = jnp.maximum(rate, -speed / _DT)
        after = on_arc(pose, v, jnp.clip(braked, limits.brake, limits.accelerate), jnp.clip(bend, -most, most), _DT)
        later = place_on(way, after.x, after.y, arc + (speed + braked * _DT / 2) * _DT)
        cos, sin = jnp.cos(after.yaw), jnp.sin(after.yaw)
        off = _beyond(way, style, later, cos, sin)
        row = _Rolled(after.x, after.y, cos, sin, speed + braked * _DT, later.arc, later.left, later.speed, off)
        return (after, cos, sin, later.arc), (row, bend)

    start = (pose, jnp.cos(pose.yaw), jnp.sin(pose.yaw), arc)
    start = jax.tree.map(lambda v: jnp.broadcast_to(v, rate.shape), start)
    _, (rows, bends) = lax.scan(step, start, None, length=_STEPS)
    return rows, bends[0]


def _steer(place: Place, pose: Pose, speed: Array, target: Array) -> Array:
    """Curvature towards a lateral target: that of the way, and pure pursuit of the rest."""
    reach = jnp.clip(1.1 * speed, 5.0, 20.0)
    cos, sin = jnp.cos(pose.yaw), jnp.sin(pose.yaw)
    turn = sin * place.cos - cos * place.sin
    bend = place.bend / jnp.maximum(1 - place.bend * place.left, 0.5)
    bend = bend + 2 * ((target - place.left) - reach * turn) / reach**2
    most = jnp.minimum(0.2, _LATERAL / jnp.maximum(speed, 1.0) ** 2)
    return jnp.clip(bend, -most, most)


def _beyond(way: Way, style: Style, place: Place, cos: Array, sin: Array) -> Array:
    """Signed distance of the outermost corner to the road edge, m, from the table beside the way."""
    along, turn = cos * place.cos + sin * place.sin, sin * place.cos - cos * place.sin
    worst = jnp.full_like(cos, -_FAR)
    last, columns = way.edge.shape[0] - 1, way.edge.shape[1]
    flat = way.edge.reshape(-1)
    for ahead, side in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        lon, lat = ahead * style.length / 2, side * style.width / 2
        forth = lon * along - lat * turn
        left = place.left + lon * turn + lat * along - place.bend * forth**2 / 2
        arc = place.arc + forth / jnp.maximum(1 - place.bend * left, 0.3)
        row = jnp.clip(jnp.round(arc), 0, last).astype(jnp.int32) * columns
        column = jnp.clip((left + EDGE_M) / EDGE_STEP_M, 0, columns - 1.001)
        low = column.astype(jnp.int32)
        a, b = flat[row + low], flat[row + low + 1]
        worst = jnp.maximum(worst, a + (column - low) * (b - a))
    return worst


def _cost(
    way: Way,
    style: Style,
    others: Foreseen,
    red: Array,
    plan: _Rolled,
    start: Float32[Array, ""],
    passes: Bool[Array, " P"],
) -> Float32[Array, " P"]:
    """Cost of each plan without its acceleration. passes: plans that go over to another lane."""
    arc, side = _on_way(way, others, start)
    stands = others.known & others.drives & (others.speed < _STANDING_MPS)
    blocked = (stands & (jnp.abs(side) < 1.5) & (arc > start) & (arc < start + _BLOCKED_M)).any()
    gap, lead, cap = _beside(style, others, plan, jnp.where(stands, arc + others.length / 2, -_FAR), side, passes)
    # On top of the wish, so that who stands still wants to go on.
    fast = jnp.maximum(plan.speed - jnp.minimum(cap, jnp.maximum(lead, 0.0) / style.headway), 0.0)
    front = plan.arc + style.length / 2
    # A stop line counts as long as one can stop before it at 4 m/s^2.
    ahead = way.stops - start - style.length / 2
    stops = red & (ahead > -0.5) & (plan.speed[0].min() ** 2 / 8 < ahead + 1)
    runs = (stops & (front[..., None] > way.stops)).any(-1)
    cost = jnp.where(gap < _CONTACT_M, 60.0, 0.0) + 12 * jnp.maximum(_NEAR_M - gap, 0.0)
    cost = cost + 40 * jnp.maximum(plan.off + _EDGE_ROOM_M, 0.0) + 0.35 * jnp.abs(plan.speed - plan.wish) + 0.6 * fast
    # Who stands in the way is passed on the other lane, at a price that is not that of standing behind him.
    side = jnp.where(blocked, jnp.minimum(plan.left**2, 1.0), plan.left**2)
    cost = cost + 0.25 * side + jnp.where(runs, 20.0, 0.0)
    fade = _FADE ** jnp.arange(_STEPS, dtype=jnp.float32)
    # What the last step is like goes on for a while: without that no one who stands pulls out.
    fade = fade.at[-1].multiply(_LAST)
    return (fade[:, None] * cost).sum(0)


def _beside(
    style: Style,
    others: Foreseen,
    plan: _Rolled,
    end: Float32[Array, " N"],
    side: Float32[Array, " N"],
    passes: Bool[Array, " P"],
) -> tuple[Float32[Array, "15 P"], Float32[Array, "15 P"], Float32[Array, "15 P"]]:
    """Least gap to the others, gap to who drives ahead, and the speed that what they hide allows.

    end: arc at which what stands ends. side: metres of each object to the left of the way.
    """
    front = plan.arc + style.length / 2

    def add(least: tuple[Array, ...], other: tuple[Array, ...]) -> tuple[tuple[Array, ...], None]:
        gap, lead, cap = least
        x, y, cos, sin, length, width, speed, known, end, side = other
        dx, dy = x[:, None] - plan.x, y[:, None] - plan.y
        cos, sin = cos[:, None], sin[:, None]
        even, odd = plan.cos * cos + plan.sin * sin, jnp.abs(plan.cos * sin - plan.sin * cos)
        c = jnp.abs(even)
        forth, left = dx * plan.cos + dy * plan.sin, jnp.abs(dy * plan.cos - dx * plan.sin)
        bumper = jnp.abs(forth) - (style.length + length * c + width * odd) / 2
        flank = left - (style.width + length * odd + width * c) / 2
        theirs = jnp.abs(dx * cos + dy * sin) - (length + style.length * c + style.width * odd) / 2
        across = jnp.abs(dy * cos - dx * sin) - (width + style.length * odd + style.width * c) / 2
        apart = jnp.maximum(jnp.maximum(bumper, flank), jnp.maximum(theirs, across))
        gap = jnp.minimum(gap, jnp.where(known, apart, _FAR))
        leads = known & (forth > 0) & (flank < 0.3) & jnp.where(speed < _STANDING_MPS, ~passes, even > 0.5)
        room = bumper - jnp.where(speed < _STANDING_MPS, _PULL_OUT_M, 0.0)
        lead = jnp.minimum(lead, jnp.where(leads, room, _FAR))
        hidden, room = end - front, jnp.abs(side - plan.left) - (width + style.width) / 2
        slow = jnp.maximum(jnp.sqrt(6 * jnp.maximum(hidden, 0.0)), _CREEP_MPS)
        slow = jnp.where((hidden > 0) & (hidden < _OCCLUDER_AHEAD_M) & (room < _OCCLUDER_M), slow, _FAR)
        return (gap, lead, jnp.minimum(cap, slow)), None

    far = jnp.full_like(plan.x, _FAR)
    rows = (others.x.T, others.y.T, others.cos.T, others.sin.T)
    rest = (others.length, others.width, others.speed, others.known, end, side)
    gap, lead, cap = lax.scan(add, (far, far, far), (*rows, *rest))[0]
    return gap, lead, cap


def _on_way(way: Way, others: Foreseen, start: Float32[Array, ""]) -> tuple[Float32[Array, " N"], Float32[Array, " N"]]:
    """Arc and metres to the left of each object: of the nearest point of the way from 5 m behind on."""
    x, y, cos, sin = (way.points[:, k] for k in range(4))
    dx, dy = others.x[0][:, None] - x, others.y[0][:, None] - y
    behind = jnp.arange(x.shape[0]) < start - 5
    square = jnp.where(behind, jnp.float32(1e6), dx**2 + dy**2)
    # Bits of a non-negative float sort like the float; XLA's CPU code for integer minima is vectorised, for argmin not.
    bits = lax.bitcast_convert_type(square, jnp.int32)
    rows = jnp.arange(x.shape[0], dtype=jnp.int32)
    best = jnp.where(bits == bits.min(1, keepdims=True), rows, x.shape[0] - 1).min(1)
    dx, dy = others.x[0] - x[best], others.y[0] - y[best]
    return best.astype(jnp.float32) + dx * cos[best] + dy * sin[best], dy * cos[best] - dx * sin[best]
