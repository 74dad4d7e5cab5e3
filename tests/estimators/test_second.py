"""Second algorithms: the same quantity computed another way, to 1e-6."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gleanings.estimators import (
    ARM,
    CoupledLOO,
    DisARM,
    DisARMIW,
    DisARMSB,
    DisARMTree,
    GumbelSoftmax,
    LocalExpectation,
    ReinforceLOO,
    ReinMax,
    StraightThrough,
    _coupling,
    exact_gradient,
)

from ._members import BINARY
from ._oracle import decomposition, exact, leaves_of, sigmoid, softmax, toy

pytestmark = pytest.mark.plain_compilation


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def three_cases(theta: np.ndarray, z: int, twin: int, f: float, f_twin: float, node) -> np.ndarray:
    """DisARM over a decomposition as the paper has it: both bits used, one used, none."""
    if isinstance(node, int) or not {z, twin} & set(leaves_of(node)):
        return np.zeros(len(theta))
    (left, right), q = (leaves_of(side) for side in node), softmax(theta)
    a = np.log(q[right].sum() / q[left].sum())
    reaches = [x in left + right for x in (z, twin)]
    b, b_twin = z in right, twin in right
    if all(reaches):
        g = 0.5 * (f - f_twin) * (int(b) - int(b_twin)) * sigmoid(abs(a))
    elif reaches[0]:
        g = 0.5 * (f - f_twin) * (b - sigmoid(a))
    else:
        g = 0.5 * (f_twin - f) * (b_twin - sigmoid(a))
    slope = np.zeros(len(theta))
    slope[right], slope[left] = q[right] / q[right].sum(), -q[left] / q[left].sum()
    return g * slope + sum(three_cases(theta, z, twin, f, f_twin, side) for side in node)


@pytest.mark.parametrize(
    ("structure", "order"),
    [("stick", "ascending"), ("tree", None)]
    + [pytest.param(*row, marks=pytest.mark.slow) for row in (("stick", None), ("tree", "ascending"))],
)
def test_two_coupled_draws_are_the_three_cases(structure, order, float64):
    logits = np.random.default_rng(2).normal(size=(60, 2, 5)) * 2
    f = toy("mlp", 2, 5).f
    paper = {"stick": DisARMSB, "tree": DisARMTree}[structure](order=order)
    for estimator in [CoupledLOO(2, structure, "pairs", order), CoupledLOO(2, structure, order=order), paper]:

        @jax.jit
        def run(logits, key, estimator=estimator):
            draw = estimator.draw(logits, key)
            f_i = f(draw.samples)
            return draw.samples.argmax(-1), f_i, estimator.cotangent(draw, f_i)

        z, f_i, cotangent = map(np.asarray, run(jnp.asarray(logits), jax.random.key(1)))
        for b, d in np.ndindex(60, 2):
            theta, node = logits[b, d], decomposition(logits[b, d], structure, order)
            expected = three_cases(theta, *z[:, b, d].tolist(), *f_i[:, b], node)
            np.testing.assert_allclose(cotangent[b, d], expected, atol=1e-6)


@pytest.mark.parametrize("coupling", ["systematic", "pairs"])
@pytest.mark.parametrize("structure", ["stick", "tree"])
def test_without_correlation_the_nodes_add_up_to_leave_one_out(structure, coupling, float64, monkeypatch):
    monkeypatch.setattr(_coupling, "excess_correlation", lambda split, size: jnp.zeros_like(split.one))
    logits = jnp.asarray(np.random.default_rng(3).normal(size=(40, 2, 5)))
    estimator = CoupledLOO(4, structure, coupling)

    @jax.jit
    def run(key):
        draw = estimator.draw(logits, key)
        return draw.samples, estimator.coefficients(draw)

    samples, coefficients = map(np.asarray, run(jax.random.key(4)))
    s = samples - softmax(np.asarray(logits))
    np.testing.assert_allclose(coefficients, (s - s.mean(0)) / 3, atol=1e-6)


def drawn(estimator, f, logits, seed: int) -> list[np.ndarray]:
    """Samples, their f, the cotangent and the weights."""

    @jax.jit
    def run(key):
        draw = estimator.draw(logits, key)
        f_i = f(draw.samples)
        return draw.samples, f_i, estimator.cotangent(draw, f_i), draw.weights

    return [np.asarray(x) for x in run(jax.random.key(seed))]


def test_leave_one_out_equals_the_mean_of_the_others_as_baseline():
    logits, f = jnp.asarray(toy("mlp", 3, 4).logits, jnp.float32), toy("mlp", 3, 4).f
    samples, f_i, cotangent, _ = drawn(ReinforceLOO(5), f, logits, 0)
    s = samples - softmax(np.asarray(logits))
    terms = [(f_i[i] - np.delete(f_i, i).mean()) * s[i] for i in range(5)]
    np.testing.assert_allclose(cotangent, np.mean(terms, 0), atol=1e-6)


@jax.jit
def pair_and_coefficient(logits, key):
    """Of DisARM and of ARM: both bits [2, draws], and the coefficient of the first."""
    found = []
    for estimator in (DisARM(), ARM()):
        draw = estimator.draw(logits, jax.random.clone(key))
        found.append((draw.samples[:, :, 0], estimator.coefficients(draw)[0, :, 0]))
    return found


@pytest.mark.parametrize("a", [-2.0, -0.3, 0.0, 0.6, 3.0])
def test_disarm_is_arm_averaged_over_the_uniform(a):
    """By integration of ARM over each u-interval that gives one (b, b~), and by the library's own ARM draws."""
    found = pair_and_coefficient(jnp.full((20_000, 1), a, jnp.float32), jax.random.key(6))
    (pairs, disarm), (arm_pairs, arm) = [(np.asarray(bits).astype(int).T, np.asarray(g)) for bits, g in found]
    p = sigmoid(a)
    ends = sorted({0.0, 1.0, p, 1 - p})
    cells: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for low, high in itertools.pairwise(ends):
        u = (low + high) / 2
        cells.setdefault((int(u < p), int(1 - u < p)), []).append((high - low, 0.5 - u))
    for pair, parts in cells.items():
        mean = sum(w * g for w, g in parts) / sum(w for w, _ in parts)
        np.testing.assert_allclose(disarm[(pairs == pair).all(1)], mean, atol=1e-6)
        same = arm[(arm_pairs == pair).all(1)]
        assert abs(same.mean() - mean) < 4.5 * same.std() / len(same) ** 0.5 + 1e-6


