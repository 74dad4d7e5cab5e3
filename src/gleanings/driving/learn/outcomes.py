"""What a drive amounts to, one value a scene. NumPy; importing this module loads no jax. Source: design page 3.10."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from gleanings.core.errors import ConfigError

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the log's progress below which a drive without contact counts as failed, too (failure*)."""
_SHARE = 0.5
RATES = ("failure", "failure_star", "collision", "at_fault", "off_road", "comfort")
"""Metrics that are 0 or 1."""
MEANS = ("progress_ratio", "progress_m", "clearance_m", "ade_m", "saturated", "reward")
"""Metrics that are measured: share of the log's progress, m, m, m, share of |u| > .95, mean of the decisions."""


@dataclass(frozen=True)
class Outcomes:
    """Arrays [C]. first_failure: decision of the first failure, -1: none. comfort, ade_m, progress_ratio: NaN where
    undefined. progress_ratio: progress along the route over the log's, as long as the log lasts; undefined where the
    log made less than 5 m. Others: see `RATES`, `MEANS`."""

    collision: Bool[np.ndarray, " C"]
    at_fault: Bool[np.ndarray, " C"]
    off_road: Bool[np.ndarray, " C"]
    first_failure: Int[np.ndarray, " C"]
    progress_m: Float[np.ndarray, " C"]
    progress_ratio: Float[np.ndarray, " C"]
    clearance_m: Float[np.ndarray, " C"]
    comfort: Float[np.ndarray, " C"]
    ade_m: Float[np.ndarray, " C"]
    saturated: Float[np.ndarray, " C"]
    reward: Float[np.ndarray, " C"]

    @property
    def failed(self) -> Bool[np.ndarray, " C"]:
        """Contact or off the road at any step."""
        return self.collision | self.off_road

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
        if metric not in (*RATES, *MEANS):
            raise ConfigError(f"metric {metric!r} is not known; known: {', '.join((*RATES, *MEANS))}")
        return np.asarray(getattr(self, metric), float)


def _threshold(text: str) -> float:
    try:
        return float(text) if text else _SHARE
    except ValueError as error:
        raise ConfigError(f"failure_star@{text}: the threshold is a number such as 0.7") from error
