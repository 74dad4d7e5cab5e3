"""What a family hands to the traffic model: a map, routes through it, and what moves on them. Source: ours."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from zlib import crc32

import numpy as np
from jaxtyping import Float, UInt8

from gleanings.driving.families.layout import Layout, Line, arc_of, heading_of, join, resample
from gleanings.driving.raw import Kind

STEP = 0.5  # distance of the points of a route, m
STEPS, START, DT = 91, 10, 0.1


@dataclass(frozen=True)
class Route:
    """A way through the map for one kind of object.

    line: [P, 3], points STEP apart. limit: m/s. stops: arcs of stop lines, rising. light: name of the lane whose light
    holds at the first of them. must_stop: a stop sign stands there. rank: at conflicts the higher goes first, equal
    ranks first come first served. weight: share of the traffic. closed: the end is joined to the start. wide: fit for
    trucks and buses. fresh: objects also enter at its start.
    """

    line: Line
    limit: float
    kind: Kind = Kind.VEHICLE
    stops: tuple[float, ...] = ()
    light: str = ""
    must_stop: bool = False
    rank: int = 0
    weight: float = 1.0
    closed: bool = False
    wide: bool = True
    fresh: bool = True


@dataclass(frozen=True)
class Placed:
    """An object that the family itself puts on a route, at an arc (m), with a speed and the one it wishes (m/s)."""

    route: int
    arc: float
    speed: float
    desired: float
    sdc: bool = False


@dataclass(frozen=True)
class Parked:
    """An object that stands for the whole scene: pose and (length, width, height)."""

    pose: tuple[float, float, float, float]  # x, y, z of the ground, yaw
    size: tuple[float, float, float]
    kind: Kind = Kind.VEHICLE


@dataclass
class Plan:
    """A drawn situation, before its traffic is simulated.

    count: moving vehicles and cyclists wished for. zipper: reach (m) within which lanes that become one make room for
    each other; 0: conflicts are reserved first come first served. lights: state of each light, by lane, from `warm`
    seconds before the log to its end. cluster: conflicts nearer than this (m) along a route are taken as one.
    """

    layout: Layout
    routes: list[Route] = field(default_factory=list)
    count: int = 20
    placed: list[Placed] = field(default_factory=list)
    parked: list[Parked] = field(default_factory=list)
    lights: dict[str, UInt8[np.ndarray, " W"]] = field(default_factory=dict)
    zipper: float = 0.0
    cluster: float = 15.0
    warm: float = 4.0
    jitter: float = 0.15  # largest lateral offset of a vehicle from the centre of its lane, m
    late: float = 0.25  # share of the vehicles that enter after the first moment
    travel: float = 20.0  # metres that the ego covers at least
    focus: tuple[float, float, float] | None = None  # x, y, radius: the ego is one that comes by here, if any does

    def way(self, lanes: Sequence[str], stop_after: Sequence[str] = (), **more: object) -> Route:
        """Add the route along lanes that follow each other; it may be held at the ends of the lanes `stop_after`."""
        lines = [self.layout.lanes[name].line for name in lanes]
        limit = float(np.median([self.layout.lanes[name].limit for name in lanes]))
        whole = resample(join(lines), STEP)
        more.setdefault("wide", bool(np.abs(np.gradient(heading_of(whole), arc_of(whole))).max() < 0.03))
        ends = dict(zip(lanes, np.cumsum([arc_of(line)[-1] for line in lines]).tolist(), strict=True))
        route = Route(whole, limit, stops=tuple(ends[name] for name in stop_after), **more)  # pyright: ignore[reportArgumentType]
        self.routes.append(route)
        return route


def stream(family: str, seed: int, index: int) -> np.random.Generator:
    """The random numbers of one scene; the same for the same arguments, whatever was drawn before."""
    return np.random.default_rng(np.random.SeedSequence([seed, crc32(family.encode()), index]))


def cycle(
    rng: np.random.Generator, phases: Sequence[Sequence[str]], seconds: float
) -> dict[str, UInt8[np.ndarray, " W"]]:
    """States over `seconds` of lights (lane names) that are green phase by phase: green, 4 s amber, 2 s all red."""
    from gleanings.driving.raw import Light

    green = rng.uniform(6.0, 14.0, len(phases))
    ends = np.cumsum(green + 6.0)
    time = (np.arange(round(seconds / DT)) * DT + rng.uniform(0, ends[-1])) % ends[-1]
    states = {}
    for k, lanes in enumerate(phases):
        into = time - (ends[k] - green[k] - 6.0)
        state = np.where(into < green[k], Light.GO, np.where(into < green[k] + 4.0, Light.CAUTION, Light.STOP))
        state = np.where((into < 0) | (into >= green[k] + 6.0), Light.STOP, state).astype(np.uint8)
        states |= dict.fromkeys(lanes, state)
    return states


def vehicle_size(rng: np.random.Generator, wide: bool) -> tuple[float, float, float]:
    """Length, width, height of a car, or where `wide` now and then of a van, truck or bus."""
    pick = rng.uniform()
    if wide and pick < 0.04:
        return 12.0, 2.55, 3.2
    if wide and pick < 0.12:
        return float(rng.uniform(6.5, 8.5)), 2.4, 3.0
    return float(rng.uniform(4.1, 5.1)), float(rng.uniform(1.75, 2.0)), float(rng.uniform(1.4, 1.85))


def at(line: Float[np.ndarray, "P 3"], arc: float) -> tuple[float, float, float, float]:
    """x, y, z and direction of a line at an arc length."""
    along = arc_of(line)
    k = int(np.clip(np.searchsorted(along, arc), 1, len(line) - 1))
    d = line[k] - line[k - 1]
    x, y, z = line[k - 1] + d * ((arc - along[k - 1]) / (along[k] - along[k - 1]))
    return float(x), float(y), float(z), float(np.arctan2(d[1], d[0]))
