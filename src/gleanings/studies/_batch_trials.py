"""Trials of the study batch-policy-selection: every rule on the same logs."""

from functools import partial
from typing import Any

import numpy as np

from gleanings.selection.bandit_problems import (
    SIGMA,
    BanditProblem,
    cover_bandit,
    impossible_pair,
    mixing_bandit,
    nested_bandit,
    rare_bandit,
)
from gleanings.selection.bandit_rules import (
    Auto,
    BanditCandidates,
    BanditRule,
    ComplexityCoverage,
    HoldOut,
    Largest,
    Slope,
)
from gleanings.selection.pessimistic import Pessimism

_ONCE = HoldOut(folds=1, ties="argmin")
RULES: dict[str, BanditRule] = {
    "ccs": ComplexityCoverage(),
    "slope": Slope(),
    "hold-out": _ONCE,
    "hold-out-lcb": HoldOut(folds=1, ties="argmin", pessimistic=True),
    "largest-lcb": Largest(),
    "auto": Auto(_ONCE),
}
BEST = "best"
_MAKERS = {
    "a-uniform": partial(nested_bandit, greedy=False),
    "a-greedy": partial(nested_bandit, greedy=True),
    "b": cover_bandit,
    "c": mixing_bandit,
    "e": rare_bandit,
}


def trials(problem: str, n: int, seeds: range, scale: float = 0.5) -> dict[str, list[float]]:
    """Regret of every rule [seeds], and of the best single class's policy in hindsight."""
    found: dict[str, list[float]] = {name: [] for name in (*RULES, BEST)}
    for seed in seeds:
        for name, value in regrets(_MAKERS[problem](n, seed=seed), seed, scale).items():
            found[name].append(value)
    return found


def pair_trials(n: int, seeds: range) -> dict[str, dict[str, list[float]]]:
    """The same in the two worlds of the impossible pair."""
    worlds: dict[str, dict[str, list[float]]] = {w: {name: [] for name in (*RULES, BEST)} for w in ("A", "B")}
    for seed in seeds:
        for world, problem in zip(worlds, impossible_pair(n, seed), strict=True):
            for name, value in regrets(problem, seed, 0.5).items():
                worlds[world][name].append(value)
    return worlds


def regrets(problem: BanditProblem, seed: int, scale: float) -> dict[str, float]:
    """Regret of every rule on one log."""
    candidates = BanditCandidates(problem.classes, problem.log, Pessimism(scale=scale, sigma=SIGMA), seed)
    found = {name: problem.regret(rule.select(candidates).act(problem.context)) for name, rule in RULES.items()}
    return found | {BEST: _best(candidates, problem)}


def _best(candidates: BanditCandidates, problem: BanditProblem) -> float:
    """Least regret of any class's greedy or pessimistic policy."""
    values = []
    for k, fit in enumerate(candidates.fits):
        for score in (fit.predict(problem.context)[0], candidates.lower(k, problem.context)):
            values.append(problem.regret(np.eye(score.shape[1])[score.argmax(1)]))
    return min(values)


def sweep(problem: str, n: int, seeds: range, scales: tuple[float, ...]) -> dict[str, Any]:
    """Mean regret of every rule at other scales of the widths."""
    return {
        f"{scale:g}": {k: float(np.mean(v)) for k, v in trials(problem, n, seeds, scale).items()} for scale in scales
    }