@pytest.mark.parametrize("name", [n for n in BINARY if n.startswith("binary-")] + ["gumbel", "straight", "reinmax"])
def test_a_binary_logit_is_the_categorical_pair_of_zero_and_itself(name):
    classes = {
        "binary-rloo-3": lambda v: ReinforceLOO(3, variable=v),
        "gumbel": lambda v: GumbelSoftmax(0.7, variable=v),
        "straight": lambda v: StraightThrough(variable=v),
        "reinmax": lambda v: ReinMax(0.7, variable=v),
        "binary-local": lambda v: LocalExpectation(variable=v),
        "binary-iw": lambda v: DisARMIW(variable=v),
    }
    make = classes.get(name, lambda v: type(BINARY[name])(variable=v))
    a, f = (x if i else jnp.asarray(x, jnp.float32) for i, x in enumerate(toy("mlp", 3, 2, binary=True)))
    pair = jnp.stack([jnp.zeros_like(a), a], -1)

    @jax.jit
    def run(key):
        again = jax.random.clone(key)  # the same key on purpose
        return make("binary")(f, a, key), make("categorical")(lambda z: f(z[..., 1]), pair, again)

    (value, g), (other_value, other) = run(jax.random.key(8))
    np.testing.assert_allclose(value, other_value, rtol=1e-6)
    np.testing.assert_allclose(np.stack([-g, g], -1), other, atol=1e-6)


