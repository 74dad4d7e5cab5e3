"""The route of an object along lane centrelines, which tells nothing of how it was driven. Source: ours."""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32

from gleanings.core.errors import DataError
from gleanings.driving._polylines import thin, turn
from gleanings.driving.lanes import LaneGraph, graph_of
from gleanings.driving.match import LaneIndex, follow, match_lanes, route
from gleanings.driving.paths import arcs_of, light_arcs, limits_along, logged_arcs, loop_of, sample_path
from gleanings.driving.scene import Lights, Paths, Scene, name_of

_THIN_M, _CHANGE_M = 0.5, 40.0
_AWAY_M, _BEND_RAD, _BEND_M = 5.0, 0.8, 2  # what a log may be off its lanes; a path of a car bends less in 2 m
Line = Float[np.ndarray, "_ 3"]


def with_lane_route(
    scene: Scene, slot: int | None = None, log: Bool[np.ndarray, " T"] | None = None, *, or_path: bool = False
) -> Scene:
    """The scene with the path of one object replaced by its lane route, as long as its paths are.

    The lanes are those that the log was matched to, without detours over a neighbour and back, and their straightest
    successors; the path starts beside the first valid pose and runs along centrelines, from one lane to its neighbour
    in the first 40 m in which both run side by side. Limits and the places of traffic lights on the path are taken
    anew. Nothing else of the log shows in it.

    slot: None is the ego. log: the steps that are matched, None is all valid ones. or_path: where there is no route,
    the scene itself is returned. DataError: no such object; or it has no route: it is on no lane, or leaves the lanes
    found by over 5 m, or they bend by over 0.8 rad in 2 m, as they do where the map lacks the lane driven on.
    """
    slot = slot_of(scene, slot)
    valid = scene.log.valid[:, slot] & (True if log is None else log)
    try:
        if not valid.any():
            raise _no_route(scene, slot, "its log is empty")
        return _routed(scene, slot, *_poses(scene, slot, valid))
    except DataError:
        if or_path:
            return scene
        raise


def slot_of(scene: Scene, slot: int | None = None) -> int:
    """`slot`, or that of the ego. DataError: no object is there, or there is no ego."""
    if slot is None:
        found = np.flatnonzero(scene.objects.is_sdc)
        if not len(found):
            raise DataError(f"scene {name_of(scene)!r} has no ego; name the slot of the object that is to be it")
        return int(found[0])
    if not 0 <= slot < len(scene.objects.exists) or not scene.objects.exists[slot]:
        raise DataError(f"scene {name_of(scene)!r} has no object in slot {slot}")
    return slot


def _no_route(scene: Scene, slot: int, why: str) -> DataError:
    hint = "use or_path=True to keep its path"
    return DataError(f"object in slot {slot} of scene {name_of(scene)!r} has no lane route: {why}; {hint}")


def _routed(scene: Scene, slot: int, poses: Line, yaw: Float[np.ndarray, " K"]) -> Scene:
    index, size = LaneIndex(graph_of(scene.lanes)), scene.paths.x.shape[1] - 1
    line = _centreline(index, poses, yaw, size + 1.0)
    if line is None:
        raise _no_route(scene, slot, "it is on no lane")
    samples, length = sample_path(line, False, size)
    if why := _fault(line, samples[: int(np.ceil(length)) + 1], poses, size):
        raise _no_route(scene, slot, why)
    loop = loop_of(samples, length, _points(line, _feet(line, poses)))
    samples, length, closed = (samples, length, False) if loop is None else (*loop, True)
    used = (np.arange(size + 1) <= length) | closed
    limit = limits_along(index, samples[None], used[None])[0]
    return _with_path(scene, slot, samples, limit, length, closed)


