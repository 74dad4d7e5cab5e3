"""Off-policy values of a policy from a bandit log, each with its standard error and interval.

Every estimator here is mean(a) + mean(b) / mean(c) over rows, which one linearisation and one bootstrap serve.
rho is policy / propensity at the logged action, q a reward model fitted on other rows.
"""

import abc
import math
from typing import Literal, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int
from scipy import special

from gleanings.core.errors import ConfigError

_CELLS = 100_000  # counts made at once, so that they stay in the cache
_POISSON = np.repeat(np.arange(9.0), [24109, 24109, 12056, 4018, 1005, 200, 33, 5, 1])
"""Poisson(1) rounded to 16 bits, one entry for each of 2^16 equally likely words; mean and variance are exactly 1."""


class Estimate(NamedTuple):
    """A value with standard error and 95 % interval from n rows; `terms` [n] are its linearised contributions."""

    value: float
    se: float
    low: float
    high: float
    n: int
    terms: Float[np.ndarray, " n"]


class Parts(NamedTuple):
    """Rows of an estimator that is mean(a) + mean(b) / mean(c)."""

    a: Float[np.ndarray, " n"]
    b: Float[np.ndarray, " n"]
    c: Float[np.ndarray, " n"]


class Estimator(eqx.Module):
    """Estimates the value of a policy [n, A] from logged rewards, actions and propensities [n].

    interval: from the standard error, or the quantiles of `draws` bootstrap draws.
    """

    interval: Literal["normal", "bootstrap"] = eqx.field(static=True, default="normal", kw_only=True)
    draws: int = eqx.field(static=True, default=1000, kw_only=True)

    @abc.abstractmethod
    def parts(
        self,
        reward: Float[np.ndarray, " n"],
        rho: Float[np.ndarray, " n"],
        logged: Float[np.ndarray, " n"],
        dm: Float[np.ndarray, " n"],
    ) -> Parts:
        """a, b and c from the rewards, rho, and the model's value at the logged action and under the policy."""

    @property
    def needs_model(self) -> bool:
        """Whether a reward model has to be given."""
        return True

    def __call__(
        self,
        reward: Float[np.ndarray, " n"],
        action: Int[np.ndarray, " _"],
        propensity: Float[np.ndarray, " _"],
        policy: Float[np.ndarray, "_ A"],
        reward_model: Float[np.ndarray, "_ A"] | None = None,
        seed: int = 0,
        group: Int[np.ndarray, " _"] | None = None,
    ) -> Estimate:
        """The estimate; NaN where the policy never plays a logged action and a ratio is needed.

        Rows of one `group`, such as a user, count as one for the standard error and the bootstrap. ConfigError:
        lengths differ, a propensity outside (0, 1], or no reward model where one is needed.
        """
        n = len(reward)
        if not n == len(action) == len(propensity) == len(policy):
            raise ConfigError(f"{type(self).__name__}: reward, action, propensity and policy differ in length")
        if n == 0 or not ((propensity > 0) & (propensity <= 1)).all():
            raise ConfigError(f"{type(self).__name__}: needs rows, each with a propensity in (0, 1]")
        if reward_model is None and self.needs_model:
            raise ConfigError(f"{type(self).__name__}: needs a reward model [n, A]")
        model = np.zeros_like(policy, float) if reward_model is None else np.asarray(reward_model, float)
        rows = np.arange(n)
        rho = np.asarray(policy, float)[rows, action] / np.asarray(propensity, float)
        dm = (np.asarray(policy, float) * model).sum(1)
        return self._estimate(self.parts(np.asarray(reward, float), rho, model[rows, action], dm), seed, group)

    def _estimate(self, parts: Parts, seed: int, group: np.ndarray | None) -> Estimate:
        a, b, c = parts
        n, mean_c = len(a), c.mean()
        if mean_c == 0:
            return Estimate(math.nan, math.nan, math.nan, math.nan, n, np.full(n, math.nan))
        ratio = b.mean() / mean_c
        value, terms = a.mean() + ratio, a + ratio + (b - ratio * c) / mean_c
        se = standard_error(terms, group)
        z = float(special.ndtri(0.975))
        low, high = value - z * se, value + z * se
        if self.interval == "bootstrap":
            low, high = np.nanquantile(_poisson_bootstrap(parts, self.draws, seed, group), [0.025, 0.975])
        return Estimate(float(value), se, float(low), float(high), n, terms)


class IPS(Estimator):
    """mean min(rho, clip) r. Source: Horvitz & Thompson 1952; clipping biases towards 0."""

    clip: float = eqx.field(static=True, default=math.inf)

    @property
    def needs_model(self) -> bool:
        """No."""
        return False

    def parts(self, reward: np.ndarray, rho: np.ndarray, logged: np.ndarray, dm: np.ndarray) -> Parts:
        """a = 0, b = min(rho, clip) r, c = 1."""
        return Parts(0 * reward, np.minimum(rho, self.clip) * reward, np.ones_like(reward))


