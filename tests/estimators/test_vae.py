"""The autoencoder against enumeration, its learning, its resumption."""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gleanings.core.errors import ConfigError
from gleanings.core.loop import fit
from gleanings.core.rundir import RunDirectory
from gleanings.data.images import digits
from gleanings.estimators import (
    CoupledLOO,
    DisARM,
    DisARMIW,
    GumbelSoftmax,
    LocalExpectation,
    ReinforceLOO,
    expect,
    vae,
)

plain = pytest.mark.plain_compilation
SMALL = vae.Config(CoupledLOO(4), variables=2, categories=3, hidden=(5,), learning_rate=1e-3, prior_learning_rate=None)
IMAGES = np.array([[1, 0, 0, 1], [0, 1, 1, 1], [1, 1, 0, 0]], np.float32)


# One program each, whichever test comes first.
STEP = jax.jit(partial(vae.update, SMALL))
BOUND = jax.jit(partial(vae.bound, SMALL), static_argnums=3)
INIT = jax.jit(vae.init, static_argnums=0)


@cache
def small_state(config: vae.Config = SMALL) -> vae.State:
    """Parameters far enough from the start that prior, posterior and decoder all matter."""
    state = INIT(config, jax.random.key(3), np.linspace(0.1, 0.9, 40, dtype=np.float32).reshape(10, 4))
    noise = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + 0.5 * noise.normal(size=leaf.shape).astype("float32"), state.params)
    return vae.State(params, state.mean, state.optimiser, state.step)


def enumerated(params, mean, images) -> tuple:
    """Exact ELBO and log p(x) of each image, written out over the 9 values of z."""
    x = (images - mean) @ params.encoder[0][0] + params.encoder[0][1]
    logits = jnp.where(x > 0, x, 0.2 * x) @ params.encoder[1][0] + params.encoder[1][1]
    log_q = jax.nn.log_softmax(logits.reshape(-1, 2, 3))
    log_prior = jax.nn.log_softmax(params.prior)
    terms, joint = [], []
    for pair in itertools.product(range(3), repeat=2):
        code = jnp.concatenate([2 * jnp.eye(3)[k] - 1 for k in pair])
        h = code @ params.decoder[0][0] + params.decoder[0][1]
        p = jax.nn.sigmoid(jnp.where(h > 0, h, 0.2 * h) @ params.decoder[1][0] + params.decoder[1][1])
        log_x = (images * jnp.log(p) + (1 - images) * jnp.log(1 - p)).sum(-1)
        log_z, log_q_z = (sum(table[..., d, k] for d, k in enumerate(pair)) for table in (log_prior, log_q))
        terms.append(jnp.exp(log_q_z) * (log_x + log_z - log_q_z))
        joint.append(log_x + log_z)
    return sum(terms), jax.nn.logsumexp(jnp.stack(joint), 0)


EXACT = jax.jit(enumerated)
EXACT_GRADIENT = jax.jit(jax.grad(lambda params, mean: enumerated(params, mean, IMAGES)[0].mean()))


@plain
def test_bounds_agree_with_enumeration():
    state = small_state()
    elbo, log_p = map(np.asarray, EXACT(state.params, state.mean, IMAGES))
    found = BOUND(state, IMAGES, jax.random.key(0), 20_000)
    np.testing.assert_allclose(found.elbo, elbo, atol=0.05)
    np.testing.assert_allclose(found.importance_weighted, log_p, atol=0.05)
    assert (log_p > elbo + 0.1).all()
    one = BOUND(state, IMAGES, jax.random.key(0), 1)
    np.testing.assert_allclose(one.elbo, one.importance_weighted, rtol=1e-6)


@plain
@pytest.mark.parametrize(
    "estimator",
    [CoupledLOO(4), pytest.param(DisARMIW(), marks=pytest.mark.slow), LocalExpectation()],
    ids=lambda e: type(e).__name__,
)
def test_gradients_of_all_parameters_agree_with_enumeration(estimator):
    config = vae.Config(estimator, 2, 3, (5,), 1e-3, None)
    state = small_state(config)
    exact = EXACT_GRADIENT(state.params, state.mean)
    keys = jax.random.split(jax.random.key(1), 4000)
    # After one step Adam's first moment is a tenth of the gradient, here of the negative ELBO.
    moments = jax.jit(jax.vmap(lambda key: vae.update(config, state, IMAGES, key)[0].optimiser[0].mu))(keys)
    for name, draws, target in zip(("encoder", "decoder", "prior"), *map(_fields, (moments, exact)), strict=True):
        estimates = -10 * np.asarray(draws)
        error = estimates.std(0) / len(keys) ** 0.5
        assert np.abs(target).max() > 0.05, name
        assert (np.abs(estimates.mean(0) - target) <= 5 * error + 1e-5).all(), name


