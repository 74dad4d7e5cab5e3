"""What happens in a hazard: one script a kind, which puts scripted objects into a site. NumPy. Source: ours, 3.4."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gleanings.driving.families.base import vehicle_size
from gleanings.driving.learn._actors import Actor, along, speeds, travelled
from gleanings.driving.learn._sites import Site
from gleanings.driving.raw import Kind


@dataclass(frozen=True)
class Draw:
    """A hazard in the making: the ego starts at `arc` of the site's line with `speed` m/s. severity: 0 to 1."""

    site: Site
    rng: np.random.Generator
    severity: float
    arc: float
    speed: float
    size: tuple[float, float, float]

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def by_severity(self, mild: float, severe: float) -> float:
        """A number between two, by the severity, give or take a tenth of the way."""
        share = min(max(self.severity + self.between(-0.1, 0.1), 0.0), 1.0)
        return mild + share * (severe - mild)

    def car(self) -> tuple[float, float, float]:
        return vehicle_size(self.rng, False)


Script = Callable[[Draw], list[Actor] | None]


def lead_brake(draw: Draw) -> list[Actor] | None:
    """A car ahead brakes with 0.5 to 6.5 m/s^2."""
    size = draw.car()
    speed = draw.speed * draw.between(0.85, 1.05)
    gap = max(5.0, draw.speed * draw.by_severity(2.3, 0.9))
    rate = draw.by_severity(0.5, 6.5)
    begin = draw.between(0.5, 3.0)
    until = speed * draw.between(0.0, 0.6) if draw.rng.uniform() < 0.5 else 0.0
    again = begin + (speed - until) / rate + draw.between(0.5, 3.0)
    v = speeds(speed, (begin, -rate, until), (again, draw.between(0.8, 1.5), speed))
    start = draw.arc + (draw.size[0] + size[0]) / 2 + gap
    lead = along(draw.site.line, start + travelled(v), Kind.VEHICLE, size)
    return None if lead is None else [lead]


SCRIPTS: dict[str, Script] = {"lead_brake": lead_brake}
