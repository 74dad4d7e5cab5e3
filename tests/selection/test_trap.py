"""The variance trap's closed forms against simulation."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gleanings.selection import Trap
from gleanings.selection.trap import trap_bellman_error, trap_regret, trap_rows

LATE = Trap(0.5, columns=8, signals=((5, 0.3),))
GRADED = Trap(0.5, columns=8, signals=((1, 0.3), (4, 0.2)))

SIZE = 400_000  # rows a stage of every simulation, which so compiles once
regret, bellman_error = jax.jit(trap_regret, static_argnums=0), jax.jit(trap_bellman_error, static_argnums=0)


def optimal(trap: Trap) -> jnp.ndarray:
    weights = np.zeros((trap.stages, 2, trap.columns), np.float32)
    for column, strength in trap.signals:
        weights[:, 1, column], weights[:, 0, column] = strength, -strength
    return jnp.asarray(weights)


@pytest.mark.parametrize("trap", [Trap(0.5, columns=8), LATE, GRADED])
def test_regret_of_the_best_and_of_constant_policies(trap):
    assert float(regret(trap, optimal(trap))) == 0
    constant = optimal(trap) * 0
    best = np.mean([abs(sum(s)) for s in _signal_values(trap)])
    np.testing.assert_allclose(float(regret(trap, constant)), trap.stages * best, rtol=1e-5)


@pytest.mark.parametrize("trap", [Trap(0.5, columns=8), LATE, GRADED])
def test_regret_is_that_of_simulated_states(trap):
    """Within 4 standard errors, 400,000 states a stage drawn from the dynamics (z is +-1 after the first stage)."""
    weights = optimal(trap) + 0.3 * jax.random.normal(jax.random.key(1), (trap.stages, 2, trap.columns))
    n = SIZE
    x = np.asarray(trap_rows(trap, n, n, 1.0, jax.random.key(2)).features, float)
    s = sum(c * x[..., column] for column, c in trap.signals)
    action = np.einsum("hnd,had->hna", x, np.asarray(weights, float)).argmax(-1)
    lost = 2 * np.abs(s) * (action != (s > 0))
    error = np.sqrt(lost.var(1).sum() / n)
    assert abs(float(regret(trap, weights)) - lost.mean(1).sum()) < 4 * error


@pytest.mark.parametrize("trap", [Trap(0.3, columns=8), LATE, GRADED])
def test_bellman_error_of_the_optimal_values_is_zero_and_of_nothing_is_the_reward(trap):
    weights, gain = optimal(trap), np.mean([abs(sum(s)) for s in _signal_values(trap)])
    exact = weights.at[..., 2].set(trap.nuisance).at[..., 0].set(gain * np.arange(trap.stages)[::-1, None])
    np.testing.assert_allclose(bellman_error(trap, exact, trap.q), 0, atol=1e-12)
    assert float(bellman_error(trap, exact.at[0, :, 0].add(0.1), trap.q)[0]) == pytest.approx(0.01, rel=1e-4)
    power = sum(c**2 for _, c in trap.signals) + np.array([0, trap.q, trap.q]) * trap.nuisance**2
    np.testing.assert_allclose(bellman_error(trap, 0 * weights, trap.q), power, rtol=1e-6)


@pytest.mark.parametrize("trap", [Trap(0.3, columns=8), LATE, GRADED])
def test_bellman_error_is_that_of_simulated_rows(trap):
    """Within 4 standard errors, 200,000 rows a stage, each with two independent next states: no bias by the square."""
    weights = optimal(trap) + 0.3 * jax.random.normal(jax.random.key(5), (trap.stages, 2, trap.columns))
    n = SIZE // 2
    rows = trap_rows(replace(trap, noise=0.0), 2 * n, 2 * n, trap.q, jax.random.key(6))
    x, later, action, reward = (np.asarray(v) for v in (rows.features, rows.next_features, rows.action, rows.reward))
    w = np.asarray(weights, float)
    f = np.take_along_axis(np.einsum("hnd,had->hna", x.astype(float), w), action[..., None], -1)[..., 0]
    best = np.einsum("hnd,had->hna", later[:-1].astype(float), w[1:]).max(-1)
    best = np.concatenate([best, np.zeros_like(best[:1])])
    left = (f - reward)[:, :n]
    product = (left - best[:, :n]) * (left - best[:, n:])
    error = product.std(1) / np.sqrt(n)
    assert (np.abs(np.asarray(bellman_error(trap, weights, trap.q)) - product.mean(1)) < 4 * error).all()


def _signal_values(trap: Trap) -> list[tuple[float, ...]]:
    return list(itertools.product(*[(-c, c) for _, c in trap.signals]))


def test_the_log_and_the_dynamics_differ_in_z_only():
    rows = trap_rows(Trap(0.3, columns=8), SIZE, 4 * SIZE // 5, 0.3, jax.random.key(0))
    z, later = np.asarray(rows.features[..., 2]), np.asarray(rows.next_features[..., 2])
    assert (z[0] == 0).all()
    assert abs(np.abs(z[1:]).mean() - 0.3) < 0.01
    assert (np.abs(later[:-1]) == 1).all()
    assert set(np.unique(rows.features[..., 1])) == {-1, 1}
    assert (np.asarray(rows.discount)[-1] == 0).all()
    assert float(rows.train[0].sum()) == 0.64 * SIZE
    assert float(rows.valid[0].sum()) == 0.16 * SIZE
    reward = np.asarray(rows.reward - z, float) * (2 * np.asarray(rows.action) - 1)
    np.testing.assert_allclose((reward * np.asarray(rows.features[..., 1])).mean(), 0.3, atol=0.01)
