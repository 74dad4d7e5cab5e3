"""The variance trap's closed forms against simulation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gleanings.selection import Trap
from gleanings.selection.trap import trap_regret, trap_rows

LATE = Trap(0.5, columns=8, signals=((5, 0.3),))
GRADED = Trap(0.5, columns=8, signals=((1, 0.3), (4, 0.2)))


def optimal(trap: Trap) -> jnp.ndarray:
    weights = np.zeros((trap.stages, 2, trap.columns), np.float32)
    for column, strength in trap.signals:
        weights[:, 1, column], weights[:, 0, column] = strength, -strength
    return jnp.asarray(weights)


@pytest.mark.parametrize("trap", [Trap(0.5, columns=8), LATE, GRADED])
def test_regret_of_the_best_and_of_constant_policies(trap):
    assert float(trap_regret(trap, optimal(trap))) == 0
    constant = optimal(trap) * 0
    best = np.mean([abs(sum(s)) for s in itertools.product(*[(-c, c) for _, c in trap.signals])])
    np.testing.assert_allclose(float(trap_regret(trap, constant)), trap.stages * best, rtol=1e-5)


@pytest.mark.parametrize("trap", [Trap(0.5, columns=8), LATE, GRADED])
def test_regret_is_that_of_simulated_states(trap):
    """Within 4 standard errors, 200,000 states a stage drawn from the dynamics (z is +-1 after the first stage)."""
    weights = optimal(trap) + 0.3 * jax.random.normal(jax.random.key(1), (trap.stages, 2, trap.columns))
    n = 200_000
    x = np.asarray(trap_rows(trap, n, n, 1.0, jax.random.key(2)).features, float)
    s = sum(c * x[..., column] for column, c in trap.signals)
    action = np.einsum("hnd,had->hna", x, np.asarray(weights, float)).argmax(-1)
    lost = 2 * np.abs(s) * (action != (s > 0))
    error = np.sqrt(lost.var(1).sum() / n)
    assert abs(float(trap_regret(trap, weights)) - lost.mean(1).sum()) < 4 * error


def test_the_log_and_the_dynamics_differ_in_z_only():
    rows = trap_rows(Trap(0.3, columns=8), 50_000, 40_000, 0.3, jax.random.key(0))
    z, later = np.asarray(rows.features[..., 2]), np.asarray(rows.next_features[..., 2])
    assert (z[0] == 0).all()
    assert abs(np.abs(z[1:]).mean() - 0.3) < 0.01
    assert (np.abs(later[:-1]) == 1).all()
    assert set(np.unique(rows.features[..., 1])) == {-1, 1}
    assert (np.asarray(rows.discount)[-1] == 0).all()
    assert float(rows.train[0].sum()) == 32_000
    assert float(rows.valid[0].sum()) == 8_000
    reward = np.asarray(rows.reward - z, float) * (2 * np.asarray(rows.action) - 1)
    np.testing.assert_allclose((reward * np.asarray(rows.features[..., 1])).mean(), 0.3, atol=0.01)
