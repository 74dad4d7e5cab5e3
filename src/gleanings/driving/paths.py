"""The path of each object: where it was logged to drive, then on along the lanes. Source: ours."""

import math

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from gleanings.core.errors import ConfigError
from gleanings.driving._polylines import turn
from gleanings.driving._tracks import Tracks, extents
from gleanings.driving.match import AHEAD_M, AHEAD_RAD, Candidates, LaneIndex, follow, match_lanes
from gleanings.driving.raw import Kind
from gleanings.driving.scene import Paths

_LENGTHS = (256, 512, 1024)  # m, of the paths of a scene: the first that holds every logged way and _FURTHER
_FURTHER, _LOOP_ROOM, _SHORTEST_LOOP, _REACH = 64, 33, 20, 15
_THIN_M, _STANDING_M, _MERGE_M, _CLOSE_M = 0.5, 2.0, 8.0, 2.0
Line = Float[np.ndarray, "_ 3"]


def build_paths(tracks: Tracks, index: LaneIndex, dt: float, path_m: int | None = None) -> Paths:
    """A path of 1 m samples for each track; see `scene.Paths`.

    dt: seconds of a step. path_m: length of all paths; None: the least that holds each logged way, and what its object
    would drive at its largest speed to the end of the log, and 64 m more. ConfigError: another than 256, 512 or 1024.
    Logged positions at least 0.5 m apart, then along the lane of the last pose (within 2 m and 45 degrees) and its
    straightest successors, which the path joins within 8 m and with whose last it ends; straight on where there is no
    lane. The path of what moved less than 2 m, or on the whole backwards, starts along its yaw. A path that comes back
    to its start within 2 m and 45 degrees is closed. Pedestrians and others leave the lanes alone.
    """
    kept, longest = thin_log(tracks)
    size = _size(tracks, longest, dt) if path_m is None else path_m
    if size not in _LENGTHS:
        raise ConfigError(f"path_m is {size}; choose from {', '.join(map(str, _LENGTHS))}")
    standing = extents(tracks) < _STANDING_M
    points, yaw, there = _packed(tracks, kept)
    rows = match_lanes(index, points, yaw, there)
    drives = np.isin(tracks.kind, (Kind.VEHICLE, Kind.CYCLIST))
    logged = [_logged(tracks, k, points[k][there[k]], bool(standing[k])) for k in range(len(standing))]
    ends, begins = np.array([line[-1] for line, _ in logged]), np.array([begin for _, begin in logged])
    near = index.near(ends, begins)
    samples = np.zeros((len(logged), size + 1, 3))
    length, closed = np.zeros(len(logged)), np.zeros(len(logged), bool)
    for k, (line, begin) in enumerate(logged):
        place = _place(near, k, int(rows[k, there[k].sum() - 1])) if drives[k] else None
        samples[k], length[k] = sample_path(
            *_joined(line, begin, place and _along_lanes(index, *place, size), size), size
        )
        loop = loop_of(samples[k], length[k], line)
        if loop is not None:
            samples[k], length[k], closed[k] = *loop, True
    used = ((np.arange(size + 1) <= length[:, None]) | closed[:, None]) & drives[:, None]
    limit = limits_along(index, samples, used)
    x, y, z = samples.astype(np.float32).transpose(2, 0, 1).copy()
    px, py, _ = np.moveaxis(tracks.base, -1, 0)
    logged = logged_arcs(x, y, length, closed, px, py, tracks.yaw, tracks.valid)
    return Paths(x, y, z, limit.astype(np.float32), length.astype(np.float32), closed, logged)


def _size(tracks: Tracks, longest: float, dt: float) -> int:
    drives = np.isin(tracks.kind, (Kind.VEHICLE, Kind.CYCLIST))
    speed = np.where(tracks.valid, np.hypot(*np.moveaxis(tracks.velocity, -1, 0)), 0.0).max(0)
    ahead = (speed * dt * (len(tracks.valid) - 1 - tracks.first))[drives].max(initial=0.0)
    return next((length for length in _LENGTHS if max(longest, ahead) + _FURTHER <= length), _LENGTHS[-1])


