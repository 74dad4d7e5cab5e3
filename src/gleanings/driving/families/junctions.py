"""Families at junctions: t_junction, four_way_stop, four_way_signal, roundabout, u_turn. Source: ours."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from gleanings.driving.families.base import DT, STEPS, Plan, cycle
from gleanings.driving.families.layout import LANE, Layout, Line, connect, end_pose, offset, resample, trace
from gleanings.driving.families.roads import STREET


@dataclass(frozen=True)
class _Arm:
    """One road at a junction: its name, direction away from the centre, and number of lanes a side."""

    name: str
    yaw: float
    lanes: int = 1

    def lane(self, way: str, k: int) -> str:
        return f"{self.name}.{way}{k}"


def _arm(plan: Plan, arm: _Arm, near: float, length: float, limit: float, bent: float = 0.0) -> None:
    """Lanes of an arm from `near` m off the centre outwards; lane 0 is next to the middle."""
    start = (near * float(np.cos(arm.yaw)), near * float(np.sin(arm.yaw)), arm.yaw)
    line = trace(start, [(20.0, 0.0, 0.0), (length - 20.0, 0.0, bent)])
    for k in range(arm.lanes):
        plan.layout.lane(arm.lane("in", k), offset(line, LANE * (k + 0.5))[::-1], limit)
        plan.layout.lane(arm.lane("out", k), offset(line, -LANE * (k + 0.5)), limit)
    for way in ("in", "out"):
        plan.layout.beside(*(arm.lane(way, k) for k in range(arm.lanes)))
    for k in range(1 - arm.lanes, arm.lanes):
        plan.layout.mark("road_line", offset(line, LANE * k))
    wide = np.array([[0.0], [LANE * arm.lanes]])
    side = np.array([-np.sin(arm.yaw), np.cos(arm.yaw), 0.0])
    plan.layout.mark("road_line", line[0] + wide * side)  # stop line


def _turns(plan: Plan, a: _Arm, b: _Arm) -> list[tuple[int, int, str]]:
    """Lane pairs by which traffic goes from arm a to arm b, and left, right or ahead."""
    turn = (b.yaw - a.yaw - np.pi + np.pi) % (2 * np.pi) - np.pi
    if abs(turn) < 0.6:
        return [(k, k, "ahead") for k in range(min(a.lanes, b.lanes))]
    return [(0, 0, "left")] if turn > 0 else [(a.lanes - 1, b.lanes - 1, "right")]


def _link(plan: Plan, arms: list[_Arm]) -> list[tuple[_Arm, str, list[str]]]:
    """Lanes through a junction; gives (arm it comes from, left, right or ahead, lanes of the way)."""
    found = []
    for a in arms:
        for b in arms:
            for k, m, turn in _turns(plan, a, b) if a is not b else []:
                first, last = a.lane("in", k), b.lane("out", m)
                ends = [end_pose(plan.layout.lanes[first].line), end_pose(plan.layout.lanes[last].line, False)]
                limit = plan.layout.lanes[first].limit
                name = plan.layout.lane(f"{a.name}{k}-{b.name}{m}", connect(ends[0], ends[1]), limit, [first])
                plan.layout.lanes[name].successors.append(last)
                found.append((a, turn, [first, name, last]))
    return found


_SHARE = {"ahead": 1.0, "left": 0.5, "right": 0.5}


def _square(rng: np.random.Generator, lanes: int, near: float, spread: float = 0.1) -> tuple[Plan, list[_Arm]]:
    """Four arms, about at right angles."""
    plan = Plan(Layout(float(rng.uniform(0.5, 1.2))), warm=6.0)
    yaw = float(rng.uniform(-np.pi, np.pi)) + np.arange(4) * np.pi / 2 + rng.uniform(-spread, spread, 4)
    arms = [_Arm("NESW"[k], float(yaw[k]), lanes) for k in range(4)]
    limit = float(rng.choice(STREET[:3] if lanes == 1 else STREET[1:]))
    for arm in arms:
        _arm(plan, arm, near, float(rng.uniform(150, 190)), limit, float(rng.uniform(-1, 1)) / 400)
    return plan, arms


def _sign(plan: Plan, lane: str) -> None:
    x, y, yaw = end_pose(plan.layout.lanes[lane].line)
    away = plan.layout.reach + 1.0
    plan.layout.mark("stop_sign", np.array([[x + away * np.sin(yaw), y - away * np.cos(yaw), 0.0]]))


def four_way_stop(rng: np.random.Generator) -> Plan:
    """A crossroads with a stop sign on every arm: first come first served."""
    plan, arms = _square(rng, 1, float(rng.uniform(11, 15)))
    for _, turn, lanes in _link(plan, arms):
        plan.way(lanes, lanes[:1], must_stop=True, weight=_SHARE[turn])
    for arm in arms:
        _sign(plan, arm.lane("in", 0))
    plan.count, plan.focus = int(rng.integers(10, 28)), (0.0, 0.0, 30.0)
    return plan


def four_way_signal(rng: np.random.Generator) -> Plan:
    """A crossroads with traffic lights."""
    lanes = int(rng.integers(1, 3))
    plan, arms = _square(rng, lanes, float(rng.uniform(13, 17)) + 3.0 * (lanes - 1))
    phases: list[list[str]] = [[], []]
    for arm, turn, way in _link(plan, arms):
        plan.way(way, way[:1], light=way[1], rank=int(turn != "left"), weight=_SHARE[turn])
        phases[arms.index(arm) % 2].append(way[1])
    plan.lights = cycle(rng, phases, plan.warm + STEPS * DT)
    plan.count, plan.focus = int(rng.integers(12, 34)) + 14 * (lanes - 1), (0.0, 0.0, 30.0)
    return plan


def t_junction(rng: np.random.Generator) -> Plan:
    """A side street with a stop sign meets a main street."""
    plan = Plan(Layout(float(rng.uniform(0.5, 1.2))), warm=6.0)
    yaw = float(rng.uniform(-np.pi, np.pi)) + np.array([0.0, np.pi, -np.pi / 2]) + rng.uniform(-0.1, 0.1, 3)
    arms = [_Arm(name, float(angle)) for name, angle in zip(("east", "west", "side"), yaw, strict=True)]
    limit, near = float(rng.choice(STREET[1:])), float(rng.uniform(10, 14))
    for arm in arms:
        slow = STREET[0] if arm.name == "side" else limit
        _arm(plan, arm, near, float(rng.uniform(150, 190)), slow, float(rng.uniform(-1, 1)) / 400)
    for arm, turn, lanes in _link(plan, arms):
        if arm.name == "side":
            plan.way(lanes, lanes[:1], must_stop=True, weight=0.6)
        else:
            plan.way(lanes, lanes[:1], rank=1 if turn == "left" else 2, weight=1.2 * _SHARE[turn])
    _sign(plan, "side.in0")
    plan.count, plan.focus = int(rng.integers(9, 26)), (0.0, 0.0, 30.0)
    return plan


def roundabout(rng: np.random.Generator) -> Plan:
    """A roundabout with three or four arms; those on it go first."""
    plan = Plan(Layout(float(rng.uniform(0.7, 1.2))), cluster=2.0, warm=8.0)
    count, radius = int(rng.integers(3, 5)), float(rng.uniform(15, 20))
    wide = 10.5 / radius
    yaw = float(rng.uniform(-np.pi, np.pi)) + np.arange(count) * 2 * np.pi / count + rng.uniform(-0.06, 0.06, count)
    limit = float(rng.choice(STREET[:3]))
    arms = [_Arm(f"arm{k}", float(angle)) for k, angle in enumerate(yaw)]
    for k, arm in enumerate(arms):
        _arm(plan, arm, radius + 13.0, float(rng.uniform(140, 170)), limit, float(rng.uniform(-1, 1)) / 400)
        gap = (yaw[(k + 1) % count] - yaw[k]) % (2 * np.pi)
        plan.layout.lane(f"pass{k}", _circle(radius, yaw[k] - wide, 2 * wide), limit)
        plan.layout.lane(f"ring{k}", _circle(radius, yaw[k] + wide, gap - 2 * wide), limit, [f"pass{k}"])
    lane = plan.layout.lanes
    for k, arm in enumerate(arms):
        lane[f"ring{k}"].successors.append(f"pass{(k + 1) % count}")
        enter = connect(end_pose(lane[arm.lane("in", 0)].line), _tangent(radius, yaw[k] + wide))
        plan.layout.lane(f"enter{k}", enter, limit, [arm.lane("in", 0)])
        lane[f"enter{k}"].successors.append(f"ring{k}")
        leave = connect(_tangent(radius, yaw[k] - wide), end_pose(lane[arm.lane("out", 0)].line, False))
        plan.layout.lane(f"leave{k}", leave, limit, [f"ring{(k - 1) % count}"])
        lane[f"leave{k}"].successors.append(arm.lane("out", 0))
    for k, arm in enumerate(arms):
        for past in range(1, count + 1):
            ring = [f"{part}{(k + j) % count}" for j in range(past) for part in ("pass", "ring")][1:]
            end = (k + past) % count
            names = [arm.lane("in", 0), f"enter{k}", *ring, f"leave{end}", arms[end].lane("out", 0)]
            _rounded(plan, names, 0.08 if past == count else 1.0)
    plan.count, plan.focus = int(rng.integers(9, 28)), (0.0, 0.0, 30.0)
    return plan


def _circle(radius: float, start: float, angle: float) -> Line:
    return trace(_tangent(radius, start), [(angle * radius, 1 / radius, 1 / radius)], 0.5)


def _tangent(radius: float, angle: float) -> tuple[float, float, float]:
    return radius * float(np.cos(angle)), radius * float(np.sin(angle)), float(angle) + np.pi / 2


def _rounded(plan: Plan, names: list[str], weight: float) -> None:
    """A route along lanes whose curvature jumps: as a driver steers, over a few metres."""
    route = plan.way(names, weight=weight, wide=False)
    line = gaussian_filter1d(route.line, 3.0, axis=0, mode="nearest")
    line[:8], line[-8:] = route.line[:8], route.line[-8:]
    plan.routes[-1] = route.__class__(**{**route.__dict__, "line": resample(line, 0.5)})


def u_turn(rng: np.random.Generator) -> Plan:
    """A divided road with openings in its median, where cars turn back."""
    plan = Plan(Layout(float(rng.uniform(0.6, 1.2))), warm=6.0)
    limit, median = float(rng.choice(STREET[1:])), float(rng.uniform(6.5, 10.0))
    length = float(rng.uniform(320, 380))
    line = trace((0.0, 0.0, float(rng.uniform(-np.pi, np.pi))), [(length, 0.0, 0.0)])
    both = rng.uniform() < 0.6
    at = [length / 2 - float(rng.uniform(12, 40)), length / 2 - float(rng.uniform(12, 40))]
    cut = [round(at[0]), round(len(line) - 1 - at[1])]  # on the line: where cars of either side begin to turn
    for way, name in ((line, "a"), (line[::-1], "b")):
        cuts = sorted(cut if name == "a" else [len(line) - 1 - c for c in cut])
        for k in range(2):
            lane = offset(way, -median / 2 - LANE * (k + 0.5))
            parts = [lane[: cuts[0] + 1], lane[cuts[0] : cuts[1] + 1], lane[cuts[1] :]]
            names: list[str] = []
            for j, part in enumerate(parts):
                names.append(plan.layout.lane(f"{name}{k}.{j}", part, limit, names[-1:]))
            plan.way(names, rank=1, weight=1.0)
        plan.layout.mark("road_line", offset(way, -median / 2 - LANE))
        for j in range(3):
            plan.layout.beside(f"{name}0.{j}", f"{name}1.{j}")
    for name, other in (("a", "b"), ("b", "a")) if both else (("a", "b"),):
        first, last = f"{name}0.0", f"{other}1.2"
        lane = plan.layout.lanes
        turn = connect(end_pose(lane[first].line), end_pose(lane[last].line, False))
        plan.layout.lane(f"turn {name}", turn, limit, [first])
        lane[f"turn {name}"].successors.append(last)
        plan.way([first, f"turn {name}", last], weight=0.9)
    plan.count, plan.focus = int(rng.integers(10, 32)), (*end_pose(plan.layout.lanes["turn a"].line)[:2], 40.0)
    return plan
