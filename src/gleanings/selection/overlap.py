"""Whether a log can carry a value: how unequal the importance weights are, and what was never tried."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from gleanings.selection.alarm import Alarm

_MIN_ESS, _MIN_ESS_SHARE, _MAX_SHARE, _MIN_MEAN, _MIN_PROPENSITY = 50.0, 0.01, 0.1, 0.95, 1e-4


class Overlap(NamedTuple):
    """Of the weights rho = policy / propensity at the logged actions, n of them.

    ess: effective sample size (sum rho)^2 / sum rho^2, and its share of n. max_weight; max_share: the largest one's
    share of their sum. mean_weight: 1 in expectation where the log covers the policy, less where it does not, with its
    standard error. never_logged: actions that the policy plays and the log does not hold.
    """

    n: int
    ess: float
    ess_fraction: float
    max_weight: float
    max_share: float
    mean_weight: float
    mean_weight_se: float
    min_propensity: float
    never_logged: tuple[int, ...]

    def alarms(self, labels: Sequence[str] = ()) -> tuple[Alarm, ...]:
        """What makes a value from this log untrustworthy; `labels` are names of the actions."""
        found = []
        if self.never_logged:
            actions = ", ".join(labels[a] if labels else str(a) for a in self.never_logged[:5])
            found.append(Alarm("never logged", f"the policy plays actions the log does not hold: {actions}; try them"))
        if self.ess < _MIN_ESS or self.ess_fraction < _MIN_ESS_SHARE:
            message = f"effective sample size {self.ess:.1f} of {self.n} rows; log more, or ask for a nearer policy"
            found.append(Alarm("effective sample size", message))
        if self.max_share > _MAX_SHARE:
            found.append(Alarm("largest weight", f"one row carries {self.max_share:.0%} of all weight"))
        with np.errstate(divide="ignore", invalid="ignore"):
            off = np.nan_to_num(np.float64(self.mean_weight - 1) / self.mean_weight_se, nan=0.0)
        if abs(off) > 3 or (self.mean_weight < _MIN_MEAN and off < -2):
            message = (
                f"weights average {self.mean_weight:.3f} ± {self.mean_weight_se:.3f}, not 1; check the propensities"
            )
            found.append(Alarm("mean weight", message))
        if self.min_propensity < _MIN_PROPENSITY:
            found.append(Alarm("propensity", f"the smallest one is {self.min_propensity:.1e}"))
        return tuple(found)


def overlap(
    action: Int[np.ndarray, " n"],
    propensity: Float[np.ndarray, " n"],
    policy: Float[np.ndarray, "n A"],
    logged: Int[np.ndarray, " N"] | None = None,
) -> Overlap:
    """Overlap of a policy with the log, whose actions are `logged` where these rows are not all of it.

    Source: Kong 1992 for the effective sample size.
    """
    n = len(action)
    rho = policy[np.arange(n), action] / propensity
    total, squares = rho.sum(), np.square(rho).sum()
    ess = total**2 / squares if squares > 0 else 0.0
    played = np.flatnonzero((policy > 0).any(0))
    never = tuple(int(a) for a in np.setdiff1d(played, action if logged is None else logged))
    share = float(rho.max() / total) if total > 0 else 1.0
    se = float(rho.std() / np.sqrt(n))
    return Overlap(
        n, float(ess), float(ess / n), float(rho.max()), share, float(rho.mean()), se, float(propensity.min()), never
    )
