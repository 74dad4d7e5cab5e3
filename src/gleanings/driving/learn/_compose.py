"""A learning scene out of a site, scripted objects, the ego's drive and who follows it. NumPy. Source: ours."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from gleanings.driving.learn._actors import Actor, gaps
from gleanings.driving.learn._sites import START, STEPS, Site
from gleanings.driving.learn.expert import Others
from gleanings.driving.paths import logged_arcs, sample_path
from gleanings.driving.raw import Kind
from gleanings.driving.scene import Goals, Objects, Paths, Scene, Trajectory
from gleanings.driving.stack import text_array

SLOTS = 16
_FIRST_ID = 1000  # of scripted objects, whose ids are of no track
_ROOM_M = 0.5


def bystanders(site: Site, actors: list[Actor], most: int) -> Int[np.ndarray, " K"]:
    """Slots of the site's objects that come near no scripted object, at most so many."""
    log, objects = site.scene.log, site.scene.objects
    slots = np.flatnonzero(objects.exists[1:]) + 1
    pose = np.stack([field[:, slots].T for field in log[:6]], 2).astype(np.float64)
    size = [field[slots, None].astype(np.float64) for field in (objects.length, objects.width, objects.height)]
    clear = np.ones(len(slots), bool)
    for actor in actors:
        clear &= ((gaps(pose, size, actor.pose, actor.size) > _ROOM_M) | ~log.valid[:, slots].T).all(1)
    return slots[clear][:most]


def _size(scene: Scene, slot: int) -> tuple[float, float, float]:
    objects = scene.objects
    return float(objects.length[slot]), float(objects.width[slot]), float(objects.height[slot])


def seen_by_expert(site: Site, actors: list[Actor], slots: Int[np.ndarray, " K"]) -> Others:
    """The logs of all but the ego, as the expert takes them."""
    log, count = site.scene.log, SLOTS - 1
    fields = np.zeros((5, STEPS, count), np.float32)
    valid, size, drives = np.zeros((STEPS, count), bool), np.zeros((2, count), np.float32), np.zeros(count, bool)
    for k, actor in enumerate(actors):
        fields[:, :, k] = actor.pose[:, [0, 1, 3, 4, 5]].T
        valid[:, k], size[:, k], drives[k] = True, actor.size[:2], actor.kind == Kind.VEHICLE
    for k, slot in enumerate(slots, len(actors)):
        fields[:, :, k] = [field[:, slot] for field in (log.x, log.y, log.yaw, log.vx, log.vy)]
        valid[:, k], size[:, k] = log.valid[:, slot], _size(site.scene, int(slot))[:2]
        drives[k] = site.scene.objects.kind[slot] == Kind.VEHICLE
    x, y, yaw, vx, vy = fields
    return Others(x, y, yaw, vx, vy, valid, size[0], size[1], drives)


def compose(
    name: str,
    site: Site,
    ego: Float[np.ndarray, "T 6"],
    ego_size: tuple[float, float, float],
    actors: list[Actor],
    slots: Int[np.ndarray, " K"],
    state: Any,
) -> Scene:
    """The scene: the ego in slot 0, then scripted objects, then the site's; from a step before the start on.

    ego: its pose as in `Actor`, at all steps; where its drive lies on its lane is left to `log_egos`. state: of the
    lights, u8 [T, S].
    """
    scene = site.scene
    every = [Actor(Kind.VEHICLE, ego_size, ego, ego[:, :3]), *actors]
    n, rows = len(every), slice(START - 1, STEPS)
    order = np.concatenate([np.zeros(n, np.int64), slots, np.full(SLOTS - n - len(slots), -1)])
    log, objects, paths = _taken(scene, order, rows)
    for k, actor in enumerate(every):
        pose = actor.pose[rows]
        height = pose[:, 2] + actor.size[2] / 2
        for field, value in zip(log[:-1], (pose[:, 0], pose[:, 1], height, *pose[:, 3:].T), strict=True):
            field[:, k] = value
        log.valid[:, k] = True
        _put(objects, k, kind=int(actor.kind), id=_FIRST_ID + k, is_sdc=k == 0, first=0, last=len(pose) - 1)
        _put(objects, k, exists=True, length=actor.size[0], width=actor.size[1], height=actor.size[2])
        _put(objects, k, top_speed=float(np.hypot(pose[:, 4], pose[:, 5]).max()))
        _put(objects, k, extent=float(np.hypot(*(pose[:, :2] - pose[0, :2]).T).max()))
        if k:
            _lay(paths, k, actor, rows)
    arc = _light_arcs(scene, paths, order, n)
    none = np.zeros(SLOTS, np.float32)
    goals = Goals(none, none, none, np.zeros(SLOTS, bool))
    return scene._replace(
        start=np.int32(1),
        scene_id=text_array(name, 32),
        source=text_array(f"hazard:{name}", 128),
        log=log,
        objects=objects,
        paths=paths,
        goals=goals,
        lights=scene.lights._replace(state=np.ascontiguousarray(state[rows]), arc=arc),
    )


