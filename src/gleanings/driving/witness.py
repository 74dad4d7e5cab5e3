"""Where an event of a motion can be seen: the pair in contact, the corner and the edge, the light, the lane. No jax.

Each is looked for in the scene and the poses anew, in float64 and without the grids that the metrics use. Source: ours.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from gleanings.core.errors import ConfigError
from gleanings.driving.raw import RED
from gleanings.driving.scene import GATE_M, Scene, Trajectory

EVENTS = ("collision", "at_fault", "off_road", "red_light", "wrong_way")
"""Metrics whose events have witnesses."""
_STOP_LINE_M, _STOP_LINE_COS, _STANDING_MPS = 2.0, 0.5, 0.05
_POINTS = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1], [1, 0], [0, 1], [-1, 0], [0, -1]]) / 2
_BLOCK = 1 << 20  # pairs of a point and a segment that are looked at together


class Witness(NamedTuple):
    """What an event was seen at.

    event: one of `EVENTS`. step: row of the metrics; the pose is row step + 1 of the trajectory. object: its slot.
    partner: slot of the other object (collision, at_fault), edge segment (off_road), slot of the light (red_light), row
    of the lane table (wrong_way); -1: none, for a corner outside the map. corner: for off_road, the point of the box as
    in `geometry.side_points`, else -1. place: x0, y0, x1, y1 in metres: a point in both boxes and the other centre; the
    corner, the front or the centre of the object and the nearest point of edge, stop line or lane.
    """

    event: str
    step: int
    object: int
    partner: int
    corner: int
    place: tuple[float, float, float, float]


class _Seen(NamedTuple):
    """Witnesses of K events of one kind."""

    partner: Int[np.ndarray, " K"]
    corner: Int[np.ndarray, " K"]
    start: Float[np.ndarray, "K 2"]
    end: Float[np.ndarray, "K 2"]


class _Box(NamedTuple):
    """Boxes of any shape: centre, yaw, size. Metres, radians."""

    x: Any
    y: Any
    yaw: Any
    length: Any
    width: Any

    def local(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Metres ahead and to the left of the centre."""
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        return (x - self.x) * cos + (y - self.y) * sin, (y - self.y) * cos - (x - self.x) * sin

    def world(self, ahead: Any, left: Any) -> tuple[Any, Any]:
        """The point so far ahead and to the left."""
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        return self.x + ahead * cos - left * sin, self.y + ahead * sin + left * cos

    def pick(self, index: Any) -> "_Box":
        """Boxes at an index."""
        return _Box(*(field[index] for field in self))


class _View(NamedTuple):
    """A scene and the rows [T'+1, N] of a motion in it, in float64; `first`: state index of row 0."""

    scene: Scene
    first: int
    rows: Trajectory
    boxes: _Box

    @property
    def base(self) -> Float[np.ndarray, "T N"]:
        """Height of the foot of each object, m."""
        return self.rows.z - np.asarray(self.scene.objects.height) / 2


def witnesses(scene: Scene, rollout: Any, events: Iterable[str] = EVENTS) -> list[Witness]:
    """A witness for every event of a `Rollout`, by step, in the order of `EVENTS`, by object.

    Events that the rollout did not measure have none. ConfigError: a rollout without trajectory, an unknown event.
    """
    unknown = set(events) - set(EVENTS)
    if unknown:
        raise ConfigError(f"events {sorted(unknown)} have no witnesses; known: {', '.join(EVENTS)}")
    if rollout.trajectory is None:
        raise ConfigError("the rollout has no trajectory; run it with record='pose'")
    *fields, valid = (np.asarray(field) for field in rollout.trajectory)
    rows = Trajectory(*[*(field.astype(np.float64) for field in fields), valid.astype(bool)])
    sizes = (np.broadcast_to(np.asarray(v, float), valid.shape) for v in (scene.objects.length, scene.objects.width))
    view = _View(scene, int(rollout.first), rows, _Box(rows.x, rows.y, rows.yaw, *sizes))
    found = []
    for event in (name for name in EVENTS if name in events and name in rollout.metrics):
        metric = rollout.metrics[event]
        step, slot = np.nonzero(np.asarray(metric.value) & np.asarray(metric.mask))
        if len(step):
            seen = _FINDERS[event](view, step + 1, slot)
            place = np.concatenate([seen.start, seen.end], axis=1).tolist()
            parts = zip(step.tolist(), slot.tolist(), seen.partner.tolist(), seen.corner.tolist(), place, strict=True)
            found += [Witness(event, t, n, partner, corner, tuple(p)) for t, n, partner, corner, p in parts]
    return sorted(found, key=lambda one: one.step)


