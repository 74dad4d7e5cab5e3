"""What happens in a hazard: one script a kind, which puts scripted objects into a site. NumPy. Source: ours, 3.4."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gleanings.driving.families.base import vehicle_size
from gleanings.driving.families.layout import LANE, arc_of, ease
from gleanings.driving.learn._actors import TIME, Actor, along, beside, speeds, standing, touch, travelled
from gleanings.driving.learn._meeting import Meeting, crossings, joining, opposite
from gleanings.driving.learn._sites import EDGE_M, EDGE_STEP_M, Site
from gleanings.driving.raw import DEFAULT_SIZE, Kind

_HALF = LANE / 2
_EXTRAS = ("lead_brake", "jaywalker", "occluded_pedestrian", "nothing")


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
        """A number drawn evenly between two."""
        return float(self.rng.uniform(low, high))

    def by_severity(self, mild: float, severe: float) -> float:
        """A number between two, by the severity, give or take a tenth of the way."""
        share = min(max(self.severity + self.between(-0.1, 0.1), 0.0), 1.0)
        return mild + share * (severe - mild)

    def car(self) -> tuple[float, float, float]:
        """Length, width and height of a car, m."""
        return vehicle_size(self.rng, False)

    def reaches(self, arc: float) -> float:
        """Seconds until an ego that drives as fast as the lane allows is at an arc of the line."""
        rows = np.arange(self.arc, arc) - self.site.begin
        allowed = self.site.way.points[np.clip(rows.astype(int), 0, len(self.site.way.points) - 1), 5]
        return float((1 / np.clip(allowed, 2.0, max(self.speed, 4.0))).sum())


Script = Callable[[Draw], list[Actor] | None]


def script(kind: str, draw: Draw) -> list[Actor] | None:
    """The objects of a hazard, at most three. None: this draw does not fit the site."""
    actors = SCRIPTS[kind](draw)
    if actors is None or any(touch(a, b) for k, a in enumerate(actors) for b in actors[:k]):
        return None
    if kind in _EXTRAS and len(actors) < 3 and draw.rng.uniform() < 0.4:
        extra = _oncoming(draw, draw.arc, draw.between(0.5, 6.0))
        if extra is not None and not any(touch(extra, other) for other in actors):
            actors = [*actors, extra]
    return actors


def lead_brake(draw: Draw) -> list[Actor] | None:
    """A car ahead brakes with 0.5 to 6.5 m/s^2."""
    rate, begin = draw.by_severity(0.5, 6.5), draw.between(0.5, 3.0)
    speed = draw.speed * draw.between(0.85, 1.05)
    until = speed * draw.between(0.0, 0.6) if draw.rng.uniform() < 0.5 else 0.0
    again = begin + (speed - until) / rate + draw.between(0.5, 3.0)
    v = speeds(speed, (begin, -rate, until), (again, draw.between(0.8, 1.5), speed))
    return _listed(_ahead(draw, max(5.0, draw.speed * draw.by_severity(2.3, 0.9)), v))


def cut_in(draw: Draw) -> list[Actor] | None:
    """A car from the lane beside cuts in 5 to 26 m ahead, within 1.5 to 4 s."""
    sides = [side for side in (-1, 1) if _drivable(draw, side * LANE)]
    if not sides:
        return None
    side = sides[int(draw.rng.integers(len(sides)))]
    begin, lasts = draw.between(0.3, 2.5), draw.by_severity(4.0, 1.5)
    speed = draw.speed * draw.by_severity(1.05, 0.75)
    rate = draw.between(0.0, 3.0 * draw.severity)
    v = speeds(speed, (begin + lasts, -rate - 1e-3, speed * draw.between(0.3, 0.9)))
    gap = draw.by_severity(26.0, 5.0) + (draw.speed - speed) * begin
    left = side * LANE * (1 - ease((TIME - begin) / lasts))
    return _listed(_ahead(draw, gap, v, left))


def merge(draw: Draw) -> list[Actor] | None:
    """A car from the ramp merges close ahead."""
    found = joining(draw.site.line, draw.site.ways, draw.arc, 2.8)
    if not found:
        return None
    at = found[int(draw.rng.integers(len(found)))]
    speed = draw.speed * draw.by_severity(1.0, 0.6)
    gap = draw.by_severity(16.0, 0.5) + draw.size[0]
    v = np.full(len(TIME), speed)
    start = at.other - speed * ((at.own - draw.arc) / draw.speed) + gap
    return _listed(along(at.line, start + travelled(v), Kind.VEHICLE, draw.car()))


def left_turn(draw: Draw) -> list[Actor] | None:
    """The ego turns left through the gaps of those who come towards it."""
    line, ways = draw.site.line, draw.site.ways
    found = crossings(line, ways, draw.arc, -0.6) or crossings(line, ways, draw.arc, 2.0)
    return _stream(draw, found, (-1.0, 2.0), (5.5, 2.2))


def crossing(draw: Draw) -> list[Actor] | None:
    """One from the side runs the red."""
    found = [m for m in crossings(draw.site.line, draw.site.ways, draw.arc, 2.0) if abs(m.cos) < 0.6]
    if not found:
        return None
    at = found[int(draw.rng.integers(len(found)))]
    speed = draw.site.limit * draw.between(0.7, 1.15)
    off = draw.by_severity(1.6, 0.0) * float(draw.rng.choice([-1.0, 1.0]))
    start = at.other - speed * (draw.reaches(at.own) + off)
    return _listed(along(at.line, start + travelled(np.full(len(TIME), speed)), Kind.VEHICLE, draw.car()))


def roundabout_entry(draw: Draw) -> list[Actor] | None:
    """The ego enters a roundabout on which others drive."""
    found = [m for m in joining(draw.site.line, draw.site.ways, draw.arc, 4.0) if m.other > 30.0]
    return _stream(draw, found, (-1.5, 1.5), (4.5, 2.0), slow=0.45)


def jaywalker(draw: Draw) -> list[Actor] | None:
    """A pedestrian steps onto the road and crosses it."""
    side = float(draw.rng.choice([-1.0, 1.0])) if opposite(draw.site.line, draw.site.ways, draw.arc) else -1.0
    hit = draw.between(2.5, 4.5)
    out = draw.site.reach + draw.between(0.5, 1.2) + (LANE if side > 0 else 0.0)
    enters = hit + draw.between(-0.7, 0.4)
    return _listed(_walker(draw, draw.arc + max(draw.speed * hit, 12.0), side * out, enters))


def occluded_pedestrian(draw: Draw) -> list[Actor] | None:
    """A pedestrian steps out from behind a parked car."""
    size = draw.car() if draw.rng.uniform() < 0.6 else (6.0, 2.1, 2.6)
    hit = draw.between(2.2, 4.2)
    place = draw.arc + max(draw.speed * hit, 14.0)
    edge = -_HALF - draw.between(0.15, 0.45)
    parked = _parked(draw, place - 0.9 - size[0] / 2, edge - size[1] / 2, size)
    walker = _walker(draw, place, edge - draw.between(0.5, 1.3), hit + draw.between(-0.5, 1.2))
    return None if walker is None else [parked, walker]


def double_parked(draw: Draw) -> list[Actor] | None:
    """A car stands in the lane, and others come towards the ego."""
    place = draw.arc + draw.between(22.0, 22.0 + 2.5 * draw.speed)
    parked = _parked(draw, place, draw.between(-1.0, 0.0), draw.car())
    count = int(draw.rng.integers(0, 3)) if draw.severity < 0.3 else int(draw.rng.integers(1, 3))
    when = draw.reaches(place) + draw.between(-1.5, 1.5)
    cars = [_oncoming(draw, place, when + k * draw.between(1.6, 3.0)) for k in range(count)]
    return None if any(car is None for car in cars) else [parked, *(car for car in cars if car is not None)]


def nothing(draw: Draw) -> list[Actor] | None:
    """Ordinary traffic: perhaps a car ahead that drives on, perhaps one parked at the kerb."""
    actors = []
    if draw.rng.uniform() < 0.5:
        speed = draw.speed * draw.between(0.9, 1.05)
        rate = draw.between(0.2, 0.8)
        v = speeds(speed, (draw.between(0.0, 4.0), -rate, 0.75 * speed), (draw.between(4.0, 7.0), rate, speed))
        actors.append(_ahead(draw, max(8.0, draw.speed * draw.between(1.6, 3.0)), v))
    if draw.rng.uniform() < 0.4 and np.isinf(draw.site.entry) and not _drivable(draw, -LANE):
        size = draw.car()
        edge = -_HALF - draw.between(0.15, 0.45)
        actors.append(_parked(draw, draw.arc + draw.between(25.0, 80.0), edge - size[1] / 2, size))
    return None if any(actor is None for actor in actors) else actors


def _listed(actor: Actor | None) -> list[Actor] | None:
    return None if actor is None else [actor]


def _ahead(draw: Draw, gap: float, v: Float[np.ndarray, " T"], left: Float[np.ndarray, " T"] | float = 0.0):
    """A car on the ego's lane, `gap` m ahead at the start, bumper to bumper."""
    size = draw.car()
    start = draw.arc + (draw.size[0] + size[0]) / 2 + gap
    return along(draw.site.line, start + travelled(v), Kind.VEHICLE, size, left)


