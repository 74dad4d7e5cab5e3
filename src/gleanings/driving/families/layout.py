"""Curves, lanes and the map of a generated scene: how roads are laid and turned into `MapFeature`s. Source: ours.

A line is float64 [P, 3] (x, y, z in metres) in driving direction, its points 0.5 to 1 m apart.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from gleanings.driving.families._outline import Strip, outline
from gleanings.driving.raw import FeatureKind, MapFeature

LANE = 3.5  # width of a lane, m
Line = np.ndarray
Pose2 = tuple[float, float, float]  # x, y, yaw


def arc_of(line: Float[np.ndarray, "P D"]) -> Float[np.ndarray, " P"]:
    """Arc length in the plane at each point, from 0."""
    arc = np.zeros(len(line))
    np.cumsum(np.hypot(line[1:, 0] - line[:-1, 0], line[1:, 1] - line[:-1, 1]), out=arc[1:])
    return arc


def heading_of(line: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, " P"]:
    """Direction of a line at each point, unwrapped: of the chord between the points before and after."""
    ahead = line[1:, :2] - line[:-1, :2]
    ahead = ahead / np.maximum(np.hypot(ahead[:, 0], ahead[:, 1]), 1e-12)[:, None]
    seam = ahead[-1] + ahead[0] if (line[0] == line[-1]).all() else None
    first, last = (ahead[0], ahead[-1]) if seam is None else (seam, seam)
    both = np.concatenate([first[None], ahead[:-1] + ahead[1:], last[None]])
    yaw = np.arctan2(both[:, 1], both[:, 0])
    # Most lines have nothing to unwrap, and it takes half of the time.
    return yaw if (np.abs(yaw[1:] - yaw[:-1]) < np.pi).all() else np.unwrap(yaw)


def trace(start: Pose2, pieces: Sequence[tuple[float, float, float]], step: float = 1.0) -> Line:
    """Line from a pose along pieces (length, curvature at its start, at its end): straights, arcs and clothoids."""
    length = np.array([piece[0] for piece in pieces], float)
    ends = np.concatenate([[0.0], np.cumsum(length)])
    n = max(2, round(ends[-1] / step))
    fine = np.linspace(0.0, ends[-1], 16 * n + 1)
    part = np.clip(np.searchsorted(ends, fine, "right") - 1, 0, len(pieces) - 1)
    first, last = (np.array([piece[k] for piece in pieces], float)[part] for k in (1, 2))
    bend = first + (last - first) * (fine - ends[part]) / np.maximum(length[part], 1e-9)
    h = fine[1]
    yaw = start[2] + np.concatenate([[0.0], np.cumsum((bend[1:] + bend[:-1]) * h / 2)])
    middle = (yaw[1:] + yaw[:-1]) / 2
    x = start[0] + np.concatenate([[0.0], np.cumsum(np.cos(middle) * h)])
    y = start[1] + np.concatenate([[0.0], np.cumsum(np.sin(middle) * h)])
    return np.stack([x, y, np.zeros_like(x)], axis=1)[::16]


def bend(angle: float, radius: float, ease: float = 0.35) -> list[tuple[float, float, float]]:
    """Pieces that turn by `angle` (positive: left) with `radius`; a share `ease` at either end is a clothoid."""
    length = abs(angle) * radius / (1 - ease)
    k = np.sign(angle) / radius
    return [(ease * length, 0.0, k), ((1 - 2 * ease) * length, k, k), (ease * length, k, 0.0)]


def offset(line: Float[np.ndarray, "P 3"], left: float | Float[np.ndarray, " P"]) -> Line:
    """The line moved to its left by `left` metres, which may change along it."""
    yaw = heading_of(line)
    side = np.stack([-np.sin(yaw), np.cos(yaw), np.zeros_like(yaw)], axis=1)
    return line + side * np.reshape(left, (-1, 1))


def ease(u: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
    """Quintic step from 0 at u <= 0 to 1 at u >= 1, with two continuous derivatives."""
    u = np.clip(u, 0.0, 1.0)
    return u**3 * (10 - 15 * u + 6 * u**2)


def change(a: Float[np.ndarray, "P 3"], b: Float[np.ndarray, "P 3"], start: float, length: float) -> Line:
    """From line a over to line b, which has a point beside each of a's, within `length` m from arc `start` of a."""
    share = ease((arc_of(a) - start) / length)[:, None]
    return a * (1 - share) + b * share


def resample(line: Float[np.ndarray, "P 3"], step: float) -> Line:
    """Points equally far apart, about `step` m; both ends are kept."""
    arc = arc_of(line)
    at = np.linspace(0.0, arc[-1], max(2, round(arc[-1] / step) + 1))
    return np.stack([np.interp(at, arc, line[:, k]) for k in range(3)], axis=1)


def join(lines: Sequence[Line]) -> Line:
    """One line out of lines that follow each other; the points where they meet are kept once."""
    return np.concatenate([lines[0], *(line[1:] for line in lines[1:])])


def end_pose(line: Float[np.ndarray, "P 3"], last: bool = True) -> Pose2:
    """Pose at the last (or the first) point of a line."""
    (a, b), at = (line[-2:], line[-1]) if last else (line[:2], line[0])
    return float(at[0]), float(at[1]), float(np.arctan2(b[1] - a[1], b[0] - a[0]))


