"""Families on one road: straight, multi_lane, curve, s_curve, narrow, crossing, overpass, jam. Source: ours."""

import itertools
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from gleanings.driving.families.base import STEP, Parked, Placed, Plan, Route, at, vehicle_size
from gleanings.driving.families.layout import (
    LANE,
    Layout,
    Line,
    arc_of,
    bend,
    connect,
    ease,
    join,
    offset,
    resample,
    trace,
)
from gleanings.driving.raw import Kind

STREET = (8.9, 11.2, 13.4, 15.6)  # limits of streets, m/s: 20 to 35 mph


def two_way(plan: Plan, line: Line, limit: float, name: str = "", level: int = 0) -> list[Route]:
    """A lane in either direction along a line, its middle marked; their routes, along the line first."""
    layout = plan.layout
    names = [
        layout.lane(f"{name}right", offset(line, -LANE / 2), limit, level=level),
        layout.lane(f"{name}left", offset(line, LANE / 2)[::-1], limit, level=level),
    ]
    layout.mark("road_line", line)
    return [plan.way([lane]) for lane in names]


def cyclists(plan: Plan, line: Line, rng: np.random.Generator, count: int) -> None:
    """Cyclists on the right shoulder of a two-way road, which has to be 1.7 m wide."""
    for way in (line, line[::-1]):
        plan.routes.append(Route(resample(offset(way, -LANE / 2 - 2.75), STEP), 6.0, Kind.CYCLIST, weight=0.0))
    lengths = [arc_of(route.line)[-1] for route in plan.routes]
    for k in range(count):
        side = len(plan.routes) - 1 - k % 2
        speed = float(rng.uniform(3.5, 5.5))
        arc = 55.0 + (k // 2 + float(rng.uniform(0.1, 0.7))) * (lengths[side] - 160.0) / (count // 2 + 1)
        plan.placed.append(Placed(side, arc, speed, speed))


def walkers(plan: Plan, line: Line, rng: np.random.Generator, count: int, away: float) -> None:
    """Pedestrians who walk along a line, `away` m or a little more to one of its sides."""
    for k in range(count):
        way = line if rng.uniform() < 0.5 else line[::-1]
        side = float(rng.choice([-1.0, 1.0])) * (away + 0.9 * (k % 3))
        _walk(plan, offset(way, side), float(rng.uniform(50, arc_of(line)[-1] - 70)), rng)


def _walk(plan: Plan, line: Line, arc: float, rng: np.random.Generator) -> None:
    """A pedestrian who starts at about an arc of a line, at a speed that keeps clear of the others; else none."""
    for _ in range(6):
        speed, start = float(rng.uniform(1.0, 1.6)), max(1.0, arc + float(rng.uniform(-3, 3)))
        steps = _steps(line, start, speed)
        walks = [put for put in plan.placed if plan.routes[put.route].kind == Kind.PEDESTRIAN]
        others = [_steps(plan.routes[put.route].line, put.arc, put.speed) for put in walks]
        if all(np.hypot(*(steps - other).T).min() > 1.2 for other in others):
            plan.routes.append(Route(resample(line, STEP), speed, Kind.PEDESTRIAN, weight=0.0, fresh=False))
            plan.placed.append(Placed(len(plan.routes) - 1, start, speed, speed))
            return


def _steps(line: Line, arc: float, speed: float) -> Float[np.ndarray, "K 2"]:
    """Places on a line five times a second, for 16 s."""
    at = arc + speed * np.arange(0.0, 16.0, 0.2)
    return np.stack([np.interp(at, arc_of(line), line[:, k]) for k in range(2)], axis=1)


def _street(rng: np.random.Generator, pieces: list[tuple[float, float, float]], name: str = "") -> Plan:
    """A two-way street along pieces (see `trace`), now and then with cyclists and pedestrians."""
    rides = bool(rng.uniform() < 0.5)
    plan = Plan(Layout(1.8 if rides else float(rng.uniform(0.5, 1.2))))
    line = trace((0.0, 0.0, float(rng.uniform(-np.pi, np.pi))), pieces)
    two_way(plan, line, float(rng.choice(STREET)), name)
    plan.count = int(rng.integers(8, 32))
    if rides:
        cyclists(plan, line, rng, int(rng.integers(1, 6)))
    if rng.uniform() < 0.5:
        walkers(plan, line, rng, int(rng.integers(1, 7)), LANE + plan.layout.reach - LANE / 2 + 1.5)
    return plan


def straight(rng: np.random.Generator) -> Plan:
    """A straight street with a lane in either direction."""
    return _street(rng, [(float(rng.uniform(300, 420)), 0.0, 0.0)])


def curve(rng: np.random.Generator) -> Plan:
    """A street with one bend."""
    turn = float(rng.uniform(0.6, 1.9) * rng.choice([-1, 1]))
    lead = [(float(rng.uniform(110, 160)), 0.0, 0.0) for _ in range(2)]
    return _street(rng, [lead[0], *bend(turn, float(rng.uniform(25, 110))), lead[1]])


def s_curve(rng: np.random.Generator) -> Plan:
    """A street that bends to one side and back again."""
    turn = float(rng.uniform(0.5, 1.2) * rng.choice([-1, 1]))
    radius = rng.uniform(25, 90, 2)
    lead = [(float(rng.uniform(100, 140)), 0.0, 0.0) for _ in range(2)]
    middle = (float(rng.uniform(5, 40)), 0.0, 0.0)
    back = -turn * float(rng.uniform(0.7, 1.2))
    return _street(rng, [lead[0], *bend(turn, float(radius[0])), middle, *bend(back, float(radius[1])), lead[1]])


def narrow(rng: np.random.Generator) -> Plan:
    """A street narrowed by parked cars, where cars that meet take turns."""
    plan = Plan(Layout(1.1), cluster=12.0, warm=5.0)
    line = trace((0.0, 0.0, float(rng.uniform(-np.pi, np.pi))), [(float(rng.uniform(300, 380)), 0.0, 0.0)])
    names = two_way(plan, line, float(rng.choice([6.7, 8.9, 11.2])))
    length = float(arc_of(line)[-1])
    ways = []
    for way, route in zip((line, line[::-1]), names, strict=True):
        arc, taken = arc_of(way), np.zeros(len(way))
        spot = float(rng.uniform(105, 130))
        while spot < length - 75:
            for _ in range(int(rng.integers(1, 4))):
                size = vehicle_size(rng, False)
                x, y, z, yaw = at(offset(way, -3.45 - (1.0 - size[1] / 2)), spot)
                plan.parked.append(Parked((x, y, z, yaw + float(rng.normal(0, 0.015))), size))
                taken = np.maximum(taken, np.abs(arc - spot) < size[0] / 2 + 8.0)
                spot += float(rng.uniform(6.0, 7.5))
            spot += float(rng.uniform(45, 110))
        window = np.hanning(25)
        swerve = np.convolve(np.pad(taken, 12, mode="edge"), window / window.sum(), "valid")
        ways.append(replace(route, line=resample(offset(way, -LANE / 2 + 0.85 * swerve), STEP), wide=False))
    plan.routes = ways
    plan.count = int(rng.integers(7, 18))
    walkers(plan, line, rng, int(rng.integers(1, 8)), 6.1)
    return plan


def crossing(rng: np.random.Generator) -> Plan:
    """A street with zebra crossings, where cars wait for pedestrians."""
    plan = Plan(Layout(float(rng.uniform(0.6, 1.8))), cluster=8.0)
    line = trace((0.0, 0.0, float(rng.uniform(-np.pi, np.pi))), [(float(rng.uniform(300, 380)), 0.0, 0.0)])
    ways = two_way(plan, line, float(rng.choice(STREET[:3])))
    length, edge = float(arc_of(line)[-1]), LANE / 2 + plan.layout.reach
    places = length / 2 + (np.array([-25.0, 25.0]) if rng.uniform() < 0.4 else np.zeros(1)) + rng.uniform(-15, 15)
    for middle in places.tolist():
        x, y, _, yaw = at(line, middle)
        ahead, side = np.array([np.cos(yaw), np.sin(yaw), 0]), np.array([-np.sin(yaw), np.cos(yaw), 0])
        centre = np.array([x, y, 0.0])
        box = [centre + a * 2.0 * ahead + b * edge * side for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        plan.layout.mark("crosswalk", np.array(box), closed=True)
        for k in range(int(rng.integers(4, 9))):
            along, way = -1.6 + 0.8 * (k % 5), float(rng.choice([-1.0, 1.0]))
            a, b = (centre + along * ahead + sign * way * side * (edge + 0.4) for sign in (-1, 1))
            turns = [float(rng.choice([-1.0, 1.0])) for _ in range(2)]
            path = _across(a, b, way * side, [turn * ahead for turn in turns], 1.2 + 0.9 * k)
            enters = float(rng.uniform(1.0, 11.0))  # seconds after the first moment
            before = 20.0 + 1.2 + 0.9 * k
            _walk(plan, path, before - 1.3 * enters, rng)
    stops = [tuple(sorted(float(p - 3.2) for p in ends)) for ends in (places, length - places)]
    for k, route in enumerate(ways):
        plan.routes[k] = replace(route, stops=stops[k])
    plan.count, plan.focus = int(rng.integers(8, 26)), (*at(line, length / 2)[:2], 40.0)
    if plan.layout.reach > LANE / 2 + 1.7:
        cyclists(plan, line, rng, 2)
    return plan


def _across(a: np.ndarray, b: np.ndarray, side: np.ndarray, turns: list[np.ndarray], away: float) -> Line:
    """Along the pavement `away` m off the kerb, over the street from a to b, and on along the other pavement."""
    corners = [a - side * away + turns[0] * 20, a - side * away, b + side * away, b + side * away + turns[1] * 20]
    legs = list(itertools.pairwise(corners))
    unit = [(q - p) / np.linalg.norm(q - p) for p, q in legs]
    yaws = [float(np.arctan2(u[1], u[0])) for u in unit]
    parts = []
    for k in range(3):
        p, q = legs[k]
        start, end = p + unit[k] * (0.9 if k else 0), q - unit[k] * (0.9 if k < 2 else 0)
        parts.append(np.linspace(start, end, max(2, round(float(np.linalg.norm(end - start)) / STEP))))
        if k < 2:
            corner = q + unit[k + 1] * 0.9
            parts.append(connect((end[0], end[1], yaws[k]), (corner[0], corner[1], yaws[k + 1]), 0.2))
    return join(parts)


def overpass(rng: np.random.Generator) -> Plan:
    """A road on a bridge 6 m above another road."""
    plan = Plan(Layout(float(rng.uniform(0.6, 1.2))))
    limits = rng.choice(STREET, 2)
    heading, angle = float(rng.uniform(-np.pi, np.pi)), float(rng.uniform(1.0, np.pi - 1.0))
    for level, yaw in enumerate((heading, heading + angle)):
        half = float(rng.uniform(160, 200))
        k = float(rng.uniform(-1, 1)) / 600
        halves = [trace((0.0, 0.0, yaw + turn), [(half, 0.0, sign * k)]) for turn, sign in ((0.0, 1), (np.pi, -1))]
        line = join([halves[1][::-1], halves[0]])
        if level:
            arc = np.abs(arc_of(line) - half)
            drop = float(rng.choice([0.0, rng.uniform(3.0, 6.0)]))
            line[:, 2] = 6.0 - drop * ease((arc - 45.0) / (half - 45.0))
        two_way(plan, line, float(limits[level]), f"level{level}", level)
    plan.count, plan.focus = int(rng.integers(12, 40)), (0.0, 0.0, 30.0)
    return plan


def jam(rng: np.random.Generator) -> Plan:
    """A ring road full of cars that stop and go."""
    plan = Plan(Layout(0.9), warm=3.0, late=0.0, travel=8.0)
    lanes, inner = int(rng.integers(1, 3)), float(rng.uniform(24, 42))
    start = float(rng.uniform(-np.pi, np.pi))
    for k in range(lanes):
        radius = inner + LANE * k
        length = 2 * np.pi * radius
        pose = (radius * np.cos(start), radius * np.sin(start), start + np.pi / 2)
        ring = trace(pose, [(length, 1 / radius, 1 / radius)])
        ring[-1] = ring[0]
        cuts = np.linspace(0, len(ring) - 1, 5).astype(int)
        names: list[str] = []
        for part, (a, b) in enumerate(itertools.pairwise(cuts)):
            names.append(plan.layout.lane(f"ring{k}.{part}", ring[a : b + 1], 11.2, names[-1:]))
        plan.layout.lanes[names[-1]].successors.append(names[0])
        if k:
            plan.layout.mark("road_line", offset(ring, LANE / 2))
        plan.routes.append(Route(resample(ring, STEP), 11.2, closed=True, wide=False, fresh=False))
        mean = float(rng.uniform(1.3, 3.2))
        n = int(length / (7.0 + 1.5 * mean))
        speed = (length / n - 7.0) / 1.5 * (1 + np.sin(2 * np.pi * np.arange(n) / n * rng.integers(1, 3)))
        arc = np.cumsum(7.0 + 1.5 * speed) * (length - 1e-6) / (7.0 * n + 1.5 * speed.sum())
        for s, v in zip(arc % length, speed, strict=True):
            plan.placed.append(Placed(k, float(s), float(v), float(11.2 * rng.uniform(0.8, 1.05))))
    plan.layout.beside(*(f"ring{k}.0" for k in reversed(range(lanes))))
    plan.count = len(plan.placed)
    return plan
