"""Even steps for a scene whose steps are uneven. Ours."""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int

from gleanings.driving.raw import RawLight, RawScene, RawTrack

UNEVEN = 0.2
STEP_S = 0.1
_MAX_GAP_S = 0.6
_SAME_S = 1e-6


def is_uneven(times: Float[np.ndarray, " T"]) -> bool:
    """Whether a step differs by more than 20 % from the median step."""
    steps = np.diff(times)
    middle = np.median(steps)
    return bool(np.any(np.abs(steps - middle) > UNEVEN * middle))


def even_steps(times: Float[np.ndarray, " T"], start: int) -> int:
    """How many steps of 0.1 s lie within `times`, one of them at `times[start]`."""
    before, after = _whole(times[start] - times[0]), _whole(times[-1] - times[start])
    return before + after + 1


def resample(scene: RawScene) -> RawScene:
    """The scene at steps of 0.1 s, one of them at the start: linear between valid neighbours less than 0.6 s apart.

    Elsewhere a track is not valid there; lights hold their last state.
    """
    old, before = scene.times, _whole(scene.times[scene.start] - scene.times[0])
    new = old[scene.start] + STEP_S * np.arange(-before, even_steps(old, scene.start) - before)
    last = np.searchsorted(old, new + _SAME_S, "right") - 1
    lights = tuple(RawLight(light.lane, light.state[np.maximum(last, 0)], light.stop) for light in scene.lights)
    tracks = tuple(_resample_track(track, old, new, last) for track in scene.tracks)
    repairs = scene.repairs | {"resampled_steps": len(new)}
    return replace(scene, times=new, start=before, tracks=tracks, lights=lights, repairs=repairs)


def latest(stamps: Float[np.ndarray, " L"], times: Float[np.ndarray, " T"]) -> Int[np.ndarray, " T"]:
    """Index of the latest (rising) stamp that is at most 10 ms after each time; -1 before the first."""
    return np.searchsorted(stamps, times + 0.01, "right") - 1


def _whole(seconds: float) -> int:
    return int(np.floor(seconds / STEP_S + _SAME_S))


def _resample_track(
    track: RawTrack, old: Float[np.ndarray, " T"], new: Float[np.ndarray, " U"], last: Int[np.ndarray, " U"]
) -> RawTrack:
    steps = np.arange(len(old))
    earlier = np.maximum.accumulate(np.where(track.valid, steps, -1))[np.maximum(last, 0)]
    later = np.minimum.accumulate(np.where(track.valid, steps, len(old))[::-1])[::-1]
    first = np.minimum(np.searchsorted(old, new - _SAME_S, "left"), len(old) - 1)
    a, b = earlier, later[first]
    valid: Bool[np.ndarray, " U"] = (a >= 0) & (b < len(old))
    a, b = np.where(valid, a, 0), np.where(valid, b, 0)
    gap = old[b] - old[a]
    valid &= gap < _MAX_GAP_S
    weight = np.where(gap > 0, (new - old[a]) / np.where(gap > 0, gap, 1.0), 0.0)

    def between(values: Float[np.ndarray, "T *D"]) -> Float[np.ndarray, "U *D"]:
        w = weight.reshape((-1,) + (1,) * (values.ndim - 1))
        return np.where(valid.reshape(w.shape), values[a] + w * (values[b] - values[a]), np.nan)

    turn = (track.yaw[b] - track.yaw[a] + np.pi) % (2 * np.pi) - np.pi
    yaw = np.where(valid, track.yaw[a] + weight * turn, np.nan)
    return RawTrack(
        track.name, track.kind, between(track.position), yaw, between(track.velocity), between(track.size), valid
    )