def _poses(scene: Scene, slot: int, valid: Bool[np.ndarray, " T"]) -> tuple[Line, Float[np.ndarray, " K"]]:
    """Valid poses, one for each 0.5 m of way: foot of the box, yaw."""
    log = scene.log
    xyz = np.stack([log.x[valid, slot], log.y[valid, slot], log.z[valid, slot] - scene.objects.height[slot] / 2], 1)
    xyz, yaw = xyz.astype(np.float64), log.yaw[valid, slot].astype(np.float64)
    gone = arcs_of(xyz)
    kept = np.unique(np.searchsorted(gone, np.arange(0.0, gone[-1] + 1e-9, _THIN_M)))
    return xyz[kept], yaw[kept]


def _fault(line: Line, samples: Line, poses: Line, size: int) -> str | None:
    """Why the line is not where an object drove. Poses past a path that is cut at `size` metres are not looked at."""
    far = np.sqrt(_squares(line, poses).min(1))[arcs_of(poses) < size]
    if far.max() > _AWAY_M:
        return f"its log leaves the lanes found by {far.max():.1f} m"
    way = np.diff(samples[:, :2], axis=0)
    yaw = np.arctan2(way[:, 1], way[:, 0])
    bend = np.abs(turn(yaw[_BEND_M:] - yaw[:-_BEND_M])).max(initial=0.0)
    return f"the lanes found bend by {bend:.2f} rad in {_BEND_M} m" if bend > _BEND_RAD else None


def _centreline(index: LaneIndex, poses: Line, yaw: Float[np.ndarray, " K"], ahead: float) -> Line | None:
    """Along the lanes of the matched poses and on, from beside the first pose. None: they are on no lane."""
    rows = match_lanes(index, poses[None], yaw[None], np.ones((1, len(poses)), bool))[0]
    lanes = _without_detours(index.graph, route(index, rows, ahead))
    if not lanes:
        return None
    breaks = [k for k, pair in enumerate(itertools.pairwise(lanes), 1) if not _linked(index.graph, *pair)]
    runs = [lanes[a:b] for a, b in itertools.pairwise([0, *breaks, len(lanes)])]
    line = _joined(index.graph, runs[0])
    line = _after(line, float(_feet(line, poses[:1])[0]))
    for before, run in itertools.pairwise(runs):
        line = _changed(line, _beyond(index, before[-1]), _joined(index.graph, run))
    return line if len(line) > 1 else None


def _linked(graph: LaneGraph, before: int, after: int) -> bool:
    return bool((graph.links == [before, after]).all(1).any())


def _without_detours(graph: LaneGraph, lanes: Sequence[int]) -> list[int]:
    """The lanes with those replaced over which a neighbour was entered and left again: by what lies straight on.

    Such a detour is a swerve round something, which a route must not tell.
    """
    kept = list(lanes)
    changes = [k for k, pair in enumerate(itertools.pairwise(kept)) if not _linked(graph, *pair)]
    for i, j in itertools.pairwise(changes):
        straight = _chain(graph, kept[i], kept[j + 1], j - i)
        if straight is not None:
            return _without_detours(graph, [*kept[:i], *straight, *kept[j + 2 :]])
    return kept


def _chain(graph: LaneGraph, first: int, last: int, most: int) -> list[int] | None:
    """The shortest way along links from a lane to another, both included; None: it has more than `most` links."""
    chains = {first: [first]}
    for _ in range(most):
        if last in chains:
            break
        new = {int(j): [*chains[int(i)], int(j)] for i, j in graph.links if int(i) in chains and int(j) not in chains}
        chains |= new
    return chains.get(last)


def _joined(graph: LaneGraph, lanes: Sequence[int]) -> Line:
    return thin(np.concatenate([graph.lane(lane) for lane in lanes]), 1e-3)


def _beyond(index: LaneIndex, lane: int) -> Line:
    """What follows a lane, for as long as a change may take."""
    length = float(index.graph.arc[index.graph.last[lane]])
    return np.concatenate([np.zeros((0, 3)), *map(index.graph.lane, follow(index, lane, length, _CHANGE_M)[1:])])


def _squares(line: Line, points: Line) -> Float[np.ndarray, "K P"]:
    """Squared distances in space of points to the segments of a line; plan feet. m^2."""
    foot = line[:-1] + _shares(line, points)[..., None] * np.diff(line, axis=0)
    return ((foot - points[:, None]) ** 2).sum(-1)


