"""Families on one road: straight, multi_lane, curve, s_curve. Source: ours."""

import numpy as np

from gleanings.driving.families.base import Plan
from gleanings.driving.families.layout import LANE, Layout, Line, offset, trace


def two_way(plan: Plan, line: Line, limit: float, name: str = "") -> None:
    """A lane in either direction along a line, its middle marked, and the two routes."""
    layout = plan.layout
    layout.lane(f"{name}right", offset(line, -LANE / 2), limit)
    layout.lane(f"{name}left", offset(line, LANE / 2)[::-1], limit)
    layout.mark("road_line", line)
    plan.way([f"{name}right"])
    plan.way([f"{name}left"])


def straight(rng: np.random.Generator) -> Plan:
    """A straight street with a lane in either direction."""
    plan = Plan(Layout(float(rng.uniform(0.5, 1.2))))
    line = trace((0.0, 0.0, float(rng.uniform(-np.pi, np.pi))), [(float(rng.uniform(300, 420)), 0.0, 0.0)])
    two_way(plan, line, float(rng.choice([11.2, 13.4, 15.6, 17.9])))
    plan.count = int(rng.integers(8, 32))
    return plan
