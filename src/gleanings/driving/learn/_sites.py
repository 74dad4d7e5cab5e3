"""Where hazards happen: a part of a generated map with its traffic, and a lane along which the ego will drive. NumPy.

Many hazards share a site, because to make one takes far longer than to put a hazard into it. Source: ours.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import gaussian_filter1d

from gleanings.driving.compile import compile_to_crop
from gleanings.driving.crop import CropConfig, crop_scene
from gleanings.driving.families import _MAKERS
from gleanings.driving.families._check import edge_distance
from gleanings.driving.families._conflicts import tables
from gleanings.driving.families._scene import build, poses
from gleanings.driving.families.base import Plan, Route, stream, vehicle_size
from gleanings.driving.families.layout import arc_of, heading_of
from gleanings.driving.families.traffic import populate, simulate
from gleanings.driving.learn._meeting import joining
from gleanings.driving.learn._plans import EDGE_M, EDGE_STEP_M, Way
from gleanings.driving.paths import sample_path
from gleanings.driving.raw import RED, Kind, RawScene, RawTrack
from gleanings.driving.routes import with_lane_route
from gleanings.driving.scene import Scene

STEPS, START, DT = 91, 10, 0.1
BEHIND_M, SPREAD_M = 45.0, 15.0
"""Road behind the first place of an ego, and how much further on an ego may start."""
TOP_MPS = 16.0
_AHEAD_M, _SAMPLES, _STOPS, _CORRIDOR_M, _MOST = 150.0, 201, 2, 2.9, 14
_LATERAL, _BRAKE = 2.2, 1.5  # m/s^2 in bends, and before them
_ATTEMPTS = 12


@dataclass(frozen=True)
class Site:
    """A cropped scene of `STEPS` steps with `START` of them before the start, whose ego drives evenly in its lane.

    line: the ego's lane from `BEHIND_M` before its first place on, [P, 3]. begin: arc of the line at which the path of
    the scene starts; first: the least arc at which an ego may start. way: for the expert. red [T, S]: at the stops of
    the way. ways: lines of all vehicles' routes; limit: m/s. entry: arc of the line at which it enters a junction, inf:
    none. reach: from the centre of the outer lane to the road edge, m. All in the frame of the scene.
    """

    scene: Scene
    line: Float[np.ndarray, "P 3"]
    begin: float
    first: float
    way: Way
    red: Bool[np.ndarray, "T S"]
    ways: tuple[Float[np.ndarray, "_ 3"], ...]
    limit: float
    entry: float
    reach: float


@lru_cache(maxsize=64)
def make_site(family: str, turn: str, seed: int, number: int) -> Site | None:
    """Site `number` of a family. turn: what the ego's lane does: 'along', 'ahead' or 'left' at a junction, 'ring'.

    None: no draw has such a lane.
    """
    rng = stream(f"site {family} {turn}", seed, number)
    for _ in range(_ATTEMPTS):
        plan = _MAKERS[family](rng)
        found = _ego_lane(plan, turn, rng)
        if found is None:
            continue
        plan.count = min(plan.count, _MOST)
        table = tables(plan.routes, plan.zipper, plan.cluster)
        fleet = populate(plan, table, rng)
        raw = build(f"{family}-{seed}-{number}", plan, fleet, simulate(plan, table, fleet), rng)
        if raw is not None:
            return _site(plan, raw, *found, rng)
    return None


def _ego_lane(plan: Plan, turn: str, rng: np.random.Generator) -> tuple[Route, float, float] | None:
    """A route, the least arc at which the ego may start on it, and that of the entry to a junction."""
    fit = []
    ways = [route.line for route in plan.routes if not route.wide]
    for route in plan.routes:
        if route.kind != Kind.VEHICLE or route.closed or route.weight == 0 or _changes(plan, route, turn):
            continue
        entry = _entry(route, turn, ways)
        if turn == "merge" and np.isinf(entry):
            continue
        back = (60.0, 85.0) if turn == "merge" else (30.0, 45.0)
        first = BEHIND_M + 5.0 if np.isinf(entry) else entry - float(rng.uniform(*back)) - SPREAD_M
        if first >= BEHIND_M and arc_of(route.line)[-1] - first > 130.0:
            fit.append((route, first, entry))
    if not fit:
        return None
    return fit[int(rng.integers(len(fit)))]


def _changes(plan: Plan, route: Route, turn: str) -> bool:
    """Whether a route does not go where it is wanted to."""
    yaw = heading_of(route.line)
    whole = float(yaw[-1] - yaw[0])
    if turn in ("along", "merge"):
        return plan.zipper > 0 and not route.wide
    if turn == "left":
        return not (route.stops and 0.9 < whole < 2.3)
    if turn == "ahead":
        return not (route.stops and abs(whole) < 0.9 and np.abs(np.gradient(yaw, arc_of(route.line))).max() < 0.04)
    return False


def _entry(route: Route, turn: str, ways: list[Float[np.ndarray, "_ 3"]]) -> float:
    """Arc at which a route enters a junction, or one of `ways` comes onto it; inf: nowhere."""
    if turn == "merge":
        return min((at.own for at in joining(route.line, ways, BEHIND_M, 2.8, np.inf)), default=np.inf)
    if turn == "ring":
        away = np.hypot(*route.line[:, :2].T)
        return float(arc_of(route.line)[np.argmax(away < away.min() + 3.0)])
    return float(route.stops[0]) if turn in ("left", "ahead") else np.inf


def _site(plan: Plan, raw: RawScene, route: Route, first: float, entry: float, rng: np.random.Generator) -> Site:
    speed = min(route.limit, TOP_MPS)
    first = first if np.isfinite(entry) else float(rng.uniform(first, max(first, arc_of(route.line)[-1] - 190.0)))
    begin = first - START * DT * speed
    ego = _nominal(route, begin, speed, vehicle_size(rng, False))
    kept = [track for track in raw.tracks if not _in_corridor(track, route.line, first)]
    raw = replace(raw, tracks=(ego, *kept), sdc=0, predict=())
    scene = with_lane_route(compile_to_crop(raw))
    limit = min(float(route.limit), TOP_MPS)
    way = _way(scene, raw, limit)
    cropped = crop_scene(scene, CropConfig(history=START))
    states = scene.lights.state[:, np.isfinite(scene.lights.arc[0])][:, :_STOPS]
    red = np.zeros((STEPS, _STOPS), bool)
    red[:, : states.shape[1]] = np.isin(states, RED)
    ways = tuple(r.line - scene.origin for r in plan.routes if r.kind == Kind.VEHICLE)
    line = route.line - scene.origin
    return Site(cropped, line, begin, first, way, red, ways, limit, entry, plan.layout.reach)


def _nominal(route: Route, begin: float, speed: float, size: tuple[float, float, float]) -> RawTrack:
    """The ego's lane driven evenly."""
    arc = np.minimum(begin + speed * DT * np.arange(STEPS), arc_of(route.line)[-1] - 1.0)
    x, y, z, yaw = poses(route.line, arc, 0.0).T
    velocity = speed * np.stack([np.cos(yaw), np.sin(yaw)], 1)
    place = np.stack([x, y, z + size[2] / 2], 1)
    return RawTrack("ego", Kind.VEHICLE, place, yaw, velocity, np.tile(size, (STEPS, 1)), np.ones(STEPS, bool))


