"""A scene as a reader leaves it: float64 in the frame of its file, any number of tracks and steps, no jax."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

FeatureKind = Literal["lane", "road_edge", "road_line", "stop_sign", "crosswalk", "speed_bump", "driveway"]


class Kind(IntEnum):
    """Kind of an object; the numbers are WOMD's except that WOMD's 0 and 4 are both OTHER."""

    OTHER = 0
    VEHICLE = 1
    PEDESTRIAN = 2
    CYCLIST = 3


class Light(IntEnum):
    """State of a traffic light, numbered as in WOMD."""

    UNKNOWN = 0
    ARROW_STOP = 1
    ARROW_CAUTION = 2
    ARROW_GO = 3
    STOP = 4
    CAUTION = 5
    GO = 6
    FLASHING_STOP = 7
    FLASHING_CAUTION = 8


RED = (Light.STOP, Light.ARROW_STOP, Light.FLASHING_STOP)
# (length, width, height) in metres where a file has none. Ours.
DEFAULT_SIZE = {
    Kind.OTHER: (1.0, 1.0, 1.0),
    Kind.VEHICLE: (4.6, 1.9, 1.6),
    Kind.PEDESTRIAN: (0.7, 0.7, 1.75),
    Kind.CYCLIST: (1.8, 0.7, 1.7),
}
BUS_SIZE = (12.0, 2.6, 3.2)


@dataclass(frozen=True)
class RawTrack:
    """One object over all T steps of its scene. Metres, seconds, radians; NaN: not in the file.

    name: id in the file. position: x, y, z of the box CENTRE. yaw: counter-clockwise from +x. velocity: vx, vy; an
    array of NaN is filled by differences. size: length, width, height, at each step; NaN is filled by kind. valid:
    steps at which the object was seen; whatever stands at the others is ignored.
    """

    name: str
    kind: Kind
    position: Float[np.ndarray, "T 3"]
    yaw: Float[np.ndarray, " T"]
    velocity: Float[np.ndarray, "T 2"]
    size: Float[np.ndarray, "T 3"]
    valid: Bool[np.ndarray, " T"]


@dataclass(frozen=True)
class MapFeature:
    """A polyline, polygon or point of the map, in the frame of the file.

    points: x, y, z in metres; z NaN: unknown (the file is flat). A `road_edge` has the drivable side on its LEFT. A
    `lane` is its centreline in driving direction. closed: the last point is joined to the first. The rest is of lanes:
    name, successors and neighbours (left and right, same direction) are ids of the file, speed_limit is in m/s (NaN:
    unknown). linked: the file says which lanes follow which, so that none are guessed from geometry.
    """

    kind: FeatureKind
    points: Float[np.ndarray, "P 3"]
    name: str = ""
    closed: bool = False
    speed_limit: float = float("nan")
    successors: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()
    linked: bool = False


@dataclass(frozen=True)
class RawLight:
    """One traffic light: the states of one lane over all T steps. stop: x, y, z of its stop point."""

    lane: str
    state: UInt8[np.ndarray, " T"]
    stop: Float[np.ndarray, " 3"]


@dataclass(frozen=True)
class RawGoal:
    """Where a track should end: x, y of the centre and a radius in metres."""

    track: int
    centre: tuple[float, float]
    radius: float


@dataclass(frozen=True)
class RawScene:
    """One scene of a file. `check_raw` repairs and refuses; readers call it last.

    times: seconds, rising, T of them. start: index of the step at which simulation begins. sdc: index of the ego's
    track, -1 if there is none. predict, interest: indices of tracks. flat: the file has no heights. source: format and
    file name, such as 'womd-example:a.tfrecord'. licence: note on the data, may be empty. repairs: what was mended
    while reading, with counts.
    """

    name: str
    times: Float[np.ndarray, " T"]
    start: int
    tracks: tuple[RawTrack, ...]
    features: tuple[MapFeature, ...]
    lights: tuple[RawLight, ...] = ()
    sdc: int = -1
    predict: tuple[int, ...] = ()
    interest: tuple[int, ...] = ()
    goals: tuple[RawGoal, ...] = ()
    flat: bool = False
    source: str = ""
    licence: str = ""
    repairs: dict[str, int] = field(default_factory=dict)


def empty_track(steps: int) -> dict[str, Shaped[np.ndarray, "T ..."]]:
    """The arrays of a RawTrack of `steps` steps, never valid, for a reader to fill: keyword arguments by name."""
    nan = float("nan")
    return {
        "position": np.full((steps, 3), nan),
        "yaw": np.full(steps, nan),
        "velocity": np.full((steps, 2), nan),
        "size": np.full((steps, 3), nan),
        "valid": np.zeros(steps, bool),
    }
