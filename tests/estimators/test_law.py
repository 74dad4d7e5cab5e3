"""The joint law of all n draws, enumerated outside the library; sampler and coefficients held against it."""

import math
from collections import Counter
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gleanings.estimators.binary import ARM, ARMS, DisARM
from gleanings.estimators.coupled import CoupledLOO, DisARMSB, DisARMTree
from gleanings.estimators.importance import DisARMIW
from gleanings.estimators.score import ReinforceLOO

from ._oracle import Law, importance_law, joint_law, node_law, sigmoid, softmax

SHAPES = [(2, 2), (2, 3), (2, 8), (3, 4), (3, 8), (4, 5), (5, 2), (5, 4), (5, 5)]
DRAWS = 200_000
CASES = {
    "iw-5": (DisARMIW(), 5, lambda a: importance_law(a)),
    "sb-4": (DisARMSB(), 4, lambda a: joint_law(a, 2, "stick", "matching", None)),
    "sb-ascending-5": (
        DisARMSB(order="ascending"),
        5,
        lambda a: joint_law(a, 2, "stick", "pairs", "ascending"),
    ),
    "tree-5": (DisARMTree(), 5, lambda a: joint_law(a, 2, "tree", "matching", None)),
    "rloo-3": (ReinforceLOO(3), 3, lambda a: joint_law(a, 3, "stick", "independent", None)),
    **{
        f"{coupling}-{structure}-K{K}-n{n}": (
            CoupledLOO(n, structure=structure, coupling=coupling, order=order),
            K,
            lambda a, n=n, s=structure, c=coupling, o=order: joint_law(a, n, s, c, o),
        )
        for K, n, structure, coupling, order in [
            (3, 4, "tree", "systematic", "ascending"),
            (5, 3, "tree", "systematic", None),
            (4, 5, "stick", "systematic", "ascending"),
            (2, 8, "stick", "systematic", "ascending"),
            (3, 8, "tree", "systematic", "ascending"),
            (3, 4, "stick", "pairs", None),
            (5, 4, "tree", "pairs", "ascending"),
        ]
    },
    "disarm": (DisARM(), 2, lambda a: joint_law(a, 2, "stick", "matching", None)),
    "arms-3": (ARMS(3), 2, lambda a: joint_law(a, 3, "stick", "arms", None)),
    "arms-4": (ARMS(4), 2, lambda a: joint_law(a, 4, "tree", "arms", None)),
    "coupled-binary-4": (
        CoupledLOO(4, variable="binary"),
        2,
        lambda a: joint_law(a, 4, "tree", "systematic", None),
    ),
}

SLOW = ("sb-ascending-5", "systematic-stick-K2-n8", "arms-3")  # each path through the code has another case


def logits_of(K: int, seed: int = 0) -> np.ndarray:
    """Peaked enough that some p exceed 1/2; float32 values, so that both sides see the same numbers."""
    logits = np.random.default_rng(seed).normal(size=K) * 1.5
    return np.concatenate([[0], logits[1:]]).astype(np.float32).astype(float)


@pytest.mark.parametrize("order", ["ascending", None])
@pytest.mark.parametrize("coupling", ["independent", "systematic", "pairs", "matching", "ranked", "arms"])
@pytest.mark.parametrize("structure", ["stick", "tree"])
def test_leave_one_out_over_any_coupling_is_unbiased(structure, coupling, order):
    for K, n in SHAPES:
        costly = coupling == "pairs" and (K, n) == (3, 8)
        if (coupling in ("pairs", "matching") and n % 2) or (coupling == "arms" and K != 2) or costly:
            continue
        logits = logits_of(K, seed=n)
        law = joint_law(logits, n, structure, coupling, order)
        assert abs(law.probability.sum() - 1) < 1e-12
        assert law.bias(logits) < 1e-12, (K, n)


def test_importance_weights_need_the_ascending_order():
    biases = []
    for logits in [logits_of(5, seed) for seed in range(6)] + [np.array([2.0, 1.5, 0.5, 0.0, -1.0])]:
        assert importance_law(logits).bias(logits) < 1e-12
        if importance_law(logits, None).probability.min() > 0 and np.argmax(logits) < 4:
            biases.append(importance_law(logits, None).bias(logits))
    assert biases[-1] > 1e-3
    tie = np.array([0.0, 0.0, 0.3])  # at the last stick but one p may be 1/2 exactly
    assert importance_law(tie).bias(tie) < 1e-12


