"""What a track lacks: its size where none is logged, and its velocity. Source: ours."""

import numpy as np
from jaxtyping import Bool, Float

from gleanings.driving.raw import DEFAULT_SIZE, RawTrack

MAX_SIZE_M = 1e3


def has_size(track: RawTrack) -> Bool[np.ndarray, "T 3"]:
    """Which logged lengths, widths and heights can be meant: positive, up to 1 km."""
    return (track.size > 0) & (track.size <= MAX_SIZE_M)


def size_of(track: RawTrack, start: int) -> Float[np.ndarray, "3"]:
    """Size at the start, else at the first valid later step that has one, else at the first valid one, else by kind."""
    size = np.array(DEFAULT_SIZE[track.kind])
    there = has_size(track) & track.valid[:, None]
    for axis in range(3):
        steps = np.flatnonzero(there[:, axis])
        if len(steps):
            later = steps[steps >= start]
            size[axis] = track.size[later[0] if len(later) else steps[0], axis]
    return size


def velocity_of(track: RawTrack, times: Float[np.ndarray, " T"]) -> Float[np.ndarray, "T 2"]:
    """Logged velocity; where it is missing, the difference to the valid step before, else after, else 0."""
    missing = track.valid & ~np.isfinite(track.velocity).all(1)
    if not missing.any():
        return track.velocity
    places = np.where(track.valid[:, None], track.position[:, :2], np.nan)
    rate = np.diff(places, axis=0) / np.diff(times)[:, None]
    none = np.full((1, 2), np.nan)
    back, ahead = np.vstack([none, rate]), np.vstack([rate, none])
    return np.where(missing[:, None], np.nan_to_num(np.where(np.isfinite(back), back, ahead)), track.velocity)
