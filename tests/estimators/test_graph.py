"""Two stochastic layers against enumeration of both; common random numbers; what a graph refuses."""

import zlib
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gleanings.core.errors import ConfigError
from gleanings.estimators import (
    CoupledLOO,
    DisARMTree,
    LocalExpectation,
    ReinforceLOO,
    ReinMax,
    StraightThrough,
    expect,
    expect_graph,
)

from ._oracle import all_outcomes, toy

pytestmark = pytest.mark.plain_compilation
D, K, DRAWS = 2, 3, 20_000
OUTCOMES = jnp.asarray(np.eye(K, dtype=np.float32)[all_outcomes(D, K)])
cost_of_pair = toy("mlp", 2 * D, K, seed=5).f


def parameters(mixing: float = 1.0) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    sizes = {"first": (D, K), "second": (D, K), "mix": (D * K, D * K), "scale": ()}
    values = {name: jnp.asarray(rng.normal(size=size), jnp.float32) for name, size in sizes.items()}
    return values | {"mix": mixing * values["mix"]}


def second_logits(params, z):
    """Logits [..., *batch, D, K] of the second layer given z of the first, params with the batch leading."""
    flat = z.reshape(*z.shape[:-2], D * K)
    return params["second"] + jnp.einsum("...i,...ij->...j", flat, params["mix"]).reshape(z.shape)


def cost(params, z, y):
    both = jnp.concatenate(jnp.broadcast_arrays(z, y), -2)
    return jnp.cosh(params["scale"]) * cost_of_pair(both)


def enumerated(params):
    """sum over z and y of q(z) q(y | z) cost, which jax.grad differentiates exactly."""

    def q(logits, z):
        return (z * jax.nn.softmax(logits)).sum(-1).prod(-1)

    z, y = OUTCOMES[:, None], OUTCOMES[None]
    later = jax.vmap(lambda one: second_logits(params, one))(OUTCOMES)[:, None]
    return (q(params["first"], z) * q(later, y) * cost(params, z, y)).sum()


def model(first, second):
    def run(params, x, site):
        z = site("first", params["first"] + x, first)
        y = site("second", second_logits(params, z), second)
        return cost(params, z[None], y)

    return run


def gradients_of_many(first, second, common: bool = False, mixing: float = 1.0) -> dict[str, np.ndarray]:
    """One gradient [draws, ...] a set of params, of DRAWS equal ones; and the value [draws]."""
    found = program(first, second, common)(parameters(mixing), jax.random.key(1))
    return {name: np.asarray(x, float) for name, x in found.items()}


@cache
def program(first, second, common: bool):
    objective = expect_graph(model(first, second), common_random_numbers=common)

    @jax.jit
    def run(params, key):
        batched = jax.tree.map(lambda x: jnp.broadcast_to(x, (DRAWS, *x.shape)), params)
        value, pull = jax.vjp(lambda p: objective(p, jnp.zeros((D, K)), key), batched)
        return pull(jnp.ones_like(value))[0] | {"value": value}

    return run


@cache
def exact_gradients() -> dict[str, np.ndarray]:
    value, exact = jax.jit(jax.value_and_grad(enumerated))(parameters())
    return {name: np.asarray(x) for name, x in (exact | {"value": value}).items()}


def largest_z(found: dict[str, np.ndarray]) -> float:
    scores = [
        np.abs((found[name].mean(0) - target) / (found[name].std(0) / DRAWS**0.5 + 1e-6)).max()
        for name, target in exact_gradients().items()
    ]
    return float(max(scores))


PAIRS = {
    "rloo-tree": (ReinforceLOO(), DisARMTree()),
    "coupled-rloo": (CoupledLOO(), ReinforceLOO()),
    "local-stick": (LocalExpectation(), CoupledLOO(3, structure="stick")),
}


@pytest.mark.parametrize(
    ("pair", "common"),
    [
        pytest.param(pair, common, marks=() if common == (pair == "coupled-rloo") else pytest.mark.slow)
        for pair in PAIRS
        for common in (False, True)
    ],
)
def test_both_layers_and_params_have_the_enumerated_gradient(pair, common):
    first, second = PAIRS[pair]
    assert largest_z(gradients_of_many(first, second, common)) < 4.5


