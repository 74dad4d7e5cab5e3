"""A finite process whose every outcome is enumerated: what comparing squared errors on small targets measures, exactly.

Five states, two actions, three stages; classes are partitions of the states, each refining the one before, with one
weight an action and cell. A data set that holds every outcome in its exact proportion makes means expectations.
"""

import itertools
from typing import NamedTuple

import jax
import numpy as np
import pytest

from gleanings.selection import Candidates, FunctionClass, ModBE, Split, Transitions, fqi

STATES, ACTIONS, STAGES, COUNTS = 5, 2, 3, 8
PARTITIONS = ((0, 0, 0, 0, 0), (0, 0, 1, 1, 1), (0, 0, 1, 1, 2), (0, 1, 2, 3, 4))
REWARDS = np.array([-0.5, 0.75])


class Process(NamedTuple):
    """Counts out of 8 of x, x' and r; mu is uniform over actions. mean [H, S, A]: of the reward."""

    mu: np.ndarray
    move: np.ndarray
    chance: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        return (1 - self.chance) * REWARDS[0] + self.chance * REWARDS[1]

    def backup(self, later: np.ndarray | None, stage: int) -> np.ndarray:
        """T_h later, [S, A]."""
        return self.mean[stage] + (0 if later is None else self.move[stage] @ later.max(-1))

    def norm(self, error: np.ndarray, stage: int) -> float:
        """Mean square [S, A] under mu."""
        return float((self.mu[stage][:, None] * error**2).sum() / ACTIONS)


def eighths(rng: np.random.Generator, shape: tuple[int, ...], size: int) -> np.ndarray:
    """Probabilities that are multiples of 1/8, none of them 0."""
    return (1 + rng.multinomial(COUNTS - size, np.ones(size) / size, shape)) / COUNTS


def process(complete: int, seed: int) -> Process:
    """Rewards and moves are alike within a cell of partition `complete`, which is then the smallest complete class."""
    rng = np.random.default_rng(seed)
    cell = np.array(PARTITIONS[complete])
    move = eighths(rng, (STAGES, STATES, ACTIONS), STATES)[:, cell]
    chance = rng.integers(0, COUNTS + 1, (STAGES, STATES, ACTIONS))[:, cell] / COUNTS
    return Process(eighths(rng, (STAGES,), STATES), move, chance)


def outcomes(p: Process, stage: int) -> tuple[np.ndarray, np.ndarray]:
    """All (x, a, r, x') [N, 4] of a stage with how often each occurs among 8^4 equally likely rows an action."""
    every = np.array(list(itertools.product(range(STATES), range(ACTIONS), range(2), range(STATES))))
    x, a, r, following = every.T
    reward = np.where(r == 1, p.chance[stage, x, a], 1 - p.chance[stage, x, a])
    times = p.mu[stage, x] * reward * p.move[stage, x, a, following]
    return every, times * COUNTS**3


def project(target: np.ndarray, mu: np.ndarray, partition: tuple[int, ...]) -> np.ndarray:
    """The nearest function [S, A] that is alike within cells."""
    cell = np.eye(max(partition) + 1)[list(partition)]
    weight = cell * mu[:, None]
    return cell @ ((weight.T @ target) / weight.sum(0)[:, None])


def exact_fits(p: Process, k: int) -> list[np.ndarray]:
    """Fitted Q iteration in class k with expectations for means: [S, A] a stage."""
    fits: list[np.ndarray] = []
    for stage in reversed(range(STAGES)):
        later = fits[0] if fits else None
        fits.insert(0, project(p.backup(later, stage), p.mu[stage], PARTITIONS[k]))
    return fits


