"""The lanes and road edges of a SUMO road network (`*.net.xml`), from its public format."""

from collections import defaultdict
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from jaxtyping import Float

from gleanings.core.errors import DataError
from gleanings.driving.raw import MapFeature
from gleanings.driving.readers._areas import edges_from_bounds
from gleanings.driving.readers._values import in_file
from gleanings.driving.readers._xml import parse_xml

_WIDTH = 3.2  # metres, SUMO's default
_MITER = 2.0  # a corner lies at most so many half widths away
_NO_ROAD = {"crossing", "walkingarea"}
_OTHERS = {"pedestrian", "rail", "tram", "rail_urban", "rail_electric", "rail_fast", "ship", "bicycle"}
Points = Float[np.ndarray, "_ 3"]
Streets = dict[str, list[tuple[str, Points, float, float]]]


def read_net(path: Path) -> tuple[MapFeature, ...]:
    """Lanes (those of junctions too) with successors, neighbours and limits, and road edges; heights are left out.

    Edges are the outer lanes of a street, offset by half a width, and the outlines of junctions, without the parts
    beyond which there is road. Lanes for others than motor vehicles are no road. DataError: not such a file.
    """
    root = parse_xml(path)
    try:
        if root.tag != "net":
            raise ValueError(f"the root is {root.tag[:50]!r}, expected 'net'")
        streets = _streets(root)
        successors = _successors(root, streets)
        junctions = [_shape(junction.get("shape", "")) for junction in root.iter("junction")]
    except (KeyError, ValueError, OverflowError) as error:
        raise DataError(f"not a readable SUMO network ({str(error)[:200]})", path) from error
    with in_file(path):
        features = [MapFeature("road_edge", edge) for edge in _edges(streets, junctions)]
    for street, lanes in streets.items():
        names = [name for name, _, _, _ in lanes]
        for i, (name, centre, _, limit) in enumerate(lanes):
            # Within a junction the lanes of a street part or meet.
            beside = () if street.startswith(":") else tuple(names[max(i - 1, 0) : i] + names[i + 1 : i + 2])
            after = tuple(dict.fromkeys(successors[name]))
            features.append(MapFeature("lane", centre, name, False, limit, after, beside, linked=True))
    return tuple(features)


def _streets(root: Element) -> Streets:
    """Lanes by street, from the right to the left: name, centreline, width, limit."""
    streets: Streets = {}
    for street in root.iter("edge"):
        if street.get("function") in _NO_ROAD:
            continue
        lanes = [(int(lane.attrib["index"]), lane) for lane in street.iter("lane") if _is_road(lane)]
        lanes.sort(key=lambda pair: pair[0])
        found = [
            (lane.attrib["id"], _shape(lane.attrib["shape"]), _width(lane), float(lane.get("speed", "nan")))
            for _, lane in lanes
        ]
        streets[street.attrib["id"]] = [lane for lane in found if len(lane[1]) > 1]
    return streets


def _is_road(lane: Element) -> bool:
    allowed, forbidden = lane.get("allow", "").split(), lane.get("disallow", "").split()
    return not (allowed and set(allowed) <= _OTHERS) and "all" not in forbidden and "passenger" not in forbidden


def _width(lane: Element) -> float:
    width = float(lane.get("width", _WIDTH))
    if not 0 < width < 100:
        raise ValueError(f"a lane is {width} m wide")
    return width


def _shape(text: str) -> Points:
    """Points of 'x,y x,y,z ...', repeated ones left out, z NaN."""
    points = np.array([corner.split(",")[:2] for corner in text.split()], np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise ValueError("a shape is not finite")
    if len(points):
        points = points[np.r_[True, np.hypot(*np.diff(points, axis=0).T) > 1e-3]]
    return np.concatenate([points, np.full((len(points), 1), np.nan)], 1)


def _successors(root: Element, streets: Streets) -> dict[str, list[str]]:
    """Lanes that follow a lane: the one through the junction where the network has it, else the one behind it."""
    lane_of = {(street, name.rpartition("_")[2]): name for street, lanes in streets.items() for name, _, _, _ in lanes}
    known, found = set(lane_of.values()), defaultdict(list)
    for link in root.iter("connection"):
        before = lane_of.get((link.attrib["from"], link.attrib["fromLane"]))
        behind = lane_of.get((link.attrib["to"], link.attrib["toLane"]))
        through = link.get("via")
        after = through if through in known else behind
        if before and after:
            found[before].append(after)
    return found


def _edges(streets: Streets, junctions: list[Points]) -> list[Points]:
    bounds, areas = [], []
    for name, lanes in streets.items():
        if not lanes or name.startswith(":"):
            continue  # the outline of the junction stands for the lanes within
        right, left = _offset(lanes[0][1], -lanes[0][2] / 2), _offset(lanes[-1][1], lanes[-1][2] / 2)
        bounds += [right, left[::-1]]
        areas.append([np.concatenate([right, left[::-1]])])
    for ring in junctions:
        if len(ring) >= 3:
            x, y = ring[:, 0], ring[:, 1]
            ring = ring if np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) > 0 else ring[::-1]
            bounds.append(np.concatenate([ring, ring[:1]]))
            areas.append([ring])
    return edges_from_bounds(bounds, areas)


def _offset(line: Points, left: float) -> Points:
    """The line `left` metres to the left, corners mitred."""
    along = np.diff(line[:, :2], axis=0)
    along /= np.hypot(*along.T)[:, None]
    normal = np.stack([-along[:, 1], along[:, 0]], -1)
    before, after = np.concatenate([normal[:1], normal]), np.concatenate([normal, normal[-1:]])
    # |before + after|^2 / 2 = 1 + cos(turn); the corner lies at (before + after) / (1 + cos(turn)).
    turn = 1 + np.sum(before * after, 1)
    corner = (before + after) / np.maximum(turn, 2 / _MITER**2)[:, None]
    moved = line.copy()
    moved[:, :2] += left * corner
    return moved
