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
    PolicyValue,
    Slope,
)
from gleanings.selection.digits import digits_bandit
from gleanings.selection.pessimistic import Pessimism
from gleanings.selection.policy import select_policy

_SCALE = 0.5
_ONCE = HoldOut(folds=1, ties="argmin")
RULES: dict[str, BanditRule] = {
    "ccs": ComplexityCoverage(),
    "slope": Slope(),
    "hold-out": _ONCE,
    "hold-out-lcb": HoldOut(folds=1, ties="argmin", pessimistic=True),
    "largest": Largest(pessimistic=False),
    "largest-lcb": Largest(),
    "policy-value": PolicyValue(),
    "auto": Auto(_ONCE),
}
BEST = "best"
VALUED = "select-policy"
MARGIN = 0.05
_MAKERS = {
    "a-uniform": partial(nested_bandit, greedy=False),
    "a-greedy": partial(nested_bandit, greedy=True),
    "b": cover_bandit,
    "c": mixing_bandit,
    "e": rare_bandit,
    "p3": digits_bandit,
}
Lists = dict[str, list[float]]


def measured(problem: str, n: int, seeds: range) -> dict[str, Any]:
    """Regrets of every rule [seeds], and how often each certified its choice, rightly or wrongly."""
    found, counts = _empty(), _no_counts()
    for seed in seeds:
        _record(_MAKERS[problem](n, seed=seed), seed, found, counts)
    return {"regret": found, "certificates": counts}


def pair_measured(n: int, seeds: range) -> dict[str, Any]:
    """The same in the two worlds of the impossible pair, whose certificates are counted together."""
    worlds, counts = {"A": _empty(), "B": _empty()}, _no_counts()
    for seed in seeds:
        for world, problem in zip(worlds.values(), impossible_pair(n, seed), strict=True):
            _record(problem, seed, world, counts)
    return {"regret": worlds, "certificates": counts}


def trials(problem: str, n: int, seeds: range, scale: float = _SCALE) -> Lists:
    """Regret of every rule [seeds], and of the best single class's policy in hindsight."""
    found = _empty()
    for seed in seeds:
        _append(found, decide(_MAKERS[problem](n, seed=seed), seed, scale))
    return found


def decide(problem: BanditProblem, seed: int, scale: float) -> dict[str, tuple[float, bool]]:
    """Regret of every rule on one log, and whether the rule certified its choice."""
    candidates = BanditCandidates(problem.classes, problem.log, Pessimism(scale=scale, sigma=SIGMA), seed)
    chosen = {name: rule.select(candidates) for name, rule in RULES.items()}
    found = {name: (problem.regret(c.act(problem.context)), c.verdict == "certified") for name, c in chosen.items()}
    return found | {BEST: (_best(candidates, problem), False)}


def _record(problem: BanditProblem, seed: int, found: Lists, counts: dict[str, dict[str, int]]) -> None:
    """Add one log to the regrets, and to the certificates those of the rules and of Auto by `select_policy`."""
    decided = decide(problem, seed, _SCALE)
    _append(found, decided)
    pessimism = Pessimism(scale=_SCALE, sigma=SIGMA)
    whole = select_policy(problem.log, problem.classes, RULES["auto"], pessimism=pessimism, seed=seed)
    decided[VALUED] = problem.regret(whole.act(problem.context)), whole.verdict == "certified"
    for name, count in counts.items():
        regret, certified = decided[name]
        count["trials"] += 1
        count["certified"] += certified
        count["wrong"] += certified and regret > decided[BEST][0] + MARGIN


def _empty() -> Lists:
    return {name: [] for name in (*RULES, BEST)}


def _no_counts() -> dict[str, dict[str, int]]:
    return {name: {"trials": 0, "certified": 0, "wrong": 0} for name in (*RULES, VALUED)}


def _append(found: Lists, decided: dict[str, tuple[float, bool]]) -> None:
    for name, (regret, _) in decided.items():
        found[name].append(regret)


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
