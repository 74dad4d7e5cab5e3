"""All leading classes at once, against one dense solve a class and against the path that takes any base learner."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gleanings.selection import Identity, Transitions, fit_candidates, fqi, prefix_linear
from gleanings.selection.prefix import Rows, effective_rows, factors, leading, regress

DIMS = (1, 3, 6, 12)


def random_rows(n: int, columns: int, dtype) -> Rows:
    rng = np.random.default_rng(0)
    phi = rng.normal(size=(2, n, columns)).astype(dtype)
    train = (np.arange(n) < 0.8 * n).astype(dtype) * np.ones((2, 1), dtype)
    action = rng.integers(0, 3, (2, n)).astype(np.int32)
    reward = rng.normal(size=(2, n)).astype(dtype)
    arrays = (phi, action, reward, phi, np.ones_like(reward), train, 1 - train)
    return Rows(*(jnp.asarray(x) for x in arrays))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 2e-4)])
def test_prefix_solve_is_the_dense_solve_of_each_class(dtype, tolerance):
    with jax.enable_x64(dtype is np.float64):
        rows, ridge = random_rows(300, 12, dtype), 1e-2
        stage = jax.tree.map(lambda x: x[0], rows)
        masks = leading(DIMS).astype(dtype)
        solve = jax.jit(lambda rows, stage: regress(factors(rows, 3, ridge)[0], stage, stage.reward, masks))
        found = np.asarray(solve(rows, stage))
    phi, y, train = (np.asarray(x, float) for x in (stage.features, stage.reward, stage.train))
    for k, d in enumerate(DIMS):
        for a in range(3):
            own = phi[:, :d] * (train * (np.asarray(stage.action) == a))[:, None]
            expected = np.linalg.solve(own.T @ phi[:, :d] + ridge * train.sum() * np.eye(d), own.T @ y)
            np.testing.assert_allclose(found[k, a, :d], expected, rtol=tolerance, atol=tolerance)
            assert (found[k, a, d:] == 0).all()


def log_of(n: int, **kind) -> Transitions:
    """The first column says which of two actions is better, and part of what is next."""
    rng = np.random.default_rng(1)
    x, later = rng.normal(size=(2, n, 11)).astype(np.float32)
    later[:, 0] = 0.5 * x[:, 0] + later[:, 0]
    action = rng.integers(0, 2, n).astype(np.int32)
    reward = (x[:, 0] * (2 * action - 1) + x[:, 1] + 0.5 * rng.normal(size=n)).astype(np.float32)
    return Transitions(x, action, reward, later, rng.random(n) < 0.1, 2, **kind)


def test_the_path_for_any_base_learner_gives_the_same_comparisons():
    data = log_of(900, stage=np.arange(900, dtype=np.int32) // 300)
    classes = prefix_linear(Identity(), DIMS)
    fast = fit_candidates(classes, None, data)
    slow = fit_candidates(classes, lambda c, d, key: fqi(c, d, key), data)
    assert type(fast) is not type(slow)
    for name, a, b in zip(fast.comparisons()._fields, fast.comparisons(), slow.comparisons(), strict=True):
        known = np.isfinite(np.asarray(b))
        np.testing.assert_allclose(np.asarray(a)[known], np.asarray(b)[known], rtol=1e-3, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(fast.value_at_start(1), slow.value_at_start(1), rtol=1e-4)


def test_a_discounted_process_is_the_same_by_both_paths():
    data = log_of(300, discount=0.8)
    classes = prefix_linear(Identity(), DIMS, ridge=1e-2)
    fast = fit_candidates(classes, None, data)
    slow = fit_candidates(classes, lambda c, d, key: fqi(c, d, key), data)
    for a, b in zip(fast.comparisons(), slow.comparisons(), strict=True):
        known = np.isfinite(np.asarray(b))
        np.testing.assert_allclose(np.asarray(a)[known], np.asarray(b)[known], rtol=2e-3, atol=1e-5)


def test_effective_rows_count_what_carries_an_error():
    """n p for an event of rate p, n / 3 for a Gaussian, and the edges."""
    n, one = 30_000, jnp.ones(30_000)
    y = jax.random.normal(jax.random.key(0), (n,))
    event = jnp.where(jnp.arange(n) < 30, 1.0, 0.0)
    np.testing.assert_allclose(effective_rows(event, y, one), 30, rtol=0.01)
    np.testing.assert_allclose(effective_rows(y, y, one), n / 3, rtol=0.1)
    assert effective_rows(0 * y, 0 * y, one) == 0
    assert effective_rows(0 * y, y, one) == n
    assert effective_rows(1e-6 * event, y, one) == n
    half = (jnp.arange(n) < n // 2).astype(jnp.float32)
    np.testing.assert_allclose(effective_rows(jnp.where(half > 0, y, 1e3), y, half), n / 6, rtol=0.1)
    kurtosis = stats.kurtosis(np.asarray(y, float), fisher=False)
    np.testing.assert_allclose(effective_rows(y, y, one), n / kurtosis, rtol=1e-3)
