"""What a generated scene must not have: contacts, moving vehicles off the road, red lights run. Source: ours."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

from gleanings.driving.raw import RED, Kind, MapFeature, RawScene


def faults(scene: RawScene) -> list[str]:
    """What is wrong with a drawn scene, in words; empty: nothing."""
    valid = np.stack([track.valid for track in scene.tracks], axis=1)
    pose = np.stack([np.column_stack([t.position, t.yaw]) for t in scene.tracks], axis=1)
    size = np.stack([track.size[0] for track in scene.tracks])
    found = [f"contact of {i} and {j} at step {t}" for t, i, j in contacts(pose, size, valid)]
    moved = np.array([_extent(t.position[t.valid]) for t in scene.tracks])
    drives = (np.array([t.kind for t in scene.tracks]) == Kind.VEHICLE) & (moved > 2.0)
    t, n = np.nonzero(valid & drives & (np.arange(len(valid)) % 3 == 0)[:, None])
    corner = corners(pose[t, n, :2], pose[t, n, 3], size[n])
    base = np.repeat(pose[t, n, 2] - size[n, 2] / 2, 4)
    off = edge_distance(corner.reshape(-1, 2), base, scene.features).reshape(-1, 4).max(axis=1, initial=-np.inf)
    found += red_runs(scene)
    return found + [f"{n[k]} off the road by {off[k]:.2f} m at step {t[k]}" for k in np.flatnonzero(off > -0.02)]


def _extent(position: Float[np.ndarray, "K 3"]) -> float:
    return float(np.hypot(*(position - position[0])[:, :2].T).max(initial=0.0)) if len(position) else 0.0


def corners(
    centre: Float[np.ndarray, "K 2"], yaw: Float[np.ndarray, " K"], size: Float[np.ndarray, "K 3"]
) -> Float[np.ndarray, "K 4 2"]:
    """Corners of boxes, counter-clockwise."""
    ahead = np.stack([np.cos(yaw), np.sin(yaw)], axis=1) * size[:, :1] / 2
    side = np.stack([-np.sin(yaw), np.cos(yaw)], axis=1) * size[:, 1:2] / 2
    return centre[:, None] + np.stack([ahead - side, ahead + side, -ahead + side, -ahead - side], axis=1)


def contacts(
    pose: Float[np.ndarray, "T N 4"], size: Float[np.ndarray, "N 3"], valid: Bool[np.ndarray, "T N"]
) -> list[tuple[int, int, int]]:
    """Step and pair of every contact, by separating axes; boxes at different heights do not meet."""
    i, j = np.triu_indices(len(size), 1)
    reach = np.hypot(size[:, 0], size[:, 1]) / 2
    gap = pose[:, j, :3] - pose[:, i, :3]
    close = (np.hypot(gap[..., 0], gap[..., 1]) < reach[i] + reach[j]) & valid[:, i] & valid[:, j]
    close &= np.abs(gap[..., 2]) < (size[i, 2] + size[j, 2]) / 2
    t, pair = np.nonzero(close)
    i, j = i[pair], j[pair]
    boxes = [corners(pose[t, k, :2], pose[t, k, 3], size[k]) for k in (i, j)]
    apart = np.zeros(len(t), bool)
    for yaw in (pose[t, i, 3], pose[t, j, 3]):
        for axis in (np.stack([np.cos(yaw), np.sin(yaw)], 1), np.stack([-np.sin(yaw), np.cos(yaw)], 1)):
            one, two = (np.einsum("kcd,kd->kc", box, axis) for box in boxes)
            apart |= (one.max(1) <= two.min(1)) | (two.max(1) <= one.min(1))
    return [(int(t[k]), int(i[k]), int(j[k])) for k in np.flatnonzero(~apart)]


def red_runs(scene: RawScene) -> list[str]:
    """Vehicles and cyclists whose front crosses the stop point of a light, along its lane, while it is red."""
    lanes = {f.name: f.points for f in scene.features if f.kind == "lane"}
    found = []
    for light in scene.lights:
        ahead = np.diff(lanes[light.lane][:2, :2], axis=0)[0]
        ahead = ahead / np.hypot(*ahead)
        red = np.isin(light.state, RED)
        for k, track in enumerate(scene.tracks):
            heading = np.stack([np.cos(track.yaw), np.sin(track.yaw)], axis=1)
            front = track.position[:, :2] + heading * track.size[:, :1] / 2 - light.stop[:2]
            along, side = front @ ahead, front @ np.array([-ahead[1], ahead[0]])
            near = (np.abs(side) < 2.0) & (heading @ ahead > 0.5) & track.valid & red
            if (near[:-1] & near[1:] & (along[:-1] <= 0) & (along[1:] > 0)).any():
                found.append(f"{k} runs the red light of lane {light.lane}")
    return found


def edge_distance(
    points: Float[np.ndarray, "K 2"], base: Float[np.ndarray, " K"], features: tuple[MapFeature, ...]
) -> Float[np.ndarray, " K"]:
    """Signed distance to the nearest road edge within 2.5 m of height `base`: negative on its left, the road."""
    lines = [
        np.concatenate([f.points, f.points[:1]]) if f.closed else f.points for f in features if f.kind == "road_edge"
    ]
    a, d, ends = _segments(lines)
    normal = np.stack([-d[:, 1], d[:, 0]], axis=1) / np.hypot(d[:, 0], d[:, 1])[:, None]
    value = np.full(len(points), -np.inf)
    z = a[:, 2] + d[:, 2] / 2
    for level in np.unique(np.round(base)):
        rows, near = np.flatnonzero(np.round(base) == level), np.flatnonzero(np.abs(z - level) <= 2.5)
        if not len(near):
            continue
        pick = near[KDTree((a + d / 2)[near, :2]).query(points[rows], min(6, len(near)))[1].reshape(len(rows), -1)]
        c, place = _offset(points[rows, None], a[pick], d[pick])
        best = np.arange(len(rows)), np.hypot(c[..., 0], c[..., 1]).argmin(axis=1)
        c, place, s = c[best], place[best], pick[best]
        other = np.where(place <= 0, ends[s, 0], np.where(place >= 1, ends[s, 1], s))
        value[rows] = -np.sign((c * (normal[s] + normal[other])).sum(1)) * np.hypot(c[:, 0], c[:, 1])
    return value


def _segments(lines: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First ends, differences, and the segments before and after each (itself at an open end)."""
    a = np.concatenate([line[:-1] for line in lines])
    d = np.concatenate([np.diff(line, axis=0) for line in lines])
    ends, start = [], 0
    for line in lines:
        k, last = np.arange(len(line) - 1), len(line) - 2
        shut = bool((line[0] == line[-1]).all())
        before = np.where(k > 0, k - 1, last if shut else 0)
        after = np.where(k < last, k + 1, 0 if shut else last)
        ends.append(np.stack([before, after], axis=1) + start)
        start += len(k)
    return a, d, np.concatenate(ends)


def _offset(q: np.ndarray, a: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vector from the nearest point of each segment to q, and the place of that point on it, clipped to 0 to 1."""
    place = ((q - a[..., :2]) * d[..., :2]).sum(-1) / (d[..., :2] ** 2).sum(-1)
    place = np.clip(place, 0.0, 1.0)
    return q - a[..., :2] - place[..., None] * d[..., :2], place
