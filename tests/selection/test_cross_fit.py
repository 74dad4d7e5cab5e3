"""Held-out fits from sums by fold are the fits that refitting gives."""

import numpy as np
import pytest

from gleanings.selection.bandit import BanditLog
from gleanings.selection.bandit_rules import BanditCandidates
from gleanings.selection.classes import Identity
from gleanings.selection.pessimistic import BanditClass, HeadLinear, heads, leading_features


@pytest.fixture
def log():
    rng = np.random.default_rng(0)
    context, action = rng.normal(size=(600, 5)), rng.choice(4, 600, p=[0.6, 0.37, 0.03, 0])
    return BanditLog(context, action, context[:, 1] * action + rng.normal(size=600), None, tuple("abcd"))


@pytest.mark.parametrize("share_unused", [0.0, 0.3])
def test_sums_by_fold_give_what_refits_give(log, share_unused: float):
    rng = np.random.default_rng(1)
    folds = np.where(rng.random(600) < share_unused, -1, rng.integers(0, 5, 600))
    for c in heads((1, 3, 6)):
        found = c.cross_fitted(log, folds, 0.1)
        np.testing.assert_allclose(found, BanditClass.cross_fitted(c, log, folds, 0.1), rtol=1e-9)
        assert (np.isnan(found) == (folds == -1)).all()


def test_a_fold_with_all_rows_is_fitted_on_none(log):
    assert (HeadLinear(3).cross_fitted(log, np.zeros(600, int), 0.1) == 0).all()


def test_held_out_errors_do_not_see_the_row(log):
    changed = BanditLog(log.context, log.action, log.reward + 100.0 * (np.arange(600) == 7), None, log.labels)
    folds = np.arange(600) % 5
    before, after = (BanditCandidates(heads((1, 6)), x).held_out(folds) for x in (log, changed))
    same = (folds == 7 % 5) & (np.arange(600) != 7)
    np.testing.assert_allclose(after[:, same], before[:, same], rtol=1e-12)
    assert (after[:, ~same] != before[:, ~same]).any()


def test_residual_and_degrees_are_those_of_the_hat_matrix(log):
    fit, ridge = HeadLinear(4).fit(log, 0.1), 0.1 * np.eye(4)
    residual, degrees = 0.0, 0.0
    for a in range(4):
        phi, reward = leading_features(Identity(), 4, log.context)[log.action == a], log.reward[log.action == a]
        hat = phi @ np.linalg.inv(phi.T @ phi + ridge) @ phi.T
        residual, degrees = residual + np.square(reward - hat @ reward).sum(), degrees + np.trace(hat)
    assert fit.residual == pytest.approx(residual, rel=1e-9)
    assert fit.degrees == pytest.approx(degrees, rel=1e-9)