def _fields(params) -> list:
    return [params.encoder[0][0], params.decoder[1][0], params.prior]


@plain
def test_pixels_are_drawn_by_key_and_binary_images_stay_as_they_are():
    state = small_state()
    grey = np.full((3, 4), 0.5, np.float32)
    first, again, other = (STEP(state, grey, jax.random.key(k))[1]["vae/elbo"] for k in (0, 0, 1))
    assert first == again != other
    elbo = EXACT(state.params, state.mean, IMAGES)[0]
    found = BOUND(state, IMAGES, jax.random.key(1), 20_000).elbo
    np.testing.assert_allclose(found, elbo, atol=0.05)


@plain
def test_start_follows_the_training_images():
    images = np.array([[0, 1, 0.5], [0, 1, 0.1]], np.float32)
    state = INIT(SMALL, jax.random.key(0), images)
    np.testing.assert_allclose(state.mean, [0, 1, 0.3])
    np.testing.assert_allclose(jax.nn.sigmoid(state.params.decoder[-1][1]), [0.001, 0.999, 0.3], rtol=1e-4)
    assert [w.shape for w, _ in state.params.encoder] == [(3, 5), (5, 6)]
    assert [w.shape for w, _ in state.params.decoder] == [(6, 5), (5, 3)]
    deep = jax.eval_shape(partial(vae.init, vae.Config(CoupledLOO(4), hidden=(7, 5))), jax.random.key(0), images).params
    assert [w.shape for w, _ in deep.encoder] == [(3, 7), (7, 5), (5, 200)]
    assert [w.shape for w, _ in deep.decoder] == [(200, 5), (5, 7), (7, 3)]


@plain
def test_prior_is_trained_by_its_own_rate():
    config = vae.Config(CoupledLOO(4), 2, 3, (5,), 1e-3, prior_learning_rate=0.5)
    state = small_state(config)
    after = jax.jit(partial(vae.update, config))(state, IMAGES, jax.random.key(0))[0]
    same_draws = STEP(small_state(), IMAGES, jax.random.key(0))[0]
    np.testing.assert_allclose(
        after.params.prior, state.params.prior - 0.5 * 10 * same_draws.optimiser[0].mu.prior, rtol=1e-5
    )
    np.testing.assert_allclose(after.params.encoder[0][0], same_draws.params.encoder[0][0], rtol=1e-5)


@plain
def test_samples_are_pixel_means_under_the_prior():
    state = small_state()
    samples = np.asarray(jax.jit(partial(vae.sample, SMALL), static_argnums=2)(state, jax.random.key(0), 4000))
    z = np.stack([np.eye(3)[list(pair)] for pair in itertools.product(range(3), repeat=2)])
    weights = np.exp((z * np.asarray(jax.nn.log_softmax(state.params.prior))).sum((1, 2)))
    means = jax.nn.sigmoid(vae._decode(state.params, jnp.asarray(z, jnp.float32)))
    assert samples.shape == (4000, 4)
    np.testing.assert_allclose(samples.mean(0), weights @ means, atol=0.03)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"estimator": DisARM()}, "for categorical variables"),
        ({"categories": 0}, "at least 1"),
        ({"hidden": (4, 0)}, "at least 1"),
    ],
)
def test_a_bad_configuration_is_refused(fields, words):
    with pytest.raises(ConfigError, match=words):
        vae.Config(**{"estimator": CoupledLOO(4)} | fields)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda state: vae.update(SMALL, state, np.zeros((2, 5), np.float32), jax.random.key(0)),
            "5 pixels an image.*expected 4",
        ),
        (lambda state: vae.bound(SMALL, state, np.zeros((2, 3), np.float32), jax.random.key(0)), "images has 3 pixels"),
        (lambda state: vae.bound(SMALL, state, IMAGES, jax.random.key(0), 0), "num_samples = 0"),
    ],
)
def test_bad_images_are_refused(call, words):
    with pytest.raises(ConfigError, match=words):
        call(small_state())


def test_grey_levels_up_to_255_are_refused():
    with pytest.raises(ConfigError, match="x has dtype uint8: pass grey levels"):
        vae._require_floats(np.zeros((2, 4), np.uint8), "x")


@plain
def test_updates_of_several_seeds_under_vmap_are_those_of_each_alone():
    states = [INIT(SMALL, jax.random.key(k), IMAGES) for k in range(3)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *states)
    together, metrics = jax.jit(jax.vmap(STEP, (0, None, 0)))(stacked, IMAGES, jax.random.split(jax.random.key(0), 3))
    keys = jax.random.split(jax.random.key(0), 3)
    for i, state in enumerate(states):
        alone, expected = STEP(state, IMAGES, keys[i])
        np.testing.assert_allclose(metrics["vae/elbo"][i], expected["vae/elbo"], rtol=1e-5)
        np.testing.assert_allclose(together.params.prior[i], alone.params.prior, rtol=1e-4, atol=1e-7)
    assert together.step.tolist() == [1, 1, 1]


