"""Bad input and hostile numbers: one clear error, or NaN for the example concerned and nothing else."""

import math
from functools import cache

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gleanings.core.errors import ConfigError, NumericsError
from gleanings.estimators import (
    ARMS,
    ARSM,
    ARSMPlus,
    CoupledLOO,
    DisARM,
    DisARMSB,
    DisARMTree,
    GumbelSoftmax,
    LocalExpectation,
    Reinforce,
    ReinforceLOO,
    ReinMax,
    StraightThrough,
    check_unbiased,
    compare,
    exact_gradient,
    expect,
    variance_of,
)
from gleanings.estimators._coupling import Split, excess_correlation

from ._members import BINARY, MEMBERS, UNBIASED, core_first
from ._oracle import sigmoid, softmax, toy

KEY = jax.random.key(0)


@pytest.fixture
def unchecked():
    """Without the type checks of the test run, which would answer before the library does."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


def total(z):
    return z.sum((-2, -1))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ReinforceLOO(1), ["num_evaluations", "1", "2"]),
        (lambda: CoupledLOO(1), ["num_evaluations", "1", "2"]),
        (lambda: ARMS(0), ["num_evaluations", "0", "2"]),
        (lambda: Reinforce(0), ["num_evaluations", "0", "1"]),
        (lambda: CoupledLOO(5, coupling="pairs"), ["num_evaluations", "5", "even", "pairs"]),
        (lambda: CoupledLOO(order="descending"), ["order", "descending", "ascending"]),
        (lambda: DisARMSB(order="sorted"), ["order", "sorted", "ascending"]),
        (lambda: CoupledLOO(structure="comb"), ["structure", "comb", "tree", "stick"]),
        (lambda: CoupledLOO(coupling="arms"), ["coupling", "arms", "systematic", "pairs"]),
        (lambda: ReinforceLOO(variable="ternary"), ["variable", "ternary", "categorical", "binary"]),
        (lambda: GumbelSoftmax(0.0), ["temperature", "0.0"]),
        (lambda: ReinMax(-1.0), ["temperature", "-1.0"]),
    ],
)
def test_bad_options_name_field_value_and_what_is_allowed(make, words, unchecked):
    with pytest.raises(ConfigError) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("member", [CoupledLOO(), ReinforceLOO(), LocalExpectation(), StraightThrough()])
@pytest.mark.parametrize(
    ("logits", "key", "words"),
    [
        (jnp.zeros((2, 3), jnp.int32), KEY, ["int32", "float"]),
        (jnp.zeros((2, 3), bool), KEY, ["bool", "float"]),
        (jnp.zeros(3), KEY, ["[3]", "[*batch, D, K]"]),
        (jnp.zeros((2, 0)), KEY, ["[2, 0]", "K"]),
        ({"a": jnp.zeros((4, 2, 3)), "b": jnp.zeros((5, 2, 3))}, KEY, ["b", "batch"]),
        ({}, KEY, ["empty"]),
        (jnp.zeros((2, 3)), jnp.zeros(2, jnp.uint32), ["uint32", "jax.random.key"]),
        (jnp.zeros((2, 3)), 0, ["int", "jax.random.key"]),
        (jnp.zeros((2, 3)), jax.random.split(KEY, 2), ["[2]", "one key"]),
    ],
)
def test_bad_logits_and_keys_are_told_with_dtype_shape_and_fix(member, logits, key, words, unchecked):
    for call in (member, lambda f, x, key: expect(member)(lambda _, z: f(z))(None, x, key)):
        with pytest.raises(ConfigError) as caught:
            call(lambda z: total(z), logits, key)
        assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("member", [CoupledLOO(), LocalExpectation(), ReinMax(), ARSM()])
@pytest.mark.parametrize(
    "f",
    [
        lambda z: total(z).mean(),
        lambda z: total(z).mean(-1),
        lambda z: total(z).mean(0),
        lambda z: z.sum(-1),
        lambda z: total(z)[..., None],
    ],
    ids=["scalar", "no-batch", "no-evaluations", "per-variable", "extra-axis"],
)
def test_f_of_a_wrong_shape_is_told_what_was_expected(member, f):
    logits = jnp.zeros((5, 2, 3))
    n = member.evaluations(logits)
    with pytest.raises(ConfigError, match="one value per example") as caught:
        jax.jit(lambda key: member(f, logits, key))(KEY)
    assert str([n, 5]) in str(caught.value)


def test_integer_and_boolean_f_become_float32():
    logits = jnp.zeros((4, 2, 3))

    @jax.jit
    def run(key):
        calls = [lambda z, dtype=dtype: z[..., 0, 0].astype(dtype) for dtype in (jnp.float32, jnp.int32, jnp.bool_)]
        return [CoupledLOO()(f, logits, jax.random.clone(key)) for f in calls]

    (reference, g), *others = run(jax.random.key(1))
    assert np.abs(g).max() > 0.1
    for value, cotangent in others:
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, reference)
        np.testing.assert_allclose(cotangent, g)


@pytest.mark.parametrize("member", [ReinMax(), StraightThrough(), GumbelSoftmax()])
def test_a_gradient_that_f_lacks_names_the_members_that_need_none(member):
    def shape(z):
        return jax.ShapeDtypeStruct(z.shape[:-2], z.dtype)

    def black_box(z):
        return jax.pure_callback(lambda x: np.asarray(x).sum((-2, -1)), shape(z), z)

    for f in (black_box, lambda z: z[..., 0, 0] > 0.5):
        with pytest.raises(ConfigError, match=r"ReinforceLOO|CoupledLOO"):
            member(f, jnp.zeros((2, 3)), jax.random.key(0))

    def broken(z):
        raise KeyError("the user's own mistake")

    with pytest.raises(KeyError, match="own mistake"):
        member(broken, jnp.zeros((2, 3)), jax.random.key(0))


@cache
def program(name: str):
    """Value, cotangent and draw for the logits that the three tests below share; a fault strikes two examples."""
    member, binary = MEMBERS[name], MEMBERS[name].variable == "binary"
    f, last, other = toy("mlp", *((10, 2) if binary else (2, 5)), binary=binary).f, (-1, *SPOILED[0]), (0, *SPOILED[1])

    @jax.jit
    def run(logits, key, fault):
        def g(z):
            values = f(jnp.nan_to_num(z))
            return values.at[last].add(fault).at[other].add(jnp.where(fault != 0, jnp.inf, 0))

        draw = member.draw(logits, jax.random.clone(key)) if member.needs_gradient_of_f is False else None
        return *member(g, logits, key), draw

    return run


SPOILED = (4, 3), (5, 3)


@pytest.mark.parametrize("name", core_first(MEMBERS))
def test_bad_numbers_stay_in_their_example(name):
    """NaN, +inf and all -inf logits, and NaN or inf from f in one evaluation; the other examples do not change."""
    binary = MEMBERS[name].variable == "binary"
    logits = np.random.default_rng(3).normal(size=(64, 8, 10) if binary else (64, 8, 2, 5)).astype(np.float32)
    bad, concerned = logits.copy(), np.zeros((64, 8), bool)
    bad[1, 0, 0], bad[2, 7, 1] = np.nan, np.inf
    for example in [(1, 0), (2, 7), *SPOILED]:
        concerned[example] = True
    if not binary:
        bad[3, 2, 0], concerned[3, 2] = -np.inf, True
    with jax.debug_key_reuse(False):
        clean = program(name)(logits, jax.random.key(4), 0.0)[:2]
        found = program(name)(bad, jax.random.key(4), np.nan)[:2]
    for leaf, reference in zip(found, clean, strict=True):
        leaf, reference = np.asarray(leaf), np.asarray(reference)
        assert np.isfinite(reference).all()
        assert np.isnan(leaf[concerned]).all()
        np.testing.assert_array_equal(leaf[~concerned], reference[~concerned])


@pytest.mark.parametrize("name", core_first(UNBIASED))
def test_extreme_and_excluded_logits_stay_finite(name):
    """+-30, +-90, all equal, -inf: finite; a category at -inf is never drawn and has cotangent exactly 0."""
    inf = np.inf
    rows = [
        [30, -30, 0, 0, 0],
        [90, -90, 90, 0, -90],
        [-90, -90, -90, -90, 90],
        [0, 0, 0, 0, 0],
        [1e4, 0, -1e4, 3e38, -3e38],
        [-inf, 0, 0, -inf, -inf],
        [-inf, -inf, 2, -inf, -inf],
        [88, -inf, 89, -88, -inf],
    ]
    batch = np.broadcast_to(np.array(rows, np.float32)[:, None], (64, 8, 2, 5))
    value, cotangent, draw = program(name)(batch, jax.random.key(1), 0.0)
    cotangent, samples, excluded = np.asarray(cotangent), np.asarray(draw.samples), np.isneginf(batch)
    assert np.isfinite(value).all()
    assert np.isfinite(cotangent).all()
    assert np.isfinite(draw.weights).all()
    assert (samples.sum(-1) == 1).all()
    assert not (samples * excluded).any() or name == "local"
    assert (cotangent[excluded] == 0).all()
    np.testing.assert_allclose(cotangent[:, 6], 0, atol=1e-6)  # one category left


@pytest.mark.parametrize("name", core_first(BINARY))
def test_extreme_binary_logits_stay_finite(name):
    logits = np.array([-np.inf, -1e38, -90, -30, -17, 0, 17, 30, 90, 1e38], np.float32)
    value, cotangent, _ = program(name)(np.broadcast_to(logits, (64, 8, 10)), jax.random.key(1), 0.0)
    cotangent = np.asarray(cotangent)
    assert np.isfinite(value).all()
    assert np.isfinite(cotangent).all()
    assert (cotangent[..., 0] == 0).all()
    assert np.abs(cotangent[..., [1, 2, 8, 9]]).max() < 1e-3 or name in ("arm", "binary-arsm+")


_excess = jax.jit(lambda one, zero, c: excess_correlation(Split(one, zero), c))


@settings(max_examples=200, deadline=None)
@given(a=st.floats(-120, 120, width=32), n=st.integers(2, 16), data=st.data())
def test_lambda_lies_between_one_over_n_and_one_over_n_minus_one(a, n, data):
    """float32 R of c samples at a node against the formula in float64; R itself may not leave [-1, 0]."""
    c = data.draw(st.integers(1, n))
    p = sigmoid(-abs(a))
    found = float(_excess(np.float32(1 - p), np.float32(p), np.float32(c)))
    expected = -(c - 1) * p / (1 - p)
    if c * p >= 1:
        fr = c * p - math.floor(c * p)
        expected = fr * (1 - fr) / (c * p * (1 - p)) - 1
    assert abs(found - expected) < 2e-6
    assert 1 / n * (1 - 1e-6) <= 1 / (n - 1 - found) <= 1 / (n - 1) * (1 + 1e-6)


logit_lists = st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=6)


@settings(max_examples=25, deadline=None)
@given(values=logit_lists, excluded=st.integers(0, 5), n=st.sampled_from([3, 8]), data=st.data())
def test_any_logits_give_finite_output_and_lambda_in_range(values, excluded, n, data):
    """Padded to K = 6 with -inf, so that one program serves all: finite, bounded, drawn from q in each evaluation."""
    row = np.array(values + [-np.inf] * (6 - len(values)), np.float32)
    row[: min(excluded, len(values) - 1)] = -np.inf
    row = row[np.array(data.draw(st.permutations(range(6))))]
    for structure in ("tree", "stick"):
        A, q_hat = _coefficients(n, structure, jnp.asarray(row))
        q = softmax(row.astype(float))
        assert np.isfinite(A).all()
        # Along a path s times slope sums to at most 1, so lambda_max bounds it, and again for the mean over i.
        assert np.abs(A).max() <= 2 / (n - 1) + 1e-5
        assert (q_hat[:, q == 0] == 0).all()
        # Binomial, not normal: a category that is expected a tenth of a time may well be drawn three times.
        low, high = (
            stats.binom.ppf(tail, DRAWS, np.clip(q + e, 0, 1)) for tail, e in ((1e-8, -2e-6), (1 - 1e-8, 2e-6))
        )
        counts = np.round(q_hat * DRAWS)
        assert ((low <= counts) & (counts <= high)).all()


DRAWS = 4_000


def _coefficients(n: int, structure: str, row: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of DRAWS draws, and the share of each category in every evaluation [n, K]."""
    return _PROGRAMS.setdefault((n, structure), jax.jit(_program(n, structure)))(row)


