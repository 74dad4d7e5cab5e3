"""Where an event of a motion can be seen: the pair in contact, the corner and edge, the light, the lane. No jax.

Each witness is found again from the scene and the poses in float64, apart from the metrics. Source: ours, 9.4.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from gleanings.core.errors import ConfigError
from gleanings.driving.raw import RED
from gleanings.driving.scene import Scene, Trajectory

EVENTS = ("collision", "at_fault", "off_road", "red_light", "wrong_way")
"""Metrics whose events have witnesses."""
_LEVEL_M, _LANE_M, _STOP_LINE_M = 2.5, 2.5, 2.0
_CORNERS = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])


class Witness(NamedTuple):
    """What an event was seen at.

    event: one of `EVENTS`. step: row of `Rollout.metrics`, so that the pose is row step + 1 of the trajectory.
    object: slot. partner: slot of the other object (collision, at_fault), edge segment (off_road), light (red_light)
    or lane segment (wrong_way). corner: 0 to 3 as in `geometry.corners`, for off_road, else -1. place: from where to
    where, x0, y0, x1, y1 in metres: the centres of the overlap's and of the other box; the corner and the edge's
    nearest point; the front centre and the stop point; the object's centre and the lane's nearest point.
    """

    event: str
    step: int
    object: int
    partner: int
    corner: int
    place: tuple[float, float, float, float]


class _View(NamedTuple):
    """Scene and motion in NumPy; poses [T'+1, N]."""

    scene: Scene
    rows: Trajectory
    first: int
    excused: Bool[np.ndarray, "T N N"]
    touch: Bool[np.ndarray, "T N N"]
