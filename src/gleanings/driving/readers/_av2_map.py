"""The vector map of Argoverse 2: lanes, marks, crosswalks, and road edges from the drivable areas."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gleanings.core.errors import DataError
from gleanings.driving.raw import MapFeature
from gleanings.driving.readers._areas import edges_from_rings
from gleanings.driving.readers._json import load_json
from gleanings.driving.readers._values import in_file

_TILE = 10.0  # metres
_SAMPLES = 10  # points of a centreline that is made from two boundaries
_UNMARKED = ("NONE", "UNKNOWN")
Points = Float[np.ndarray, "_ 3"]


def read_map(path: Path) -> tuple[tuple[MapFeature, ...], dict[str, int]]:
    """Features of a `log_map_archive_*.json`, heights left out (NaN), and what was mended, with counts.

    Lanes of bicycles and buses are lanes like others. DataError: not such a file.
    """
    content = load_json(path)
    try:
        areas = [_points(area["area_boundary"]) for area in _values(content, "drivable_areas")]
        lanes = {str(lane["id"]): _lane(lane) for lane in _values(content, "lane_segments")}
        crossings = [
            _crosswalk(_points(crossing["edge1"]), _points(crossing["edge2"]))
            for crossing in _values(content, "pedestrian_crossings")
        ]
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        problem = f"no {error}" if isinstance(error, KeyError) else type(error).__name__
        raise DataError(f"not a readable Argoverse 2 map ({problem})", path) from error
    with in_file(path):
        edges = edges_from_rings([[area] for area in areas if len(area) >= 3])
    features = [MapFeature("road_edge", _flat(part)) for edge in edges for part in _open_ends(edge)]
    features += _features(lanes)
    features += [MapFeature("crosswalk", _flat(points), closed=True) for points in crossings]
    short = sum(len(lane["centre"]) < 2 for lane in lanes.values())
    return tuple(features), {"lanes_dropped": short}


def _values(content: Any, key: str) -> list[Any]:
    return list(content[key].values())


def _points(items: Any) -> Points:
    points = np.array([(p["x"], p["y"], p["z"]) for p in items], np.float64).reshape(-1, 3)
    if not np.isfinite(points).all():
        raise ValueError("a coordinate is not finite")
    return points


def _flat(points: Points) -> Points:
    return np.concatenate([points[:, :2], np.full((len(points), 1), np.nan)], 1)


def _open_ends(edge: Points) -> list[Points]:
    """The parts of an edge between the borders of map tiles: there the area is cut off, not the road.

    Tiles end at multiples of 10 m; a segment that lies on such a line is a cut.
    """
    plane = edge[:, :2]
    on_border = (plane % _TILE == 0) & np.isfinite(plane)
    cut = (on_border[1:] & on_border[:-1] & (plane[1:] == plane[:-1])).any(1)
    return [part for part in np.split(edge, np.flatnonzero(cut) + 1) if len(part) > 1]


def _lane(lane: Any) -> dict[str, Any]:
    left, right = _points(lane["left_lane_boundary"]), _points(lane["right_lane_boundary"])
    centre = _points(lane["centerline"]) if "centerline" in lane else _middle(left, right)
    return {
        "centre": centre,
        "sides": ((left, str(lane["left_lane_mark_type"])), (right, str(lane["right_lane_mark_type"]))),
        "beside": [str(lane[key]) for key in ("left_neighbor_id", "right_neighbor_id") if lane[key] is not None],
        "right_free": lane["right_neighbor_id"] is None,
        "successors": [str(name) for name in list(lane["successors"])],
    }


def _middle(left: Points, right: Points) -> Points:
    """Half way between two boundaries, at equal parts of their lengths; empty if one has no length."""
    if min(len(left), len(right)) < 2:
        return np.zeros((0, 3))
    at = []
    for line in (left, right):
        arc = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line[:, :2], axis=0).T))])
        at.append(np.stack([np.interp(np.linspace(0, arc[-1], _SAMPLES), arc, line[:, i]) for i in range(3)], -1))
    return (at[0] + at[1]) / 2


def _features(lanes: dict[str, Any]) -> list[MapFeature]:
    heading = {
        name: lane["centre"][-1, :2] - lane["centre"][0, :2] for name, lane in lanes.items() if len(lane["centre"]) > 1
    }
    found = []
    for name, along in heading.items():
        lane = lanes[name]
        # A left neighbour may be the oncoming lane.
        same = [other for other in lane["beside"] if other in heading and along @ heading[other] > 0]
        after = tuple(other for other in lane["successors"] if other in heading)
        found.append(
            MapFeature("lane", _flat(lane["centre"]), name, successors=after, neighbours=tuple(same), linked=True)
        )
    for lane in lanes.values():
        # A shared mark is taken once, from the lane on whose left it lies.
        sides = lane["sides"] if lane["right_free"] else lane["sides"][:1]
        found += [
            MapFeature("road_line", _flat(line)) for line, mark in sides if mark not in _UNMARKED and len(line) > 1
        ]
    return found


def _crosswalk(one: Points, two: Points) -> Points:
    """The polygon between two edges, whichever way they run."""
    if min(len(one), len(two)) and (one[-1] - one[0])[:2] @ (two[-1] - two[0])[:2] > 0:
        two = two[::-1]
    return np.concatenate([one, two])