def _shares(line: Line, points: Line) -> Float[np.ndarray, "K P"]:
    d = np.diff(line, axis=0)[:, :2]
    along = ((points[:, None, :2] - line[:-1, :2]) * d).sum(-1)
    return np.clip(along / np.maximum((d**2).sum(-1), 1e-12), 0, 1)


def _feet(line: Line, points: Line) -> Float[np.ndarray, " K"]:
    """Arcs of the places of a line nearest to points, m; the first of several."""
    k = _squares(line, points).argmin(1)
    share = _shares(line, points)[np.arange(len(points)), k]
    arc = arcs_of(line)
    return arc[k] + share * (arc[k + 1] - arc[k])


def _points(line: Line, arcs: Float[np.ndarray, " K"]) -> Line:
    reached = arcs_of(line)
    return np.stack([np.interp(arcs, reached, line[:, axis]) for axis in range(3)], 1)


def _after(line: Line, start: float) -> Line:
    """The line from an arc on."""
    return np.vstack([_points(line, np.array([start])), line[arcs_of(line) > start + 1e-3]])


def _changed(line: Line, beyond: Line, beside: Line) -> Line:
    """From a line, which goes on with `beyond`, over to one beside it in 40 m from where both run side by side, or in
    what there is of them."""
    longer = thin(np.vstack([line, beyond]), 1e-3)
    start, arc = float(_feet(longer, beside[:1])[0]) if len(longer) > 1 else 0.0, arcs_of(longer)
    room = min(_CHANGE_M, float(arc[-1]) - start)
    if room < 1.0:
        return np.vstack([longer, _after(beside, float(_feet(beside, longer[-1:])[0]))])
    along = np.linspace(start, start + room, int(np.ceil(room)) + 1)
    own = _points(longer, along)
    feet = _feet(beside, own)
    other = _points(beside, feet)
    apart = np.linalg.norm(other - own, axis=1) > _AWAY_M
    last = max(int(apart.argmax()) - 1 if apart[1:].any() else len(along) - 1, 1)
    u = np.clip((along[: last + 1] - start) / max(along[last] - start, 1e-9), 0, 1)[:, None]
    blend = own[: last + 1] + u**2 * (3 - 2 * u) * (other[: last + 1] - own[: last + 1])
    return thin(np.vstack([longer[arc < start], blend, beside[arcs_of(beside) > feet[last]]]), 1e-3)


def _with_path(
    scene: Scene,
    slot: int,
    samples: Float[np.ndarray, "Q 3"],
    limit: Float[np.ndarray, " Q"],
    length: float,
    closed: bool,
) -> Scene:
    log, (x, y, _) = scene.log, samples.T[:, None]
    px, py, yaw = (np.asarray(field)[:, slot, None].astype(np.float64) for field in (log.x, log.y, log.yaw))
    logged = logged_arcs(x, y, np.array([length]), np.array([closed]), px, py, yaw, log.valid[:, slot, None])
    new = [*samples.T, limit, np.asarray(length), np.asarray(closed), logged[0]]
    paths = Paths(*(_put(field, slot, value) for field, value in zip(scene.paths, new, strict=True)))
    arc = stop_arcs(Paths(*(field[slot : slot + 1] for field in paths)), scene.lights)
    return scene._replace(paths=paths, lights=scene.lights._replace(arc=_put(scene.lights.arc, slot, arc[0])))


def stop_arcs(paths: Paths, lights: Lights) -> Float32[np.ndarray, "N S"]:
    """`Lights.arc` of lights on paths."""
    x, y, yaw = (np.asarray(value, np.float64) for value in (lights.x, lights.y, lights.yaw))
    return np.where(lights.exists, light_arcs(paths, x, y, yaw), np.float32(np.inf))


def _put(field: np.ndarray, slot: int, value: np.ndarray) -> np.ndarray:
    copy = np.array(field)
    copy[slot] = value
    return copy
