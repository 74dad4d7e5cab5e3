"""Rows needed: the arithmetic of the predictions, and what is counted as agreement."""

import math

import numpy as np

from gleanings.selection import Trap
from gleanings.studies import _modbe_rows
from gleanings.studies._modbe_rows import rows_needed
from gleanings.studies._modbe_trials import ACTIONS, DIMS

M = len(DIMS)


def test_predictions_by_hand():
    """Without parameters to pay for both are n zeta / delta; the corrected one inverts the law it assumes."""
    delta, zeta = np.full((1, M, M), 0.1), np.full((1, M, M), 0.4)
    np.testing.assert_allclose(_modbe_rows._plain(delta, zeta, zeta, 500), 2000)
    assert (_modbe_rows._plain(-delta, zeta, zeta, 500) == math.inf).all()
    np.testing.assert_allclose(_modbe_rows._corrected(delta, zeta, 0 * zeta, 500), 2000, rtol=0.02)
    params, noise, gain, rows = ACTIONS * np.asarray(DIMS, float), 0.3, 0.2, 3000
    each = [params / (0.8 * n - params) for n in (500, rows)]
    pay = [noise * (x - x[:, None]) for x in each]
    large = noise / (1 - params / 400) * np.ones((1, M, M))
    law = (gain - pay[1]) * rows / 500  # zeta at 500 for which the difference gain - pay meets zeta at 3000
    found = _modbe_rows._corrected((gain - pay[0])[None], law[None], large, 500)
    np.testing.assert_allclose(found[0][np.triu_indices(M, 1)], rows, rtol=0.02)


def test_agreement_counts_what_can_be_told():
    shape = (3, 4, 1, M, M)
    delta, zeta = np.zeros(shape), np.ones(shape)
    delta[0, ..., 0, 1], delta[1:, ..., 0, 1] = 0.3, 2  # predicted 1667, measured 1000
    delta[0, ..., 0, 2], delta[2:, ..., 0, 2] = 0.3, 2  # measured 4000, further than a factor 2
    delta[2:, ..., 0, 3] = 2  # never by the prediction
    delta[..., 0, 4] = 2  # rejects at once: left out
    found = _modbe_rows._agreement(delta, zeta, 0 * zeta, (500, 1000, 4000))["plain"]
    assert (found["comparisons"], found["share"], found["share_single"]) == (3, 1 / 3, 1 / 3)
    assert found["measured"] == [1000, 4000, 4000]
    assert found["predicted"][2] is None


def test_the_measurement_runs_on_a_small_grid():
    found = rows_needed({"c": Trap(0.5)}, range(1000, 1002), (500, 1000))["c"]
    assert set(found) == {"plain", "corrected"}
    assert all(len(one["measured"]) == one["comparisons"] for one in found.values())
