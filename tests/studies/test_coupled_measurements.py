"""What the study of coupled gradients measures, against enumeration and other algorithms; and its controls."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from gleanings.core.keys import stream
from gleanings.data.images import Images, binarise
from gleanings.estimators import DisARMTree, ReinforceLOO, check_unbiased, exact_gradient, vae, variance_of
from gleanings.estimators.toys import toy
from gleanings.studies import _coupled_setup as setup
from gleanings.studies import _coupled_toys, _coupled_vae
from gleanings.studies._coupled_moments import Moments, moments, plain_compilation, rounded
from gleanings.studies._coupled_setup import SMOKE

SMALL = dataclasses.replace(
    SMOKE, variables=2, categories=3, hidden=(5,), images=3, draws=8000, biased=("straight-through",), steps=20, seeds=2
)


@pytest.fixture(scope="module")
def trained():
    """Made-up images, parameters as a training stores them, and the exact problem of each seed at each checkpoint."""
    rng = np.random.default_rng(0)
    images = Images(*(rng.integers(0, 17, (8, 2, 2), dtype=np.uint8) for _ in range(3)), "noise", 16)
    grey = setup.greys(images.train, 16)
    state = jax.jit(vae.init, static_argnums=0)(vae.Config(ReinforceLOO(2), 2, 3, (5,)), jax.random.key(0), grey)
    vector, unravel = ravel_pytree(state.params)
    stored = np.asarray(vector) + 0.5 * rng.normal(size=(3, 2, vector.size)).astype(np.float32)
    pixels = binarise(setup.greys(images.test[:3], 16), stream(0, "basket pixels"), 1)
    return (
        images,
        _coupled_vae._packed(stored),
        [[_Exact(*_exact(unravel(v), state.mean, pixels)) for v in row] for row in stored],
    )


_ALL_Z = np.asarray([[np.eye(3)[a], np.eye(3)[b]] for a, b in itertools.product(range(3), repeat=2)], np.float32)


@jax.jit
def _exact(params, mean, pixels):
    logits = vae.encode(params, mean, pixels)
    f = jax.value_and_grad(vae.log_weight, 3)
    pairs = jax.vmap(jax.vmap(f, (None, None, None, 0)), (None, 0, 0, None))(params, pixels, logits, _ALL_Z)
    return *pairs, jax.nn.softmax(logits)


class _Exact:
    """f and its slope at all 9 values of z, probabilities and scores o - q: [image, value] and [image, value, 6]."""

    def __init__(self, f, slope, q):
        self.f, self.slope, self.q = np.asarray(f), np.asarray(slope), np.asarray(q)[:, None]
        self.p = np.einsum("bk,bl->bkl", self.q[:, 0, 0], self.q[:, 0, 1]).reshape(-1, 9)
        self.score = (_ALL_Z[None] - self.q).reshape(-1, 9, 6)

    def straight_through(self) -> np.ndarray:
        """Mean over z of the Jacobian of softmax times the slope of f."""
        products = self.q * (self.slope - (self.q * self.slope).sum(-1, keepdims=True))
        return np.einsum("bz,bzc->bc", self.p, products.reshape(-1, 9, 6))

    def gradient(self) -> np.ndarray:
        return np.einsum("bz,bz,bzc->bc", self.p, self.f, self.score)

    def rloo2_variance(self) -> np.ndarray:
        """Total variance of 1/2 (f - f~)(s - s~), written out over both draws."""
        f = (self.f[:, :, None] - self.f[:, None]) / 2
        squares = f**2 * ((self.score[:, :, None] - self.score[:, None]) ** 2).sum(-1)
        second = np.einsum("bz,by,bzy->b", self.p, self.p, squares)
        return second - (self.gradient() ** 2).sum(-1)


def test_basket_agrees_with_the_exact_variance(trained):
    images, parameters, problems = trained
    found = _coupled_vae.basket("rloo-2", SMALL, parameters, images, (100, 101))
    exact = np.log([[problem.rloo2_variance() for problem in row] for row in problems])
    assert found["evaluations"] == 2
    assert found["microseconds"] > 0
    np.testing.assert_allclose(found["log_variance"], exact, atol=0.15)
    assert abs(np.mean(np.asarray(found["log_variance"]) - exact)) < 0.03
    again = _coupled_vae.basket("null", SMALL, parameters, images, (100, 101), last=True)
    assert np.shape(again["log_variance"]) == (1, 2, 3)
    np.testing.assert_allclose(again["log_variance"], exact[-1:], atol=0.15)
    assert not np.array_equal(again["log_variance"][0], found["log_variance"][-1])


def test_context_agrees_with_the_exact_bias(trained):
    images, parameters, problems = trained
    found = _coupled_vae.context(SMALL, parameters, images, (100, 101))
    assert set(found) == {"local", "straight-through"}
    assert found["local"]["evaluations"] == 1 + 2 * 2
    assert found["local"]["relative_bias"] == [0.0, 0.0]
    for problem, bias in zip(problems[-1], found["straight-through"]["relative_bias"], strict=True):
        exact = problem.gradient()
        error = np.linalg.norm(problem.straight_through() - exact) / np.linalg.norm(exact)
        assert bias == pytest.approx(error, rel=0.1, abs=0.02)
        assert error > 0.05


@pytest.mark.parametrize("problem", ["k3", "binary"])
def test_toys_tell_the_objectives_apart_and_agree_with_the_public_variance(problem, monkeypatch):
    names = {"k3": ("tree", "reinmax"), "binary": ("binary-coupled-4",)}[problem]
    monkeypatch.setattr(_coupled_toys, "toy_members", lambda *_: names)
    rows = _coupled_toys.toys(problem, dataclasses.replace(SMOKE, toy_draws=8000), 100)
    assert [(row["member"], row["objective"]) for row in rows] == list(itertools.product(names, ("mlp", "sep")))
    for row in rows:
        sizes = (4, 3) if problem == "k3" else (8, 2)
        f, logits = toy(row["objective"], *sizes, binary=problem == "binary")
        estimator = setup.member(row["member"], problem == "binary")
        with plain_compilation():
            expected = variance_of(estimator, f, logits, jax.random.key(3), 8000)
        error = np.hypot(expected.standard_error, row["standard_error"])
        assert abs(row["variance"] - expected.trace) < 5 * error
        assert row["noise"] == pytest.approx((row["variance"] / 8000) ** 0.5)
        biased = (row["member"], row["objective"]) == ("reinmax", "mlp")
        assert (row["bias"] > 4 * row["noise"]) == biased


def test_members_of_the_toys_come_with_their_baselines():
    k3 = _coupled_toys.toy_members("k3", setup.QUICK)
    assert {"rloo-2", "rloo-3", "rloo-4", "rloo-8", "rloo-9", *setup.UNBIASED, *setup.BIASED} == set(k3)
    assert len(_coupled_toys.toy_members("k8", setup.QUICK)) == 8
    counts = {setup.evaluations(name, 2, 8) for name in _coupled_toys.toy_members("binary", setup.QUICK)}
    assert counts == {4, 8}


def test_numbers_are_rounded_to_keep_the_evidence_small():
    assert rounded([[1.234567, 0.0], [-1e-7 / 3, 12345678.0]]) == [[1.2346, 0.0], [-3.3333e-08, 12346000.0]]


def test_averaged_pairs_halve_the_variance_and_stay_unbiased():
    f, logits = toy("mlp", 3, 3)
    pairs = setup.MEMBERS["pairs-4"][1]
    assert check_unbiased(pairs, f, logits, jax.random.key(0), 20_000).passed
    one, four = (variance_of(e, f, logits, jax.random.key(1), 20_000).trace for e in (DisARMTree(), pairs))
    assert four == pytest.approx(one / 2, rel=0.06)


def test_iw_without_sorting_is_right_where_sorted_and_caught_where_not():
    f, logits = toy("mlp", 4, 8)
    unsorted = setup.UnsortedIW()
    assert check_unbiased(unsorted, f, jnp.sort(logits, -1), jax.random.key(0), 20_000).passed
    assert not check_unbiased(unsorted, f, logits, jax.random.key(0), 60_000).passed


def test_moments_agree_with_the_exact_gradient_and_the_public_variance():
    f, logits = toy("mlp", 3, 3)
    run = moments(ReinforceLOO(2), lambda logits: (lambda z: f(z), logits), 20_000)
    found = jax.device_get(run(jax.random.key(0), jnp.stack([logits, logits])))
    exact = np.asarray(exact_gradient(f, logits)[1]).reshape(-1)
    expected = variance_of(ReinforceLOO(2), f, logits, jax.random.key(1), 20_000)
    np.testing.assert_allclose(found.variance, expected.trace, atol=5 * expected.standard_error)
    np.testing.assert_allclose(found.standard_error, expected.standard_error, rtol=0.5)
    assert np.linalg.norm(found.mean - exact, axis=1).max() < 3 * (expected.trace / 20_000) ** 0.5


def test_relative_bias_leaves_out_the_noise_of_the_draws():
    rng, draws = np.random.default_rng(0), 400
    truth, bias = rng.normal(size=(64, 32)), 0.1 * rng.normal(size=(64, 32))

    def noisy(mean, scale):
        return Moments(
            mean + scale * rng.normal(size=mean.shape) / draws**0.5, np.full(64, 32 * scale**2), np.zeros(64)
        )

    oracle = noisy(truth, 0.2)._replace(variance=np.full(64, 32 * 0.1**2))  # from a quarter of the draws
    assert _coupled_vae._relative_bias(noisy(truth + bias, 2.0), oracle, draws) == pytest.approx(0.1, abs=0.015)
    assert _coupled_vae._relative_bias(noisy(truth, 2.0), oracle, draws) < 0.03


def test_a_seed_does_not_depend_on_the_others():
    scale, images = dataclasses.replace(SMOKE, steps=6, log_every=1), setup.load("smoke", None)
    with plain_compilation():
        both, alone = (_coupled_vae.train("rloo-2", scale, images, seeds, 1) for seeds in ((100, 101), (101,)))
    np.testing.assert_allclose(both["elbo"][1], alone["elbo"][0], rtol=1e-4)
    assert both["elbo"][0] != both["elbo"][1]
    vectors = _coupled_vae._unpacked(alone["parameters"])
    assert vectors.shape[:2] == (len(scale.checkpoints), 1)
    assert len(both["test_elbo"]) == 2
    assert _coupled_vae._unpacked(_coupled_vae._packed(vectors)).tobytes() == vectors.tobytes()
