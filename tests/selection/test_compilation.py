"""A second log of one shape compiles nothing anew."""

import jax
import pytest

from gleanings.selection import Identity, Trap, fit_candidates, prefix, prefix_linear, variance_trap


@pytest.mark.parametrize("discounted", [False, True])
def test_logs_of_one_shape_share_one_trace(monkeypatch, discounted):
    traced = []
    inner = prefix.factors
    monkeypatch.setattr(prefix, "factors", lambda *given: traced.append(1) or inner(*given))
    classes = prefix_linear(Identity(), (1, 3, 9))
    for seed in range(3):
        data = variance_trap(111, Trap(columns=9), key=jax.random.key(seed))
        if discounted:
            data = type(data)(**{**vars(data), "stage": None, "discount": 0.5})
        fit_candidates(classes, None, data).comparisons()
    assert len(traced) == 1