def _in_corridor(track: RawTrack, line: Float[np.ndarray, "P 3"], first: float) -> bool:
    """Whether an object comes into the ego's lane. Played back, it would ram an ego that drives otherwise."""
    arc = arc_of(line)
    lane = line[(arc > first - BEHIND_M - 10.0) & (arc < first + _AHEAD_M + SPREAD_M)][::2, :2]
    at = track.position[track.valid][::3, :2]
    return bool((np.hypot(*(at[:, None] - lane).transpose(2, 0, 1)).min(1) < _CORRIDOR_M).any())


def _way(scene: Scene, raw: RawScene, limit: float) -> Way:
    """The ego's path with its bends, and the distances to the road edge beside it."""
    path = np.stack([scene.paths.x[0], scene.paths.y[0], scene.paths.z[0]], 1).astype(np.float64)
    path = sample_path(path[: int(scene.paths.length[0]) + 1], False, _SAMPLES - 1)[0]
    yaw = gaussian_filter1d(heading_of(path), 1.0, mode="nearest")
    bend = gaussian_filter1d(np.gradient(yaw), 1.5, mode="nearest")
    top = np.minimum(limit, np.sqrt(_LATERAL / np.maximum(np.abs(bend), 1e-6)))
    arc = np.arange(_SAMPLES)
    least = np.minimum.accumulate((top**2 + 2 * _BRAKE * arc)[::-1])[::-1]
    speed = np.sqrt(least - 2 * _BRAKE * arc)
    sides = np.arange(-EDGE_M, EDGE_M + 1e-6, EDGE_STEP_M)
    normal = np.stack([-np.sin(yaw), np.cos(yaw)], 1)
    beside = (path[:, None, :2] + sides[:, None] * normal[:, None] + scene.origin[:2]).reshape(-1, 2)
    edge = edge_distance(beside, np.repeat(path[:, 2] + scene.origin[2], len(sides)), raw.features)
    points = np.stack([path[:, 0], path[:, 1], np.cos(yaw), np.sin(yaw), bend, speed], 1)
    stops = np.full(_STOPS, 1e6, np.float32)
    arcs = scene.lights.arc[0][np.isfinite(scene.lights.arc[0])][:_STOPS]
    stops[: len(arcs)] = arcs
    edge = np.maximum(edge, -30.0).reshape(_SAMPLES, -1)
    return Way(points.astype(np.float32), edge.astype(np.float32), stops)
