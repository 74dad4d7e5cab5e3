"""The traps of the page, each with the test that catches it; and the size of the programs."""

import dataclasses
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gleanings.estimators as library
from gleanings.estimators import (
    ARMS,
    ARSPlus,
    CoupledLOO,
    DisARM,
    ReinforceLOO,
    check_unbiased,
    expect,
    variance_of,
)

from ._members import BIASED, CORE, MEMBERS
from ._oracle import toy


@pytest.mark.parametrize("name", MEMBERS)
def test_f_is_called_once_a_gradient_on_all_evaluations(name):
    member, binary, calls = MEMBERS[name], MEMBERS[name].variable == "binary", []
    logits, f = toy("mlp", 3, 4, binary=binary)
    logits = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (2, *logits.shape))

    def counted(_, z):
        calls.append(z.shape)
        return f(z)

    objective = expect(member)(counted)
    jax.make_jaxpr(jax.grad(lambda x: objective(None, x, jax.random.key(0)).sum()))(logits)
    shape = (member.evaluations(logits), *logits.shape)
    assert set(calls) == {shape}
    # A member that differentiates f may look at its type once more; no evaluation comes with that.
    assert len(calls) == 1 or (member.needs_gradient_of_f and len(calls) == 2)


def count_equations(jaxpr) -> int:
    """Equations of a jaxpr with those of its inner jaxprs, each once."""
    inner = [
        getattr(x, "jaxpr", x)
        for equation in jaxpr.eqns
        for value in equation.params.values()
        for x in (value if isinstance(value, (tuple, list)) else (value,))
        if hasattr(getattr(x, "jaxpr", x), "eqns")
    ]
    return len(jaxpr.eqns) + sum(map(count_equations, inner))


@pytest.mark.parametrize(
    ("name", "limit"),
    [("tree", 2), ("coupled-4", 2), ("sb", 1), ("coupled-5-stick", 1), ("iw", 1), ("rloo-2", 1), ("ars+", 1)],
)
def test_program_size_grows_with_log_K_at_most(name, limit):
    """K = 256 against K = 64 and 16; both sides of the limit between compares and sorting may differ a little."""

    def size(K):
        def gradient(x):
            return MEMBERS[name](lambda z: z[..., 0].sum(-1), x, jax.random.key(0))

        return count_equations(jax.make_jaxpr(gradient)(jnp.zeros((2, 3, K))).jaxpr)

    assert size(256) <= limit * 1.15 * size(16)
    assert size(256) <= (1 + limit / 3) * size(64)


def ratio_to_leave_one_out(estimator, kind: str, n: int, seed: int = 0) -> float:
    binary = estimator.variable == "binary"
    logits, f = toy(kind, 8 if binary else 4, 3, seed=seed, binary=binary)
    logits = jnp.asarray(logits, jnp.float32)
    rloo = ReinforceLOO(n, variable=estimator.variable)
    top, bottom = (variance_of(e, f, logits, jax.random.key(4), draws=40_000) for e in (estimator, rloo))
    assert top.standard_error < 0.03 * top.trace
    return top.trace / bottom.trace


def test_ranks_are_redrawn_for_every_variable():
    """With the same ranks everywhere this ratio is 1.44, with averaged pairs 1.57."""
    assert ratio_to_leave_one_out(CoupledLOO(8, variable="binary"), "mlp", 8) <= 0.95


@pytest.mark.plain_compilation
def test_draws_of_different_variables_leaves_and_examples_are_uncorrelated():
    """One key for all of them would show here; within 4.5 standard errors, every path through the code."""
    draws = 4_000
    for name in set(CORE) - set(BIASED):
        member = MEMBERS[name]
        shape = (draws, 2, 2, 2) if member.variable == "categorical" else (draws, 2, 2)
        logits = {"a": jnp.zeros(shape), "b": jnp.zeros(shape)}
        samples = jax.jit(lambda key, m=member, x=logits: m.draw(x, key).samples)(jax.random.key(8))
        last = 0 if name.endswith("local") else -1  # later evaluations of this one repeat the first
        bits = [x[..., 0] if member.variable == "categorical" else x for x in (samples["a"], samples["b"])]
        one, other = np.concatenate([np.asarray(b)[[0, last]].reshape(2, draws, -1) for b in bits], -1)
        for left, right in [(one, one), (one, other)]:
            correlation = np.corrcoef(left.T, right.T)[:8, 8:]
            off = correlation[~np.eye(8, dtype=bool)]
            assert np.abs(off).max() < 4.5 / math.sqrt(draws), name


def test_no_member_offers_to_clip():
    for value in vars(library).values():
        if inspect.isclass(value) and dataclasses.is_dataclass(value):
            assert not [field.name for field in dataclasses.fields(value) if "clip" in field.name]


def test_small_probabilities_are_overdrawn_by_no_more_than_stated():
    """p = 1e-9: at most the grid's 2e-7 too often, in a million draws of each evaluation."""
    logits = jnp.full((1_000_000, 1), math.log(1e-9), jnp.float32)
    for member in (CoupledLOO(4, variable="binary"), DisARM(), ARMS(3), ReinforceLOO(4, variable="binary")):
        ones = jax.jit(lambda key, m=member: m.draw(logits, key).samples.sum())(jax.random.key(1))
        assert ones <= 6, member


@pytest.mark.slow
def test_ars_plus_conditions_on_all_pseudo_actions():
    """Conditioning on "is the action m" alone has a bias of 6 %."""
    logits, f = toy("mlp", 1, 3, seed=2)
    result = check_unbiased(ARSPlus(), f, jnp.asarray(logits, jnp.float32), jax.random.key(3), draws=2_000_000)
    assert result.max_abs_z < 4.5


@pytest.mark.slow
def test_conditioning_lowers_the_variance_of_the_swap_estimators():
    """ARS+ is the mean of ARS given the pseudo-actions, and ARSM uses more evaluations still."""
    logits, f = toy("mlp", 3, 4)
    logits = jnp.asarray(logits, jnp.float32)
    trace = {n: variance_of(MEMBERS[n], f, logits, jax.random.key(0)).trace for n in ("ars", "ars+", "arsm", "arsm+")}
    assert trace["ars+"] < 0.95 * trace["ars"]
    assert trace["arsm+"] < trace["arsm"] < 0.5 * trace["ars+"]
