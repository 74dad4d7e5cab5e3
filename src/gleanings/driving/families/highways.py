"""Families on highways: multi_lane, merge, weave, cut_in. Source: ours."""

import itertools
from collections.abc import Sequence

import numpy as np

from gleanings.driving.families.base import STEP, Placed, Plan, Route
from gleanings.driving.families.layout import LANE, Layout, Line, arc_of, change, ease, offset, resample, trace

_LIMITS = (20.1, 24.6, 29.1)  # m/s: 45 to 65 mph


def _reference(rng: np.random.Generator, length: float) -> Line:
    """A gently bent line."""
    bends = rng.uniform(-1, 1, 3) / 700
    return trace(
        (0.0, 0.0, float(rng.uniform(-np.pi, np.pi))),
        [(length / 3, 0.0, bends[0]), (length / 3, bends[0], bends[1]), (length / 3, bends[1], bends[2])],
    )


def _chain(plan: Plan, name: str, line: Line, limit: float, cuts: Sequence[float] = ()) -> list[str]:
    """Lanes that follow each other along a line, cut at arcs of the reference (which has a point a metre)."""
    ends = [0, *(round(cut) for cut in cuts), len(line) - 1]
    names: list[str] = []
    for k, (a, b) in enumerate(itertools.pairwise(ends)):
        names.append(plan.layout.lane(f"{name}.{k}", line[a : b + 1], limit, names[-1:]))
    return names


def _carriageway(
    plan: Plan, line: Line, count: int, limit: float, name: str = "main", cuts: Sequence[float] = ()
) -> list[Line]:
    """`count` lanes to the right of a line, the leftmost first, with their routes; gives their centrelines."""
    lines = [offset(line, -LANE * (k + 0.5)) for k in range(count)]
    chains = [_chain(plan, f"{name}{k}", lane, limit, cuts) for k, lane in enumerate(lines)]
    for beside in zip(*chains, strict=True):
        plan.layout.beside(*beside)
    for k in range(1, count):
        plan.layout.mark("road_line", offset(line, -LANE * k))
    for chain in chains:
        plan.way(chain, wide=True)
    return lines


def _changes(plan: Plan, a: Line, b: Line, limit: float, start: float, seconds: float, weight: float) -> None:
    """A route that goes from one lane over to the next."""
    line = change(a, b, start, max(35.0, limit * seconds))
    plan.routes.append(Route(resample(line, STEP), limit, weight=weight, wide=False))


def multi_lane(rng: np.random.Generator) -> Plan:
    """A highway with three or four lanes a side, where vehicles now and then change lane."""
    plan = Plan(Layout(float(rng.uniform(0.8, 2.5))), zipper=130.0)
    limit = float(rng.choice(_LIMITS))
    line = _reference(rng, float(rng.uniform(480, 600)))
    count, median = int(rng.integers(3, 5)), float(rng.uniform(3.0, 6.0)) + 2 * plan.layout.reach
    lines = _carriageway(plan, line, count, limit)
    for _ in range(int(rng.integers(2, 6))):
        k = int(rng.integers(count))
        other = k + 1 if k == 0 or (k + 1 < count and rng.uniform() < 0.5) else k - 1
        start = float(rng.uniform(100, arc_of(line)[-1] - 220))
        _changes(plan, lines[k], lines[other], limit, start, float(rng.uniform(3.5, 5.0)), 0.35)
    if rng.uniform() < 0.5:
        _carriageway(plan, offset(line, median - LANE)[::-1], count, limit, "other")
    plan.count = int(rng.integers(20, 60))
    return plan


def _ramp(line: Line, count: int, join: float, leave: float, away: float, taper: float) -> Line:
    """Lane right of `count` lanes that comes from `away` m off until arc `join` and goes off again after `leave`."""
    arc = arc_of(line)
    out = ease((join - arc) / 170.0) + ease((arc - leave) / 170.0) * (taper == 0)
    back = ease((arc - leave) / taper) if taper else 0.0
    return offset(line, -LANE * (count + 0.5) - away * out + LANE * back)


