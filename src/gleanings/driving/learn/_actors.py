"""Scripted objects: motion along lines, as arrays over the steps of a site. NumPy. Source: ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from gleanings.driving.families._scene import poses
from gleanings.driving.families.layout import arc_of
from gleanings.driving.learn._sites import DT, START, STEPS
from gleanings.driving.raw import Kind

TIME = (np.arange(STEPS) - START) * DT
"""Seconds of the steps of a site, 0 at the start."""
Steps = Float[np.ndarray, " T"]
_TOUCH_M = 0.3  # room that scripted objects keep


@dataclass(frozen=True)
class Actor:
    """An object over all steps of a site: x, y, z of its foot, yaw, vx, vy [T, 6]; size (length, width, height) in
    metres; line [P, 3]: what it drives along when it is simulated, from its first place on."""

    kind: Kind
    size: tuple[float, float, float]
    pose: Float[np.ndarray, "T 6"]
    line: Float[np.ndarray, "P 3"]


def speeds(speed: float, *pieces: tuple[float, float, float]) -> Steps:
    """Speed at all steps, m/s. pieces: from a time (s) on it changes at a rate (m/s^2) until it is a speed (m/s)."""
    v, out = speed, []
    for t in TIME:
        out.append(v)
        for rate, until in [piece[1:] for piece in pieces if piece[0] <= t][-1:]:
            v = min(v + rate * DT, max(v, until)) if rate > 0 else max(v + rate * DT, min(v, until))
    return np.array(out)


def travelled(speed: Steps) -> Steps:
    """Metres gone, 0 at the start."""
    arc = np.concatenate([[0.0], np.cumsum((speed[1:] + speed[:-1]) / 2 * DT)])
    return arc - arc[START]


def along(
    line: Float[np.ndarray, "P 3"],
    arc: Steps,
    kind: Kind,
    size: tuple[float, float, float],
    left: Steps | float = 0.0,
) -> Actor | None:
    """An object at arcs of a line, `left` m beside it. None: it would leave the line."""
    where = arc_of(line)
    if arc[0] < 1.0 or arc[-1] > where[-1] - 1.0:
        return None
    x, y, z, yaw = poses(line, arc, 0.0).T
    side = np.broadcast_to(np.asarray(left, float), arc.shape)
    x, y = x - side * np.sin(yaw), y + side * np.cos(yaw)
    vx, vy = (np.gradient(v, DT) for v in (x, y))
    slope = np.arctan2(np.gradient(side), np.maximum(np.gradient(arc), 1e-6))
    yaw = yaw + np.where(np.hypot(vx, vy) > 0.5, slope, 0.0)
    yaw = (yaw + np.pi) % (2 * np.pi) - np.pi
    ahead = where > arc[-1] + 2.0
    rest = line[ahead]
    turn = poses(line, where[ahead], float(side[-1]))[:, :2] if len(rest) else rest[:, :2]
    tail = np.column_stack([turn, rest[:, 2]])
    return Actor(kind, size, np.stack([x, y, z, yaw, vx, vy], 1), np.vstack([np.stack([x, y, z], 1), tail]))


def standing(place: tuple[float, float, float], yaw: float, size: tuple[float, float, float]) -> Actor:
    """A parked vehicle."""
    row = np.array([*place, yaw, 0.0, 0.0])
    ahead = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    return Actor(Kind.VEHICLE, size, np.tile(row, (STEPS, 1)), np.array(place) + np.array([[0.0], [1.0]]) * ahead)


def beside(line: Float[np.ndarray, "P 3"], arc: float, left: float) -> tuple[tuple[float, float, float], float]:
    """Place `left` m beside a line at an arc, and the direction of the line there."""
    x, y, z, yaw = poses(line, np.array([arc]), left)[0].tolist()
    return (x, y, z), yaw


def touch(first: Actor, second: Actor) -> bool:
    """Whether two objects come within 0.3 m of each other at any step, by their separating axes."""
    return bool((gaps(first.pose, first.size, second.pose, second.size) < _TOUCH_M).any())


def gaps(
    pose: Float[np.ndarray, "*N T 6"],
    size: Sequence[Any],
    other: Float[np.ndarray, "T 6"],
    other_size: tuple[float, float, float],
) -> Float[np.ndarray, "*N T"]:
    """Largest separation of two boxes over their four axes, m; of many and one, with sizes [N, 1]."""
    dx, dy = other[:, 0] - pose[..., 0], other[:, 1] - pose[..., 1]
    (length, width, _), (l, w, _) = size, other_size
    yaw, theirs = pose[..., 3], other[:, 3]
    c, s = np.abs(np.cos(theirs - yaw)), np.abs(np.sin(theirs - yaw))
    out = []
    for axis, axes in (
        (yaw, (length + l * c + w * s, width + l * s + w * c)),
        (theirs, (l + length * c + width * s, w + length * s + width * c)),
    ):
        cos, sin = np.cos(axis), np.sin(axis)
        out.append(np.abs(dx * cos + dy * sin) - axes[0] / 2)
        out.append(np.abs(dy * cos - dx * sin) - axes[1] / 2)
    return np.maximum(np.maximum(out[0], out[1]), np.maximum(out[2], out[3]))