def _drivable(draw: Draw, left: float) -> bool:
    """Whether a car has room beside the ego's lane, over the next 60 m."""
    row = int(draw.arc - draw.site.begin)
    column = round((left + EDGE_M) / EDGE_STEP_M)
    return bool((draw.site.way.edge[row : row + 60, column] < -1.3).all())


def _parked(draw: Draw, arc: float, left: float, size: tuple[float, float, float]) -> Actor:
    place, yaw = beside(draw.site.line, arc, left)
    return standing(place, yaw + float(draw.rng.normal(0, 0.015)), size)


def _walker(draw: Draw, arc: float, left: float, enters: float) -> Actor | None:
    """A pedestrian who stands `left` m beside the lane and crosses it, so as to be in the ego's way `enters` s on."""
    place, yaw = beside(draw.site.line, arc, left)
    over = yaw - np.sign(left) * np.pi / 2
    way = np.array([np.cos(over), np.sin(over), 0.0])
    line = np.array(place) + np.arange(-2.0, 40.0, 0.5)[:, None] * way
    speed = draw.by_severity(1.1, 2.4)
    begin = enters - (abs(left) - 1.3) / speed - 0.2
    v = speeds(0.0, (begin, 4.0, speed))
    gone = travelled(v)
    return along(line, 2.0 + gone - gone[0], Kind.PEDESTRIAN, DEFAULT_SIZE[Kind.PEDESTRIAN])


