"""A compiled scene: named tuples of arrays, so that it is a pytree without jax. NumPy arrays until put on a device.

Letters: T steps, N object slots, E edge segments, C grid cells, I list entries, P points, L lanes, S lights, Q path
samples. float32, metres, seconds, radians in the local frame (world - `origin`) unless a line says otherwise. A stacked
scene has a leading axis B on every array.
"""

from typing import Any, NamedTuple

Array = Any  # np.ndarray or jax.Array
# Metres. CELL_M: side of a cell of `Grid`. GATE_M: an edge or lane counts for what stands at most so much higher or
# lower. REACH_M: distances to the road edge are clipped to it. LANE_M: a lane farther away is not near. STEP_M: of
# `Raster`.
CELL_M, GATE_M, REACH_M, LANE_M, STEP_M = 2.0, 2.5, 30.0, 2.5, 0.5


class Trajectory(NamedTuple):
    """Motion of N objects: plain positions of the box centre, yaw in (-pi, pi], velocity; all [T, N].

    Where `valid` (bool) is False the other fields hold 0.
    """

    x: Array
    y: Array
    z: Array
    yaw: Array
    vx: Array
    vy: Array
    valid: Array


class Objects(NamedTuple):
    """What does not change about the objects; all [N]. Empty slots have kind 0, id -1, size 0 and first = last = -1.

    kind: i8, `raw.Kind`. id: i32, index of the track in the raw scene. length, width, height: m. is_sdc, to_predict,
    of_interest: bool. first, last: i32, first and last valid step of the log, -1: never valid. extent: m, largest plan
    distance of a valid pose from the first valid one. top_speed: m/s, largest logged speed. exists: bool, not empty.
    """

    kind: Array
    id: Array
    length: Array
    width: Array
    height: Array
    is_sdc: Array
    to_predict: Array
    of_interest: Array
    first: Array
    last: Array
    extent: Array
    top_speed: Array
    exists: Array


class Grid(NamedTuple):
    """Lists of candidates for the cells of a plane grid of 2 m cells, row by row: cell = iy * nx + ix.

    x0, y0: lower left corner. nx, ny: i32. start: i32 [C], first entry of a cell's list in `items`. items: u16 [I],
    indices that the lists hold, rising within a list; lists overlap in memory, whatever stands behind a list is a
    harmless candidate, and `items` is padded so that start + window never leaves it. slots: i32 [M] = 0..M-1, whose
    length is the longest list. far: i8 [C]: 0: has a list; 2: a list of at most `SHORT` entries; +1 or -1: no edge
    within 30 m, and the cell lies off (+1) or on (-1) the road.
    """

    x0: Array
    y0: Array
    nx: Array
    ny: Array
    start: Array
    items: Array
    slots: Array
    far: Array

    SHORT = 16  # pyright: ignore[reportGeneralTypeIssues]


class Edges(NamedTuple):
    """Segments of the road edge, drivable side on the LEFT; all [E]. Padding has z = +inf, so that no height matches.

    ax, ay: first end. dx, dy: second end minus first. inv_l2: 1 / squared length. z: height of the middle. nax, nay,
    nbx, nby: normals (sum of the unit left normals of the segments that meet) at the first and second end.
    """

    ax: Array
    ay: Array
    dx: Array
    dy: Array
    inv_l2: Array
    z: Array
    nax: Array
    nay: Array
    nbx: Array
    nby: Array


class Lanes(NamedTuple):
    """Lane centrelines as segments [P] (padding z = +inf), and a table of lanes [L].

    lane: i16 [P], row of the table. id: i32 [L], index of the feature in the raw scene, -1: padding. limit: m/s [L],
    NaN: unknown. successors: i16 [L, 4], rows, -1: none.
    """

    ax: Array
    ay: Array
    dx: Array
    dy: Array
    inv_l2: Array
    z: Array
    lane: Array
    id: Array
    limit: Array
    successors: Array


class Lights(NamedTuple):
    """Traffic lights. state: u8 [T, S], `raw.Light`. x, y, z, yaw: [S], stop point and direction of its lane.

    lane: i16 [S], row of `Lanes`, -1: not in the map. exists: bool [S]. arc: m [N, S], where the stop line crosses the
    path of an object (its direction within 60 degrees, the stop point within 2 m), +inf: nowhere.
    """

    state: Array
    x: Array
    y: Array
    z: Array
    yaw: Array
    lane: Array
    exists: Array
    arc: Array


class Paths(NamedTuple):
    """A path for each object, sampled every metre from its first valid pose: x, y, z, limit (m/s, NaN unknown) [N, Q].

    Sample q stands at arc q metres; z is the height of the road, not of a box centre. length: m [N], 0: no path.
    Samples past the end of an open path continue straight on. closed: bool [N]: a loop, at most Q - 34 m long, whose
    samples past `length` go round again. Compiled scenes have Q = 257; 513 or 1025 where the log needs it. A path of
    Q - 1 m is cut there, and the way goes on. logged: arc of each logged pose, m [N, T], counted on over the rounds of
    a closed path; 0 where the log is not valid.
    """

    x: Array
    y: Array
    z: Array
    limit: Array
    length: Array
    closed: Array
    logged: Array


class Goals(NamedTuple):
    """Goal of each object: centre x, y and radius (m) [N]; exists: bool [N]."""

    x: Array
    y: Array
    radius: Array
    exists: Array


class Ground(NamedTuple):
    """Up to two road heights in each cell of the edge grid: low, high [C]; NaN: none there."""

    low: Array
    high: Array


class Road(NamedTuple):
    """Map points for observations, 2 m apart: x, y, z, unit direction dx, dy [P]; kind: i8 [P], 0: padding, else
    1 lane, 2 road edge, 3 road line, 4 crosswalk, 5 speed bump, 6 stop sign, 7 driveway."""

    x: Array
    y: Array
    z: Array
    dx: Array
    dy: Array
    kind: Array


class Raster(NamedTuple):
    """Signed distance to the road edge at the corners of 0.5 m squares; `value` has size 0 where it was not asked for.

    x0, y0: position of value[0, 0]; value: [GY, GX]; error: largest error found when it was made.
    """

    x0: Array
    y0: Array
    value: Array
    error: Array


class Scene(NamedTuple):
    """One compiled scene. See the other classes for the parts.

    origin: i32 [3], world coordinates of the local zero, whole metres. dt: s. start: i32. scene_id: u8 [32], name in
    ASCII padded with 0. source: u8 [128], format, file and licence note, likewise.
    """

    origin: Array
    dt: Array
    start: Array
    scene_id: Array
    source: Array
    log: Trajectory
    objects: Objects
    edges: Edges
    grid: Grid
    lanes: Lanes
    lane_grid: Grid
    lights: Lights
    paths: Paths
    goals: Goals
    ground: Ground
    road: Road
    raster: Raster


class Pose(NamedTuple):
    """State of motion of one object (scalars) or of many (arrays of one shape): m, rad, m/s."""

    x: Array
    y: Array
    z: Array
    yaw: Array
    vx: Array
    vy: Array


def name_of(scene: Scene) -> str:
    """The scene's name as text."""
    return bytes(scene.scene_id).rstrip(b"\0").decode("ascii", "replace")


def source_of(scene: Scene) -> str:
    """Format, file and licence note of the scene as text."""
    return bytes(scene.source).rstrip(b"\0").decode("ascii", "replace")