def logged_arcs(
    x: Float[np.ndarray, "K Q"],
    y: Float[np.ndarray, "K Q"],
    length: Float[np.ndarray, " K"],
    closed: Bool[np.ndarray, " K"],
    px: Float[np.ndarray, "T K"],
    py: Float[np.ndarray, "T K"],
    yaw: Float[np.ndarray, "T K"],
    valid: Bool[np.ndarray, "T K"],
) -> Float32[np.ndarray, "K T"]:
    """`scene.Paths.logged`: each pose projected within 15 m of where its move from the last one would bring it.

    The first pose of an object is looked for anywhere, early arcs first.
    """
    arcs, windows = np.zeros(valid.T.shape, np.float32), _windows(x, y)
    seen, arc, last = np.zeros(len(length), bool), np.zeros(len(length)), np.zeros((3, len(length)))
    there = valid & (length > 0)
    for t in np.flatnonzero(valid.any(1)):
        now, here = np.stack([px[t], py[t], yaw[t]]), there[t]
        went = (now[0] - last[0]) * np.cos(last[2]) + (now[1] - last[1]) * np.sin(last[2])
        hint = np.where(seen, arc + went, 0.0)
        if (new := np.flatnonzero(here & ~seen)).size:
            away = (x[new] - now[0, new, None]) ** 2 + (y[new] - now[1, new, None]) ** 2
            hint[new] = (away + 0.02 * np.arange(x.shape[1]) ** 2).argmin(1)
        k = np.flatnonzero(here)
        arc[k] = _project(windows, k, length[k], closed[k], now[0, k], now[1, k], hint[k])
        seen, last, arcs[k, t] = seen | here, np.where(here, now, last), arc[k]
    return arcs


