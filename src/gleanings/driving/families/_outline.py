"""The edge of a road that is a union of strips: level set of the distance by marching squares. Source: ours."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import maximum_filter
from scipy.spatial import KDTree

_STEP = 1.0  # grid of the marching squares, m
_ROUND = 1.0  # least radius of the tips of islands and of kerbs, m


@dataclass(frozen=True)
class Strip:
    """All points within `reach` metres of a line; at an open end the road goes on beyond the map and has no edge."""

    line: Float[np.ndarray, "P 3"]
    reach: float
    open_start: bool = False
    open_end: bool = False


class _Field:
    """Distance to the union of strips: negative inside. Height and openness are those of the nearest strip."""

    def __init__(self, strips: list[Strip]) -> None:
        cut = [_short(strip.line) for strip in strips]
        self.a = np.concatenate([line[:-1] for line in cut])
        self.d = np.concatenate([np.diff(line, axis=0) for line in cut])
        self.plan = [np.ascontiguousarray(part) for part in (*self.a.T[:2], *self.d.T[:2])]
        self.reach = np.concatenate([np.full(len(line) - 1, s.reach) for line, s in zip(cut, strips, strict=True)])
        self.first = np.concatenate([np.arange(len(line) - 1) == 0 for line in cut])
        self.last = np.concatenate([np.arange(len(line) - 1) == len(line) - 2 for line in cut])
        opens = [(s.open_start, s.open_end, len(line) - 1) for line, s in zip(cut, strips, strict=True)]
        self.first &= np.concatenate([np.full(n, start) for start, _, n in opens])
        self.last &= np.concatenate([np.full(n, end) for _, end, n in opens])
        self.trees = [(np.flatnonzero(self.reach == r), float(r)) for r in np.unique(self.reach)]
        self.index = [KDTree((self.a + self.d / 2)[rows, :2]) for rows, _ in self.trees]

    def __call__(self, q: Float[np.ndarray, "Q 2"]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Value [Q], nearest point [Q, 3], its segment [Q], place on that [Q] (outside of 0 to 1: beyond an end)."""
        value, segment = self._nearest(q)
        a, d = self.a[segment], self.d[segment]
        place = _place(q[:, 0], q[:, 1], a[:, 0], a[:, 1], d[:, 0], d[:, 1])
        return value, a + d * np.clip(place, 0.0, 1.0)[:, None], segment, place

    def value(self, q: Float[np.ndarray, "Q 2"]) -> Float[np.ndarray, " Q"]:
        """Distance to the union at points, negative inside."""
        return self._nearest(q)[0]

    def _nearest(self, q: Float[np.ndarray, "Q 2"]) -> tuple[Float[np.ndarray, " Q"], Int[np.ndarray, " Q"]]:
        value, segment = np.full(len(q), np.inf), np.zeros(len(q), int)
        qx, qy = q.T[..., None]
        for (rows, reach), tree in zip(self.trees, self.index, strict=True):
            count = min(4, len(rows))
            near = rows[tree.query(q, count)[1].reshape(len(q), count)]
            ax, ay, dx, dy = (part.take(near) for part in self.plan)
            share = np.clip(_place(qx, qy, ax, ay, dx, dy), 0.0, 1.0)
            far = np.hypot(qx - (ax + dx * share), qy - (ay + dy * share)) - reach
            best = np.arange(len(q)), far.argmin(axis=1)
            closer = far[best] < value
            value, segment = np.where(closer, far[best], value), np.where(closer, near[best], segment)
        return value, segment


