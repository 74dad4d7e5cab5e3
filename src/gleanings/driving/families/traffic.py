"""The reference driver that makes the logs of generated scenes: IDM on routes, with rules for what routes share.

IDM as in the simulator (a0 = 1.5, b = 2 m/s^2, T = 1.5 s, g0 = 2 m; Treiber, Hennecke and Helbing 2000, equations 2 and
3), calmed where another cuts in (Kesting, Treiber and Helbing 2010, with a leader of constant speed and coolness 0.99).
Ours: slowing down for bends, stop lines and lights, reservation of conflict zones, making room where lanes join.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from gleanings.driving.families._conflicts import CROSS, NONE, SAME, VIRTUAL, Tables
from gleanings.driving.families._rules import Rules
from gleanings.driving.families.base import DT, STEPS, Plan, vehicle_size
from gleanings.driving.raw import DEFAULT_SIZE, Kind

_A0, _B, _T, _G0 = 1.5, 2.0, 1.5, 2.0
_TWICE_ROOT = 2 * np.sqrt(_A0 * _B)
BEHIND = 42.0  # road behind every first pose, m
_AHEAD = 12.0  # road left beyond every last pose, m


@dataclass
class Fleet:
    """N objects on routes. route: index; arc: m at the first moment; speed, wish: m/s; enter: step; size [N, 3]."""

    route: Int[np.ndarray, " N"]
    arc: Float[np.ndarray, " N"]
    speed: Float[np.ndarray, " N"]
    wish: Float[np.ndarray, " N"]
    enter: Int[np.ndarray, " N"]
    size: Float[np.ndarray, "N 3"]
    walks: Bool[np.ndarray, " N"]


@dataclass(frozen=True)
class Motion:
    """Arc, speed and presence of the N objects at the steps of the log, [T, N]."""

    arc: Float[np.ndarray, "T N"]
    speed: Float[np.ndarray, "T N"]
    there: Bool[np.ndarray, "T N"]


def populate(plan: Plan, table: Tables, rng: np.random.Generator) -> Fleet:
    """Put the objects of a plan on its routes, with room between them; a place that is taken is drawn again."""
    rows: list[tuple[int, float, float, float, int, tuple[float, float, float]]] = []
    for put in plan.placed:
        route = plan.routes[put.route]
        size = vehicle_size(rng, False) if route.kind == Kind.VEHICLE else DEFAULT_SIZE[route.kind]
        rows.append((put.route, put.arc, put.speed, put.desired, 0, size))
    weight = np.array([route.weight * (route.kind != Kind.PEDESTRIAN) for route in plan.routes])
    fresh = np.array([route.fresh for route in plan.routes]) * weight
    moves = sum(plan.routes[put.route].kind != Kind.PEDESTRIAN for put in plan.placed)
    warm = round(plan.warm / DT)
    late = round(plan.late * (plan.count - moves)) if fresh.any() else 0
    for _ in range(12 * plan.count):
        if moves >= plan.count - late:
            break
        a = int(rng.choice(len(weight), p=weight / weight.sum()))
        row = _draw(plan, table, a, rng)
        if row is not None and _free(table, rows, row):
            rows.append(row)
            moves += 1
    for _ in range(max(0, plan.count - moves) if fresh.any() else 0):
        a = int(rng.choice(len(weight), p=fresh / fresh.sum()))
        size = _size(plan, a, rng)
        rows.append((a, BEHIND + size[0] / 2, 0.0, _wish(plan, a, rng), int(rng.integers(1, warm + STEPS - 15)), size))
    route, arc, speed, wish, enter, size = (np.array(column) for column in zip(*rows, strict=True))
    walks = np.array([plan.routes[k].kind == Kind.PEDESTRIAN for k in route])
    return Fleet(route, arc.astype(float), speed.astype(float), wish.astype(float), enter, size.astype(float), walks)


def _size(plan: Plan, a: int, rng: np.random.Generator) -> tuple[float, float, float]:
    route = plan.routes[a]
    return vehicle_size(rng, route.wide) if route.kind == Kind.VEHICLE else DEFAULT_SIZE[route.kind]


def _wish(plan: Plan, a: int, rng: np.random.Generator) -> float:
    return float(plan.routes[a].limit * np.clip(rng.normal(0.95, 0.08), 0.75, 1.1))


def _draw(
    plan: Plan, table: Tables, a: int, rng: np.random.Generator
) -> tuple[int, float, float, float, int, tuple[float, float, float]] | None:
    """An object somewhere on route a, as a row of `populate`; None: it would stand in a zone of conflict."""
    size = _size(plan, a, rng)
    wish = _wish(plan, a, rng)
    low, high = (0.0, table.length[a]) if table.closed[a] else (BEHIND + size[0] / 2, table.length[a] - 45.0)
    arc = float(rng.uniform(low, max(high, low + 1.0)))
    front, rear = arc + size[0] / 2, arc - size[0] / 2
    if ((front > table.stop[a] - 2.0) & (rear < table.leave[a])).any():
        return None
    speed = min(float(table.top[a, round(arc)]), wish) * float(rng.uniform(0.8, 1.0))
    ahead = table.stop[a] - front
    ahead = ahead[ahead > 0]
    if len(ahead) and (plan.routes[a].stops or not plan.routes[a].rank):
        speed = min(speed, float(np.sqrt(2.4 * max(ahead.min() - 2.0, 0.0))))
    return a, arc, speed, wish, 0, size


def _free(table: Tables, rows: list, row: tuple) -> bool:
    """Whether an object has room between the others."""
    a, arc, speed, _, _, (length, *_) = row
    for b, at, other, _, _, (size, *_) in rows:
        k = round(at)
        if table.relation[a, b, k] == NONE:
            continue
        if table.relation[a, b, k] == CROSS:
            return False
        ahead = table.place[a, b, k] - arc
        if table.closed[a]:
            ahead = (ahead + table.length[a] / 2) % table.length[a] - table.length[a] / 2
        follower, leader = (speed, other) if ahead > 0 else (other, speed)
        if follower > _calm(abs(ahead) - (length + size) / 2, leader):
            return False
    return True


def _calm(gap: float, leader: float) -> float:
    """Highest speed, in m/s, at which IDM brakes with at most 1.5 m/s^2 for a leader `gap` m ahead; 0: none."""
    c = _TWICE_ROOT
    half, room = (_T * c - leader) / 2, (np.sqrt(2.0) * gap - _G0) * c
    return float(-half + np.sqrt(half**2 + room)) if room > 0 else 0.0


def simulate(plan: Plan, table: Tables, fleet: Fleet) -> Motion:
    """Drive the fleet from `plan.warm` seconds before the log to its end; deterministic."""
    warm = round(plan.warm / DT)
    n = len(fleet.route)
    s, v, acc = fleet.arc.copy(), fleet.speed.copy(), np.zeros(n)
    there = fleet.enter == 0
    gone = np.zeros(n, bool)
    rules = Rules(plan, table, fleet.route, fleet.size[:, 0], fleet.walks)
    fixed = _fixed(table, fleet)
    end = np.where(fixed.closed, np.inf, fixed.length - fleet.size[:, 0] / 2 - _AHEAD)
    kept = []
    for step in range(warm + STEPS):
        there = there | _entering(fleet, table, step, s, v, there, gone)
        if step >= warm:
            kept.append((s.copy(), v.copy(), there.copy()))
        held = rules.held(step, s, v, there)
        want = _accelerations(fixed, fleet, s, v, there, held)
        acc = np.where(there, np.clip(want, acc - np.where(want < -2.5, 8.0, 0.45), acc + 0.35), 0.0)
        acc = np.where(fleet.walks, 0.0, np.clip(acc, -7.5, _A0))
        after = np.maximum(v + acc * DT, 0.0)
        ds = np.where((after == 0) & (v > 0), v**2 / (2 * np.maximum(-acc, 1e-6)), (v + after) * DT / 2)
        acc = np.where((after == 0) & (acc < 0), 0.0, acc)
        s, v = np.where(there, s + ds, s), np.where(there, after, v)
        if fixed.loops:
            s = np.where(fixed.closed, s % fixed.length, s)
        gone |= there & (s > end)
        there &= ~gone
    arc, speed, present = (np.array(column) for column in zip(*kept, strict=True))
    return Motion(arc, speed, present)


def _entering(
    fleet: Fleet, table: Tables, step: int, s: np.ndarray, v: np.ndarray, there: np.ndarray, gone: np.ndarray
) -> Bool[np.ndarray, " N"]:
    """Objects whose time has come and whose place is free; sets their speed in `v`. One a step and route."""
    new = np.zeros(len(s), bool)
    for i in np.flatnonzero(~there & ~gone & (fleet.enter > 0) & (fleet.enter <= step)):
        a = fleet.route[i]
        k = np.clip(np.round(s).astype(int), 0, table.top.shape[1] - 1)
        near = (there | new) & (table.relation[a, fleet.route, k] != NONE)
        gap = table.place[a, fleet.route, k] - s[i] - (fleet.size[i, 0] + fleet.size[:, 0]) / 2
        calm = min((_calm(float(gap[j]), float(v[j])) for j in np.flatnonzero(near & (gap > -30.0))), default=99.0)
        speed = min(fleet.wish[i], float(table.top[a, k[i]]), calm)
        if speed > 0.6 * fleet.wish[i]:
            v[i], new[i] = speed, True
    return new


class _Fixed(NamedTuple):
    """Of a fleet on its routes, what no step changes. closed, length [N]: of the own route; loops: whether any is
    closed. row [N], pair [N, N]: where the own route, and its pair with another's, begin in the flat tables of the
    `samples` arcs of each: top, place, relation, turn. other: all pairs but those of one with itself."""

    closed: Bool[np.ndarray, " N"]
    length: Float[np.ndarray, " N"]
    loops: bool
    samples: int
    row: Int[np.ndarray, " N"]
    pair: Int[np.ndarray, "N N"]
    top: Float[np.ndarray, " _"]
    place: Float[np.ndarray, " _"]
    relation: UInt8[np.ndarray, " _"]
    turn: Float[np.ndarray, " _"]
    other: Bool[np.ndarray, "N N"]


def _fixed(table: Tables, fleet: Fleet) -> _Fixed:
    route, (routes, _, samples) = fleet.route, table.place.shape
    closed, row = table.closed[route], route * samples
    pair = (route[:, None] * routes + route) * samples
    top, place, relation, turn = (part.reshape(-1) for part in (table.top, table.place, table.relation, table.turn))
    other, loops = ~np.eye(len(route), dtype=bool), bool(closed.any())
    return _Fixed(closed, table.length[route], loops, samples, row, pair, top, place, relation, turn, other)


def _accelerations(
    fixed: _Fixed, fleet: Fleet, s: np.ndarray, v: np.ndarray, there: np.ndarray, held: np.ndarray
) -> Float[np.ndarray, " N"]:
    """IDM with the leaders on the own route and with a standing obstacle `held` metres ahead of the front bumper."""
    half = fleet.size[:, 0] / 2
    wish = np.minimum(fleet.wish, _top(fixed, np.stack([s, s + 0.6 * v])).min(axis=0))
    free = np.maximum(1 - (v / np.maximum(wish, 0.1)) ** 4, -2.0)
    gap, closing, virtual = _leaders(fixed, fleet, s, v, there, half)
    gap = np.maximum(gap, 0.1)
    idm = v[:, None] * closing / _TWICE_ROOT
    safe = _A0 * (free[:, None] - ((_G0 + np.maximum(0.0, v[:, None] * _T + idm)) / gap) ** 2)
    loose = _A0 * (free[:, None] - np.minimum(((_G0 + np.maximum(0.0, v[:, None] * 0.7 + idm)) / gap) ** 2, 2.2))
    steady = -(np.maximum(closing, 0.0) ** 2) / (2 * gap)
    calm = 0.01 * safe + 0.99 * (steady + _B * np.tanh((safe - steady) / _B))
    lead = np.where(virtual, loose, np.where(safe < steady, calm, safe)).min(axis=1, initial=np.inf)
    stand = (_G0 + v * _T + v**2 / _TWICE_ROOT) / np.maximum(held, 0.1)
    # For a stop line IDM brakes early or hard; where it is late, brake as hard as it takes, and 2 m/s^2 at least.
    need = v**2 / (2 * np.maximum(held - 1.3, 0.3))
    halt = np.maximum(_A0 * (free - stand**2), -np.maximum(2.0, 1.1 * need))
    return np.minimum(np.minimum(lead, _A0 * free), halt)


def _top(fixed: _Fixed, arc: Float[np.ndarray, "K N"]) -> Float[np.ndarray, "K N"]:
    """Speed that the route allows at arcs."""
    at = np.clip(arc, 0.0, fixed.samples - 2.0)
    k = at.astype(int)
    low, high = fixed.top.take(fixed.row + k), fixed.top.take(fixed.row + k + 1)
    return low + (high - low) * (at - k)


def _leaders(
    fixed: _Fixed, fleet: Fleet, s: np.ndarray, v: np.ndarray, there: np.ndarray, half: np.ndarray
) -> tuple[Float[np.ndarray, "N N"], Float[np.ndarray, "N N"], Bool[np.ndarray, "N N"]]:
    """For i (row) and j ahead of it: gap between bumpers (inf: not ahead), closing speed, only virtually ahead."""
    half = half[:, None]
    point = s + np.array([[-1.0], [1.0], [0.0]]) * half[:, 0]  # rears, fronts and centres
    if fixed.loops:
        point = np.where(fixed.closed, point % fixed.length, point)
    k = np.clip(np.round(point).astype(int), 0, fixed.samples - 1)[:, None]
    # Of the flat tables, since an index of one array takes half the time of three.
    at = fixed.pair + k
    kind, cosine = fixed.relation.take(at), fixed.turn.take(at)
    centre = fixed.place.take(at) + (point[:, None] - k) * cosine - s[:, None]
    if fixed.loops:
        centre = np.where(fixed.closed[:, None], (centre + 5.0) % fixed.length[:, None] - 5.0, centre)
    crosses = kind == CROSS
    real = ((kind == SAME) | crosses) & (centre > 0)
    side = np.where(crosses, fleet.size[:, 1] / 2, 0.0)
    best = np.where(real, centre - side - half, np.inf).min(axis=0)
    kind, cosine, centre = kind[2], cosine[2], centre[2]
    virtual = (kind == VIRTUAL) & (centre > 0) & ~np.isfinite(best)
    best = np.where(virtual, centre - half - half.T, best)
    best = np.where(there[:, None] & there & fixed.other, best, np.inf)
    theirs = np.maximum(0.0, v[None, :] * cosine)
    return best, v[:, None] - theirs, virtual