_PROGRAMS: dict = {}


def _program(n: int, structure: str):
    estimator = CoupledLOO(n, structure=structure)

    def run(row):
        draw = estimator.draw(jnp.broadcast_to(row, (DRAWS, 1, 6)), jax.random.key(2))
        return estimator.coefficients(draw)[:, :, 0], draw.samples[:, :, 0].mean(1)

    return run


def test_enumeration_has_a_limit_and_checks_report_bad_numbers():
    logits, f = jnp.zeros((17, 2)), total
    for call in (
        lambda: exact_gradient(f, logits),
        lambda: check_unbiased(CoupledLOO(), f, logits, jax.random.key(0), draws=100),
    ):
        with pytest.raises(ConfigError, match="fewer variables") as caught:
            call()
        assert "131,072" in str(caught.value).replace("_", ",")
        assert "65,536" in str(caught.value)
    for call in (check_unbiased, variance_of):
        with pytest.raises(NumericsError) as caught:
            call(
                CoupledLOO(), lambda z: f(z["gate"]), {"gate": jnp.full((2, 3), jnp.nan)}, jax.random.key(0), draws=100
            )
        assert "gate" in str(caught.value)


def test_large_swaps_must_be_meant():
    for member in (ARSM, ARSMPlus):
        with pytest.raises(ConfigError, match="allow_large") as caught:
            member()(total, jnp.zeros((1, 65)), jax.random.key(0))
        assert "2,081" in str(caught.value)
    assert ARSM(allow_large=True)(total, jnp.zeros((1, 65)), jax.random.key(0))[1].shape == (1, 65)


def test_compare_ranks_only_inside_one_number_of_evaluations():
    logits, f = toy("mlp", 3, 3)
    members = [ReinforceLOO(), DisARMTree(), Reinforce(2), ReinforceLOO(4), CoupledLOO(4)]
    result = compare(members, f, jnp.asarray(logits, jnp.float32), jax.random.key(0), draws=5_000)
    by_n = {}
    for row in result.rows:
        by_n.setdefault(row.num_evaluations, []).append(row)
    assert {n: sorted(row.rank for row in rows) for n, rows in by_n.items()} == {2: [1, 2, 3], 4: [1, 2]}
    for rows in by_n.values():
        ordered = sorted(rows, key=lambda row: row.rank)
        assert [row.variance for row in ordered] == sorted(row.variance for row in ordered)
    assert "CoupledLOO" in str(result)
    with pytest.raises(ConfigError, match="variable"):
        compare([CoupledLOO(), DisARM()], f, jnp.zeros((3, 3)), jax.random.key(0), draws=100)
