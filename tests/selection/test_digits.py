"""The bandit made of digits: what it promises about its log, its rewards and its images."""

import sys

import numpy as np
import pytest

from gleanings.core.errors import ConfigError
from gleanings.selection.digits import COMPONENTS, digits_bandit, load_digits
from gleanings.selection.overlap import overlap


@pytest.mark.parametrize("n", [400, 2000])
def test_the_log_obeys_its_propensities(n: int):
    """Weights average 1 for a policy that knows nothing and for one that knows the answers, as the logger half does."""
    log = digits_bandit(n, seed=0).log
    assert log.propensity is not None
    policies = np.random.default_rng(1).dirichlet(np.ones(10), n), np.eye(10)[load_digits().labels[log.group]]
    for policy in policies:
        found = overlap(log.action, log.propensity, policy)
        assert abs(found.mean_weight - 1) < 4 * found.mean_weight_se
        assert found.mean_weight_se < 0.2
        assert found.min_propensity >= 0.02
    assert log.reward.mean() > 0.15


def test_rewards_are_right_answers_and_test_images_are_not_logged():
    problem, digits = digits_bandit(2000, seed=0), load_digits()
    log = problem.log
    assert log.group is not None
    np.testing.assert_array_equal(log.reward, (log.action == digits.labels[log.group]).astype(float))
    assert len(np.unique(log.group)) == 1000
    np.testing.assert_array_equal(np.bincount(log.group)[np.unique(log.group)], 2)
    assert problem.means.shape == (797, 10)
    counts = np.bincount(digits.labels) - np.bincount(digits.labels[np.unique(log.group)])
    np.testing.assert_array_equal(problem.means.sum(0), counts)
    assert problem.regret(problem.means) == 0
    assert problem.regret(np.full_like(problem.means, 0.1)) == pytest.approx(0.9)


def test_classes_are_the_leading_components():
    problem = digits_bandit(200, seed=3)
    assert problem.log.context.shape == (200, COMPONENTS[-1])
    spread = problem.log.context.std(0)
    assert (np.diff(spread) <= 1e-6).all()
    assert [c.name for c in problem.classes] == [f"linear[{d}]" for d in COMPONENTS]
    again = digits_bandit(200, seed=3).log
    np.testing.assert_array_equal(again.action, problem.log.action)
    assert (digits_bandit(200, seed=4).log.action != again.action).any()


def test_digits_need_enough_rows_and_scikit_learn(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="40 components of 39 rows"):
        digits_bandit(39, seed=0)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match=r"pip install 'gleanings\[studies\]'"):
        digits_bandit(100, seed=0)