@pytest.mark.parametrize("K", [1, 2, 7])
def test_local_expectation_of_one_variable_is_exact(K):
    logits, f = toy("mlp", 1, K)
    value, gradient = exact(f, logits)
    x = jnp.asarray(logits, jnp.float32)
    for found in jax.jit(lambda key: (LocalExpectation()(f, x, key), exact_gradient(f, x)))(jax.random.key(0)):
        np.testing.assert_allclose(found[0], value, atol=1e-6)
        np.testing.assert_allclose(found[1], gradient, atol=1e-6)


def test_local_expectation_given_its_draw_is_the_sum_over_each_variable():
    """q_k (F_dk - sum_j q_j F_dj) about the first sample, and the value's weights q_dk / D."""
    logits, f = toy("mlp", 3, 4)
    samples, f_i, cotangent, weights = drawn(LocalExpectation(), f, jnp.asarray(logits, jnp.float32), 1)
    z, q, eye = samples[0].astype(float), softmax(logits), np.eye(4)
    F = np.array([[f(np.where(np.arange(3)[:, None] == d, eye[k], z)) for k in range(4)] for d in range(3)])
    np.testing.assert_allclose(cotangent, q * (F - (q * F).sum(-1, keepdims=True)), atol=1e-6)
    np.testing.assert_allclose((weights * f_i).sum(), (q * F).sum() / 3, atol=1e-6)
    assert len(np.unique(samples, axis=0)) == len(weights) == 3 * 3 + 1


@pytest.mark.parametrize("binary", [False, True])
def test_exact_gradient_equals_enumeration_in_numpy(binary, float64):
    logits, f = toy("mlp", 3, 4, binary=binary)
    value, gradient = exact(f, logits, binary)
    kind = {"variable": "binary"} if binary else {}
    found = jax.jit(lambda x: exact_gradient(f, x, **kind))(jnp.asarray(logits))
    np.testing.assert_allclose(found[0], value, rtol=1e-12)
    np.testing.assert_allclose(found[1], gradient, rtol=1e-10, atol=1e-14)
    (a, g), (b, h) = toy("mlp", 2, 3), toy("sep", 1, 5)
    tree = jax.jit(lambda x: exact_gradient(lambda z: g(z[0]) * h(z[1]), x))((jnp.asarray(a), jnp.asarray(b)))
    (E_g, dg), (E_h, dh) = exact(g, a), exact(h, b)
    np.testing.assert_allclose(tree[0], E_g * E_h, rtol=1e-12)
    for leaf, expected in zip(tree[1], (dg * E_h, E_g * dh), strict=True):
        np.testing.assert_allclose(leaf, expected, atol=1e-14)


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_biased_members_are_their_jacobian_products(temperature):
    """f = w . z, whose value tells which category was drawn, or for K = 2 the relaxed sample itself."""

    def J(v, x):
        return v * (x - (v * x).sum())

    w, theta = np.array([0.3, -1.0, 2.0, 0.7]), np.array([[0.5, 1.0, -0.2, 0.1]])
    q, tempered = softmax(theta[0]), softmax(theta[0] / temperature)

    def linear(z, w=w):
        return (z @ jnp.asarray(w, jnp.float32)).sum(-1)

    def pair(z):
        return linear(z, np.array([0.0, 1.0]))

    logits = jnp.asarray(theta, jnp.float32)

    @jax.jit
    def run(key):
        again = jax.random.clone
        relaxed = [GumbelSoftmax(temperature, hard=hard) for hard in (False, True)]
        return (
            [member(linear, logits, again(key)) for member in (ReinMax(temperature), StraightThrough())],
            [member(pair, logits[:, :2], again(key)) for member in relaxed],
        )

    for seed in range(8):
        ((value, reinmax), (_, straight)), ((y, soft), (hard_value, hard)) = run(jax.random.key(seed))
        o = np.isclose(w, value).astype(float)
        np.testing.assert_allclose(reinmax[0], 2 * J((tempered + o) / 2, w) - J(q, w) / 2, atol=1e-6)
        np.testing.assert_allclose(straight[0], J(q, w), atol=1e-6)
        slope = float(y * (1 - y)) / temperature
        np.testing.assert_allclose(soft[0], [-slope, slope], atol=1e-6)
        assert hard_value == round(float(y))
        np.testing.assert_allclose(hard, soft, atol=1e-6)