def connect(a: Pose2, b: Pose2, step: float = 0.5) -> Line:
    """A smooth line from pose a to pose b: straight, turn with clothoids where the two directions meet, else cubic."""
    turn = (b[2] - a[2] + np.pi) % (2 * np.pi) - np.pi
    gap = np.array([b[0] - a[0], b[1] - a[1]])
    ahead, back = (np.array([np.cos(p[2]), np.sin(p[2])]) for p in (a, b))
    if abs(np.sin(turn)) > 0.3:
        along = np.linalg.solve(np.stack([ahead, back], axis=1), gap)
        if along.min() > 1.0:
            return _corner(a, b, float(turn), along, step)
    if abs(turn) > 3.0:
        return _loop(a, b, float(turn), step)
    reach = 0.4 * np.hypot(*gap)
    u = np.linspace(0.0, 1.0, max(4, round(float(np.hypot(*gap)) / step)) + 1)[:, None]
    ends = np.array([a[:2], a[:2] + ahead * reach, b[:2] - back * reach, b[:2]])
    weights = np.concatenate([(1 - u) ** 3, 3 * u * (1 - u) ** 2, 3 * u**2 * (1 - u), u**3], axis=1)
    return resample(np.concatenate([weights @ ends, 0 * u], axis=1), step)


def _corner(a: Pose2, b: Pose2, turn: float, along: np.ndarray, step: float) -> Line:
    """Straight on, turn, straight on; `along`: distances of a and b from the corner where their directions meet."""
    unit = trace((0.0, 0.0, 0.0), bend(turn, 1.0), 0.005)[-1]
    tangent = unit[0] - unit[1] / np.tan(turn)
    reach = float(along.min())
    pieces = bend(turn, reach / float(tangent))
    pieces = [(float(along[0]) - reach + 1e-6, 0.0, 0.0), *pieces, (float(along[1]) - reach + 1e-6, 0.0, 0.0)]
    line = trace(a, pieces, step)
    return _pinned(line, b)


def _loop(a: Pose2, b: Pose2, turn: float, step: float) -> Line:
    """A turn by about half a circle, to a pose beside a."""
    side = -np.sin(a[2]) * (b[0] - a[0]) + np.cos(a[2]) * (b[1] - a[1])
    turn = abs(turn) * np.sign(side)
    unit = trace((0.0, 0.0, 0.0), bend(turn, 1.0), 0.005)[-1]
    return _pinned(trace(a, bend(turn, abs(float(side / unit[1]))), step), b)


def _pinned(line: Line, b: Pose2) -> Line:
    """The line with what its end misses b by spread smoothly over it."""
    miss = np.array([b[0], b[1], line[-1, 2]]) - line[-1]
    return line + np.outer(ease(arc_of(line) / arc_of(line)[-1]), miss)


@dataclass
class Lane:
    """A lane: centreline, speed limit (m/s) and names of those that follow and of those beside it."""

    line: Line
    limit: float
    level: int = 0
    successors: list[str] = field(default_factory=list)
    neighbours: list[str] = field(default_factory=list)


class Layout:
    """The map under construction. shoulder: metres of road beyond the outer side of a lane."""

    def __init__(self, shoulder: float = 0.6) -> None:
        self.reach = LANE / 2 + shoulder
        self.lanes: dict[str, Lane] = {}
        self.extra: list[MapFeature] = []
        self.strips: list[tuple[int, Strip]] = []
        self.island = 80.0  # smaller holes in the road, m^2, are paved

    def lane(self, name: str, line: Line, limit: float, after: Sequence[str] = (), level: int = 0) -> str:
        """Add a lane that follows the lanes `after`; gives its name back."""
        self.lanes[name] = Lane(line, float(limit), level)
        for before in after:
            self.lanes[before].successors.append(name)
        return name

    def beside(self, *names: str) -> None:
        """Say that these lanes lie side by side in this order, in one direction."""
        for a, b in itertools.pairwise(names):
            self.lanes[a].neighbours.append(b)
            self.lanes[b].neighbours.append(a)

    def pave(self, line: Line, reach: float, level: int = 0) -> None:
        """Road without a lane: all within `reach` of a line."""
        self.strips.append((level, Strip(line, reach, True, True)))

    def mark(self, kind: FeatureKind, points: Float[np.ndarray, "P 3"], closed: bool = False) -> None:
        """Add a road line, crosswalk, stop sign or the like."""
        self.extra.append(MapFeature(kind, np.array(points, float), f"{kind}{len(self.extra)}", closed))

    def features(self) -> tuple[MapFeature, ...]:
        """All features; the road edge is drawn around the union of all lanes of a level."""
        follows = {name for lane in self.lanes.values() for name in lane.successors}
        found = [
            MapFeature(
                "lane", lane.line, name, False, lane.limit, tuple(lane.successors), tuple(lane.neighbours), linked=True
            )
            for name, lane in self.lanes.items()
        ]
        strips = self.strips + [
            (lane.level, Strip(lane.line, self.reach, name not in follows, not lane.successors))
            for name, lane in self.lanes.items()
        ]
        for level in sorted({level for level, _ in strips}):
            edges = outline([strip for at, strip in strips if at == level], self.island)
            found += [MapFeature("road_edge", line, f"edge{level}.{k}", shut) for k, (line, shut) in enumerate(edges)]
        return (*found, *self.extra)
