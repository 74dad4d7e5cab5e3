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
from gleanings.selection.classes import AnyArray, FeatureMap, Identity, padded_length

Joint = Callable[[np.ndarray], np.ndarray]
_BLOCK = 1 << 14  # rows predicted at once, so that what lies between stays small


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

    def cross_fitted(self, log: BanditLog, folds: Int[np.ndarray, " N"], ridge: float) -> Float[np.ndarray, " N"]:
        """Value of each logged action, fitted on the rows of the other folds; NaN for fold -1, always fitted on."""
        values = np.full(len(log), math.nan)
        for fold in np.unique(folds[folds >= 0]):
            out = folds == fold
            own = log.take(out)
            values[out] = at_actions(self.fit(log.take(~out), ridge).values(own.context), own.action)
        return values


class HeadModel(eqx.Module):
    """Weights theta [A, d] for each action on the first d features of the context, and inverse factors of V."""

    map: FeatureMap
    theta: Float[np.ndarray, "A d"]
    whiten: Float[np.ndarray, "A d d"]

    def values(self, context: Float[np.ndarray, "B C"]) -> Float[np.ndarray, "B A"]:
        """Predicted rewards."""
        return self._by_action(context, lambda a, phi: phi @ self.theta[a])

    def widths(self, context: Float[np.ndarray, "B C"]) -> Float[np.ndarray, "B A"]:
        """|phi|_{V^-1}."""
        return self._by_action(context, lambda a, phi: _norm(phi @ self.whiten[a].T))

    def _by_action(self, context: np.ndarray, column: Callable[[int, np.ndarray], np.ndarray]) -> np.ndarray:
        actions, dim = self.theta.shape
        out = np.empty((len(context), actions))
        for start in range(0, len(context), _BLOCK):
            phi = leading_features(self.map, dim, context[start : start + _BLOCK])
            for a in range(actions):
                out[start : start + _BLOCK, a] = column(a, phi)
        return out


class JointModel(eqx.Module):
    """Weights theta [d] on features [B, A, d] of context and action, and the inverse factor of V."""

    features: Joint = eqx.field(static=True)
    theta: Float[np.ndarray, " d"]
    whiten: Float[np.ndarray, "d d"]

    def values(self, context: Float[np.ndarray, "B C"]) -> Float[np.ndarray, "B A"]:
        """Predicted rewards."""
        return np.asarray(self.features(context), float) @ self.theta

    def widths(self, context: Float[np.ndarray, "B C"]) -> Float[np.ndarray, "B A"]:
        """|phi|_{V^-1}."""
        return _norm(np.asarray(self.features(context), float) @ self.whiten.T)


class LowerBound(eqx.Module):
    """values - beta * widths of a model [B, A]; its values alone where beta is 0."""

    model: HeadModel | JointModel
    beta: float = eqx.field(static=True)

    def __call__(self, context: AnyArray) -> Float[np.ndarray, "B A"]:
        context = np.asarray(context)
        values = self.model.values(context)
        return values - self.beta * self.model.widths(context) if self.beta else values


class Highest(eqx.Module):
    """The largest of several lower bounds at each context and action."""

    members: tuple[LowerBound, ...]

    def __call__(self, context: AnyArray) -> Float[np.ndarray, "B A"]:
        return np.max([member(context) for member in self.members], 0)


class LinearFit(NamedTuple):
    """A fitted model. dimension: d. residual: sum of squared residuals. degrees: trace of the hat matrix."""

    model: HeadModel | JointModel
    dimension: int
    residual: float
    degrees: float

    def values(self, context: Float[np.ndarray, "B C"]) -> Float[np.ndarray, "B A"]:
        """Predicted rewards."""
        return self.model.values(context)

    def widths(self, context: Float[np.ndarray, "B C"]) -> Float[np.ndarray, "B A"]:
        """Confidence widths, to be multiplied by beta."""
        return self.model.widths(context)

    def predict(self, context: Float[np.ndarray, "B C"]) -> tuple[Float[np.ndarray, "B A"], Float[np.ndarray, "B A"]]:
        """Values and widths."""
        return self.values(context), self.widths(context)

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
        own = _fit_head(phi[np.arange(len(log)), log.action], log.reward, ridge, len(log))
        return LinearFit(JointModel(self.features, own.theta, own.whiten), phi.shape[-1], own.residual, own.degrees)