def _windows(x: Float[np.ndarray, "K Q"], y: Float[np.ndarray, "K Q"]) -> Float[np.ndarray, "5 K S W"]:
    """x, y, dx, dy and squared length, in float64, of the segments from each sample on that a projection looks at."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    dx, dy = np.diff(x, axis=1), np.diff(y, axis=1)
    parts = np.stack([x[:, :-1], y[:, :-1], dx, dy, np.maximum(dx**2 + dy**2, 1e-9)])
    return np.lib.stride_tricks.sliding_window_view(parts, 2 * _REACH + 1, axis=2)


def _project(
    windows: Float[np.ndarray, "5 N S W"],
    k: Int[np.ndarray, " K"],
    length: Float[np.ndarray, " K"],
    closed: Bool[np.ndarray, " K"],
    px: Float[np.ndarray, " K"],
    py: Float[np.ndarray, " K"],
    hint: Float[np.ndarray, " K"],
) -> Float[np.ndarray, " K"]:
    """Arcs of the paths `k` nearest to the points within 15 m of `hint`, counted on over rounds as it is."""
    low = hint - _REACH
    if closed.any():
        low = np.where(closed, np.mod(low, np.maximum(length, 1.0)), low)
    first = np.clip(np.floor(low), 0, windows.shape[2] - 1).astype(np.int64)
    x, y, dx, dy, square = windows[:, k, first]
    rx, ry = px[:, None] - x, py[:, None] - y
    share = np.clip((rx * dx + ry * dy) / square, 0, 1)
    best = ((rx - share * dx) ** 2 + (ry - share * dy) ** 2).argmin(1)
    arc = first + best + share[np.arange(len(best)), best]
    return np.where(closed, arc + length * np.round((hint - arc) / np.maximum(length, 1.0)), arc)


def thin_log(tracks: Tracks) -> tuple[Bool[np.ndarray, "T K"], float]:
    """Valid steps at which an object is at least 0.5 m (plan) from where it was at the last such step, and the longest
    way of a vehicle or cyclist, m.

    No step past the longest path there is, and none at which a vehicle or cyclist stands behind the last one: rolling
    back would fold its path.
    """
    drives = np.isin(tracks.kind, (Kind.VEHICLE, Kind.CYCLIST))
    kept = np.zeros_like(tracks.valid)
    at, gone = np.full((len(tracks.index), 2), np.nan), np.zeros(len(tracks.index))
    for t, (place, valid) in enumerate(zip(tracks.base[..., :2], tracks.valid, strict=True)):
        step = (place - at).T
        away = np.hypot(*step)  # NaN at the first valid pose
        behind = drives & (step[0] * np.cos(tracks.yaw[t]) + step[1] * np.sin(tracks.yaw[t]) < 0)
        kept[t] = valid & ~(away < _THIN_M) & ~behind & (gone <= _LENGTHS[-1])
        gone[kept[t]] += np.nan_to_num(away[kept[t]])
        at[kept[t]] = place[kept[t]]
    return kept, float(gone[drives].max(initial=0.0))


def _packed(
    tracks: Tracks, kept: Bool[np.ndarray, "T K"]
) -> tuple[Float[np.ndarray, "K S 3"], Float[np.ndarray, "K S"], Bool[np.ndarray, "K S"]]:
    """The kept poses of each track moved to the front of its row."""
    counts = kept.sum(0)
    there = np.arange(counts.max(initial=1)) < counts[:, None]
    points, yaw = np.zeros((*there.shape, 3)), np.zeros(there.shape)
    points[there], yaw[there] = tracks.base.swapaxes(0, 1)[kept.T], tracks.yaw.T[kept.T]
    return points, yaw, there


def _logged(tracks: Tracks, k: int, line: Line, standing: bool) -> tuple[Line, float]:
    """Start of a path and the direction in which it goes on: the log, or, standing, a line along the last yaw through
    the last pose that begins where the log began."""
    last = tracks.base[tracks.last[k], k]
    yaw = float(tracks.yaw[tracks.last[k], k])
    ahead = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    if standing or len(line) < 2:
        behind = np.nanmin((tracks.base[:, k] - last) @ ahead)
        return (np.stack([last + behind * ahead, last]) if behind < -1e-3 else last[None]), yaw
    step = line[-1] - line[-2]
    moved = float(np.arctan2(step[1], step[0]))
    return line, yaw if abs(math.remainder(yaw - moved, math.tau)) < AHEAD_RAD else moved


def _place(found: Candidates, k: int, row: int) -> tuple[int, float] | None:
    """Lane and arc on it from which the k-th pose goes on: lane `row` if it is near enough, else the cheapest that is.
    None: no lane is."""
    good = (np.abs(found.lateral[k]) < AHEAD_M) & (np.abs(found.angle[k]) < AHEAD_RAD) & (found.row[k] >= 0)
    if not good.any():
        return None
    same = good & (found.row[k] == row)
    choice = int(np.argmax(same if same.any() else good))
    return int(found.row[k, choice]), float(found.arc[k, choice])


def _along_lanes(index: LaneIndex, row: int, arc: float, size: int) -> Line | None:
    """The lane from `arc` on and its straightest successors, at least `size` m if there is as much. None: it ends."""
    line = np.concatenate([index.graph.lane(one) for one in follow(index, row, arc, size + 1.0)])
    reached = arcs_of(line)
    ahead = np.searchsorted(reached, arc, side="right")
    begin = np.array([np.interp(arc, reached, line[:, axis]) for axis in range(3)])
    line = np.vstack([begin, line[ahead:]])
    return line if arcs_of(line)[-1] > 1.0 else None


def arcs_of(line: Line) -> Float[np.ndarray, " P"]:
    """Arc of each point of a line from its first, in plan, m."""
    return np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line[:, :2], axis=0).T))])


def _joined(line: Line, yaw: float, ahead: Line | None, size: int) -> tuple[Line, bool]:
    """`line` continued along `ahead`, which a cubic Hermite curve meets after 8 m; whether it goes straight on (by
    `size` m, as nothing is ahead)."""
    tangent = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    if ahead is None:
        return np.vstack([line, line[-1] + (size + 2.0) * tangent]), True
    reached = arcs_of(ahead)
    merge = min(_MERGE_M, reached[-1])
    meet = min(int(np.searchsorted(reached, merge, side="right")), len(ahead) - 1)
    onto = np.array([np.interp(merge, reached, ahead[:, axis]) for axis in range(3)])
    way = ahead[meet] - ahead[meet - 1]
    way = way / max(np.hypot(way[0], way[1]), 1e-9)
    u = np.linspace(0, 1, 9)[1:, None]
    curve = (1 + 2 * u) * (1 - u) ** 2 * line[-1] + u**2 * (3 - 2 * u) * onto
    curve = curve + merge * (u * (1 - u) ** 2 * tangent - u**2 * (1 - u) * way)
    curve[:, 2:] = (1 - u) * line[-1, 2] + u * onto[2]
    rest = ahead[reached > merge + 1e-6]
    return np.vstack([line, curve, rest]), False


def sample_path(line: Line, straight: bool, size: int) -> tuple[Float[np.ndarray, "Q 3"], float]:
    """Samples a metre apart and the length, at most `size` m; past its end a line goes straight on, level."""
    reached = arcs_of(line)
    if not straight:
        way = line[-1] - line[-2]
        way = np.array([*way[:2] / max(np.hypot(way[0], way[1]), 1e-9), 0.0])
        line = np.vstack([line, line[-1] + (size + 2.0) * way])
    along = arcs_of(line)
    samples = np.stack([np.interp(np.arange(size + 1), along, line[:, axis]) for axis in range(3)], axis=1)
    return samples, min(float(reached[-1]), float(size))


def loop_of(
    samples: Float[np.ndarray, "Q 3"], length: float, logged: Line
) -> tuple[Float[np.ndarray, "Q 3"], float] | None:
    """The samples of a loop and its length, if the path comes back to its start and the log stays on it."""
    longest = len(samples) - 1 - _LOOP_ROOM
    low, high = _SHORTEST_LOOP, int(min(length, longest))
    if high <= low:
        return None
    away = np.linalg.norm(samples[low : high + 1] - samples[0], axis=1)
    near = np.flatnonzero(away < _CLOSE_M)
    if not len(near):
        return None
    run = near[: int(np.argmax(np.append(np.diff(near) > 1, True))) + 1]
    back = low + int(run[np.argmin(away[run])])
    out, home = samples[1] - samples[0], samples[back] - samples[back - 1]
    if abs(math.remainder(math.atan2(out[1], out[0]) - math.atan2(home[1], home[0]), math.tau)) > AHEAD_RAD:
        return None
    way = out[:2] / max(np.hypot(out[0], out[1]), 1e-9)
    size = back + float((samples[0] - samples[back])[:2] @ way)
    ring = samples[: int(np.ceil(size))]
    end = ring[-1] + (size - len(ring) + 1) * (samples[len(ring)] - ring[-1])
    share = np.clip((np.arange(len(ring)) - size) / min(10.0, size / 2) + 1, 0, 1)[:, None]
    ring = np.vstack([ring + (samples[0] - end) * share**2 * (3 - 2 * share), samples[:1]])
    off = np.min(np.linalg.norm(logged[:, None] - ring[None], axis=2), axis=1)
    along = arcs_of(ring)
    if off.max() > _CLOSE_M + 0.5 or along[-1] > longest:
        return None
    at = np.arange(len(samples)) % along[-1]
    return np.stack([np.interp(at, along, ring[:, axis]) for axis in range(3)], axis=1), float(along[-1])


def limits_along(
    index: LaneIndex, samples: Float[np.ndarray, "K Q 3"], wanted: Bool[np.ndarray, "K Q"]
) -> Float[np.ndarray, "K Q"]:
    """Speed limit of the nearest lane within 2 m and 45 degrees of each `wanted` sample, m/s; NaN: none."""
    limit = np.full(samples.shape[:2], np.nan)
    if index.tree is None or np.isnan(index.graph.limit).all():
        return limit
    step = np.diff(samples, axis=1, append=samples[:, -1:])
    step[:, -1] = step[:, -2]
    yaw = np.arctan2(step[..., 1], step[..., 0])[wanted]
    away, found = index.tree.query(samples[wanted], 6, distance_upper_bound=AHEAD_M + 0.5)
    found = np.where(np.isfinite(away), found, 0)
    good = np.isfinite(away) & (np.abs(turn(index.samples.yaw[found] - yaw[:, None])) < AHEAD_RAD)
    best = np.take_along_axis(found, good.argmax(1)[:, None], 1)[:, 0]
    limit[wanted] = np.where(good.any(1), index.graph.limit[index.samples.lane[best]], np.nan)
    return limit


def light_arcs(
    paths: Paths, x: Float[np.ndarray, " S"], y: Float[np.ndarray, " S"], yaw: Float[np.ndarray, " S"]
) -> Float[np.ndarray, "K S"]:
    """Where stop lines lie on the paths: arc of the projection of the stop point, m; +inf where it is more than 2 m
    away or the directions differ by more than 60 degrees."""
    arcs = np.full((len(paths.length), len(x)), np.inf, np.float32)
    dx, dy = np.diff(paths.x, axis=1), np.diff(paths.y, axis=1)
    square, way = np.maximum(dx**2 + dy**2, 1e-9), np.arctan2(dy, dx)
    inside = np.arange(dx.shape[1]) < paths.length[:, None]
    rows: Int[np.ndarray, " K"] = np.arange(len(arcs))
    for s in range(len(x)):
        rx, ry = x[s] - paths.x[:, :-1], y[s] - paths.y[:, :-1]
        share = np.clip((rx * dx + ry * dy) / square, 0, 1)
        away = np.hypot(rx - share * dx, ry - share * dy)
        away = np.where(inside & (np.abs(turn(way - yaw[s])) < np.pi / 3), away, np.inf)
        best = away.argmin(1)
        arcs[:, s] = np.where(away[rows, best] < AHEAD_M, best + share[rows, best], np.inf)
    return arcs
