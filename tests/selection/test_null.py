"""Rewards that depend on nothing, and logs that never hold what a policy needs: 200 draws each, every rule."""

from functools import cache

import jax
import numpy as np
import pytest

from gleanings.selection import (
    FQE,
    Auto,
    BanditCandidates,
    BanditLog,
    ComplexityCoverage,
    HeadLinear,
    HoldOut,
    HoldOutTD,
    Identity,
    Largest,
    LargestClass,
    MeanMaxQ,
    ModBE,
    Pessimism,
    PolicyValue,
    RegressedBellman,
    Selection,
    Slope,
    Smallest,
    SmallestClass,
    fit_candidates,
    heads,
    mixing_bandit,
    prefix_linear,
    select_policy,
)

ROWS, DIMS = 300, (1, 4, 9)
DRAWS = pytest.mark.parametrize("draws", [40, pytest.param(200, marks=pytest.mark.slow)])
BANDIT = {
    "Auto": Auto(),
    "HoldOut": HoldOut(),
    "HoldOut, pessimistic": HoldOut(1, "argmin", True),
    "ComplexityCoverage": ComplexityCoverage(),
    "Slope": Slope(),
    "PolicyValue": PolicyValue(),
    "Largest": Largest(),
    "Smallest": Smallest(),
}
MDP = {
    type(rule).__name__: rule
    for rule in (ModBE(), HoldOutTD(), RegressedBellman(), FQE(), MeanMaxQ(), LargestClass(), SmallestClass())
}


def null_log(seed: int) -> BanditLog:
    """Two arms drawn at random, rewards N(0, 1) whatever is done."""
    rng = np.random.default_rng(seed)
    action, reward = rng.integers(0, 2, ROWS).astype(np.int32), rng.normal(size=ROWS)
    return BanditLog(rng.normal(size=(ROWS, DIMS[-1] - 1)), action, reward, np.full(ROWS, 1 / 2), ("a", "b"))


def says_so(found: Selection) -> bool:
    """The smallest class, or not enough evidence for another."""
    return found.index == 0 or any(alarm.name == "no evidence" for alarm in found.alarms)


@cache
def mdp_answers(draws: int) -> dict[str, list[bool]]:
    """All rules share the fits of a draw."""
    answers: dict[str, list[bool]] = {name: [] for name in MDP}
    classes = prefix_linear(Identity(), DIMS)
    for seed in range(draws):
        candidates = fit_candidates(classes, None, null_log(seed).as_transitions(), key=jax.random.key(0), seed=seed)
        for name, rule in MDP.items():
            answers[name].append(says_so(rule.select(candidates)))
    return answers


@DRAWS
@pytest.mark.parametrize("name", BANDIT)
def test_a_rule_for_bandits_sees_that_there_is_nothing(name, draws):
    answers = [says_so(select_policy(null_log(seed), heads(DIMS), BANDIT[name], seed=seed)) for seed in range(draws)]
    assert sum(answers) >= 0.95 * draws


@DRAWS
@pytest.mark.parametrize("name", MDP)
def test_a_rule_for_processes_sees_that_there_is_nothing(name, draws):
    assert sum(mdp_answers(draws)[name]) >= 0.95 * draws


def unlogged(seed: int) -> tuple[BanditLog, list[HeadLinear]]:
    """Two arms that lose 1 on average, and a third that no row holds, so that nothing speaks against it."""
    log = null_log(seed)
    return BanditLog(log.context, log.action, log.reward - 1, log.propensity, (*log.labels, "new")), heads(DIMS[:2])


def mixing(seed: int) -> tuple[BanditLog, list]:
    problem = mixing_bandit(ROWS, seed)
    return problem.log, problem.classes


@DRAWS
@pytest.mark.parametrize("make", [unlogged, mixing])
@pytest.mark.parametrize("rule", [Auto(), Largest(False)], ids=lambda rule: type(rule).__name__)
def test_a_policy_that_needs_an_action_the_log_never_takes_raises_the_alarm(make, rule, draws):
    """In every draw, and none of them is certified."""
    for seed in range(draws):
        log, classes = make(seed)
        if make is unlogged:
            # Not by select_policy, which takes an action without rows for an average one, and so does not need it.
            found = rule.select(BanditCandidates(classes, log, Pessimism(sigma=0.5), seed))
        else:
            found = select_policy(log, classes, rule, pessimism=Pessimism(sigma=0.5), seed=seed)
        assert {"coverage", "never logged"} & {alarm.name for alarm in found.alarms}
        assert found.verdict != "certified"
