"""A second log of one shape compiles nothing anew."""

import numpy as np
import pytest

from gleanings.selection import Identity, Transitions, fit_candidates, prefix, prefix_linear


@pytest.mark.parametrize("discounted", [False, True])
def test_logs_of_one_shape_share_one_trace(monkeypatch, discounted):
    traced = []
    inner = prefix.factors
    monkeypatch.setattr(prefix, "factors", lambda *given: traced.append(1) or inner(*given))
    classes = prefix_linear(Identity(), (1, 3, 9))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x, later = rng.normal(size=(2, 333, 8)).astype(np.float32)
        action, reward = rng.integers(0, 2, 333).astype(np.int32), rng.normal(size=333).astype(np.float32)
        kind = {"discount": 0.5} if discounted else {"stage": np.arange(333, dtype=np.int32) // 111}
        data = Transitions(x, action, reward, later, np.zeros(333, bool), 2, **kind)
        fit_candidates(classes, None, data).comparisons()
    assert len(traced) == 1
