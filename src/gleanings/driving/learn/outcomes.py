"""What drives amount to, one value a scene. Source: ours, design page 3.10."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from gleanings.core.errors import ConfigError
from gleanings.driving.learn.drives import Drives
from gleanings.driving.learn.world import World
from gleanings.driving.scene import Scene

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the log's progress below which a drive without contact counts as failed, too (failure*)."""
_SHARE, _SHORT_M, _SATURATED = 0.5, 5.0, 0.95
RATES = ("failure", "failure_star", "collision", "at_fault", "off_road", "off_route", "comfort")
"""Metrics that are 0 or 1."""
MEANS = ("progress_ratio", "progress_m", "clearance_m", "ade_m", "saturated", "reward")
"""Metrics that are measured: share of the log's progress, m, m, m, share of |u| > .95, mean of the decisions."""

_NEEDED = {"off_road": "edges", "off_route": "route"}


@dataclass(frozen=True)
class Outcomes:
    """Arrays [C]. off_route: more than 4 m from the route at any step. first_failure: decision of the first failure,
    -1: none; 0 in every scene of a policy that counts as failing. comfort, ade_m, progress_ratio: NaN where undefined.
    progress_ratio: progress along the route over the log's, as long as the log lasts; undefined where the log made less
    than 5 m. edges, route: whether the scene has road edges and the ego a route; without, off_road and off_route are
    False here and undefined as metrics, and a failure is contact alone. Others: see `RATES`, `MEANS`."""

    collision: Bool[np.ndarray, " C"]
    at_fault: Bool[np.ndarray, " C"]
    off_road: Bool[np.ndarray, " C"]
    off_route: Bool[np.ndarray, " C"]
    first_failure: Int[np.ndarray, " C"]
    progress_m: Float[np.ndarray, " C"]
    progress_ratio: Float[np.ndarray, " C"]
    clearance_m: Float[np.ndarray, " C"]
    comfort: Float[np.ndarray, " C"]
    ade_m: Float[np.ndarray, " C"]
    saturated: Float[np.ndarray, " C"]
    reward: Float[np.ndarray, " C"]
    edges: Bool[np.ndarray, " C"]
    route: Bool[np.ndarray, " C"]

    @property
    def failed(self) -> Bool[np.ndarray, " C"]:
        """Contact or off the road at any step, or a policy that counts as failing."""
        return self.first_failure >= 0

    def failure_star(self, threshold: float = _SHARE) -> Bool[np.ndarray, " C"]:
        """Failed, or progress_ratio below the threshold; an undefined ratio is no condition."""
        return self.failed | (self.progress_ratio < threshold)

    def values(self, metric: str) -> Float[np.ndarray, " C"]:
        """A metric of `RATES` or `MEANS`, or failure_star@0.7, as floats, NaN where undefined. ConfigError: another."""
        if metric == "failure":
            return self.failed.astype(float)
        name, _, threshold = metric.partition("@")
        if name == "failure_star":
            return self.failure_star(_threshold(threshold)).astype(float)
        if metric in _NEEDED:
            return np.where(getattr(self, _NEEDED[metric]), getattr(self, metric), np.nan)
        if metric not in (*RATES, *MEANS):
            raise ConfigError(f"metric {metric!r} is not known; known: {', '.join((*RATES, *MEANS))}")
        return np.asarray(getattr(self, metric), float)


def outcomes_of(world: World, bank: Scene, drives: Drives, failing: bool = False) -> Outcomes:
    """One value a scene out of the drives of a bank (NumPy or on a device).

    failing: every scene counts as failed from the first decision on; all else is as it was driven.
    """
    failed = drives.collision | drives.off_road
    gained, ratio, ade = _against_log(world, bank, drives)
    return Outcomes(
        collision=drives.collision.any(1),
        at_fault=drives.at_fault.any(1),
        off_road=drives.off_road.any(1),
        off_route=drives.off_route.any(1),
        first_failure=np.where(failed.any(1) | failing, 0 if failing else failed.argmax(1), -1),
        progress_m=gained,
        progress_ratio=ratio,
        clearance_m=drives.clearance_m.min(1).astype(float),
        comfort=np.where(drives.comfort_mask, drives.comfort, np.nan),
        ade_m=ade,
        saturated=(np.abs(drives.u) > _SATURATED).mean((1, 2)),
        reward=drives.reward.mean(1, dtype=float),
        edges=np.asarray(np.isfinite(bank.edges.z).any(1)),
        route=_of_ego(bank, bank.paths.length) > 0,
    )


def _of_ego(bank: Scene, field: Any) -> np.ndarray:
    return np.asarray(field)[np.arange(len(bank.start)), np.asarray(bank.objects.is_sdc).argmax(1)]


def _against_log(world: World, bank: Scene, drives: Drives) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Progress (m), its ratio to the log's and the mean distance to the log (m), over the decisions it lasts."""
    count, horizon = drives.reward.shape
    rows = np.arange(count)
    slot = np.asarray(bank.objects.is_sdc).argmax(1)
    steps = np.asarray(bank.start)[:, None] + world.config.every * np.arange(horizon + 1)
    inside = steps < bank.log.x.shape[1]
    steps = np.minimum(steps, bank.log.x.shape[1] - 1)

    def logged(field: Any) -> np.ndarray:
        return np.asarray(field)[rows[:, None], steps, slot[:, None]]

    valid = logged(bank.log.valid) & inside
    arc = np.asarray(bank.paths.logged)[rows[:, None], slot[:, None], steps].astype(float)
    length, closed = (np.asarray(field)[rows, slot] for field in (bank.paths.length, bank.paths.closed))
    # Where a route ends, so does the progress that can be measured.
    arc = np.where(closed[:, None], arc, np.minimum(arc, length[:, None]))
    last = horizon - valid[:, :0:-1].argmax(1)  # decision after which the log is seen last
    made = arc[rows, last] - arc[:, 0]
    known = valid[:, 0] & valid[:, 1:].any(1) & (length > 0) & (made >= _SHORT_M)
    gained = drives.progress_m.astype(float)
    ratio = np.where(known, gained[rows, last - 1] / np.maximum(made, _SHORT_M), np.nan)
    away = np.hypot(drives.pose.x - logged(bank.log.x), drives.pose.y - logged(bank.log.y))[:, 1:]
    seen = valid[:, 1:]
    ade = np.where(seen, away, 0.0).sum(1) / np.maximum(seen.sum(1), 1)
    return gained[:, -1], ratio, np.where(seen.any(1), ade, np.nan)


def _threshold(text: str) -> float:
    try:
        return float(text) if text else _SHARE
    except ValueError as error:
        raise ConfigError(f"failure_star@{text}: the threshold is a number such as 0.7") from error
