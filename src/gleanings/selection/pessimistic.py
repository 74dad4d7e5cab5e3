"""Linear reward models with confidence widths, from which pessimistic policies are made.

V = lambda I + (1/n) sum phi phi', theta = V^-1 (1/n) sum phi r, w(x, a) = |phi(x, a)|_{V^-1}; the lower bound is
phi theta - beta w. Source: linear bandits, Abbasi-Yadkori, Pal & Szepesvari 2011; the practical beta is ours.
"""

import abc
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int
from scipy import linalg

from gleanings.core.errors import ConfigError
from gleanings.selection.bandit import BanditLog

Joint = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Pessimism:
    """How wide the confidence widths are.

    practical: beta = scale sigma sqrt((d + 2 log(M / delta)) / n). theory: beta = sqrt(lambda) bound + sigma
    sqrt((d log(1 + radius^2 / (lambda d)) + 2 log(M / delta)) / n), |phi| <= radius, |theta| <= bound. sigma: the noise
    of the reward, None to estimate it in the largest class. ridge: lambda times n.
    """

    kind: Literal["practical", "theory"] = "practical"
    scale: float = 0.5
    delta: float = 0.1
    ridge: float = 0.1
    sigma: float | None = None
    radius: float = 1.0
    bound: float = 1.0

    def beta(self, dimension: int, n: int, classes: int, sigma: float) -> float:
        """Factor of the widths of a class with so many dimensions, one of `classes`, from n rows."""
        confidence = 2 * math.log(classes / self.delta)
        if self.kind == "practical":
            return self.scale * sigma * math.sqrt((dimension + confidence) / n)
        penalty = self.ridge / n
        size = dimension * math.log(1 + self.radius**2 / (penalty * dimension))
        return math.sqrt(penalty) * self.bound + sigma * math.sqrt((size + confidence) / n)


PRACTICAL = Pessimism()


class BanditClass(eqx.Module):
    """A linear reward model of context and action."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """A short name, unique among the candidates."""

    @property
    def certifies(self) -> bool:
        """Whether its widths may support a certified choice: the features were not learned from the rewards."""
        return True

    @abc.abstractmethod
    def fit(self, log: BanditLog, ridge: float) -> "LinearFit":
        """The ridge solution on all rows of `log`, with penalty `ridge` on the sum over rows."""


class LinearFit(NamedTuple):
    """A fitted model: `predict(context)` gives values and widths [B, A].

    dimension: d. residual: sum of squared residuals. degrees: trace of the hat matrix.
    """

    predict: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    dimension: int
    residual: float
    degrees: float

    def sigma(self, n: int) -> float:
        """Noise of the reward as this model sees it."""
        return math.sqrt(self.residual / max(n - self.degrees, 1.0))


class JointLinear(BanditClass):
    """Features phi(x, a) given by `features`: context [B, C] -> [B, A, d]."""

    title: str = eqx.field(static=True)
    features: Joint = eqx.field(static=True)

    @property
    def name(self) -> str:
        """`title`."""
        return self.title

    def fit(self, log: BanditLog, ridge: float) -> LinearFit:
        """One solve of size d."""
        phi = np.asarray(self.features(log.context), float)
        if phi.shape[:2] != (len(log), log.num_actions):
            raise ConfigError(f"class {self.name}: features of shape {phi.shape}; expected [{len(log)}, A, d]")
        own = phi[np.arange(len(log)), log.action]
        factor, theta = _solve(own, log.reward, ridge, len(log))

        def predict(context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            phi = np.asarray(self.features(context), float)
            return phi @ theta, _width(factor, phi)

        return _fitted(predict, log, phi.shape[-1])


class HeadLinear(BanditClass):
    """Weights for each action on 1 and the first `dim - 1` columns of the context."""

    dim: int = eqx.field(static=True)

    @property
    def name(self) -> str:
        """`constant`, or the number of columns, such as linear[5]."""
        return "constant" if self.dim == 1 else f"linear[{self.dim - 1}]"

    def features(self, context: Float[np.ndarray, "B C"]) -> Float[np.ndarray, "B d"]:
        """1 and the leading columns."""
        return np.concatenate([np.ones((len(context), 1)), context[:, : self.dim - 1]], 1)

    def fit(self, log: BanditLog, ridge: float) -> LinearFit:
        """One solve of size d for each action, which is one of size A d."""
        return fit_heads(self.features, log, ridge)


def fit_heads(features: Callable[[np.ndarray], np.ndarray], log: BanditLog, ridge: float) -> LinearFit:
    """Ridge regression for each action on features(context), [B, C] -> [B, d]; one solve of size d an action."""
    phi, solved = features(log.context), []
    for a in range(log.num_actions):
        rows = log.action == a
        solved.append(_solve(phi[rows], log.reward[rows], ridge, len(log)))

    def predict(context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        phi = features(context)
        values = np.stack([phi @ theta for _, theta in solved], 1)
        return values, np.stack([_width(factor, phi) for factor, _ in solved], 1)

    return _fitted(predict, log, phi.shape[1] * log.num_actions)


def _solve(
    phi: Float[np.ndarray, "n d"], reward: Float[np.ndarray, " n"], ridge: float, rows: int
) -> tuple[Float[np.ndarray, "d d"], Float[np.ndarray, " d"]]:
    """Lower Cholesky factor of V, and theta; `rows` is the n of the means."""
    v = (phi.T @ phi + ridge * np.eye(phi.shape[1])) / rows
    factor = np.linalg.cholesky(v)
    return factor, linalg.cho_solve((factor, True), phi.T @ reward / rows)


def _width(factor: np.ndarray, phi: np.ndarray) -> np.ndarray:
    flat = phi.reshape(-1, phi.shape[-1])
    solved = linalg.solve_triangular(factor, flat.T, lower=True)
    return np.sqrt(np.square(solved).sum(0)).reshape(phi.shape[:-1])


def _fitted(predict: Callable, log: BanditLog, dimension: int) -> LinearFit:
    rows = np.arange(len(log))
    values, widths = predict(log.context)
    error, own = values[rows, log.action] - log.reward, widths[rows, log.action]
    return LinearFit(predict, dimension, float(np.square(error).sum()), float(np.square(own).sum() / len(log)))


def heads(dims: tuple[int, ...]) -> list[HeadLinear]:
    """Nested classes with weights for each action. ConfigError: sizes that do not increase."""
    if not dims or dims[0] < 1 or any(b <= a for a, b in itertools.pairwise(dims)):
        raise ConfigError(f"dims {dims}: sizes of nested classes must increase, from at least 1")
    return [HeadLinear(d) for d in dims]


def logged_width(fit: LinearFit, log: BanditLog) -> Float[np.ndarray, " n"]:
    """Widths at the logged actions."""
    return fit.predict(log.context)[1][np.arange(len(log)), log.action]


def at_actions(values: Float[np.ndarray, "n A"], action: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Values at these actions."""
    return values[np.arange(len(values)), action]
