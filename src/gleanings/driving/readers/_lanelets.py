"""The map of a CommonRoad file: lanelets as lanes, road edges from their outer bounds, traffic lights. Ours."""

from collections.abc import Iterable
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import numpy as np
from jaxtyping import Float

from gleanings.core.errors import DataError
from gleanings.driving.raw import Light, MapFeature, RawLight
from gleanings.driving.raw_check import check_size
from gleanings.driving.readers._areas import edges_from_bounds

# Signs that limit the speed, by country: Germany and others, USA, Spain, Russia, Belgium, France, Croatia. In m/s.
_SPEED_SIGNS = ("274", "274.1", "r2-1", "r301", "3.24", "c43", "b14", "b31")
_LIGHTS = {"red": Light.STOP, "redYellow": Light.STOP, "yellow": Light.CAUTION, "green": Light.GO}
_UNDRAWN = ("", "unknown", "no_marking")
_MAX_ID = 200
FARTHEST = 1e8


@dataclass(frozen=True)
class Lanelet:
    """One lanelet: its bounds [P, 3], both in driving direction, and the lanes beside it (None: none is drivable)."""

    name: str
    node: Element
    left: Float[np.ndarray, "_ 3"]
    right: Float[np.ndarray, "_ 3"]

    def ring(self) -> Float[np.ndarray, "_ 3"]:
        """The outline."""
        return np.concatenate([self.left, self.right[::-1]])

    def centre(self) -> Float[np.ndarray, "_ 3"]:
        """The centreline; where the bounds have different numbers of points, points at equal parts are paired."""
        count = max(len(self.left), len(self.right))
        left, right = (_spread(bound, count) for bound in (self.left, self.right))
        return (left + right) / 2

    def is_a(self, kind: str) -> bool:
        """Whether it is of a type, such as 'sidewalk'."""
        return any((node.text or "").strip() == kind for node in self.node.findall("laneletType"))


def number(node: Element | None, what: str) -> float:
    """The number in an element, or in its `exact` or the middle of its interval. DataError: none there."""
    if node is not None and (exact := node.find("exact")) is not None:
        node = exact
    if node is not None and node.find("intervalStart") is not None:
        return (number(node.find("intervalStart"), what) + number(node.find("intervalEnd"), what)) / 2
    try:
        return float((node.text or "") if node is not None else "")
    except ValueError:
        raise DataError(f"{what} is no number") from None


def reference(node: Element, key: str = "ref") -> str:
    """The id that an attribute holds. DataError: none, or longer than 200 characters."""
    name = node.get(key)
    if name is None or len(name) > _MAX_ID:
        raise DataError(f"a {node.tag} without a usable {key!r}")
    return name


def points(node: Element | None, what: str) -> Float[np.ndarray, "n 3"]:
    """The points of an element; NaN: no z, or beyond 1e8 m. DataError: coordinates that are no numbers."""
    found = []
    for point in node.findall("point") if node is not None else ():
        height = point.find("z")
        z = float("nan") if height is None else number(height, what)
        found.append((number(point.find("x"), what), number(point.find("y"), what), z))
    array = np.array(found, np.float64).reshape(-1, 3)
    return np.where(np.abs(array) <= FARTHEST, array, np.nan)


def read_lanelets(root: Element) -> dict[str, Lanelet]:
    """All lanelets by id. DataError: ids or points missing."""
    found = {}
    for node in root.findall("lanelet"):
        name = reference(node, "id")
        bounds = [points(node.find(side), f"lanelet {name}: {side}") for side in ("leftBound", "rightBound")]
        if min(map(len, bounds)) < 2:
            raise DataError(f"lanelet {name} has a bound of fewer than two points")
        found[name] = Lanelet(name, node, *bounds)
    return found


def map_features(root: Element, lanelets: dict[str, Lanelet]) -> tuple[MapFeature, ...]:
    """Lanes, road edges, crosswalks and drawn lines between lanes. Sidewalks are left out.

    Edges: left bounds without a left neighbour, reversed, and right bounds without a right one, as they run, without
    the parts beside which another lane lies. DataError: see `edges_from_bounds`.
    """
    crossings = [lane for lane in lanelets.values() if lane.is_a("crosswalk")]
    lanes = [lane for lane in lanelets.values() if not (lane.is_a("crosswalk") or lane.is_a("sidewalk"))]
    drivable = {lane.name for lane in lanes}
    limits = _sign_limits(root)
    bounds, owners = [], []
    for owner, lane in enumerate(lanes):
        for side, bound in (("adjacentLeft", lane.left[::-1]), ("adjacentRight", lane.right)):
            if not drivable.intersection(reference(node) for node in lane.node.findall(side)):
                bounds.append(bound)
                owners.append(owner)
    edges = edges_from_bounds(bounds, [[lane.ring()] for lane in lanes], owners)
    return (
        *(_lane(lane, limits) for lane in lanes),
        *(MapFeature("road_edge", edge) for edge in edges),
        *(MapFeature("crosswalk", lane.ring(), lane.name, closed=True) for lane in crossings),
        *(MapFeature("road_line", lane.left) for lane in lanes if _has_line(lane)),
    )


