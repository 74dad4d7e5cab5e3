"""CommonRoad XML, versions 2018b (`obstacle` with a `role`) and 2020a (`dynamicObstacle`): one scene a file. Ours.

The ego is a planning problem: a pose without a log, and a goal region. It becomes a track that is valid at that step
only, of the size of a car. The steps reach to the end of the last track or of the goal's time. Elevations are read only
where both lanes and objects have them. Obstacles whose future is a set of occupied areas keep their first state.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from jaxtyping import Float

from gleanings.core.errors import DataError
from gleanings.driving.raw import DEFAULT_SIZE, Kind, MapFeature, RawGoal, RawScene, RawTrack, empty_track
from gleanings.driving.raw_check import check_raw, check_size
from gleanings.driving.readers._lanelets import (
    FARTHEST,
    Lanelet,
    map_features,
    number,
    points,
    read_lanelets,
    read_lights,
    reference,
)
from gleanings.driving.readers._values import in_file
from gleanings.driving.readers._xml import parse_xml

_VEHICLES = ("car", "truck", "bus", "motorcycle", "taxi", "parkedVehicle", "priorityVehicle", "train")
_KINDS = dict.fromkeys(_VEHICLES, Kind.VEHICLE) | {"bicycle": Kind.CYCLIST, "pedestrian": Kind.PEDESTRIAN}
_OBSTACLES = ("obstacle", "dynamicObstacle", "staticObstacle")
_LATEST = 1_000_000
Disks = Float[np.ndarray, "n 3"]


@dataclass
class _Object:
    """states: time step, x, y, z, yaw and speed along it, one row a state. size: length, width, height."""

    name: str
    kind: Kind
    states: Float[np.ndarray, "n 6"]
    size: tuple[float, float, float]
    static: bool = False


def read(path: Path) -> Iterator[RawScene]:
    """The scene of a file. Raises: DataError for another format, missing elements or values that are no numbers."""
    root = parse_xml(path)
    if root.tag != "commonRoad":
        raise DataError(f"the root element is {root.tag[:80]!r}; expected 'commonRoad'", path)
    with in_file(path):
        scene = _scene(root, path)
    yield check_raw(scene)


def _scene(root: Element, path: Path) -> RawScene:
    lanelets = read_lanelets(root)
    problems = root.findall("planningProblem")
    egos = [_ego(node) for node in problems]
    objects = [*egos, *(_obstacle(node) for tag in _OBSTACLES for node in root.findall(tag))]
    steps = np.concatenate([np.zeros(0), *(o.states[:, 0] for o in objects if not o.static)])
    ends = [_goal_end(node) for node in problems]
    first = int(steps.min()) if len(steps) else 0
    count = int(max([*steps, *ends, first + 1])) - first + 1
    check_size(len(objects), count, "objects")
    tracks = [_track(o, first, count) for o in objects]
    goals = [_goal(i, node, lanelets) for i, node in enumerate(problems)]
    try:
        step = float(root.get("timeStepSize", ""))
    except ValueError:
        raise DataError("timeStepSize is no number") from None
    features = map_features(root, lanelets)
    seen = [track.position[track.valid, 2] for track in tracks]
    flat = not (seen and np.isfinite(np.concatenate(seen)).all() and all(np.isfinite(f.points).all() for f in features))
    return RawScene(
        name=(root.get("benchmarkID") or path.stem)[:200],
        times=(first + np.arange(count)) * step,
        start=int(egos[0].states[0, 0]) - first if egos else 0,
        tracks=tuple(_level(track) for track in tracks) if flat else tuple(tracks),
        features=tuple(_lower(feature) for feature in features) if flat else features,
        lights=read_lights(root, lanelets, first, count),
        sdc=0 if egos else -1,
        goals=tuple(goal for goal in goals if goal is not None),
        flat=flat,
        source=f"commonroad:{path.name}",
        licence=f"source as the file states it: {(root.get('source') or 'none')[:200]}",
    )


def _level(track: RawTrack) -> RawTrack:
    return replace(track, position=track.position * [1.0, 1.0, np.nan])


def _lower(feature: MapFeature) -> MapFeature:
    return replace(feature, points=feature.points * [1.0, 1.0, np.nan])


def _state(node: Element | None, what: str) -> tuple[float, ...]:
    if node is None:
        raise DataError(f"{what} has no initialState")
    time = np.round(number(node.find("time"), f"{what}: time"))
    if not abs(time) <= _LATEST:
        raise DataError(f"{what} has time step {time}; expected at most {_LATEST:,}")
    position = node.find("position")
    place = points(position, f"{what}: position")
    if not len(place) and position is not None:
        place = np.append(_circle(_disks(position, {}, what))[0], np.nan)[None]
    if not len(place):
        raise DataError(f"{what} has a state without a position")
    speed = node.find("velocity")
    speed = np.nan if speed is None else number(speed, f"{what}: velocity")
    return time, *place[0], number(node.find("orientation"), f"{what}: orientation"), speed


def _ego(node: Element) -> _Object:
    what = f"planningProblem {reference(node, 'id')}"
    state = np.array([_state(node.find("initialState"), what)])
    state[~np.isfinite(state)] = np.nan
    return _Object(reference(node, "id"), Kind.VEHICLE, state, DEFAULT_SIZE[Kind.VEHICLE])


def _obstacle(node: Element) -> _Object:
    name = reference(node, "id")
    what = f"obstacle {name}"
    first = _state(node.find("initialState"), what)
    states = np.array([first, *(_state(state, what) for state in node.findall("trajectory/state"))])
    states[~np.isfinite(states)] = np.nan
    shape, length, width = node.find("shape"), np.nan, np.nan
    disks = _disks(shape, {}, f"{what}: shape") if shape is not None else np.zeros((0, 3))
    if len(disks):
        # The box around the shape, in its own frame; its middle need not be the point that the states give.
        low, high = (disks[:, :2] - disks[:, 2:]).min(0), (disks[:, :2] + disks[:, 2:]).max(0)
        length, width = high - low
        x, y = (low + high) / 2
        cos, sin = np.cos(states[:, 4]), np.sin(states[:, 4])
        states[:, 1:3] += np.stack([x * cos - y * sin, x * sin + y * cos], -1)
    kind = _KINDS.get((node.findtext("type") or "").strip(), Kind.OTHER)
    static = node.tag == "staticObstacle" or (node.findtext("role") or "").strip() == "static"
    return _Object(name, kind, states[:1] if static else states, (float(length), float(width), np.nan), static)


def _track(found: _Object, first: int, count: int) -> RawTrack:
    arrays, states = empty_track(count), found.states
    rows = np.arange(count) if found.static else (states[:, 0] - first).astype(int)
    yaw, speed = states[:, 4], np.zeros(1) if found.static else states[:, 5]
    arrays["position"][rows], arrays["yaw"][rows], arrays["valid"][rows] = states[:, 1:4], yaw, True
    arrays["velocity"][rows] = speed[:, None] * np.stack([np.cos(yaw), np.sin(yaw)], -1)
    arrays["size"][rows] = found.size
    return RawTrack(found.name, found.kind, **arrays)


def _goal_end(node: Element) -> float:
    """Last time step at which the goal may be reached; 0 where it has no time."""
    times = [end for state in node.findall("goalState") for end in state.findall("time/intervalEnd")]
    last = max((number(time, "the goal's time") for time in times), default=0.0)
    if not abs(last) <= _LATEST:
        raise DataError(f"the goal's time ends at step {last}; expected at most {_LATEST:,}")
    return last


def _goal(track: int, node: Element, lanelets: dict[str, Lanelet]) -> RawGoal | None:
    """The circle around the first goal region; None where the goal is no place."""
    position = node.find("goalState/position")
    disks = np.zeros((0, 3)) if position is None else _disks(position, lanelets, "the goal")
    if not len(disks):
        return None
    (x, y), radius = _circle(disks)
    return RawGoal(track, (float(x), float(y)), radius)


def _circle(disks: Disks) -> tuple[Float[np.ndarray, " 2"], float]:
    """Middle of the box around disks, and the radius about it that holds them all."""
    if not len(disks):
        raise DataError("a region without a shape that is known: rectangle, circle, polygon, lanelet or point")
    middle = ((disks[:, :2] - disks[:, 2:]).min(0) + (disks[:, :2] + disks[:, 2:]).max(0)) / 2
    return middle, float((np.hypot(*(disks[:, :2] - middle).T) + disks[:, 2]).max())


def _disks(node: Element, lanelets: dict[str, Lanelet], what: str) -> Disks:
    """Corners (radius 0) and circles, x, y, radius, that span the shapes in an element. DataError: no numbers."""
    found = [np.zeros((0, 3))]
    for shape in node:
        if shape.tag == "rectangle":
            length, width = number(shape.find("length"), what), number(shape.find("width"), what)
            turn = shape.find("orientation")
            turn = 0.0 if turn is None else number(turn, what)
            corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * [length / 2, width / 2]
            axes = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
            found.append(np.column_stack([corners @ axes + _centre(shape, what), np.zeros(4)]))
        elif shape.tag == "circle":
            found.append(np.append(_centre(shape, what), abs(number(shape.find("radius"), what)))[None])
        elif shape.tag == "polygon":
            found.append(points(shape, what) * [1.0, 1.0, 0.0])
        elif shape.tag == "lanelet" and (lane := lanelets.get(reference(shape))) is not None:
            found.append(lane.ring() * [1.0, 1.0, 0.0])
        elif shape.tag == "point":
            found.append(np.array([[number(shape.find("x"), what), number(shape.find("y"), what), 0.0]]))
    disks = np.concatenate(found)
    disks[:, 2] = np.nan_to_num(disks[:, 2])
    if not (np.abs(disks) <= FARTHEST).all():
        raise DataError(f"{what} has a shape with a number that is not finite, or beyond {FARTHEST:g} m")
    return disks


def _centre(shape: Element, what: str) -> Float[np.ndarray, " 2"]:
    centre = shape.find("center")
    if centre is None:
        return np.zeros(2)
    return np.array([number(centre.find("x"), what), number(centre.find("y"), what)])