def _oncoming(draw: Draw, arc: float, when: float) -> Actor | None:
    """A car in the opposite lane that passes an arc of the ego's line at a time."""
    found = opposite(draw.site.line, draw.site.ways, arc)
    if not found:
        return None
    at = found[0]
    speed = draw.site.limit * draw.between(0.7, 1.0)
    start = at.other - speed * when
    return along(at.line, start + travelled(np.full(len(TIME), speed)), Kind.VEHICLE, draw.car())


def _stream(
    draw: Draw, found: list[Meeting], first: tuple[float, float], apart: tuple[float, float], slow: float = 1.0
) -> list[Actor] | None:
    """One to three cars on a way that meets the ego's: the first `first` s after the ego would be there."""
    if not found:
        return None
    at = found[int(draw.rng.integers(len(found)))]
    speed = draw.site.limit * slow * draw.between(0.75, 1.0)
    when, count = draw.reaches(at.own) + draw.between(*first), int(draw.rng.integers(1, 4))
    cars = []
    for _ in range(count):
        start = at.other - speed * when
        when += draw.by_severity(*apart) + draw.between(0.0, 1.0)
        car = along(at.line, start + travelled(np.full(len(TIME), speed)), Kind.VEHICLE, draw.car())
        if car is not None and float(arc_of(at.line)[-1]) > 0:
            cars.append(car)
    return cars or None


SCRIPTS: dict[str, Script] = {
    one.__name__: one
    for one in (
        lead_brake,
        cut_in,
        merge,
        left_turn,
        crossing,
        jaywalker,
        occluded_pedestrian,
        double_parked,
        roundabout_entry,
        nothing,
    )
}