def merge(rng: np.random.Generator) -> Plan:
    """A highway that an on-ramp joins."""
    plan = Plan(Layout(float(rng.uniform(0.8, 2.0))), zipper=130.0)
    limit, count = float(rng.choice(_LIMITS[:2])), int(rng.integers(2, 4))
    line = _reference(rng, float(rng.uniform(480, 560)))
    start, run = float(rng.uniform(180, 210)), float(rng.uniform(90, 140))
    taper = 60.0
    lines = _carriageway(plan, line, count, limit, cuts=(start, start + run, start + run + taper))
    ramp = _ramp(line, count, start, start + run, float(rng.uniform(16, 28)), taper)
    last = round(start + run + taper)
    names = _chain(plan, "ramp", ramp[: last + 1], limit, (start, start + run))
    plan.layout.lanes[names[-1]].successors.append(f"main{count - 1}.3")
    plan.layout.beside(f"main{count - 1}.1", names[1])
    plan.focus = (*ramp[round(start + run / 2), :2].tolist(), 60.0)
    for share in (0.05, 0.35, 0.65):
        _changes(plan, ramp, lines[-1], limit, start + 5 + share * run, 3.2, 0.5)
    plan.count = int(rng.integers(14, 40))
    return plan


def weave(rng: np.random.Generator) -> Plan:
    """A highway where those who enter and those who leave change places on one added lane."""
    plan = Plan(Layout(float(rng.uniform(0.8, 2.0))), zipper=120.0)
    limit, count = float(rng.choice(_LIMITS[:2])), int(rng.integers(2, 4))
    start, run = 190.0, float(rng.uniform(140, 200))
    line = _reference(rng, start + run + float(rng.uniform(190, 230)))
    lines = _carriageway(plan, line, count, limit, cuts=(start, start + run))
    ramp = _ramp(line, count, start, start + run, float(rng.uniform(16, 28)), 0.0)
    names = _chain(plan, "ramp", ramp, limit, (start, start + run))
    plan.layout.beside(f"main{count - 1}.1", names[1])
    plan.way(names, weight=0.2, wide=False)
    plan.focus = (*ramp[round(start + run / 2), :2].tolist(), 60.0)
    for share in (0.0, 0.4):
        at = start + 5 + share * (run - 80)
        _changes(plan, ramp, lines[-1], limit, at, 3.3, 0.5)
        _changes(plan, lines[-1], ramp, limit, at + float(rng.uniform(0, 30)), 3.3, 0.5)
    plan.count = int(rng.integers(14, 40))
    return plan


def cut_in(rng: np.random.Generator) -> Plan:
    """A highway where a car cuts in close ahead of the ego."""
    plan = Plan(Layout(float(rng.uniform(0.8, 2.0))), zipper=12.0, warm=1.0)
    limit, count = float(rng.choice((15.6, *_LIMITS[:2]))), int(rng.integers(2, 4))
    line = _reference(rng, float(rng.uniform(480, 560)))
    lines = _carriageway(plan, line, count, limit)
    own = int(rng.integers(count))
    other = own + 1 if own == 0 or (own + 1 < count and rng.uniform() < 0.5) else own - 1
    speed = limit * float(rng.uniform(0.75, 0.95))
    arc, gap = float(rng.uniform(90, 130)), float(rng.uniform(5.0, 13.0))
    fast = speed + float(rng.uniform(-0.5, 2.0))
    start = arc + 5 + gap + fast * float(rng.uniform(1.5, 4.5))
    _changes(plan, lines[other], lines[own], limit, start, float(rng.uniform(2.8, 3.8)), 0.0)
    plan.placed = [
        Placed(own, arc, speed, speed * 1.05, sdc=True),
        Placed(len(plan.routes) - 1, arc + 5 + gap, fast, fast),
    ]
    plan.count = int(rng.integers(10, 40))
    return plan