def _contact(view: _View, row: Int[np.ndarray, " K"], slot: Int[np.ndarray, " K"]) -> _Seen:
    gaps, excused, at = _gaps(view, slot)
    cost = gaps[row, at] + 1e3 * excused[row, at]
    return _pair(view, row, slot, cost.argmin(1))


def _blame(view: _View, row: Int[np.ndarray, " K"], slot: Int[np.ndarray, " K"]) -> _Seen:
    """The contact that begins, with a slower object or at the own front before those at the side."""
    gaps, excused, at = _gaps(view, slot)
    begins = (gaps[row, at] < 0) & (gaps[row - 1, at] >= 0) & ~excused[row, at]
    own, others = view.boxes.pick((row, slot)), view.boxes.pick(row)
    own = _Box(*(field[:, None] for field in own))
    ends = []
    for ahead in (own.length / 2, -own.length / 2):
        line = _Box(*own.world(ahead, 0.0), own.yaw, 0.0, own.width)
        ends.append(_gap(line, others) < 0)
    slow = np.hypot(view.rows.vx[row], view.rows.vy[row]) < _STANDING_MPS
    kind = np.where(slow | ends[0], 0, np.where(ends[1], 2, 1))
    return _pair(view, row, slot, (gaps[row, at] + 1e3 * kind + 1e6 * ~begins).argmin(1))


def _gaps(
    view: _View, slot: Int[np.ndarray, " K"]
) -> tuple[Float[np.ndarray, "T I N"], Bool[np.ndarray, "T I N"], Int[np.ndarray, " K"]]:
    """Gaps of the objects that occur in `slot` to all, m (1e9: cannot touch), which do not count, and rows of `slot`.

    A pair is excused from the first row with both until it separates, as in the simulator.
    """
    own, at = np.unique(slot, return_inverse=True)
    height, count = np.asarray(view.scene.objects.height, float), view.rows.x.shape[1]
    gaps, marks = [], []
    excused = met = np.zeros((len(own), count), bool)
    for k, (alive, z) in enumerate(zip(view.rows.valid, view.rows.z, strict=True)):
        both = alive[own, None] & alive & (own[:, None] != np.arange(count))
        level = np.abs(z[own, None] - z) < (height[own, None] + height) / 2
        first = _Box(*(field[k, own, None] for field in view.boxes))
        gaps.append(np.where(both & level, _gap(first, view.boxes.pick(k)), 1e9))
        excused = np.where(both, (excused | ~met) & (gaps[-1] < 0), excused)
        met = met | both
        marks.append(excused)
    return np.stack(gaps), np.stack(marks), at


def _gap(a: _Box, b: _Box) -> Any:
    """Largest separation over the four box axes, m; shapes are broadcast."""
    cos, sin = np.abs(np.cos(a.yaw - b.yaw)), np.abs(np.sin(a.yaw - b.yaw))
    found = []
    for one, two in ((a, b), (b, a)):
        ahead, left = one.local(two.x, two.y)
        found.append(np.abs(ahead) - (one.length + two.length * cos + two.width * sin) / 2)
        found.append(np.abs(left) - (one.width + two.length * sin + two.width * cos) / 2)
    return np.maximum.reduce(found)


