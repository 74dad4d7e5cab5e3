"""From simulated motion along routes to a RawScene: poses, who is the ego, who is to be predicted. Source: ours."""

import numpy as np
from jaxtyping import Bool, Float, Int

from gleanings.driving.families.base import DT, START, STEPS, Plan
from gleanings.driving.families.layout import arc_of, heading_of
from gleanings.driving.families.traffic import Fleet, Motion
from gleanings.driving.raw import Kind, RawLight, RawScene, RawTrack


def build(name: str, plan: Plan, fleet: Fleet, motion: Motion, rng: np.random.Generator) -> RawScene | None:
    """The scene of a simulated plan; None: no vehicle that can be the ego."""
    shift = np.where(fleet.walks, 0.0, rng.uniform(-plan.jitter, plan.jitter, len(fleet.route)))
    tracks = [_track(plan, fleet, motion, k, float(shift[k])) for k in range(len(fleet.route))]
    tracks = [track for track in tracks if track.valid.sum() > 10]
    sdc = _ego(plan, tracks, rng)
    if sdc < 0:
        return None
    tracks = [_cut(track, rng) if k != sdc else track for k, track in enumerate(tracks)]
    names = [track.name for track in tracks]
    parked = [_standing(f"parked{k}", park.pose, park.size, park.kind) for k, park in enumerate(plan.parked)]
    warm = round(plan.warm / DT)
    lights = tuple(
        RawLight(lane, state[warm : warm + STEPS], plan.layout.lanes[lane].line[0])
        for lane, state in plan.lights.items()
    )
    return RawScene(
        name,
        np.arange(STEPS) * DT,
        START,
        (*tracks, *parked),
        plan.layout.features(),
        lights,
        names.index(tracks[sdc].name),
        _predict(tracks, sdc),
        source=f"family:{name}",
    )


def poses(line: Float[np.ndarray, "P 3"], arc: Float[np.ndarray, " T"], shift: float) -> Float[np.ndarray, "T 4"]:
    """x, y, z and yaw at arcs of a line, `shift` m to its left: cubic between its points."""
    along, yaw = arc_of(line), heading_of(line)
    k, u = _between(along, arc)
    h = along[k + 1] - along[k]
    tangent = np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
    weights = [2 * u**3 - 3 * u**2 + 1, (u**3 - 2 * u**2 + u) * h, 3 * u**2 - 2 * u**3, (u**3 - u**2) * h]
    terms = [line[k, :2], tangent[k], line[k + 1, :2], tangent[k + 1]]
    xy = sum(w[:, None] * term for w, term in zip(weights, terms, strict=True))
    turn = yaw[k] + (yaw[k + 1] - yaw[k]) * u
    z = line[k, 2] + (line[k + 1, 2] - line[k, 2]) * u
    xy = xy + shift * np.stack([-np.sin(turn), np.cos(turn)], axis=1)
    return np.column_stack([xy, z, (turn + np.pi) % (2 * np.pi) - np.pi])


def _between(
    along: Float[np.ndarray, " P"], arc: Float[np.ndarray, " T"]
) -> tuple[Int[np.ndarray, " T"], Float[np.ndarray, " T"]]:
    """The points of a line behind arcs, and the shares of the way to the next ones."""
    k = np.clip(np.searchsorted(along, arc, "right") - 1, 0, len(along) - 2)
    return k, (arc - along[k]) / (along[k + 1] - along[k])


def _factor(line: Float[np.ndarray, "P 3"], arc: Float[np.ndarray, " T"], shift: float) -> Float[np.ndarray, " T"]:
    """Speed `shift` m to the left of a line, as a share of that on it."""
    along, yaw = arc_of(line), heading_of(line)
    k, u = _between(along, arc)
    bend = np.gradient(yaw, along)
    return 1 - shift * (bend[k] + (bend[k + 1] - bend[k]) * u)


def _track(plan: Plan, fleet: Fleet, motion: Motion, k: int, shift: float) -> RawTrack:
    route = plan.routes[int(fleet.route[k])]
    x, y, z, yaw = poses(route.line, motion.arc[:, k], shift).T
    speed = motion.speed[:, k] * _factor(route.line, motion.arc[:, k], shift)
    size = fleet.size[k]
    return RawTrack(
        str(k),
        route.kind,
        np.column_stack([x, y, z + size[2] / 2]),
        yaw,
        np.column_stack([speed * np.cos(yaw), speed * np.sin(yaw)]),
        np.tile(size, (len(x), 1)),
        motion.there[:, k].copy(),
    )


def _standing(
    name: str, pose: tuple[float, float, float, float], size: tuple[float, float, float], kind: Kind
) -> RawTrack:
    x, y, z, yaw = pose
    return RawTrack(
        name,
        kind,
        np.tile([x, y, z + size[2] / 2], (STEPS, 1)),
        np.full(STEPS, yaw),
        np.zeros((STEPS, 2)),
        np.tile(np.array(size), (STEPS, 1)),
        np.ones(STEPS, bool),
    )


def _way(track: RawTrack) -> float:
    """Metres travelled."""
    return float(np.hypot(*np.diff(track.position[track.valid, :2], axis=0).T).sum())


def _ego(plan: Plan, tracks: list[RawTrack], rng: np.random.Generator) -> int:
    """A vehicle seen throughout that travels far and has others near; -1: none."""
    wanted = {str(k) for k, put in enumerate(plan.placed) if put.sdc}
    fit = [k for k, t in enumerate(tracks) if t.kind == Kind.VEHICLE and t.valid.all() and t.size[0, 0] < 6]
    pinned = [k for k in fit if tracks[k].name in wanted]
    if pinned or wanted:
        return pinned[0] if pinned else -1
    far = [k for k in fit if _way(tracks[k]) >= plan.travel]
    if not far:
        return -1
    if plan.focus is not None:
        x, y, radius = plan.focus
        by = [k for k in far if (np.hypot(*(tracks[k].position[START:-20, :2] - [x, y]).T) < radius).any()]
        far = by or far
    middle = np.array([t.position[START, :2] for t in tracks])
    seen = np.array([t.valid[START] for t in tracks])
    crowd = np.array([(np.hypot(*(middle[seen] - middle[k]).T) < 40).sum() for k in far], float)
    return int(rng.choice(far, p=crowd / crowd.sum()))


def _predict(tracks: list[RawTrack], sdc: int) -> tuple[int, ...]:
    """Up to eight objects nearest to the ego at the start that are seen there and then move."""
    here = tracks[sdc].position[START, :2]
    near = sorted(
        (float(np.hypot(*(t.position[START, :2] - here))), k)
        for k, t in enumerate(tracks)
        if k != sdc and t.valid[START] and t.valid[START:].sum() > 30
    )
    moving = [k for _, k in near if _way(tracks[k]) > 2.0] + [k for _, k in near if _way(tracks[k]) <= 2.0]
    return tuple(sorted(moving[:8]))


def _cut(track: RawTrack, rng: np.random.Generator) -> RawTrack:
    """Now and then lose sight of a track at its start or end."""
    chance, first, last = rng.uniform(), int(rng.integers(2, 40)), int(rng.integers(50, STEPS - 2))
    steps = np.arange(STEPS)
    keep: Bool[np.ndarray, " T"] = steps >= first if chance < 0.07 else steps < last if chance < 0.14 else steps >= 0
    valid = track.valid & keep
    if valid.sum() <= 10:
        valid = track.valid
    return RawTrack(track.name, track.kind, track.position, track.yaw, track.velocity, track.size, valid)
