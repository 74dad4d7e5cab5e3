"""Rows needed: from how many rows a comparison rejects, as predicted from logs of 500 rows and as measured."""

import functools
import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gleanings.core.keys import root
from gleanings.selection.modbe import ModBEConfig, choose_by_modbe
from gleanings.selection.trap import Trap
from gleanings.studies._modbe_trials import ACTIONS, DIMS, compared

GRID = (500, 707, 1000, 1414, 2000, 2828, 4000, 5657, 8000)
_BUCKETS = (1000, 4000, 8000)
_FACTOR, _TRAIN = 2.0, 0.8


def rows_needed(problems: dict[str, Trap], seeds: range, grid: tuple[int, ...] = GRID) -> dict[str, dict[str, Any]]:
    """By problem: rows a stage at which each comparison rejects, predicted and measured, and how often they agree.

    plain: first n times zeta over difference. corrected: the same where the difference is first freed from what the
    variance of least squares costs the two classes, s^2 p / (n_train - p) each, which falls with n. measured: the
    first n of `grid` at which half of the seeds reject. Comparisons that reject at the first n already, and those of
    which the grid is too short to tell, are left out; infinity is None. share: of predictions from means over seeds
    within a factor 2; share_single: of those from single seeds.
    """
    return {name: _agreement(*_measured(trap, seeds, grid), grid) for name, trap in problems.items()}


def _measured(trap: Trap, seeds: range, grid: Iterable[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Difference, tolerance and squared error of the large class [n, seeds, H, M, M]."""
    found = []
    for n in grid:
        keys = jax.vmap(root)(jnp.asarray(seeds))
        size = next(b for b in _BUCKETS if n <= b)
        found.append([np.asarray(x, float) for x in _run(trap, size, jnp.float32(n), keys)])
    delta, zeta, large = (np.stack(x) for x in zip(*found, strict=True))
    return delta, zeta, large


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(trap: Trap, size: int, n: Array, keys: Array) -> tuple[Array, Array, Array]:
    def one(key: Array) -> tuple[Array, Array, Array]:
        found = compared(trap, DIMS, size, n, trap.q, key).found
        choice = choose_by_modbe(found, ACTIONS * jnp.asarray(DIMS, jnp.float32), ModBEConfig())
        return choice.excess + choice.tolerance, choice.tolerance, jnp.asarray(found.large)

    return jax.lax.map(one, keys)


def _agreement(delta: np.ndarray, zeta: np.ndarray, large: np.ndarray, grid: tuple[int, ...]) -> dict[str, Any]:
    n = grid[0]
    means = (delta[0].mean(0), zeta[0].mean(0), large[0].mean(0))
    rejects = (delta > zeta).mean(1) >= 0.5
    measured = np.where(rejects.any(0), np.asarray(grid, float)[rejects.argmax(0)], math.inf)
    larger = np.triu(np.ones(delta.shape[-2:], bool), 1)
    found: dict[str, Any] = {}
    for name, predict in (("plain", _plain), ("corrected", _corrected)):
        predicted, single = predict(*means, n), predict(delta[0], zeta[0], large[0], n)
        told = larger & (measured > n) & (np.isfinite(measured) | (_FACTOR * predicted <= grid[-1]))
        found[name] = {
            "comparisons": int(told.sum()),
            "share": _share(predicted[told], measured[told]),
            "share_single": _share(single[:, told], measured[told]),
            "predicted": _finite(predicted[told]),
            "measured": _finite(measured[told]),
        }
    return found


def _plain(delta: np.ndarray, zeta: np.ndarray, large: np.ndarray, n: int) -> np.ndarray:
    return np.where(delta > 0, n * zeta / np.where(delta > 0, delta, 1), math.inf)


def _corrected(delta: np.ndarray, zeta: np.ndarray, large: np.ndarray, n: int) -> np.ndarray:
    """Zeta falls as 1/n; s^2 is the large class's squared error less its share of variance."""
    params = ACTIONS * np.asarray(DIMS, float)
    noise = large * (1 - params / (_TRAIN * n))

    def cost(rows: float) -> np.ndarray:
        each = params / (_TRAIN * rows - params)
        return noise * (each - each[:, None])

    rows = np.geomspace(n / 2, 100 * n, 500)
    rejects = np.stack([delta + cost(float(n)) - cost(m) > zeta * n / m for m in rows])
    return np.where(rejects.any(0), rows[rejects.argmax(0)], math.inf)


def _share(predicted: np.ndarray, measured: np.ndarray) -> float | None:
    """Share of predictions within a factor 2; infinity is never near a number."""
    if not measured.size:
        return None
    near = np.isfinite(predicted) & (predicted <= _FACTOR * measured) & (measured <= _FACTOR * predicted)
    return float(near.mean())


def _finite(x: np.ndarray) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in x]