def _taken(scene: Scene, order: Int[np.ndarray, " N"], rows: slice) -> tuple[Trajectory, Objects, Paths]:
    """Copies for the slots `order` (-1: none) from the step before the start on."""
    none = order < 0
    fields = [np.where(none, 0, np.asarray(field)[rows][:, order]).astype(field.dtype) for field in scene.log]
    pad = {"id": -1, "first": -1, "last": -1}
    objects = {
        name: np.where(none, pad.get(name, 0), np.asarray(field)[order]).astype(field.dtype)
        for name, field in scene.objects._asdict().items()
    }
    log, shift = Trajectory(*fields), rows.start
    there = log.valid.any(0)
    objects["first"] = np.where(there, np.maximum(objects["first"] - shift, 0), -1).astype(np.int32)
    objects["last"] = np.where(there, objects["last"] - shift, -1).astype(np.int32)
    objects["exists"] = objects["exists"] & there
    paths = scene.paths
    kept = [np.array(np.asarray(field)[order]) for field in paths]
    taken = Paths(*kept)._replace(logged=np.ascontiguousarray(kept[-1][:, rows]))
    taken.length[none], taken.closed[none] = 0, False
    return log, Objects(**objects), taken


def _put(objects: Objects, slot: int, **values: Any) -> None:
    for name, value in values.items():
        getattr(objects, name)[slot] = value


def _lay(paths: Paths, slot: int, actor: Actor, rows: slice) -> None:
    """The path of a scripted object: its line."""
    line = actor.line
    far = np.concatenate([[True], np.hypot(*np.diff(line[:, :2], axis=0).T) > 0.05])
    line = line[far] if far.sum() > 1 else actor.pose[0, :3] + np.outer([0.0, 1.0], _ahead(actor))
    first = np.hypot(*(line[:, :2] - actor.pose[rows.start, :2]).T).argmin()
    line = line[min(int(first), len(line) - 2) :]
    samples, length = sample_path(line, False, paths.x.shape[1] - 1)
    paths.x[slot], paths.y[slot], paths.z[slot] = samples.T
    paths.limit[slot], paths.length[slot], paths.closed[slot] = np.nan, length, False
    gone = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(actor.pose[rows, :2], axis=0).T))])
    paths.logged[slot] = np.minimum(gone, length)


def _ahead(actor: Actor) -> Float[np.ndarray, "3"]:
    return np.array([np.cos(actor.pose[0, 3]), np.sin(actor.pose[0, 3]), 0.0])


_PLACE = tuple(map(Trajectory._fields.index, ("x", "y", "yaw")))


def log_egos(scenes: Sequence[Scene]) -> None:
    """Write where the egos' drives lie on their lanes: of many at once, since each takes a Python loop over time."""
    px, py, yaw = (np.stack([s.log[field][:, 0] for s in scenes], 1).astype(float) for field in _PLACE)
    x, y = (np.stack([getattr(s.paths, name)[0] for s in scenes]).astype(float) for name in ("x", "y"))
    length, closed = (np.stack([getattr(s.paths, name)[0] for s in scenes]) for name in ("length", "closed"))
    valid = np.stack([s.log.valid[:, 0] for s in scenes], 1)
    arcs = logged_arcs(x, y, length.astype(float), closed, px, py, yaw, valid)
    for scene, arc in zip(scenes, arcs, strict=True):
        scene.paths.logged[0] = arc


def _light_arcs(scene: Scene, paths: Paths, order: Int[np.ndarray, " N"], scripted: int) -> Float[np.ndarray, "N S"]:
    """Stop lines on the paths: none on those of scripted objects, which run the red."""
    arc = np.where((order < 0)[:, None], np.float32(np.inf), scene.lights.arc[order]).astype(np.float32)
    arc[1:scripted] = np.inf
    return arc
