"""What the two record formats of the Waymo Open Motion Dataset share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, Int64, UInt8

from gleanings.core.errors import DataError
from gleanings.data.protowire import WireError
from gleanings.data.tfrecord import read_tfrecord
from gleanings.driving.raw import FeatureKind, Kind, MapFeature, RawLight, RawScene, RawTrack
from gleanings.driving.raw_check import check_size

LICENCE = "Waymo Open Dataset: non-commercial use"
KINDS = {1: Kind.VEHICLE, 2: Kind.PEDESTRIAN, 3: Kind.CYCLIST}
CLOSED: tuple[FeatureKind, ...] = ("crosswalk", "speed_bump", "driveway")
Parse = Callable[[bytes, Path, int], RawScene]


def read_records(path: Path, parse: Parse) -> Iterator[RawScene]:
    """A scene for each record of a TFRecord; raises DataError at the first one that is broken."""
    for record, payload in enumerate(read_tfrecord(path)):
        yield parse_record(payload, path, record, parse)


def parse_record(payload: bytes, path: Path, record: int, parse: Parse) -> RawScene:
    """The scene of one payload. Raises: DataError with file and record, whatever is wrong with the bytes."""
    try:
        return parse(payload, path, record)
    except WireError as error:
        raise DataError(f"damaged: {error.message}", path, record, error.offset) from error
    except DataError as error:
        if error.path == path:
            raise
        raise DataError(str(error), path, record) from error  # of `check_raw`, which knows the scene's name only


def make_track(
    name: str,
    kind: int,
    states: Float[np.ndarray, "T 9"],
    valid: Bool[np.ndarray, " T"],
) -> RawTrack:
    """A track from rows of x, y, z, length, width, height, yaw, vx, vy and WOMD's number of its kind."""
    return RawTrack(
        name=name,
        kind=KINDS.get(kind, Kind.OTHER),
        position=states[:, :3],
        yaw=states[:, 6],
        velocity=states[:, 7:9],
        size=states[:, 3:6],
        valid=valid,
    )


def lights_by_lane(
    lane: Int64[np.ndarray, " n"],
    step: Int[np.ndarray, " n"],
    state: Int64[np.ndarray, " n"],
    stop: Float[np.ndarray, "n 3"],
    at: Int[np.ndarray, " T"],
) -> tuple[RawLight, ...]:
    """Observations of lights, in any order, as one light a lane over all steps.

    `at[t]` is the light step that holds at state t, -1: none. A lane not seen at a step is unknown there. Where a lane
    was seen twice in one step the known state counts. The stop point is that of the lane's first observation. Raises:
    DataError for more states than a scene may have.
    """
    if not len(lane):
        return ()
    order = np.lexsort((state != 0, step, lane))
    lane, step, state, stop = lane[order], step[order], state[order], stop[order]
    lanes, first, row = np.unique(lane, return_index=True, return_inverse=True)
    steps = int(max(step.max(), at.max())) + 1
    check_size(len(lanes), max(steps, len(at)), "lights")
    # The last column is what at = -1 refers to.
    table: UInt8[np.ndarray, "lanes steps+1"] = np.zeros((len(lanes), steps + 1), np.uint8)
    table[row, step] = np.where((state >= 0) & (state <= 8), state, 0)
    return tuple(RawLight(str(lane), table[i, at], stop[first[i]]) for i, lane in enumerate(lanes.tolist()))


def make_feature(kind: FeatureKind, points: Float[np.ndarray, "P 3"], name: str) -> MapFeature:
    """A feature without links; areas are closed."""
    return MapFeature(kind, points, name, closed=kind in CLOSED)