class HeadLinear(BanditClass):
    """Weights for each action on the first `dim` features of the context, by default 1 and its first columns."""

    dim: int = eqx.field(static=True)
    map: FeatureMap = eqx.field(default_factory=Identity)
    title: str = eqx.field(static=True, default="")

    @property
    def name(self) -> str:
        """`title`, or else `constant`, or the number of columns, such as linear[5]."""
        return self.title or ("constant" if self.dim == 1 else f"linear[{self.dim - 1}]")

    def fit(self, log: BanditLog, ridge: float) -> LinearFit:
        """One solve of size d for each action, which is one of size A d."""
        return fit_heads(self.map, self.dim, log, ridge)

    def cross_fitted(self, log: BanditLog, folds: Int[np.ndarray, " N"], ridge: float) -> Float[np.ndarray, " N"]:
        """The same as by refits, from one pass over the rows: sums over the other folds are sums of sums by fold."""
        values, every = np.full(len(log), math.nan), np.unique(folds)
        for a in range(log.num_actions):
            rows = [np.flatnonzero((log.action == a) & (folds == fold)) for fold in every]
            phi = [leading_features(self.map, self.dim, log.context[own]) for own in rows]
            grams = np.stack([x.T @ x for x in phi])
            sums = np.stack([x.T @ log.reward[own] for x, own in zip(phi, rows, strict=True)])
            for i in np.flatnonzero(every >= 0):
                rest = np.arange(len(every)) != i
                theta = _ridge(grams[rest].sum(0), sums[rest].sum(0), ridge, len(log))[1]
                values[rows[i]] = phi[i] @ theta
        return values


def fit_heads(features: FeatureMap, dim: int, log: BanditLog, ridge: float) -> LinearFit:
    """Ridge regression for each action on the first `dim` features; one solve of size `dim` an action."""
    found = []
    for a in range(log.num_actions):
        rows = np.flatnonzero(log.action == a)
        phi = leading_features(features, dim, log.context[rows])
        found.append(_fit_head(phi, log.reward[rows], ridge, len(log)))
    model = HeadModel(features, np.stack([head.theta for head in found]), np.stack([head.whiten for head in found]))
    residual, degrees = sum(head.residual for head in found), sum(head.degrees for head in found)
    return LinearFit(model, dim * log.num_actions, residual, degrees)


def leading_features(features: FeatureMap, dim: int, context: Float[np.ndarray, "B C"]) -> Float[np.ndarray, "B d"]:
    """The first `dim` features in float64; columns of the context keep their precision."""
    if isinstance(features, Identity):
        return np.concatenate([np.ones((len(context), 1)), context[:, : dim - 1]], 1)
    rows = len(context)
    padded = np.pad(context, ((0, padded_length(rows) - rows), (0, 0)))
    return np.asarray(features(padded), float)[:rows, :dim]


class _Head(NamedTuple):
    """A ridge solution: inverse of the lower factor of V, theta, sum of squared residuals, trace of the hat matrix."""

    whiten: Float[np.ndarray, "d d"]
    theta: Float[np.ndarray, " d"]
    residual: float
    degrees: float


def _norm(white: Float[np.ndarray, "*batch d"]) -> Float[np.ndarray, " *batch"]:
    return np.sqrt(np.einsum("...d,...d->...", white, white))


def _fit_head(phi: Float[np.ndarray, "n d"], reward: Float[np.ndarray, " n"], ridge: float, rows: int) -> _Head:
    """The solution on these rows; `rows` is the n of the means."""
    gram = phi.T @ phi
    whiten, theta = _ridge(gram, phi.T @ reward, ridge, rows)
    residual = float(np.square(phi @ theta - reward).sum())
    return _Head(whiten, theta, residual, float(np.trace(whiten @ gram @ whiten.T) / rows))


def _ridge(
    gram: Float[np.ndarray, "d d"], moment: Float[np.ndarray, " d"], ridge: float, rows: int
) -> tuple[Float[np.ndarray, "d d"], Float[np.ndarray, " d"]]:
    """Inverse of the lower Cholesky factor of V, and theta, from sum phi phi' and sum phi r."""
    identity = np.eye(len(gram))
    factor = np.linalg.cholesky((gram + ridge * identity) / rows)
    # Not by a solve for the identity, which wakes the threads of LAPACK for the smallest matrix.
    (inverse,) = linalg.get_lapack_funcs(("trtri",), (factor,))
    return inverse(factor, lower=1)[0], linalg.cho_solve((factor, True), moment / rows)


def heads(dims: tuple[int, ...]) -> list[HeadLinear]:
    """Nested classes with weights for each action. ConfigError: sizes that do not increase."""
    if not dims or dims[0] < 1 or any(b <= a for a, b in itertools.pairwise(dims)):
        raise ConfigError(f"dims {dims}: sizes of nested classes must increase, from at least 1")
    return [HeadLinear(d) for d in dims]


def at_actions(values: Float[np.ndarray, "n A"], action: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Values at these actions."""
    return values[np.arange(len(values)), action]
