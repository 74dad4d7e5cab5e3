"""Scenes that hold a road only, and float64 oracles for them that look at every segment of the polylines as given."""

import itertools

import numpy as np

from gleanings.driving.edges import compile_edges
from gleanings.driving.grid import edge_grid, lane_grid, make_frame
from gleanings.driving.ground import compile_ground
from gleanings.driving.raster import compile_raster, no_raster
from gleanings.driving.scene import Edges, Lanes, Scene

Polyline = tuple[np.ndarray, bool]


def road_scene(
    polylines: list[Polyline],
    lanes: list[np.ndarray] | None = None,
    *,
    simplify_m: float = 0.0,
    raster: bool = False,
    segments: int = 0,
) -> Scene:
    """A scene of road edges and of lanes (default: none), its other parts None."""
    edges = compile_edges(polylines, simplify_m=simplify_m)
    centre = lane_segments(lanes or [])
    heights = np.concatenate([line for line, _ in polylines] + (lanes or []) + [np.zeros((1, 3))])
    frame = make_frame(heights[:, :2])
    grid, ground = edge_grid(edges, frame, heights), compile_ground(heights, frame)
    parts = {
        "edges": padded(edges, segments or len(edges.ax) + 1),
        "grid": grid,
        "lanes": centre,
        "lane_grid": lane_grid(centre, frame),
        "ground": ground,
        "raster": compile_raster(edges, grid, frame, ground) if raster else no_raster(),
    }
    return Scene(**(dict.fromkeys(Scene._fields) | parts))


def padded(edges: Edges, size: int) -> Edges:
    """Edges with rows at no height behind."""
    rest = size - len(edges.ax)
    pad = Edges(*(np.full(rest, np.inf if name == "z" else 0, np.float32) for name in Edges._fields))
    return Edges(*(np.concatenate(pair) for pair in zip(edges, pad, strict=True)))


def lane_segments(lanes: list[np.ndarray]) -> Lanes:
    """Segments of centrelines, one padding row last; lane k has the limit 10 + k m/s."""
    a = np.concatenate([line[:-1] for line in lanes] + [np.zeros((1, 3))])
    b = np.concatenate([line[1:] for line in lanes] + [np.zeros((1, 3))])
    dx, dy = (b - a)[:, :2].T
    z = (a + b)[:, 2] / 2
    z[-1] = np.inf
    row = np.concatenate([np.full(len(line) - 1, k) for k, line in enumerate(lanes)] + [[-1]])
    floats = (a[:, 0], a[:, 1], dx, dy, 1 / np.maximum(dx**2 + dy**2, 1e-6), z)
    count = max(len(lanes), 1)
    return Lanes(
        *(column.astype(np.float32) for column in floats),
        row.astype(np.int16),
        np.arange(count, dtype=np.int32),
        (10 + np.arange(count)).astype(np.float32),
        np.full((count, 4), -1, np.int16),
    )


def distance(polylines: list[Polyline], points: np.ndarray) -> np.ndarray:
    """Plan distance of points (x, y, z) to the nearest segment within 2.5 m of their height, infinite without one."""
    best = np.full(len(points), np.inf)
    for line, closed in polylines:
        corners = np.concatenate([line, line[:1]]) if closed else line
        for a, b in itertools.pairwise(corners):
            d = to_segment(points[:, :2], a[:2], b[:2])
            best = np.where(np.abs((a[2] + b[2]) / 2 - points[:, 2]) <= 2.5, np.minimum(best, d), best)
    return best


def to_segment(points: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Plan distance to the segment from a to b: to its line where the foot lies between, else to the nearer end."""
    ends = np.minimum(np.hypot(*(points - a).T), np.hypot(*(points - b).T))
    along = (b - a) / np.hypot(*(b - a))
    foot = (points - a) @ along
    across = np.abs((points - a) @ np.array([-along[1], along[0]]))
    return np.where((foot > 0) & (foot < np.hypot(*(b - a))), across, ends)


def in_polygon(corners: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether points lie inside a polygon: an odd number of its sides is crossed on the way to the right."""
    inside = np.zeros(len(points), bool)
    for (ax, ay), (bx, by) in zip(corners[:, :2], np.roll(corners[:, :2], -1, 0), strict=True):
        spans = (ay > points[:, 1]) != (by > points[:, 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= spans & (points[:, 0] < ax + (points[:, 1] - ay) / (by - ay) * (bx - ax))
    return inside


def star(points: int = 9, outer: float = 40.0, inner: float = 12.0, z: float = 0.0) -> np.ndarray:
    """Corners of a star, counter-clockwise: sharp corners of both kinds."""
    angle = np.arange(2 * points) * np.pi / points
    radius = np.where(np.arange(2 * points) % 2, inner, outer)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(2 * points, z)], 1)


def ring(
    radius: float = 15.0, count: int = 120, centre: tuple[float, float] = (0.0, 0.0), z: float = 0.0
) -> np.ndarray:
    """Corners of a circle, counter-clockwise."""
    angle = np.arange(count) * 2 * np.pi / count
    return np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle), np.full(count, z)], 1)


def wild(seed: int, count: int = 12) -> list[Polyline]:
    """Winding edges on slopes and on two levels, and a few closed ones."""
    rng = np.random.default_rng(seed)
    lines: list[Polyline] = []
    for k in range(count):
        steps = rng.integers(10, 80)
        turn = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.15, steps))
        length = rng.uniform(0.2, 3, steps)
        x, y = (rng.uniform(-90, 90) + np.cumsum(length * wave(turn)) for wave in (np.cos, np.sin))
        z = rng.choice([0.0, 6.0]) + rng.uniform(-1, 1) + np.cumsum(length * rng.choice([0, 0.05, 0.12]))
        lines.append((np.stack([x, y, z], 1), False))
        if k % 6 == 0:
            lines.append((ring(rng.uniform(2, 20), 40, tuple(rng.uniform(-90, 90, 2)), rng.choice([0.0, 6.0])), True))
    return lines


def queries(polylines: list[Polyline], count: int, seed: int = 0) -> np.ndarray:
    """Points x, y, z within 28 m of an edge point, in its slab of heights, rounded to float32."""
    rng = np.random.default_rng(seed)
    near = np.concatenate([line for line, _ in polylines])
    near = near[rng.integers(len(near), size=count)]
    radius, angle = 28 * np.sqrt(rng.uniform(size=count)), rng.uniform(0, 2 * np.pi, count)
    x, y = near[:, 0] + radius * np.cos(angle), near[:, 1] + radius * np.sin(angle)
    return np.stack([x, y, np.floor(near[:, 2]) + rng.uniform(size=count)], 1).astype(np.float32)