def test_the_check_above_sees_a_biased_layer():
    for first, second in [(ReinforceLOO(), StraightThrough()), (StraightThrough(), ReinforceLOO())]:
        assert largest_z(gradients_of_many(first, second)) > 8


def test_common_random_numbers_reduce_the_variance_upstream():
    """Where the second layer hardly depends on the first, its noise drops out of the differences of f."""
    trace = [
        gradients_of_many(CoupledLOO(), ReinforceLOO(), common, mixing=0.1)["first"].var(0).sum()
        for common in (False, True)
    ]
    assert trace[1] < 0.93 * trace[0], trace

    def differs(params, x, site):
        z = site("z", x, CoupledLOO())
        y = site("y", jnp.broadcast_to(x, z.shape), ReinforceLOO())
        return (y != y[:, :1]).any((-2, -1)).astype(jnp.float32)

    x = jnp.zeros((8, D, K))
    for common in (False, True):
        graph = jax.jit(expect_graph(differs, common_random_numbers=common))
        assert bool((graph(None, x, jax.random.key(0)) > 0).any()) is not common


@pytest.mark.parametrize("common", [False, True])
def test_axes_lead_and_cost_is_the_product_of_the_evaluations(common):
    shapes = []

    def run(params, x, site):
        z = site("z", x, CoupledLOO(3))
        y = site("y", jnp.zeros((2, 2)) + z.sum((-2, -1))[..., None, None], ReinforceLOO(2))
        w = site("w", {"a": x, "b": jnp.zeros((5, 1, 4))}, CoupledLOO(4))
        shapes.extend([z.shape, y.shape, w["a"].shape, w["b"].shape])
        return z.sum((-2, -1)) + y.sum((-2, -1)) + w["a"].sum((-2, -1)) * w["b"][..., 0, 0]

    graph = expect_graph(run, common_random_numbers=common)
    value = jax.eval_shape(graph, None, jnp.zeros((5, D, K)), jax.random.key(0))
    assert shapes == [(3, 5, D, K), (2, 3, 5, 2, 2), (4, 2, 3, 5, D, K), (4, 2, 3, 5, 1, 4)]
    assert value.shape == (5,)


def test_one_site_is_expect_with_the_key_of_its_name():
    logits, f = jnp.asarray(toy("mlp", D, K).logits, jnp.float32), toy("mlp", D, K).f
    graph = expect_graph(lambda params, x, site: f(site("layer", params, CoupledLOO())))
    alone = expect(CoupledLOO())(lambda _, z: f(z))

    @jax.jit
    def run(x, key):
        own = jax.random.fold_in(jax.random.clone(key), zlib.crc32(b"layer"))
        expected = jax.value_and_grad(lambda x: alone(None, x, own))(x)
        return expected, jax.value_and_grad(lambda x: graph(x, None, key))(x)

    expected, found = run(logits, jax.random.key(3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)


def test_straight_estimators_work_through_their_jacobians():
    """A chain of two ReinMax sites under jit; one site alone equals the plain estimator."""
    logits, f = jnp.asarray(toy("mlp", D, K).logits, jnp.float32), toy("mlp", D, K).f
    graph = expect_graph(lambda params, x, site: f(site("layer", params, ReinMax())))
    key = jax.random.key(3)

    @jax.jit
    def run(x, key):
        plain = ReinMax()(f, x, jax.random.fold_in(jax.random.clone(key), zlib.crc32(b"layer")))[1]
        return plain, jax.grad(lambda x: graph(x, None, key))(x)

    plain, found = run(logits, jax.random.clone(key))
    np.testing.assert_allclose(found, plain, atol=1e-6)
    chain = expect_graph(model(ReinMax(), ReinMax()))
    slopes = jax.jit(jax.grad(lambda p: chain(p, jnp.zeros((D, K)), jax.random.clone(key))))(parameters())
    assert all(np.isfinite(x).all() and np.abs(x).max() > 0 for x in slopes.values())


def test_what_a_graph_refuses():
    x = jnp.zeros((D, K))

    def twice(params, x, site):
        return (site("z", x, ReinforceLOO()) + site("z", x, ReinforceLOO())).sum((-2, -1))

    def mean(params, x, site):
        return site("z", x, ReinforceLOO()).mean()

    for run, words in [(twice, "'z'"), (mean, "one value per example")]:
        with pytest.raises(ConfigError, match=words):
            expect_graph(run)(None, x, jax.random.key(0))