@plain
def test_the_concentration_is_that_of_the_encoder():
    state = small_state()
    metrics = STEP(state, IMAGES, jax.random.key(0))[1]
    q = jax.nn.softmax(vae.encode(state.params, state.mean, IMAGES))
    np.testing.assert_allclose(metrics["vae/max_probability"], q.max(-1).mean(), rtol=1e-6)
    assert 1 / 3 < float(metrics["vae/max_probability"]) < 1


@plain
def test_extreme_parameters_stay_finite():
    state = small_state()
    params = jax.tree.map(lambda leaf: 40 * leaf, state.params)
    state = vae.State(params, state.mean, state.optimiser, state.step)
    after, metrics = STEP(state, IMAGES, jax.random.key(0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after.params, metrics)))


@pytest.fixture(scope="module")
def handwriting() -> np.ndarray:
    return digits().train.astype(np.float32) / 16


def learner(estimator, images: np.ndarray):
    """The update and draw of the digits model, and its state; the ELBO of each step is kept in a ring."""
    config = vae.Config(estimator, 8, 8, (64,), 1e-3, None)
    data = jnp.asarray(images)

    def update(carry, batch, key):
        state, recent = carry
        state, metrics = vae.update(config, state, batch, key)
        return (state, recent.at[(state.step - 1) % recent.size].set(metrics["vae/elbo"])), metrics

    def draw(carry, key):
        return data[jax.random.randint(key, (64,), 0, len(data))]

    return update, draw, (vae.init(config, jax.random.key(0), data), jnp.zeros(300))


@pytest.mark.parametrize(
    "estimator",
    [pytest.param(ReinforceLOO(2), marks=pytest.mark.slow, id="rloo-2"), pytest.param(CoupledLOO(4), id="coupled-4")],
)
def test_it_learns_digits(estimator, handwriting):
    """Ignoring z gives -27.15 nats, so the threshold can only be passed by using it."""
    update, draw, start = learner(estimator, handwriting)
    *_, last = fit(update, start, steps=1000, seed=0, draw=draw, log_every=500, progress=False)
    assert float(last.state[1].mean()) > -26.3


def test_a_run_resumed_is_bit_equal_and_traces_once(handwriting, tmp_path):
    update, draw, start = learner(ReinforceLOO(2), handwriting[:100])
    traces = []

    def counted(carry, batch, key):
        traces.append(batch.shape)
        return update(carry, batch, key)

    def states(name, *lengths):
        for i, steps in enumerate(lengths):
            with RunDirectory.create(tmp_path / name, {}, resume=i > 0) as run:
                options = {"draw": draw, "run": run, "save_every": 7, "log_every": 5, "progress": False}
                *_, last = fit(counted, start, steps=steps, seed=1, **options)
        return jax.tree.leaves(last.state)

    whole = states("whole", 30)
    assert traces == [(64, 8, 8)]
    for a, b in zip(whole, states("parts", 11, 30), strict=True):
        np.testing.assert_array_equal(a, b)


@plain
def test_a_function_outside_jax_can_be_optimised():
    """f in a pure_callback: the expected number of hits on a secret word rises to its maximum."""
    secret = np.array([2, 0, 3, 1])

    def hits(z):
        return (np.argmax(z, -1) == secret).sum(-1).astype(np.float32)

    def f(params, z):
        return jax.pure_callback(hits, jax.ShapeDtypeStruct(z.shape[:-2], jnp.float32), z)

    objective, adam = expect(CoupledLOO(4))(f), optax.adam(0.1)

    @jax.jit
    def step(logits, state, key):
        gradient = jax.grad(lambda logits: -objective(None, logits, key))(logits)
        updates, state = adam.update(gradient, state)
        return optax.apply_updates(logits, updates), state

    logits = jnp.zeros((4, 4))
    state = adam.init(logits)
    for key in jax.random.split(jax.random.key(0), 150):
        logits, state = step(logits, state, key)
    assert np.argmax(logits, -1).tolist() == secret.tolist()
    assert jax.nn.softmax(logits).max(-1).min() > 0.8


@plain
def test_biased_estimators_train_the_encoder_through_relaxed_samples():
    config = vae.Config(GumbelSoftmax(), 2, 3, (5,), 1e-2, None)
    step = jax.jit(partial(vae.update, config))
    state = vae.init(config, jax.random.key(3), IMAGES)
    values = []
    for key in jax.random.split(jax.random.key(0), 300):
        state, metrics = step(state, IMAGES, key)
        values.append(float(metrics["vae/elbo"]))
    assert np.mean(values[-50:]) > np.mean(values[:50]) + 0.3