def _pair(view: _View, row: Any, slot: Any, partner: Int[np.ndarray, " K"]) -> _Seen:
    one, two = view.boxes.pick((row, slot)), view.boxes.pick((row, partner))
    end = np.stack([two.x, two.y], 1)
    return _Seen(partner, np.full(len(row), -1), _middle(one, two), end)


def _middle(one: _Box, two: _Box) -> Float[np.ndarray, "K 2"]:
    """Mean of the vertices of what boxes share: corners inside the other box, and crossings of sides. Metres."""
    boxes = [_Box(*(field[:, None] for field in box)) for box in (one, two)]
    a, b = (np.stack(box.world(_POINTS[:4, 0] * box.length, _POINTS[:4, 1] * box.width), -1) for box in boxes)
    points, inside = [], []
    for mine, other in ((a, boxes[1]), (b, boxes[0])):
        ahead, left = other.local(mine[..., 0], mine[..., 1])
        points.append(mine)
        inside.append((np.abs(ahead) <= other.length / 2) & (np.abs(left) <= other.width / 2))
    d, e = (np.roll(mine, -1, axis=1) - mine for mine in (a, b))
    d, e, apart = d[:, :, None], e[:, None], b[:, None] - a[:, :, None]
    turn = _cross(d, e)
    turn = np.where(np.abs(turn) < 1e-9, np.inf, turn)
    t, u = _cross(apart, e) / turn, _cross(apart, d) / turn
    crosses = np.isfinite(turn) & (t >= 0) & (t <= 1) & (u >= 0) & (u <= 1)
    points.append((a[:, :, None] + t[..., None] * d).reshape(len(a), -1, 2))
    weight = np.concatenate([*inside, crosses.reshape(len(a), -1)], axis=1)[..., None]
    total = (weight * np.concatenate(points, axis=1)).sum(1)
    between = np.stack([one.x + two.x, one.y + two.y], 1) / 2
    return np.where(weight.any(1), total / np.maximum(weight.sum(1), 1), between)


def _cross(a: Any, b: Any) -> Any:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _edge(view: _View, row: Int[np.ndarray, " K"], slot: Int[np.ndarray, " K"]) -> _Seen:
    """The corner farthest off the road (a middle of a side only if no corner is) and the segment nearest to it."""
    box, edges = view.boxes.pick((row, slot)), view.scene.edges
    box = _Box(*(field[:, None] for field in box))
    x, y = box.world(_POINTS[:, 0] * box.length, _POINTS[:, 1] * box.width)
    z = np.repeat(view.base[row, slot], len(_POINTS))
    near = _nearest(edges, x.ravel(), y.ravel(), z)
    ends = ((edges.nax, edges.nay), (-np.asarray(edges.dy), np.asarray(edges.dx)), (edges.nbx, edges.nby))
    side = 1 + (near.share >= 1) - (near.share <= 0)
    normal = np.choose(side, [n[0][near.item] for n in ends]), np.choose(side, [n[1][near.item] for n in ends])
    off = (x.ravel() - near.x) * normal[0] + (y.ravel() - near.y) * normal[1] < 0
    value = np.where(off, near.distance, -near.distance).reshape(x.shape)
    corner = np.where((value[:, :4] > 0).any(1), value[:, :4].argmax(1), value.argmax(1))
    pick = np.arange(len(row)) * len(_POINTS) + corner
    partner = np.where(np.isfinite(near.distance), near.item, -1)[pick]
    start = np.stack([x.ravel(), y.ravel()], 1)[pick]
    end = np.where(partner[:, None] >= 0, np.stack([near.x, near.y], 1)[pick], start)
    return _Seen(partner, corner, start, end)


class _Near(NamedTuple):
    """Nearest segment of each of K points: its index, distance (inf: none at the height), share along it, foot."""

    item: Any
    distance: Any
    share: Any
    x: Any
    y: Any


