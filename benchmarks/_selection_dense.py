"""A seed of study modbe by dense solves in numpy: one for every class, stage, action and target, nothing shared."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from gleanings.selection.prefix import Rows


class Dense(NamedTuple):
    """What ModBE and the other rules look at.

    small [H, M], large [H, M, M]: validation errors of class k, and of larger classes fitted to its target (NaN where
    the class is not larger). values [M]: fitted Q evaluation of each greedy policy in the largest class.
    """

    small: Float[np.ndarray, "H M"]
    large: Float[np.ndarray, "H M M"]
    values: Float[np.ndarray, " M"]
    choice: dict[str, int]


def dense_trial(rows: Rows, dims: tuple[int, ...], ridge: float, actions: int) -> Dense:
    """Every fit, comparison and evaluation of one seed, in the precision of `rows`."""
    stages = [Rows(*(np.asarray(x)[h] for x in rows)) for h in range(len(rows.reward))]
    fits = [_fit_backwards(stages, dim, ridge, actions) for dim in dims]
    small, large = np.zeros((len(stages), len(dims))), np.full((len(stages), len(dims), len(dims)), math.nan)
    for h, stage in enumerate(stages):
        for k, own in enumerate(fits):
            target = _target(stage, own[h + 1])
            small[h, k] = _error(stage, own[h], target)
            for j in range(k + 1, len(dims)):
                large[h, k, j] = _error(stage, _solve(stage, target, dims[j], ridge, actions), target)
    values = np.array([_evaluate(stages, own, dims[-1], ridge, actions) for own in fits])
    num_valid = np.array([stage.valid.sum() for stage in stages])
    choice = {"modbe": _modbe(small, large, dims, num_valid, actions), "hold-out": int(small.sum(0).argmin())}
    return Dense(small, large, values, choice | {"fqe": int(values.argmax())})


def _solve(stage: Rows, target: np.ndarray, dim: int, ridge: float, actions: int) -> np.ndarray:
    """Ridge weights [A, dim] of a class on the training rows."""
    train = stage.train > 0
    weights = np.zeros((actions, dim), target.dtype)
    penalty = ridge * stage.train.sum() * np.eye(dim, dtype=target.dtype)
    for a in range(actions):
        own = train & (stage.action == a)
        phi = stage.features[own, :dim]
        weights[a] = np.linalg.solve(phi.T @ phi + penalty, phi.T @ target[own])
    return weights


def _fit_backwards(stages: list[Rows], dim: int, ridge: float, actions: int) -> list[np.ndarray]:
    """Weights of each stage, and zeros for what comes after the last."""
    fits = [np.zeros((actions, dim), stages[0].features.dtype)]
    for stage in reversed(stages):
        fits.insert(0, _solve(stage, _target(stage, fits[0]), dim, ridge, actions))
    return fits


def _target(stage: Rows, later: np.ndarray) -> np.ndarray:
    return stage.reward + stage.discount * (stage.next_features[:, : later.shape[1]] @ later.T).max(1)


def _error(stage: Rows, weights: np.ndarray, target: np.ndarray) -> float:
    valid = stage.valid > 0
    predicted = (stage.features[valid, : weights.shape[1]] * weights[stage.action[valid]]).sum(1)
    return float(np.square(predicted - target[valid]).mean())


def _evaluate(stages: list[Rows], policy: list[np.ndarray], dim: int, ridge: float, actions: int) -> float:
    """Mean value at the first stage of the greedy policy of `policy`, by fitted Q evaluation of size `dim`."""
    value = np.zeros((actions, dim), stages[0].features.dtype)
    for h in reversed(range(len(stages))):
        stage = stages[h]
        target = stage.reward + stage.discount * _played(stage.next_features, value, policy[h + 1])
        value = _solve(stage, target, dim, ridge, actions)
    used = stages[0].train + stages[0].valid > 0
    return float(_played(stages[0].features[used], value, policy[0]).mean())


def _played(features: np.ndarray, value: np.ndarray, policy: np.ndarray) -> np.ndarray:
    action = (features[:, : policy.shape[1]] @ policy.T).argmax(1)
    return (features * value[action]).sum(1)


def _modbe(small: np.ndarray, large: np.ndarray, dims: tuple[int, ...], num_valid: np.ndarray, actions: int) -> int:
    """The first class that no larger one improves on by more than the practical tolerance."""
    stages, classes = small.shape
    size = actions * np.array(dims) + 2 * math.log(20 * classes * stages)
    tolerance = large * size[:, None] / num_valid[:, None, None]
    rejected = (small[..., None] - large > tolerance).any((0, 2))  # False where the class is not larger
    return int(rejected.argmin())
