"""The route of an object along lane centrelines, which tells nothing of how it was driven. Source: ours."""

import itertools

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from gleanings.core.errors import DataError
from gleanings.driving._polylines import thin
from gleanings.driving.lanes import graph_of
from gleanings.driving.match import LaneIndex, match_lanes, route
from gleanings.driving.paths import arcs_of, light_arcs, limits_along, logged_arcs, loop_of, sample_path
from gleanings.driving.scene import Paths, Scene, name_of

_THIN_M, _CHANGE_M = 0.5, 40.0
Line = Float[np.ndarray, "_ 3"]


def with_lane_route(scene: Scene, slot: int | None = None, log: Bool[np.ndarray, " T"] | None = None) -> Scene:
    """The scene with the path of one object replaced by its lane route, as long as its paths are.

    The lanes are those that the log was matched to and their straightest successors; the path starts beside the first
    valid pose and runs along centrelines, from one lane to its neighbour within 40 m from where both run side by side.
    slot: None is the ego. log: the steps that are matched, None is all valid ones. Limits and the places of traffic
    lights on the path are taken anew. DataError: no such object, or it is on no lane.
    """
    slot = _ego(scene) if slot is None else slot
    valid = scene.log.valid[:, slot] & (True if log is None else log)
    if not valid.any():
        raise DataError(f"object in slot {slot} of scene {name_of(scene)!r} has no log to take a route from")
    index = LaneIndex(graph_of(scene.lanes))
    size = scene.paths.x.shape[1] - 1
    line, poses = _centreline(index, *_poses(scene, slot, valid), size + 1.0), _poses(scene, slot, valid)[0]
    if line is None:
        raise DataError(f"object in slot {slot} of scene {name_of(scene)!r} is on no lane, so it has no route")
    samples, length = sample_path(line, False, size)
    loop = loop_of(samples, length, poses)
    samples, length, closed = (samples, length, False) if loop is None else (*loop, True)
    used = (np.arange(size + 1) <= length) | closed
    limit = limits_along(index, samples[None], used[None])[0]
    return _with_path(scene, slot, samples, limit, length, closed)


def _ego(scene: Scene) -> int:
    found = np.flatnonzero(scene.objects.is_sdc)
    if not len(found):
        raise DataError(f"scene {name_of(scene)!r} has no ego; name the slot of the object whose route is wanted")
    return int(found[0])


def _poses(scene: Scene, slot: int, valid: Bool[np.ndarray, " T"]) -> tuple[Line, Float[np.ndarray, " K"]]:
    """Valid poses at least 0.5 m apart: foot of the box, yaw."""
    log = scene.log
    xyz = np.stack([log.x[valid, slot], log.y[valid, slot], log.z[valid, slot] - scene.objects.height[slot] / 2], 1)
    xyz, yaw = xyz.astype(np.float64), log.yaw[valid, slot].astype(np.float64)
    gone = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(xyz[:, :2], axis=0).T))])
    kept = np.unique(np.searchsorted(gone, np.arange(0.0, gone[-1] + 1e-9, _THIN_M)))
    return xyz[kept], yaw[kept]


def _centreline(index: LaneIndex, poses: Line, yaw: Float[np.ndarray, " K"], ahead: float) -> Line | None:
    """Along the lanes of the matched poses and on, from beside the first pose. None: they are on no lane."""
    rows = match_lanes(index, poses[None], yaw[None], np.ones((1, len(poses)), bool))[0]
    lanes = route(index, rows, ahead)
    if not lanes:
        return None
    line = index.graph.lane(lanes[0])
    for before, lane in itertools.pairwise(lanes):
        following = index.graph.lane(lane)
        linked = bool((index.graph.links == [before, lane]).all(1).any())
        line = np.vstack([line, following]) if linked else _changed(line, following)
    line = thin(line, 1e-3)
    start = _arc_beside(line, poses[0])
    arc = arcs_of(line)
    begin = np.array([np.interp(start, arc, line[:, axis]) for axis in range(3)])
    line = np.vstack([begin, line[arc > start + 1e-3]])
    return line if len(line) > 1 else None


def _arc_beside(line: Line, pose: Float[np.ndarray, "3"]) -> float:
    """Arc of the point of a line nearest to a pose, m."""
    a, d = line[:-1], np.diff(line, axis=0)
    share = np.clip(((pose - a)[:, :2] * d[:, :2]).sum(1) / np.maximum((d[:, :2] ** 2).sum(1), 1e-12), 0, 1)
    k = int(np.linalg.norm(a + share[:, None] * d - pose, axis=1).argmin())
    return float(arcs_of(line)[k] + share[k] * np.hypot(d[k, 0], d[k, 1]))


def _changed(line: Line, beside: Line) -> Line:
    """From a line over to one beside it: at once where both run side by side, in 40 m or what there is of it."""
    start = _arc_beside(line, beside[0]) if len(line) > 1 else 0.0
    arc = arcs_of(line)
    ahead = np.arange(start, arc[-1], 1.0) if arc[-1] > start else np.array([start])
    from_ = np.stack([np.interp(ahead, arc, line[:, axis]) for axis in range(3)], 1)
    other = arcs_of(beside)
    feet = np.array([_arc_beside(beside, point) for point in from_])
    onto = np.stack([np.interp(feet, other, beside[:, axis]) for axis in range(3)], 1)
    u = np.clip((ahead - start) / max(min(_CHANGE_M, ahead[-1] - start), 1e-9), 0, 1)[:, None]
    blend = from_ + u**2 * (3 - 2 * u) * (onto - from_)
    done = int(np.searchsorted(u[:, 0], 1.0))
    blend = blend[: done + 1]
    return np.vstack([line[arc < start], blend, beside[other > feet[min(done, len(feet) - 1)]]])


def _with_path(
    scene: Scene,
    slot: int,
    samples: Float[np.ndarray, "Q 3"],
    limit: Float[np.ndarray, " Q"],
    length: float,
    closed: bool,
) -> Scene:
    log, (x, y, _) = scene.log, samples.T[:, None]
    one = (np.asarray(field)[:, slot, None].astype(np.float64) for field in (log.x, log.y, log.yaw))
    logged = logged_arcs(x, y, np.array([length]), np.array([closed]), *one, log.valid[:, slot, None])
    new = [*samples.T, limit, np.float64(length), np.bool_(closed), logged[0]]
    fields = [_put(field, slot, value) for field, value in zip(scene.paths, new, strict=True)]
    paths, lights = Paths(*fields), scene.lights
    one = Paths(*(field[slot : slot + 1] for field in paths))
    places = (np.asarray(value, np.float64) for value in (lights.x, lights.y, lights.yaw))
    arc: Float32[np.ndarray, " S"] = np.where(lights.exists, light_arcs(one, *places)[0], np.float32(np.inf))
    return scene._replace(paths=paths, lights=lights._replace(arc=_put(lights.arc, slot, arc)))


def _put(field: np.ndarray, slot: Int[np.ndarray, ""] | int, value: np.ndarray) -> np.ndarray:
    copy = np.array(field)
    copy[slot] = value
    return copy