def exact_differences(p: Process) -> np.ndarray:
    """||f - T f'||^2 - ||g - T f'||^2 [H, M, M] of small class k, large class j, NaN where j is not larger."""
    found = np.full((STAGES, len(PARTITIONS), len(PARTITIONS)), np.nan)
    for k in range(len(PARTITIONS)):
        fits = exact_fits(p, k)
        for stage in range(STAGES):
            exact = p.backup(fits[stage + 1] if stage + 1 < STAGES else None, stage)
            for j in range(k + 1, len(PARTITIONS)):
                large = project(exact, p.mu[stage], PARTITIONS[j])
                found[stage, k, j] = p.norm(fits[stage] - exact, stage) - p.norm(large - exact, stage)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_targets_of_one_function_cancel_in_the_difference_of_squares(seed):
    """E (f - y)^2 - (g - y)^2 = ||f - Tf'||^2 - ||g - Tf'||^2 for any f, g, f', to 1e-12; y's variance is gone."""
    p, rng = process(3, seed), np.random.default_rng(100 + seed)
    for stage in range(STAGES):
        f, g, later = rng.normal(size=(3, STATES, ACTIONS))
        (x, a, r, following), times = outcomes(p, stage)[0].T, outcomes(p, stage)[1]
        chance = times / times.sum()
        y = REWARDS[r] + later.max(-1)[following]
        left = (chance * ((f[x, a] - y) ** 2 - (g[x, a] - y) ** 2)).sum()
        exact = p.backup(later, stage)
        assert abs(left - p.norm(f - exact, stage) + p.norm(g - exact, stage)) < 1e-12
        assert (chance * (g[x, a] - y) ** 2).sum() > p.norm(g - exact, stage) + 0.01


class Cells(FunctionClass):
    """Means of the target over the rows of each action and cell; observations are one-hot states."""

    partition: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{max(self.partition) + 1} cells"

    def n_params(self, num_actions: int) -> int:
        return num_actions * (max(self.partition) + 1)

    def regress(self, observation, action, target, *, num_actions, key):
        cell = np.asarray(observation) @ np.eye(max(self.partition) + 1)[list(self.partition)]
        chosen = np.einsum("nc,na->nca", cell, np.eye(num_actions)[np.asarray(action)])
        total, count = np.einsum("nca,n->ca", chosen, np.asarray(target, float)), chosen.sum(0)
        mean = total / count
        return lambda x: (np.asarray(x) @ np.eye(len(mean))[list(self.partition)]) @ mean


def exhaustive(p: Process) -> tuple[Transitions, Split]:
    """Every outcome as often as its probability says, once to fit on and once to judge by."""
    parts = []
    for stage in range(STAGES):
        every, times = outcomes(p, stage)
        np.testing.assert_allclose(times, np.round(times), atol=1e-9)
        rows = np.repeat(every, np.round(times).astype(int), axis=0)
        parts.append(np.concatenate([rows, np.full((len(rows), 1), stage)], 1))
    once = np.concatenate(parts)
    x, a, r, following, stage = np.concatenate([once, once]).T
    one_hot = np.eye(STATES, dtype=np.float32)
    data = Transitions(
        one_hot[x],
        a.astype(np.int32),
        REWARDS[r].astype(np.float32),
        one_hot[following],
        np.zeros(len(x), bool),
        ACTIONS,
        stage=stage.astype(np.int32),
    )
    train = np.arange(len(x)) < len(once)
    return data, Split(train, ~train)


@pytest.mark.parametrize("complete", range(4))
def test_the_library_returns_the_exact_differences_and_the_smallest_complete_class(complete):
    p = process(complete, 10 + complete)
    data, split = exhaustive(p)
    classes = [Cells(partition) for partition in PARTITIONS]
    candidates = Candidates(classes, fqi, data, split, jax.random.key(0))
    for k in range(4):
        for q, exact in zip(candidates.fits(k), exact_fits(p, k), strict=True):
            np.testing.assert_allclose(q(np.eye(STATES)), exact, atol=1e-6)
    found, exact = candidates.comparisons(), exact_differences(p)
    larger = np.triu_indices(4, 1)
    delta = (np.asarray(found.small)[..., None] - np.asarray(found.large))[:, *larger]
    np.testing.assert_allclose(delta, exact[:, *larger], atol=2e-6)
    incomplete = [bool((exact[:, k, k + 1 :] > 1e-12).any()) for k in range(4)]
    assert incomplete.index(False) == complete
    chosen = ModBE().select(candidates)
    assert chosen.index == complete
    assert chosen.verdict == ("certified" if complete < 3 else "uncertified")


def test_bellman_errors_bound_the_regret_of_the_complete_class_by_zero():
    """The complete class has no Bellman error at any stage, and is the optimal value function; smaller ones have."""
    for complete in range(4):
        p = process(complete, 10 + complete)
        for k in range(4):
            fits = exact_fits(p, k)
            laters = [*fits[1:], None]
            errors = [p.norm(f - p.backup(later, h), h) for h, (f, later) in enumerate(zip(fits, laters, strict=True))]
            assert (max(errors) < 1e-24) == (k >= complete)
