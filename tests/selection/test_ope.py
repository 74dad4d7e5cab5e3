"""Off-policy estimators: exact by enumeration, their limits, their intervals."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from gleanings.core.errors import ConfigError
from gleanings.selection import ope
from gleanings.selection.ope import DM, DR, IPS, SNDR, SNIPS, DRos, SwitchDR
from gleanings.selection.overlap import overlap

CONTEXTS, ARMS = 3, 4
RNG = np.random.default_rng(0)
LOGGER = 0.5 * RNG.dirichlet(np.ones(ARMS), CONTEXTS) + 0.5 / ARMS  # else a few weights carry all
POLICY = RNG.dirichlet(np.ones(ARMS), CONTEXTS)
MEANS = RNG.random((CONTEXTS, ARMS))
MODEL = RNG.normal(size=(CONTEXTS, ARMS))
TRUTH = float((POLICY * MEANS).sum(1).mean())
ALL = [IPS(), IPS(2.0), SNIPS(), DM(), DR(), DR(2.0), SNDR(), SwitchDR(2.0), DRos(3.0)]


def log_of(n: int, seed: int):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, CONTEXTS, n)
    action = (rng.random((n, 1)) >= LOGGER[x].cumsum(1)).sum(1)
    reward = (rng.random(n) < MEANS[x, action]).astype(float)
    return reward, action, LOGGER[x, action], POLICY[x], MODEL[x]


@pytest.mark.parametrize("model", [MODEL, 0 * MODEL, MEANS, 100 * MODEL[::-1]], ids=["random", "zero", "true", "far"])
@pytest.mark.parametrize("estimator", [IPS(), DR()])
def test_the_unbiased_ones_are_exact_over_all_outcomes(estimator, model):
    """One row a context; all actions and both rewards enumerated with their probabilities; any reward model."""
    expected = 0.0
    for actions in itertools.product(range(ARMS), repeat=CONTEXTS):
        for rewards in itertools.product((0.0, 1.0), repeat=CONTEXTS):
            x, a, r = np.arange(CONTEXTS), np.array(actions), np.array(rewards)
            chance = np.prod(LOGGER[x, a] * np.where(r == 1, MEANS[x, a], 1 - MEANS[x, a]))
            expected += chance * estimator(r, a, LOGGER[x, a], POLICY, model).value
    assert abs(expected - TRUTH) < 1e-12


def test_limits_and_special_cases():
    reward, action, p, policy, model = log_of(400, 1)

    def value(estimator, q=model):
        return estimator(reward, action, p, policy, q).value

    assert value(DR(), 0 * model) == pytest.approx(value(IPS()), abs=1e-12)
    assert value(SNDR(), 0 * model) == pytest.approx(value(SNIPS()), abs=1e-12)
    assert value(SwitchDR(math.inf)) == pytest.approx(value(DR()), abs=1e-12)
    assert value(DRos()) == value(SwitchDR()) == value(DR())
    assert value(DR(0.0)) == pytest.approx(value(DM()), abs=1e-12)
    assert value(SwitchDR(0.0)) == pytest.approx(value(DM()), abs=1e-12)
    assert value(DRos(1e12)) == pytest.approx(value(DR()), abs=1e-6)
    assert value(DRos(0.0)) == pytest.approx(value(DM()), abs=1e-12)
    assert value(IPS(0.0)) == 0
    rho = policy[np.arange(400), action] / p
    v = (rho * reward).sum() / rho.sum()
    found = SNIPS()(reward, action, p, policy)
    assert found.value == pytest.approx(v)
    assert found.se == pytest.approx(math.sqrt((rho**2 * (reward - v) ** 2).sum()) / rho.sum())
    assert found.terms.mean() == pytest.approx(v)


@pytest.mark.parametrize("estimator", [IPS(), SNIPS(), DR(), SNDR()], ids=lambda e: type(e).__name__)
def test_intervals_cover(estimator):
    """2000 logs of 500 rows: 92 to 97 % of the 95 % intervals hold the truth."""
    covered = [(e := estimator(*log_of(500, 10 + i))).low <= TRUTH <= e.high for i in range(2000)]
    assert 0.92 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize("estimator", ALL, ids=repr)
def test_the_bootstrap_agrees_with_the_normal_interval(estimator):
    given = log_of(3000, 2)
    normal = estimator(*given)
    booted = type(estimator)(**{**vars(estimator), "interval": "bootstrap"})(*given, seed=1)
    assert booted.value == normal.value
    width = normal.high - normal.low
    assert abs((booted.high - booted.low) / width - 1) < 0.15
    assert abs((booted.high + booted.low) / 2 - normal.value) < 0.15 * width


def test_bad_input_is_refused():
    reward, action, p, policy, _ = log_of(20, 3)
    with pytest.raises(ConfigError, match="needs a reward model"):
        DR()(reward, action, p, policy)
    with pytest.raises(ConfigError, match="differ in length"):
        IPS()(reward[1:], action, p, policy)
    with pytest.raises(ConfigError, match=r"propensity in \(0, 1\]"):
        IPS()(reward, action, 0 * p, policy)
    nowhere = np.zeros_like(policy)
    assert math.isnan(SNIPS()(reward, action, p, nowhere).value)


def test_overlap_is_what_its_names_say():
    action, p = np.array([0, 0, 1, 1]), np.array([0.5, 0.5, 0.25, 0.25])
    policy = np.tile([0.5, 0.5, 0.0], (4, 1))
    found = overlap(action, p, policy)
    rho = np.array([1, 1, 2, 2])
    assert found.ess == pytest.approx(rho.sum() ** 2 / (rho**2).sum())
    assert (found.max_weight, found.max_share, found.mean_weight) == (2, 2 / 6, 1.5)
    assert found.never_logged == ()
    assert [a.name for a in found.alarms()] == ["effective sample size", "largest weight"]
    wants = overlap(action, p, np.tile([0.0, 0.5, 0.5], (4, 1)))
    assert wants.never_logged == (2,)
    assert wants.alarms()[0].name == "never logged"


def test_a_shuffled_propensity_column_is_noticed():
    """The mean weight is 1 with the right column; here it is that of other actions, in 20 of 20 logs."""
    noticed = 0
    for seed in range(20):
        _, action, p, policy, _ = log_of(5000, seed)
        assert "mean weight" not in [a.name for a in overlap(action, p, policy).alarms()]
        shuffled = np.random.default_rng(seed).permutation(p)
        noticed += "mean weight" in [a.name for a in overlap(action, shuffled, policy).alarms()]
    assert noticed == 20


def test_bootstrap_counts_are_poisson():
    counts = ope._POISSON
    assert len(counts) == 2**16
    assert counts.mean() == 1
    assert counts.var() == 1
    share = np.bincount(counts.astype(int)) / 2**16
    np.testing.assert_allclose(share, stats.poisson(1).pmf(np.arange(9)), rtol=0, atol=1.5 / 2**16)


def test_more_draws_make_the_bootstrap_steadier():
    given = log_of(500, 3)
    lows = {
        draws: [DR(interval="bootstrap", draws=draws)(*given, seed=s).low for s in range(40)] for draws in (20, 2000)
    }
    assert np.std(lows[2000]) < np.std(lows[20]) / 3