def _place(x: np.ndarray, y: np.ndarray, ax: np.ndarray, ay: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Places of points on segments: 0 at the start, 1 at the end."""
    return ((x - ax) * dx + (y - ay) * dy) / np.maximum(dx**2 + dy**2, 1e-12)


def outline(strips: list[Strip], island: float) -> list[tuple[Float[np.ndarray, "P 3"], bool]]:
    """Edges of the union of strips, (line, closed), road on the left; holes smaller than `island` m^2 are paved.

    The union is closed by discs: an edge _ROUND m further out is drawn back, so that tips and corners are round.
    """
    field = _Field(strips)
    outer = []
    points, cells = _grid(field)
    level = field.value(points)
    for loop in _contours(points, cells, level - _ROUND):
        loop = _drawn(loop, field, _ROUND)
        if len(loop := loop[np.abs(field.value(loop) - _ROUND) < 0.01]) > 3:
            outer.append(Strip(np.column_stack([loop, 0 * loop[:, 0]])[[*range(len(loop)), 0]], _ROUND))
    back = _Field(outer)
    edges = []
    level[level < _ROUND] = -back.value(points[level < _ROUND])
    for loop in _contours(points, cells, level):
        x, y = loop.T
        if abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2 < island:
            continue
        loop = _drawn(loop, back, 0.0)
        plain = np.abs(field.value(loop)) < 0.03  # not rounded: on the edge of the strips themselves
        loop[plain] = _drawn(loop[plain], field, 0.0)
        loop = loop[np.hypot(*(loop - np.roll(loop, 1, axis=0)).T) > 0.2]
        _, foot, segment, place = field(loop)
        beyond = (field.first[segment] & (place < 0)) | (field.last[segment] & (place > 1))
        line = np.concatenate([loop, foot[:, 2:]], axis=1)
        edges += [(line, True)] if not beyond.any() else [(part, False) for part in _runs(line, ~beyond)]
    return [(line, shut) for line, shut in edges if len(line) > 2]


def _drawn(loop: Float[np.ndarray, "P 2"], field: _Field, level: float) -> Float[np.ndarray, "P 2"]:
    """The points moved onto a level of the field."""
    for _ in range(3):
        value, foot, _, _ = field(loop)
        away = loop - foot[:, :2]
        loop = loop - (value - level)[:, None] * away / np.maximum(np.hypot(*away.T), 1e-9)[:, None]
    return loop


def _short(line: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, "R 3"]:
    """The line with points at most about 1 m apart."""
    parts = np.maximum(1, np.ceil(np.hypot(*np.diff(line[:, :2], axis=0).T)).astype(int))
    arc = np.concatenate([[0], np.cumsum(parts)])
    return np.stack([np.interp(np.arange(arc[-1] + 1), arc, line[:, k]) for k in range(3)], axis=1)


def _runs(line: Float[np.ndarray, "P 3"], keep: Bool[np.ndarray, " P"]) -> list[np.ndarray]:
    """The runs of kept points of a closed line of which at least one point is dropped."""
    shift = int(np.flatnonzero(~keep)[0])
    line, kept = np.roll(line, -shift, axis=0), np.flatnonzero(np.roll(keep, -shift))
    return [line[run] for run in np.split(kept, np.flatnonzero(np.diff(kept) > 1) + 1)]


def _grid(field: _Field) -> tuple[np.ndarray, np.ndarray]:
    """Points [G, 2] of a square grid near the strips, and their rows and columns [2, G]."""
    wide = field.reach.max() + _ROUND
    low = field.a[:, :2].min(axis=0) - wide - 2.5 * _STEP
    nx, ny = (int(n) for n in np.ceil((field.a[:, :2].max(axis=0) - low + wide) / _STEP) + 4)
    near = np.zeros((ny, nx), bool)
    ix, iy = ((field.a[:, :2] + field.d[:, :2] / 2 - low) / _STEP).astype(int).T
    near[iy, ix] = True
    cells = np.stack(np.nonzero(maximum_filter(near, size=2 * int(wide) + 7)))
    return cells[::-1].T * _STEP + low, cells


def _contours(points: np.ndarray, cells: np.ndarray, level: np.ndarray) -> list[Float[np.ndarray, "P 2"]]:
    """Closed zero lines of values at the points of a grid, negative on the left; positive away from the grid."""
    value = np.full(cells.max(axis=1) + 2, 9.0)
    value[tuple(cells)] = np.where(level == 0, 1e-9, level)
    low = points[0] - cells[::-1, 0] * _STEP
    follow, at = _segments(value)
    return [loop * _STEP + low for loop in _loops(follow, at)]


def _segments(value: Float[np.ndarray, "Y X"]) -> tuple[dict[int, int], dict[int, tuple[float, float]]]:
    """Which crossed grid side follows which, and where each is crossed (in cells)."""
    ny, nx = value.shape
    inside = value < 0
    corners = [(0, 0), (0, 1), (1, 1), (1, 0)]  # (row, column), counter-clockwise
    bits = [inside[r : ny - 1 + r, c : nx - 1 + c].astype(np.uint8) << k for k, (r, c) in enumerate(corners)]
    code = np.bitwise_or.reduce(bits)
    crossed = np.nonzero(code % 15)
    cases = code[crossed]
    follow: dict[int, int] = {}
    at: dict[int, tuple[float, float]] = {}
    for case in range(1, 15):
        rows, columns = (index[cases == case] for index in crossed)
        bits = [case >> k & 1 for k in range(4)]
        leave = [k for k in range(4) if bits[k] and not bits[(k + 1) % 4]]
        for k in leave:
            enter = next(m % 4 for m in (k + 3, k + 2, k + 1) if not bits[m % 4] and bits[(m + 1) % 4])
            start, there = _crossing(value, rows, columns, corners[k], corners[(k + 1) % 4])
            end, _ = _crossing(value, rows, columns, corners[enter], corners[(enter + 1) % 4])
            follow.update(zip(start.tolist(), end.tolist(), strict=True))
            at.update(zip(start.tolist(), map(tuple, there.tolist()), strict=True))
    return follow, at


def _crossing(
    value: np.ndarray,
    rows: Int[np.ndarray, " K"],
    columns: Int[np.ndarray, " K"],
    a: tuple[int, int],
    b: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Number of the cell side between corners a and b, and where the field is zero on it."""
    (ra, ca), (rb, cb) = (a, b) if a <= b else (b, a)
    u, v = value[rows + ra, columns + ca], value[rows + rb, columns + cb]
    share = u / (u - v)
    number = 2 * ((rows + ra) * value.shape[1] + columns + ca) + (rb > ra)
    return number, np.stack([columns + ca + share * (cb - ca), rows + ra + share * (rb - ra)], axis=1)


def _loops(follow: dict[int, int], at: dict[int, tuple[float, float]]) -> list[Float[np.ndarray, "P 2"]]:
    loops = []
    while follow:
        first = here = next(iter(follow))
        loop = []
        while True:
            loop.append(at[here])
            here = follow.pop(here)
            if here == first:
                break
        loops.append(np.array(loop))
    return loops
