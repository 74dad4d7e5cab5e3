"""Heads against quadrature, closed forms and a numeric optimum."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import brentq
from scipy.special import logsumexp, wrightomega
from scipy.stats import norm

from gleanings.core.errors import ConfigError
from gleanings.driving import dynamics
from gleanings.driving.learn.actions import physical
from gleanings.driving.learn.heads import Categorical, TanhGaussian, TanhMixture, make_head
from gleanings.driving.raw import Kind
from gleanings.driving.scene import Pose

TANH = [TanhGaussian(), TanhMixture(3)]
HEADS = [*TANH, Categorical((3, 5))]
BOTH = jax.device_put(np.ones(2, bool))
NODES, WEIGHTS = np.polynomial.legendre.leggauss(300)


def parameters(head, seed=0, scale=1.0):
    return scale * np.random.default_rng(seed).normal(size=head.size)


def names(head):
    return type(head).__name__


def oracle(head, params, u):
    """log density of the tanh heads from SciPy's normal."""
    k = head.size // 5 if isinstance(head, TanhMixture) else 1
    mean, spread = params[: 2 * k].reshape(k, 2), params[2 * k : 4 * k].reshape(k, 2)
    logits = params[4 * k :] if isinstance(head, TanhMixture) else np.zeros(1)
    sigma = np.exp(-4 + 2.25 * (np.tanh(spread) + 1))
    each = norm.logpdf(np.arctanh(u)[..., None, :], mean, sigma).sum(-1)
    return logsumexp(logits - logsumexp(logits) + each, axis=-1) - np.log(1 - u**2).sum(-1)


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("head", TANH, ids=names)
def test_density_integrates_to_one_and_its_margin_is_the_masked_one(head, double):
    grid = np.stack(np.meshgrid(NODES, NODES, indexing="ij"), -1)
    density = jax.jit(jax.vmap(lambda p, x, m: head.log_density(p, x, m), (None, 0, None)))
    for seed in range(3):
        params = parameters(head, seed)
        joint = np.exp(density(params, np.arctanh(grid.reshape(-1, 2)), BOTH)).reshape(300, 300)
        assert abs(WEIGHTS @ joint @ WEIGHTS - 1) < 1e-4
        steering_unknown = np.exp(density(params, np.arctanh(grid[:, 0]), np.array([True, False])))
        np.testing.assert_allclose(joint @ WEIGHTS, steering_unknown, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(joint[40], np.exp(oracle(head, params, grid[40])), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bins", [(3, 5), (13, 21)])
def test_probabilities_of_bins_sum_to_one_with_and_without_a_mask(bins):
    head = Categorical(bins)
    params = parameters(head).astype(np.float32)
    table = np.exp(params - logsumexp(params)).reshape(bins)
    log_prob = jax.jit(jax.vmap(head.log_prob, (None, 0, None)))
    for mask, expected in (
        (BOTH, table),
        (np.array([True, False]), np.broadcast_to(table.sum(1, keepdims=True), bins)),
        (np.array([False, True]), np.broadcast_to(table.sum(0, keepdims=True), bins)),
        (np.array([False, False]), np.ones(bins)),
    ):
        found = np.exp(log_prob(params, head.actions(), mask)).reshape(bins)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_bins_are_those_of_the_discrete_dynamics():
    head, model = Categorical(), dynamics.Discrete(dynamics.Bicycle(), bins=(13, 21))
    pose = Pose(*(jnp.float32(v) for v in (0, 0, 0, 0, 7, 0)))
    limits = dynamics.limits_of(jnp.asarray(int(Kind.VEHICLE)))
    index = np.arange(head.size, dtype=np.int32)[:, None]

    @jax.jit
    def compare(index):
        there = jax.vmap(lambda i: model.decode(pose, i, jnp.float32(0.2), limits))(index)
        here = jax.vmap(lambda u: physical(u, jnp.float32(7)))(head.actions())
        return here, there, jax.vmap(head.index)(head.actions())

    here, there, again = compare(index)
    np.testing.assert_allclose(here, there, atol=1e-6)
    np.testing.assert_array_equal(again, np.stack(np.unravel_index(index[:, 0], (13, 21)), -1))


def test_a_mixture_of_one_is_the_gaussian():
    @jax.jit
    def all_of(params, u, key):
        again = jax.random.clone(key)
        pairs = zip((TanhMixture(1), TanhGaussian()), (params, params[:4]), (key, again), strict=True)

        def q(u):
            return (u**2).sum()

        return [(head.log_prob(p, u, BOTH), head.mode(p), head.actor_loss(p, q, 0.1, k)) for head, p, k in pairs]

    one, gaussian = all_of(parameters(TanhMixture(1)).astype(np.float32), np.float32([0.3, -0.9]), jax.random.key(1))
    for here, there in zip(one, gaussian, strict=True):
        np.testing.assert_allclose(here, there, atol=1e-6)


@pytest.mark.parametrize("head", HEADS, ids=names)
def test_single_precision_is_enough(head):
    u = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    value = jax.jit(jax.vmap(head.log_prob, (0, 0, None)))
    params = np.random.default_rng(1).normal(size=(200, head.size))
    single = value(params.astype(np.float32), u.astype(np.float32), BOTH)
    with jax.enable_x64(True):
        np.testing.assert_allclose(single, value(params, u, BOTH), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", HEADS, ids=names)
def test_labels_at_the_ends_are_finite_and_clipped_once(head):
    params = parameters(head).astype(np.float32)
    both = jax.jit(jax.value_and_grad(head.log_prob))
    for corner in ([1.0, 1.0], [-1.0, 1.0], [0.5, -1.0]):
        value, gradient = both(params, np.array(corner, np.float32), BOTH)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        assert abs(value) < 1e4
        if not isinstance(head, Categorical):
            at_clip = oracle(head, params.astype(float), np.clip(corner, -0.98, 0.98))
            np.testing.assert_allclose(value, at_clip, rtol=1e-4)
    clipped = np.asarray(head.clipped(jnp.asarray([[1.0, 0.5]])))[0]
    assert clipped.tolist() == [not isinstance(head, Categorical), False]


@pytest.mark.parametrize("head", HEADS, ids=names)
def test_a_masked_dimension_has_no_gradient(head):
    params = parameters(head).astype(np.float32)
    both = jax.jit(jax.value_and_grad(head.log_prob))
    mask = np.array([True, False])
    value, gradient = both(params, np.array([0.5, 0.7], np.float32), mask)
    other, same = both(params, np.array([0.5, np.nan], np.float32), mask)
    assert value == other
    assert (gradient == same).all()
    assert np.abs(gradient).max() > 0
    assert (both(params, np.array([0.5, 0.7], np.float32), np.zeros(2, bool))[1] == 0).all()
    if isinstance(head, Categorical):  # the gradient moves no weight between bins of steering
        moved = (gradient / jax.nn.softmax(params)).reshape(head.bins)
        np.testing.assert_allclose(moved, np.broadcast_to(moved[:, :1], head.bins), rtol=1e-4)
    else:
        k = head.components if isinstance(head, TanhMixture) else 1
        assert (np.asarray(gradient[: 4 * k]).reshape(2 * k, 2)[:, 1] == 0).all()


@pytest.mark.parametrize("head", HEADS, ids=names)
def test_samples_follow_the_density(head):
    params, n = jax.device_put(parameters(head).astype(np.float32)), 20_000

    @jax.jit
    @jax.vmap
    def run(key):
        u, log_prob = head.sample(params, key)
        return u, log_prob, head.log_prob(params, u, BOTH)

    u, log_prob, again = run(jax.random.split(jax.random.key(0), n))
    inside = ~np.asarray(head.clipped(u)).any(-1)
    np.testing.assert_allclose(log_prob[inside], again[inside], rtol=1e-3, atol=1e-3)
    if isinstance(head, Categorical):
        mean = jax.nn.softmax(params) @ head.actions()
    else:
        grid = np.stack(np.meshgrid(NODES, NODES, indexing="ij"), -1)
        weight = WEIGHTS[:, None] * WEIGHTS * np.exp(oracle(head, np.asarray(params, float), grid))
        mean = (weight[..., None] * grid).sum((0, 1))
    assert (np.abs(u.mean(0) - mean) < 4 * u.std(0) / np.sqrt(n)).all()


@pytest.mark.parametrize("n", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("head", TANH, ids=names)
def test_the_actor_gradient_is_unbiased(head, n):
    """Against Gauss-Hermite quadrature of each component, for a quadratic q."""
    alpha = 0.3
    params = parameters(
        head, 2, scale=0.4
    )  # spreads alike, since log pi has no narrow peaks then, which quadrature misses

    def q(u):
        return 1.5 * u[0] - 2 * u[0] ** 2 + u[0] * u[1] - u[1] ** 2

    keys = jax.random.split(jax.random.key(3), n)
    gradient = jax.grad(lambda p, key: head.actor_loss(p, q, alpha, key))
    found = np.asarray(jax.jit(jax.vmap(gradient, (None, 0)))(params.astype(np.float32), keys), np.float64)
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    noise = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
    weights = (weights[:, None] * weights).reshape(-1) / (2 * np.pi)
    k = head.components if isinstance(head, TanhMixture) else 1

    def exact(p):
        mean, sigma = p[: 2 * k].reshape(k, 2), jnp.exp(-4 + 2.25 * (jnp.tanh(p[2 * k : 4 * k].reshape(k, 2)) + 1))
        share = jax.nn.softmax(p[4 * k :]) if k > 1 else jnp.ones(1)
        x = mean[:, None] + sigma[:, None] * noise
        at = jax.vmap(jax.vmap(lambda x: alpha * head.log_density(p, x, BOTH) - q(jnp.tanh(x))))
        return share @ (at(x) @ weights)

    with jax.enable_x64(True):
        expected = np.asarray(jax.jit(jax.grad(exact))(params))
    z = (found.mean(0) - expected) / np.maximum(found.std(0) / np.sqrt(n), 1e-9)
    assert np.abs(z).max() < 4, z
    assert np.abs(expected).max() > 0.05


def test_descent_of_the_categorical_reaches_the_tabular_optimum():
    """Of sum pi (q - alpha log pi) + weight sum p log pi, whose stationary point has a closed form but for mu."""
    head, alpha, weight = Categorical((3, 5)), 0.2, 0.3
    rng = np.random.default_rng(0)
    value = rng.normal(size=15)
    expert = rng.dirichlet(np.ones(15))

    def policy(mu):
        with np.errstate(under="ignore"):
            return weight * expert / (alpha * wrightomega(np.log(weight * expert / alpha) - (value - mu) / alpha))

    best = policy(brentq(lambda mu: policy(mu).sum() - 1, -20, 20, xtol=1e-13))
    table, actions = jnp.asarray(value, jnp.float32), head.actions()

    def q(u):
        return table @ (jnp.abs(actions - u).sum(-1) < 1e-6)

    labels = jax.vmap(head.log_prob, (None, 0, None))

    def loss(params, key):
        return head.actor_loss(params, q, alpha, key) - weight * expert.astype(np.float32) @ labels(
            params, actions, BOTH
        )

    optimiser = optax.sgd(0.3, momentum=0.9)

    def step(carry, _):
        params, state = carry
        change, state = optimiser.update(jax.grad(loss)(params, jax.random.key(0)), state)
        return (params + change, state), None

    start = jnp.zeros(15)
    params = jax.jit(lambda: jax.lax.scan(step, (start, optimiser.init(start)), None, length=2000)[0][0])()
    np.testing.assert_allclose(jax.nn.softmax(params), best, atol=1e-4)
    np.testing.assert_array_equal(head.mode(params), actions[best.argmax()])


def test_names_and_sizes_that_do_not_fit():
    assert make_head("mixture", 4) == TanhMixture(4)
    assert make_head("gaussian") == TanhGaussian()
    assert make_head("categorical", bins=(5, 7)).size == 35
    for wrong in (lambda: TanhMixture(0), lambda: Categorical((4, 5)), lambda: Categorical((1, 5))):
        with pytest.raises(ConfigError):
            wrong()