def _nearest(lines: Any, x: Any, y: Any, z: Any) -> _Near:
    real = np.flatnonzero(np.isfinite(lines.z))
    if not len(real):
        return _Near(np.zeros(len(x), int), np.full(len(x), np.inf), np.zeros(len(x)), x, y)
    ax, ay, dx, dy, height = (np.asarray(v, float)[real] for v in (lines.ax, lines.ay, lines.dx, lines.dy, lines.z))
    # Objects that stand still make most of the events of a scene: their points are looked at once.
    points, back = np.unique(np.stack([x, y, z], 1), axis=0, return_inverse=True)
    (x, y, z), parts = points.T, []
    for rows in np.array_split(np.arange(len(x)), max(1, len(x) * len(real) // _BLOCK)):
        px, py = x[rows, None], y[rows, None]
        share = np.clip(((px - ax) * dx + (py - ay) * dy) / np.maximum(dx * dx + dy * dy, 1e-12), 0, 1)
        apart = np.hypot(px - ax - share * dx, py - ay - share * dy)
        apart = np.where(np.abs(height - z[rows, None]) <= GATE_M, apart, np.inf)
        item = apart.argmin(1)
        own = np.arange(len(rows)), item
        foot = ax[item] + share[own] * dx[item], ay[item] + share[own] * dy[item]
        parts.append((real[item], apart[own], share[own], *foot))
    return _Near(*(np.concatenate(column)[back] for column in zip(*parts, strict=True)))


def _light(view: _View, row: Int[np.ndarray, " K"], slot: Int[np.ndarray, " K"]) -> _Seen:
    """The red light whose stop line the front centre crosses; were there none, the nearest one."""
    lights, codes = view.scene.lights, [int(code) for code in RED]
    sx, sy, yaw, sz = (np.asarray(v, float) for v in (lights.x, lights.y, lights.yaw, lights.z))
    now = np.minimum(view.first + row, len(lights.state) - 1)
    before = np.minimum(view.first + row - 1, len(lights.state) - 1)
    red = np.isin(lights.state, codes)
    fronts, ahead, left = [], [], []
    line = _Box(sx, sy, yaw, 0.0, 0.0)
    for k in (row - 1, row):
        box = view.boxes.pick((k, slot))
        fronts.append(np.stack(box.world(box.length / 2, 0.0), 1))
        u, v = line.local(fronts[-1][:, :1], fronts[-1][:, 1:])
        ahead.append(u)
        left.append(v)
    gone = np.where(ahead[1] == ahead[0], 1.0, ahead[1] - ahead[0])
    side = left[0] - ahead[0] / gone * (left[1] - left[0])
    crossed = (ahead[0] < 0) & (ahead[1] >= 0) & (np.abs(side) <= _STOP_LINE_M)
    crossed &= np.cos(view.rows.yaw[row, slot][:, None] - yaw) >= _STOP_LINE_COS
    level = np.abs(view.base[row, slot][:, None] - sz) <= GATE_M
    crossed &= red[now] & red[before] & np.asarray(lights.exists) & level
    partner = (np.hypot(ahead[1], left[1]) + 1e6 * ~crossed).argmin(1)
    return _Seen(partner, np.full(len(row), -1), fronts[1], np.stack([sx, sy], 1)[partner])


def _lane(view: _View, row: Int[np.ndarray, " K"], slot: Int[np.ndarray, " K"]) -> _Seen:
    """The nearest lane, which the object drives against as it does all within 2.5 m."""
    x, y = view.rows.x[row, slot], view.rows.y[row, slot]
    near = _nearest(view.scene.lanes, x, y, view.base[row, slot])
    lane = np.asarray(view.scene.lanes.lane)[near.item].astype(int)
    return _Seen(lane, np.full(len(row), -1), np.stack([x, y], 1), np.stack([near.x, near.y], 1))


_FINDERS: dict[str, Callable[[_View, Any, Any], _Seen]] = {
    "collision": _contact,
    "at_fault": _blame,
    "off_road": _edge,
    "red_light": _light,
    "wrong_way": _lane,
}
