"""Who drives behind an ego: late on its way, and never so close that the ego's own drive is hit. Source: ours, 3.4."""

import numpy as np
from jaxtyping import Float

from gleanings.driving.families._scene import poses
from gleanings.driving.families.layout import arc_of
from gleanings.driving.learn._actors import Actor
from gleanings.driving.learn._sites import DT
from gleanings.driving.raw import Kind

_APART_M = 0.25
LATE_S, ROOM_M = (0.8, 1.8), (2.0, 4.0)
"""Ranges of the delay tau and of the gap g."""


def follow_arcs(arc: Float[np.ndarray, " T"], late: float, room: float) -> Float[np.ndarray, " T"]:
    """Arc of the follower, m: min(arc(t - late), arc(t) - room), with the ego at its first speed before the log.

    arc: of the ego, never falling. late: s. room: m from centre to centre. Both terms rise, so it never reverses.
    """
    time = np.arange(len(arc)) * DT
    first = (arc[1] - arc[0]) / DT
    then = np.interp(time - late, time, arc)
    then = np.where(time < late, arc[0] + first * (time - late), then)
    return np.minimum(then, arc - room)


def follower(
    ego: Float[np.ndarray, "T 6"],
    length: float,
    size: tuple[float, float, float],
    behind: Float[np.ndarray, "B 3"],
    ahead: Float[np.ndarray, "A 3"],
    late: float,
    gap: float,
    pace: float = 1.0,
) -> Actor | None:
    """The follower of an ego [T, 6] as in `Actor`, with the ego's `length`, m. None: there is too little road behind.

    behind, ahead: the road that leads to the ego's first place and on from its last. late: tau, s. gap: g, m. pace: its
    share of the speed of the formula; a slower one stays further behind.
    """
    steps = np.hypot(*np.diff(ego[:, :2], axis=0).T)
    arc = np.concatenate([[0.0], np.cumsum(steps)])
    line = _thin(np.vstack([behind, ego[:, :3], ahead]))
    offset = float(arc_of(np.vstack([behind, ego[:1, :3]]))[-1])
    at = follow_arcs(arc, late, (length + size[0]) / 2 + gap) + offset
    at = at[0] + pace * (at - at[0])
    if at[0] < size[0]:
        return None
    x, y, z, yaw = poses(line, at, 0.0).T
    speed = np.diff(at, prepend=at[0] - (at[1] - at[0])) / DT
    pose = np.stack([x, y, z, yaw, speed * np.cos(yaw), speed * np.sin(yaw)], 1)
    return Actor(Kind.VEHICLE, size, pose, line[arc_of(line) >= at[0] - 1.0])


def _thin(line: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, "_ 3"]:
    """Points of a line that are at least 0.25 m apart, the first always."""
    arc = arc_of(line)
    kept = np.unique(np.searchsorted(arc, np.arange(0.0, arc[-1] + 1e-9, _APART_M)))
    return line[kept]