@pytest.mark.parametrize("a", [-3.0, -0.4, 0.0, 0.9, 4.0])
@pytest.mark.parametrize("n", [2, 3, 4, 7, 8])
def test_closed_form_of_lambda_equals_linear_algebra(a, n):
    """lambda = 1/(n-1-R) in [1/n, 1/(n-1)], R by coupling, for c of n samples."""
    p, rare = sigmoid(a), sigmoid(-abs(a))
    for c in range(1, n + 1):
        fr = c * p - math.floor(c * p)
        R = {"systematic": fr * (1 - fr) / (c * p * (1 - p)) - 1, "independent": 0.0}
        R |= {"pairs": -rare / (1 - rare)} if c % 2 == 0 else {}
        J = max(2 * rare ** (1 / (n - 1)) - 1, 0) ** (n - 1)
        R |= {"arms": (n - 1) * (J - rare**2) / (rare * (1 - rare))} if c == n else {}
        for coupling, expected in R.items():
            for _, _, lam in node_law(coupling, tuple(range(c)), n, p):
                np.testing.assert_allclose(lam, 1 / (n - 1 - expected), rtol=1e-9)
                assert 1 / n - 1e-12 <= lam.min() <= lam.max() <= 1 / (n - 1) + 1e-12


@cache
def law_and_draws(case: str) -> tuple[dict, np.ndarray, np.ndarray]:
    """The exact law of a case, and what the library draws."""
    estimator, K, make_law = CASES[case]
    logits = logits_of(K, seed=len(case))
    return merged(make_law(logits)), *library_draws(estimator, logits)


def library_draws(estimator, logits: np.ndarray, draws: int = DRAWS) -> tuple[np.ndarray, np.ndarray]:
    """Categories [draws, n] and coefficients [draws, n, K] of one variable, the draws along the batch."""
    binary = estimator.variable == "binary"
    one = jnp.asarray(logits[1:] - logits[:1] if binary else logits[None], jnp.float32)

    @jax.jit
    def run(key):
        draw = estimator.draw(jnp.broadcast_to(one, (draws, *one.shape)), key)
        return draw.samples, estimator.coefficients(draw)

    samples, A = (np.moveaxis(np.asarray(x), 0, 1) for x in run(jax.random.key(7)))
    if binary:
        return samples[..., 0].astype(int), np.concatenate([-A, A], -1)
    return samples[:, :, 0].argmax(-1), A[:, :, 0]


def merged(law: Law) -> dict[tuple[int, ...], list[tuple[np.ndarray, float]]]:
    """By joint outcome: the coefficients that it may come with, and their probabilities."""
    table: dict[tuple[int, ...], list[tuple[np.ndarray, float]]] = {}
    for probability, z, A in zip(law.probability, law.samples.tolist(), law.coefficients, strict=True):
        entries = table.setdefault(tuple(z), [])
        same = [i for i, (B, _) in enumerate(entries) if np.abs(A - B).max() < 1e-6]
        if same:
            entries[same[0]] = (A, entries[same[0]][1] + probability)
        else:
            entries.append((A, probability))
    return table


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow if c in SLOW else ()) for c in CASES])
def test_sampler_and_coefficients_follow_the_exact_law(case):
    """Every drawn outcome is possible, has a coefficient of the formula, and is as frequent as it should be."""
    law, samples, A = law_and_draws(case)
    counts: Counter = Counter()
    for z, rows in group_by_outcome(samples).items():
        assert z in law, f"outcome {z} has probability 0"
        distance = np.stack([np.abs(A[rows] - B).max((1, 2)) for B, _ in law[z]])
        assert distance.min(0).max() < 1e-5 * max(1, *(np.abs(B).max() for B, _ in law[z])), z
        for entry, count in Counter(distance.argmin(0).tolist()).items():
            counts[z, entry] = count
    cells = [((z, i), probability) for z, entries in law.items() for i, (_, probability) in enumerate(entries)]
    assert chi_square([counts[cell] for cell, _ in cells], [p for _, p in cells]) > 1e-4


def group_by_outcome(samples: np.ndarray) -> dict[tuple[int, ...], np.ndarray]:
    outcomes, inverse = np.unique(samples, axis=0, return_inverse=True)
    rows = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    return dict(zip(map(tuple, outcomes.tolist()), rows, strict=True))


