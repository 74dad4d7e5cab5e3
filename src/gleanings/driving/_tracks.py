"""Tracks of a raw scene as arrays: which are kept, their sizes, their log in the local frame. Source: ours."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from scipy.spatial import KDTree

from gleanings.core.errors import DataError
from gleanings.driving._lacking import size_of, velocity_of
from gleanings.driving.raw import RawScene
from gleanings.driving.scene import Objects, Trajectory


@dataclass(frozen=True)
class Tracks:
    """K kept tracks over T steps, local float64. base: x, y, z below the box centre; NaN where not `valid`.

    index: of the track in the raw scene. size: length, width, height. first, last: valid steps.
    """

    index: Int[np.ndarray, " K"]
    kind: Int[np.ndarray, " K"]
    base: Float[np.ndarray, "T K 3"]
    yaw: Float[np.ndarray, "T K"]
    velocity: Float[np.ndarray, "T K 2"]
    valid: Bool[np.ndarray, "T K"]
    size: Float[np.ndarray, "K 3"]
    first: Int[np.ndarray, " K"]
    last: Int[np.ndarray, " K"]


def origin_of(raw: RawScene) -> Int[np.ndarray, "3"]:
    """Position of the ego at the start (else of the first object valid then) in whole metres; z 0 in a flat scene.

    DataError: no object is valid at the start, or it lies beyond 10^9 m.
    """
    there = [index for index, track in enumerate(raw.tracks) if track.valid[raw.start]]
    if not there:
        raise DataError(f"no object is valid at the start (step {raw.start}) of scene {raw.name!r}", raw.source or None)
    index = raw.sdc if raw.sdc in there else there[0]
    position = np.nan_to_num(raw.tracks[index].position[raw.start], nan=0.0, posinf=np.inf, neginf=-np.inf)
    if not (np.abs(position) < 1e9).all():
        raise DataError(f"track {index} stands at {position.tolist()} m", raw.source or None, raw.name)
    return np.rint(position * [1, 1, 0 if raw.flat else 1]).astype(np.int32)


def keep_tracks(raw: RawScene, origin: Int[np.ndarray, "3"], most: int) -> list[int]:
    """Indices, rising, of at most `most` tracks that are ever valid: the ego, those to predict or of interest, then
    those nearest to the origin when first seen from the start on (before it, when last seen)."""
    marked = {*raw.predict, *raw.interest}
    ranks: list[tuple[int, float, int]] = []
    for index, track in enumerate(raw.tracks):
        steps = np.flatnonzero(track.valid)
        if len(steps):
            step = steps[min(np.searchsorted(steps, raw.start), len(steps) - 1)]
            away = float(np.hypot(*(track.position[step, :2] - origin[:2])))
            ranks.append((0 if index == raw.sdc else 1 if index in marked else 2, away, index))
    return sorted(index for _, _, index in sorted(ranks)[:most])


def read_tracks(
    raw: RawScene, kept: list[int], origin: Int[np.ndarray, "3"], known: Float[np.ndarray, "P 3"]
) -> Tracks:
    """The tracks `kept`. `known`: local map points with heights, which lend one to poses that have none."""
    tracks = [raw.tracks[index] for index in kept]
    valid = np.stack([track.valid for track in tracks], axis=1)
    base = np.stack([track.position for track in tracks], axis=1) - origin
    size = np.stack([size_of(track, raw.start) for track in tracks])
    base[..., 2] = 0.0 if raw.flat else base[..., 2] - size[:, 2] / 2
    lost = valid & ~np.isfinite(base[..., 2])
    base[lost, 2] = height_near(base[lost][:, :2], known)
    velocity = np.stack([velocity_of(track, raw.times) for track in tracks], axis=1)
    yaw = np.stack([track.yaw for track in tracks], axis=1)
    return Tracks(
        index=np.array(kept, np.int64),
        kind=np.array([int(track.kind) for track in tracks], np.int64),
        base=np.where(valid[..., None], base, np.nan),
        yaw=np.pi - (np.pi - yaw) % (2 * np.pi),
        velocity=velocity,
        valid=valid,
        size=size,
        first=valid.argmax(0),
        last=len(valid) - 1 - valid[::-1].argmax(0),
    )


def height_near(places: Float[np.ndarray, "K 2"], known: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, " K"]:
    """Height of the nearest (in plan) of the points `known`; 0 where there are none."""
    if not len(known) or not len(places):
        return np.zeros(len(places))
    return known[KDTree(known[:, :2]).query(places)[1], 2]


def log_of(tracks: Tracks) -> Trajectory:
    """The logged motion of the box centres, 0 where not valid."""

    def held(values: Float[np.ndarray, "T K"]) -> Float32[np.ndarray, "T K"]:
        return np.where(tracks.valid, values, 0.0).astype(np.float32)

    return Trajectory(
        x=held(tracks.base[..., 0]),
        y=held(tracks.base[..., 1]),
        z=held(tracks.base[..., 2] + tracks.size[:, 2] / 2),
        yaw=held(tracks.yaw),
        vx=held(tracks.velocity[..., 0]),
        vy=held(tracks.velocity[..., 1]),
        valid=tracks.valid.copy(),
    )


def extents(tracks: Tracks) -> Float[np.ndarray, " K"]:
    """Largest plan distance of a valid pose from the first valid one, m."""
    begin = tracks.base[tracks.first, np.arange(len(tracks.index))]
    away = np.hypot(*np.moveaxis(tracks.base[..., :2] - begin[:, :2], -1, 0))
    return np.where(tracks.valid, away, 0.0).max(0)


def objects_of(raw: RawScene, tracks: Tracks) -> Objects:
    """What does not change about the kept tracks."""
    speed = np.hypot(tracks.velocity[..., 0], tracks.velocity[..., 1])
    index = tracks.index
    return Objects(
        kind=tracks.kind.astype(np.int8),
        id=index.astype(np.int32),
        length=tracks.size[:, 0].astype(np.float32),
        width=tracks.size[:, 1].astype(np.float32),
        height=tracks.size[:, 2].astype(np.float32),
        is_sdc=index == raw.sdc,
        to_predict=np.isin(index, raw.predict),
        of_interest=np.isin(index, raw.interest),
        first=tracks.first.astype(np.int32),
        last=tracks.last.astype(np.int32),
        extent=extents(tracks).astype(np.float32),
        top_speed=np.where(tracks.valid, speed, 0.0).max(0).astype(np.float32),
        exists=np.ones(len(index), bool),
    )
