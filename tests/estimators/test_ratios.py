"""Variance at equal evaluations, over that of leave-one-out, against the table of the page (section 3.6).

The page's toys are of unknown seed. The seeds here are those of the first 3,000 (K = 8: 150) whose exact leave-one-out
variance lies nearest to all that the page quotes; the ratios had no part in the choice. From one such toy to the next a
ratio still moves by some 5 %, so medians of five are held to 5 %. Rows about pairs vary more: averaged pairs are the
two-evaluation ratio in disguise, for which the page's toys lie 6-9 % below our median (K = 3: .854 against .906).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gleanings.estimators import ARMS, CoupledLOO, DisARM, DisARMTree, ReinforceLOO, variance_of

from ._oracle import leave_one_out_variance, toy

DRAWS = 40_000


class Column(NamedTuple):
    """A toy of the page: its sizes, our seeds for it, leave-one-out's variance and the ratios, by n."""

    kind: str
    D: int
    K: int
    binary: bool
    seeds: tuple[int, ...]
    leave_one_out: dict[int, float]
    ratios: dict[str, dict[int, float]]


PAGE = {
    "bin-mlp": Column(
        "mlp", 8, 2, True, (684, 979, 690, 790, 730), {4: 0.0617, 8: 0.0260},
        {"pairs averaged": {4: 1.33, 8: 1.57}, "arms": {4: 0.87, 8: 0.90}, "tree": {4: 0.86, 8: 0.87},
         "stick, pairs": {4: 0.92, 8: 0.94}},
    ),
    "bin-sep": Column(
        "sep", 8, 2, True, (3, 170, 8, 63, 22), {4: 0.00029, 8: 0.00012},
        {"pairs averaged": {4: 1.42, 8: 1.69}, "arms": {4: 0.89, 8: 0.90}, "tree": {4: 0.89, 8: 0.87},
         "stick, pairs": {4: 0.95, 8: 0.96}},
    ),
    "K3-mlp": Column(
        "mlp", 4, 3, False, (706, 1778, 127, 1833, 60), {4: 0.166, 8: 0.0712},
        {"pairs averaged": {4: 1.29, 8: 1.51}, "stick": {4: 0.81, 8: 0.76}, "tree": {4: 0.81, 8: 0.76},
         "stick, pairs": {4: 0.90, 8: 0.92}},
    ),
    "K3-sep": Column(
        "sep", 4, 3, False, (959, 2772, 50, 1874, 2644), {4: 0.0295},
        {"pairs averaged": {4: 1.41}, "stick": {4: 0.85}, "tree": {4: 0.85}, "stick, pairs": {4: 0.94}},
    ),
    "K8-mlp": Column(
        "mlp", 4, 8, False, (117, 73, 67, 40, 38), {4: 0.467, 8: 0.200},
        {"pairs averaged": {4: 1.39, 8: 1.63}, "stick": {4: 0.91, 8: 0.85}, "tree": {4: 0.87, 8: 0.85},
         "stick, pairs": {4: 0.96, 8: 0.97}},
    ),
    "K8-sep": Column(
        "sep", 4, 8, False, (119, 36, 125, 5, 39), {4: 0.0289},
        {"pairs averaged": {4: 1.47}, "stick": {4: 0.92}, "tree": {4: 0.94}, "stick, pairs": {4: 0.97}},
    ),
}  # fmt: skip


def member(row: str, n: int, binary: bool):
    variable = "binary" if binary else "categorical"
    return {
        "pairs averaged": DisARM() if binary else DisARMTree(),
        "arms": ARMS(n),
        "stick": CoupledLOO(n, structure="stick", variable=variable),
        "tree": CoupledLOO(n, variable=variable),
        "stick, pairs": CoupledLOO(n, structure="stick", coupling="pairs", variable=variable),
    }[row]


def total_variances(column: Column, estimator) -> list[float]:
    """Variance of one estimate, summed over coordinates, for each seed of the column; one compiled program."""
    toys = [toy(column.kind, column.D, column.K, seed, column.binary) for seed in column.seeds]

    @jax.jit
    def run(logits, weights, key):
        batch = jnp.broadcast_to(logits, (DRAWS, *logits.shape))
        _, g = estimator(lambda z: toys[0].f(z, weights), batch, key)
        return g.var(0, ddof=1).sum()

    weights = [tuple(jnp.asarray(x, jnp.float32) for x in t.f.__defaults__[0]) for t in toys]
    logits = [jnp.asarray(t.logits, jnp.float32) for t in toys]
    return [float(run(a, w, jax.random.key(s))) for s, (a, w) in enumerate(zip(logits, weights, strict=True))]


FAST = {("bin-mlp", "arms", 4), ("bin-mlp", "tree", 8), ("K3-mlp", "tree", 4), ("K3-mlp", "stick", 4)}
FAST |= {("K3-mlp", "pairs averaged", 4), ("K3-mlp", "stick, pairs", 4)}


@pytest.mark.parametrize(
    ("name", "row", "n"),
    [
        pytest.param(name, row, n, marks=() if (name, row, n) in FAST else pytest.mark.slow)
        for name, column in PAGE.items()
        for row, by_n in column.ratios.items()
        for n in by_n
    ],
)
def test_ratio_to_leave_one_out_is_that_of_the_page(name, row, n):
    column = PAGE[name]
    ratios = []
    pairs = n // 2 if row == "pairs averaged" else 1  # the mean of m independent estimates has 1/m of the variance
    for seed, variance in zip(column.seeds, total_variances(column, member(row, n, column.binary)), strict=True):
        logits, f = toy(column.kind, column.D, column.K, seed, column.binary)
        exact = leave_one_out_variance(f, logits, n, column.binary)
        assert abs(exact / column.leave_one_out[n] - 1) < 0.08
        ratios.append(variance / pairs / exact)
    tolerance = {"pairs averaged": 0.12, "stick, pairs": 0.07}.get(row, 0.05)
    assert abs(np.median(ratios) / column.ratios[row][n] - 1) < tolerance, ratios
    if row in ("tree", "stick"):
        assert max(ratios) < 0.97  # better than leave-one-out on every toy
    if row == "pairs averaged":
        assert min(ratios) > 1.1


@pytest.mark.parametrize("n", [2, 4])
def test_variance_of_leave_one_out_is_the_enumerated_one(n):
    logits, f = toy("mlp", 4, 3)
    found = variance_of(ReinforceLOO(n), f, jnp.asarray(logits, jnp.float32), jax.random.key(1))
    assert 0 < found.standard_error < 0.05 * found.trace
    assert abs(found.trace - leave_one_out_variance(f, logits, n)) < 4.5 * found.standard_error