def _lane(lane: Lanelet, limits: dict[str, float]) -> MapFeature:
    beside = [*lane.node.findall("adjacentLeft"), *lane.node.findall("adjacentRight")]
    own = lane.node.find("speedLimit")
    found = [limits[name] for node in lane.node.findall("trafficSignRef") if (name := reference(node)) in limits]
    return MapFeature(
        "lane",
        lane.centre(),
        lane.name,
        speed_limit=number(own, f"lanelet {lane.name}: speedLimit") if own is not None else min(found, default=np.nan),
        successors=tuple(reference(node) for node in lane.node.findall("successor")),
        neighbours=tuple(reference(node) for node in beside if node.get("drivingDir") == "same"),
        linked=True,
    )


def _has_line(lane: Lanelet) -> bool:
    """Whether a line is drawn between it and a lane on its left."""
    marking = lane.node.findtext("leftBound/lineMarking") or ""
    return lane.node.find("adjacentLeft") is not None and marking.strip() not in _UNDRAWN


def _sign_limits(root: Element) -> dict[str, float]:
    """Speed limit, m/s, of each traffic sign that has one."""
    limits = {}
    for sign in root.findall("trafficSign"):
        for element in sign.findall("trafficSignElement"):
            value = element.find("additionalValue")
            if (element.findtext("trafficSignID") or "").strip().lower() in _SPEED_SIGNS and value is not None:
                limits[reference(sign, "id")] = number(value, "a speed limit")
    return limits


def _spread(line: Float[np.ndarray, "n 3"], count: int) -> Float[np.ndarray, "m 3"]:
    if len(line) == count:
        return line
    arc = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line[:, :2], axis=0).T))])
    return np.stack([np.interp(np.linspace(0, arc[-1], count), arc, column) for column in line.T], -1)


def read_lights(root: Element, lanelets: dict[str, Lanelet], first: int, steps: int) -> tuple[RawLight, ...]:
    """The light of each lanelet that refers to one, from time step `first` on; it stands at the stop line or the end.

    DataError: durations that are no numbers, or more than 20 million states.
    """
    cycles = {reference(node, "id"): node for node in root.findall("trafficLight")}
    users = [(lane, reference(node)) for lane in lanelets.values() for node in _first(lane.node, "trafficLightRef")]
    users = [(lane, name) for lane, name in users if name in cycles]
    check_size(len(users), steps, "lights")
    return tuple(RawLight(lane.name, _states(cycles[name], first, steps), _stop(lane)) for lane, name in users)


def _first(node: Element, tag: str) -> Iterable[Element]:
    return node.findall(tag)[:1]


def _states(light: Element, first: int, steps: int) -> np.ndarray:
    elements = list(light.iter("cycleElement"))
    duration = np.array([number(element.find("duration"), "a duration") for element in elements])
    if (light.findtext("active") or "true").strip() == "false" or not (len(duration) and (duration >= 1).all()):
        return np.zeros(steps, np.uint8)
    offset = next(light.iter("timeOffset"), None)
    start = 0.0 if offset is None else number(offset, "timeOffset")
    colours = [_LIGHTS.get((element.findtext("color") or "").strip(), Light.UNKNOWN) for element in elements]
    ends = np.cumsum(duration)
    if not (np.isfinite(ends[-1]) and np.isfinite(start)):
        raise DataError("a traffic light with a cycle that never ends")
    phase = (first + np.arange(steps) - start) % ends[-1]
    return np.array(colours, np.uint8)[np.searchsorted(ends, phase, "right").clip(max=len(ends) - 1)]


def _stop(lane: Lanelet) -> Float[np.ndarray, " 3"]:
    line = points(lane.node.find("stopLine"), f"lanelet {lane.name}: stopLine")
    return line.mean(0) if len(line) else lane.centre()[-1]