class SNIPS(Estimator):
    """sum rho r / sum rho. Source: Swaminathan & Joachims 2015."""

    @property
    def needs_model(self) -> bool:
        """No."""
        return False

    def parts(self, reward: np.ndarray, rho: np.ndarray, logged: np.ndarray, dm: np.ndarray) -> Parts:
        """a = 0, b = rho r, c = rho."""
        return Parts(0 * reward, rho * reward, rho)


class DM(Estimator):
    """mean sum_a pi(a|x) q(x, a): the reward model's word; its standard error omits the model's error."""

    def parts(self, reward: np.ndarray, rho: np.ndarray, logged: np.ndarray, dm: np.ndarray) -> Parts:
        """a = dm, b = 0, c = 1."""
        return Parts(dm, 0 * dm, np.ones_like(dm))


class DR(Estimator):
    """DM corrected by min(rho, clip) (r - q). Source: Dudik, Langford & Li 2011."""

    clip: float = eqx.field(static=True, default=math.inf)

    def parts(self, reward: np.ndarray, rho: np.ndarray, logged: np.ndarray, dm: np.ndarray) -> Parts:
        """a = dm, b = min(rho, clip) (r - q), c = 1."""
        return Parts(dm, np.minimum(rho, self.clip) * (reward - logged), np.ones_like(dm))


class SNDR(Estimator):
    """DM corrected by sum rho (r - q) / sum rho. Source: Thomas & Brunskill 2016."""

    def parts(self, reward: np.ndarray, rho: np.ndarray, logged: np.ndarray, dm: np.ndarray) -> Parts:
        """a = dm, b = rho (r - q), c = rho."""
        return Parts(dm, rho * (reward - logged), rho)


class SwitchDR(Estimator):
    """DR whose correction leaves out weights above t. Source: Wang, Agarwal & Dudik 2017."""

    t: float = eqx.field(static=True, default=math.inf)

    def parts(self, reward: np.ndarray, rho: np.ndarray, logged: np.ndarray, dm: np.ndarray) -> Parts:
        """a = dm, b = rho 1[rho <= t] (r - q), c = 1."""
        return Parts(dm, np.where(rho <= self.t, rho, 0) * (reward - logged), np.ones_like(dm))


class DRos(Estimator):
    """DR with the shrunk weight s rho / (rho^2 + s): DM for s = 0, DR for s = inf. Source: Su et al. 2020."""

    s: float = eqx.field(static=True, default=math.inf)

    def parts(self, reward: np.ndarray, rho: np.ndarray, logged: np.ndarray, dm: np.ndarray) -> Parts:
        """a = dm, b = s rho / (rho^2 + s) (r - q), c = 1."""
        if math.isinf(self.s):
            weight = rho
        else:
            denominator = rho**2 + self.s
            weight = np.divide(self.s * rho, denominator, out=np.zeros_like(rho), where=denominator > 0)
        return Parts(dm, weight * (reward - logged), np.ones_like(dm))


def standard_error(terms: Float[np.ndarray, " n"], group: Int[np.ndarray, " n"] | None) -> float:
    """Standard error of the mean of terms whose groups, not rows, are independent. Source: Liang & Zeger 1986."""
    return math.sqrt(np.square(_by_group(terms - terms.mean(), group)).sum()) / len(terms)


def _by_group(rows: np.ndarray, group: np.ndarray | None) -> np.ndarray:
    """Sums over the rows of each group, along the last axis."""
    if group is None:
        return rows
    _, index = np.unique(group, return_inverse=True)
    return np.stack([np.bincount(index, row) for row in rows.reshape(-1, len(index))]).reshape(*rows.shape[:-1], -1)


def _poisson_bootstrap(parts: Parts, draws: int, seed: int, group: np.ndarray | None) -> Float[np.ndarray, " draws"]:
    """Values with every row or group counted a Poisson(1) number of times. Source: Chamandy et al. 2012."""
    columns = _by_group(np.stack([*parts, np.ones(len(parts.a))]), group).T
    words, n = np.random.SFC64(seed), len(columns)
    sums, rows = np.zeros((draws, 4)), -(-_CELLS // draws)
    for start in range(0, n, rows):
        block = columns[start : start + rows]
        size = draws * len(block)
        drawn = words.random_raw(-(-size // 4)).view(np.uint16)[:size]
        sums += _POISSON[drawn].reshape(draws, len(block)) @ block
    a, b, c, total = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        return a / total + b / c
