"""Polylines without loops over their points: thinned, resampled, simplified. Source: ours, but for what is named."""

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from gleanings.core.errors import DataError

_LEVELS, _MAX_POINTS = 40, 2_000_000


def turn(angle: Float[np.ndarray, "*s"]) -> Float[np.ndarray, "*s"]:
    """`angle` brought into [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def thin(line: Float[np.ndarray, "P 3"], least: float) -> Float[np.ndarray, "Q 3"]:
    """A line without the points that lie within `least` metres (plan) of the point before."""
    if len(line) < 2:
        return line
    return line[np.concatenate([[True], np.linalg.norm(np.diff(line[:, :2], axis=0), axis=1) > least])]


@dataclass(frozen=True)
class Resampled:
    """Points on polylines: position, direction, segment (index of its first point), place on it in [0, 1], its size."""

    points: Float[np.ndarray, "K 3"]
    yaw: Float[np.ndarray, " K"]
    segment: Int[np.ndarray, " K"]
    share: Float[np.ndarray, " K"]
    size: Float[np.ndarray, " K"]


def resample(points: Float[np.ndarray, "P 3"], offsets: Int[np.ndarray, " L1"], step: float) -> Resampled:
    """Evenly spaced points on each of L polylines, at most `step` metres apart (plan), both ends included.

    Polyline i has the points [offsets[i], offsets[i + 1]). One of a single point gives nothing. DataError: more than
    two million points.
    """
    sizes = np.diff(offsets)
    offsets = np.concatenate([offsets[:-1][sizes > 1], offsets[-1:]])
    firsts, counts = offsets[:-1], sizes[sizes > 1]
    if not len(firsts):
        none = np.zeros(0)
        return Resampled(np.zeros((0, 3)), none, np.zeros(0, np.int64), none, none)
    gap = np.diff(points, axis=0, append=points[-1:])
    size = np.hypot(gap[:, 0], gap[:, 1])
    size[firsts + counts - 1] = 0.0
    arc = np.concatenate([[0.0], np.cumsum(size)])
    length = arc[firsts + counts - 1] - arc[firsts]
    if not length.sum() / step < _MAX_POINTS:
        raise DataError(f"lines of {length.sum() / 1e3:,.0f} km in the map; cut the scene")
    number = np.maximum(np.ceil(length / step - 1e-9).astype(np.int64), 1) + 1
    line = np.repeat(np.arange(len(firsts)), number)
    place = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
    at = arc[firsts][line] + length[line] * place / (number[line] - 1)
    segment = np.searchsorted(arc, at, side="right") - 1
    segment = np.clip(segment, firsts[line], (firsts + counts - 2)[line])
    share = np.clip((at - arc[segment]) / np.maximum(size[segment], 1e-12), 0.0, 1.0)
    yaw = np.arctan2(gap[segment, 1], gap[segment, 0])
    return Resampled(points[segment] + share[:, None] * gap[segment], yaw, segment, share, size[segment])


def simplify(points: Float[np.ndarray, "P 3"], offsets: Int[np.ndarray, " L1"], most: float) -> Bool[np.ndarray, " P"]:
    """Which points of L polylines stay so that no dropped one lies further than `most` metres from its chord.

    Beyond 40 rounds intervals are halved in the middle, so that no shape makes it slow. Source: Douglas and Peucker
    (1973), all polylines at once, every interval split once a round.
    """
    keep = np.zeros(len(points), bool)
    firsts, lasts = offsets[:-1].copy(), offsets[1:] - 1
    keep[firsts] = keep[lasts] = True
    for level in itertools.count():
        long = lasts - firsts > 1
        firsts, lasts = firsts[long], lasts[long]
        if not len(firsts):
            break
        inner = lasts - firsts - 1
        heads = np.cumsum(inner) - inner
        which = np.repeat(np.arange(len(firsts)), inner)
        index = np.arange(inner.sum()) - heads[which] + firsts[which] + 1
        away = _chord_distance(points[index], points[firsts][which], points[lasts][which])
        worst = np.maximum.reduceat(away, heads)
        hit = np.flatnonzero(away == worst[which])
        split = np.zeros(len(firsts), np.int64)
        split[which[hit[::-1]]] = index[hit[::-1]]
        split = split if level < _LEVELS else (firsts + lasts) // 2
        far = worst > most
        keep[split[far]] = True
        firsts, lasts = np.concatenate([firsts[far], split[far]]), np.concatenate([split[far], lasts[far]])
    return keep


def _chord_distance(
    q: Float[np.ndarray, "K 3"], a: Float[np.ndarray, "K 3"], b: Float[np.ndarray, "K 3"]
) -> Float[np.ndarray, " K"]:
    d = b - a
    share = np.clip(((q - a) * d).sum(1) / np.maximum((d * d).sum(1), 1e-12), 0.0, 1.0)
    return np.linalg.norm(q - a - share[:, None] * d, axis=1)