def chi_square(counts: list[int], probabilities: list[float]) -> float:
    """p-value; cells that expect fewer than ten draws are taken together."""
    observed, expected = np.array(counts, float), np.array(probabilities) * np.sum(counts)
    rare = expected < 10
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    keep = expected > 1e-9
    assert observed[~keep].sum() == 0
    return float(stats.chi2.sf(((observed - expected)[keep] ** 2 / expected[keep]).sum(), keep.sum() - 1))


@pytest.mark.parametrize("case", ["iw-5", "systematic-tree-K3-n4", "pairs-stick-K3-n4", "tree-5"])
def test_library_coefficients_summed_against_the_law_are_unbiased(case):
    """|sum P(z) A(z) 1(z_i = c) - dq| with the library's A: float32 error only, no Monte Carlo error."""
    logits = logits_of(CASES[case][1], seed=len(case))
    table, samples, A = law_and_draws(case)
    law: list[tuple] = []
    for z, rows in group_by_outcome(samples).items():
        nearest = np.stack([np.abs(A[rows] - B).max((1, 2)) for B, _ in table[z]]).argmin(0)
        law += [(table[z][i][1], z, A[rows[nearest == i][0]]) for i in np.unique(nearest)]
    found = Law(*(np.array(x) for x in zip(*law, strict=True)))
    assert found.probability.sum() > 1 - 1e-3
    assert found.bias(logits) < 2 * (1 - found.probability.sum()) + 2e-6


# test_traps.py asks the same, less sharply, of every path through the code.
INDEPENDENT = [CoupledLOO(4), DisARMIW()]
INDEPENDENT += [pytest.param(x, marks=pytest.mark.slow) for x in (CoupledLOO(3, structure="stick"), DisARMSB())]


@pytest.mark.parametrize("estimator", INDEPENDENT)
def test_variables_are_drawn_independently(estimator):
    """Indicators of two variables, of the same and of other evaluations: correlation within 4.5 se of zero."""
    logits = jnp.asarray(logits_of(3, 1), jnp.float32)
    draws = 100_000
    z = jax.jit(estimator.draw)(jnp.broadcast_to(logits, (draws, 2, 3)), jax.random.key(3)).samples
    first, second = (np.asarray(z)[:, :, d, :2].transpose(1, 0, 2).reshape(draws, -1) for d in (0, 1))
    correlation = np.corrcoef(first.T, second.T)[: first.shape[1], first.shape[1] :]
    assert np.abs(correlation).max() < 4.5 / math.sqrt(draws)


def test_arm_is_disarm_with_its_uniform():
    """ARM's pair has DisARM's law, and its coefficient is 1/2 - u, uniform."""
    logits = logits_of(2, 4)
    samples, A = library_draws(ARM(), logits)
    law = merged(joint_law(logits, 2, "stick", "matching", None))
    counts = Counter(map(tuple, samples.tolist()))
    assert chi_square([counts[z] for z in law], [sum(p for _, p in e) for e in law.values()]) > 1e-4
    assert stats.kstest(A[:, 0, 1] + 0.5, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("structure", ["stick", "tree"])
def test_pairs_that_leave_one_sample_alone_are_unbiased(structure):
    """Three samples at a node leave one without a partner, whose lambda must tell nothing about its later bits.

    Each entry of sum_i A_i 1(z_i = c), for every c, over two million draws: |z| < 4.5 about dq_c / dlogits.
    """
    K, draws, rounds = 5, 200_000, 10
    estimator = CoupledLOO(6, structure=structure, coupling="pairs", order=None)
    logits = jnp.asarray(logits_of(K, 3), jnp.float32)

    @jax.jit
    def moments(key):
        draw = estimator.draw(jnp.broadcast_to(logits, (draws, 1, K)), key)
        terms = jnp.einsum("nbk,nbc->bkc", estimator.coefficients(draw)[:, :, 0], draw.samples[:, :, 0])
        return jnp.stack([terms.mean(0), (terms**2).mean(0)])

    mean, square = np.mean([moments(key) for key in jax.random.split(jax.random.key(9), rounds)], 0, dtype=float)
    q = softmax(np.asarray(logits, float))
    error = np.sqrt((square - mean**2) / (draws * rounds))
    assert (np.abs(mean - (np.diag(q) - np.outer(q, q))) < 4.5 * error).all()
