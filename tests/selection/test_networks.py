"""Networks as classes: nesting, training, warm starts, the refit gap, and learned features for bandits."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gleanings.core.errors import ConfigError
from gleanings.core.keys import root
from gleanings.selection import (
    BanditLog,
    HeadLinear,
    Identity,
    Mlp,
    MlpHead,
    ModBE,
    ModBEConfig,
    RandomFourier,
    Transitions,
    fit_candidates,
    fqi,
    heads,
    mlp,
    mlp_heads,
    networks,
    parse_classes,
    prefix_linear,
    select_policy,
    widen,
)
from gleanings.selection.fqi import values_of

PAIRED = ModBE(ModBEConfig("paired_t", z=1.645))


def rows(n: int = 400, seed: int = 0, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two actions; what they are worth bends in the first column and is linear in the second."""
    rng = np.random.default_rng(seed)
    x, action = rng.normal(size=(n, 4)).astype(np.float32), rng.integers(0, 2, n).astype(np.int32)
    y = (2 * action - 1) * np.abs(x[:, 0]) + x[:, 1] + noise * rng.normal(size=n)
    return x, action, (5 + 3 * y).astype(np.float32)


@functools.cache
def fitted(width: int, steps: int = 20, seed: int = 0):
    return Mlp(width, steps).regress(*rows(), num_actions=2, key=root(seed))


def at(q, x, action) -> np.ndarray:
    return np.asarray(q(x))[np.arange(len(x)), action]


def loss(q, x, action, y) -> float:
    return float(np.square(at(q, x, action) - y).mean())


@given(sizes=st.sampled_from([(4, 0), (4, 4), (8, 1)]), seed=st.integers(0, 50))
@settings(max_examples=12, deadline=None)
def test_a_widened_network_has_the_same_outputs(sizes, seed):
    width, more = sizes
    q, x = fitted(width), rows()[0]
    wide = widen(q, width + more, root(seed))
    assert wide.width == width + more
    np.testing.assert_allclose(wide(x), q(x), rtol=1e-6, atol=1e-6 * np.abs(q(x)).max())
    assert jnp.abs(wide.weights.first[width:]).sum() > 0 or not more


def test_a_linear_fit_is_a_network_and_other_features_are_not():
    x, action, y = rows()
    linear = prefix_linear(Identity(), [1, 2, 5])
    constant, short, whole = (c.regress(x, action, y, num_actions=2, key=root(0)) for c in linear)
    np.testing.assert_allclose(widen(whole, 4, root(1))(x), whole(x), atol=1e-5)
    for q in (constant, short, whole):
        still = Mlp(4, 20, rate=0.0).regress_from(q, x, action, at(q, x, action), num_actions=2, key=root(2))
        np.testing.assert_allclose(still(x), q(x), atol=1e-3)  # nothing is left over, so it stays where it starts
    (other,) = prefix_linear(RandomFourier(8), [8])
    q = other.regress(x, action, y, num_actions=2, key=root(0))
    with pytest.raises(ConfigError, match="RandomFourier"):
        widen(q, 4, root(0))
    given = (x, action, y)
    fresh = Mlp(4, 20).regress(*given, num_actions=2, key=root(3))
    assert (Mlp(4, 20).regress_from(q, *given, num_actions=2, key=root(3))(x) == fresh(x)).all()


def test_training_fits_what_a_line_cannot():
    x, action, y = rows(500, noise=0.1)
    new = rows(500, seed=1)
    (linear,) = prefix_linear(Identity(), [5])
    straight = linear.regress(x, action, y, num_actions=2, key=root(0))
    q = Mlp(4, 200).regress(x, action, y, num_actions=2, key=root(0))
    better = Mlp(8, 200).regress_from(q, x, action, y, num_actions=2, key=root(1))
    again = Mlp(8, 200).regress_from(better, x, action, y, num_actions=2, key=root(1))
    assert better.width == again.width == 8
    losses = [loss(fit, *new) for fit in (again, better, q, straight)]
    assert losses == sorted(losses)
    assert losses[0] < 0.25 < 2 < losses[3]


def test_the_scale_of_columns_and_targets_does_not_matter():
    x, action, y = rows()
    stretched = x * np.float32([1000, 0.01, 1, 1]) + np.float32([0, 0, 50, 0])
    one, other = (Mlp(8, 200).regress(z, action, y, num_actions=2, key=root(0)) for z in (x, stretched))
    np.testing.assert_allclose(one(x), other(stretched), atol=0.05)
    scaled = Mlp(8, 200).regress(x, action, 100 * y - 7, num_actions=2, key=root(0))
    np.testing.assert_allclose(scaled(x), 100 * one(x) - 7, atol=5)
    constant = Mlp(8, 20).regress(x, action, np.full_like(y, 2.5), num_actions=2, key=root(0))
    np.testing.assert_allclose(constant(x), 2.5, atol=1e-5)


def test_training_depends_on_the_key_only_and_compiles_once():
    x, action, y = rows(300)
    network = Mlp(4, 20)
    one = network.regress(x, action, y, num_actions=2, key=root(0))
    before = networks._fit._cache_size(), networks._draw._cache_size()
    again, other = (network.regress(x, action, y, num_actions=2, key=root(k)) for k in (0, 1))
    network.regress(x[:280], action[:280], y[:280], num_actions=2, key=root(0))
    network.regress_from(one, x, action, y, num_actions=2, key=root(0))
    assert (networks._fit._cache_size(), networks._draw._cache_size()) == before
    assert (again(x) == one(x)).all()
    assert (other(x) != one(x)).any()


def test_padding_is_never_trained_on():
    """Padded rows have target 0; a network of few steps that saw them would move towards it."""
    x, action, _ = rows(257)
    y = np.full(257, 1e3, np.float32)
    y[::2] += 1
    q = Mlp(4, 200).regress(x, action, y, num_actions=2, key=root(0))
    assert np.abs(np.asarray(q(x)) - 1000.5).max() < 2


def test_widths_and_steps_that_cannot_be():
    for widths in ([], [0, 4], [4, 4], [8, 2]):
        for make in (mlp, mlp_heads):
            with pytest.raises(ConfigError, match="must increase"):
                make(widths)
    with pytest.raises(ConfigError, match="cannot be widened"):
        widen(fitted(4), 3, root(0))
    with pytest.raises(ConfigError, match="at least 1 unit"):
        Mlp(0)
    for steps, sweep_steps in ((0, 50), (15, 50), (100, 5)):
        with pytest.raises(ConfigError, match="multiples of 10"):
            Mlp(4, steps, sweep_steps)
    assert [c.name for c in mlp((2, 16))] == ["mlp[2]", "mlp[16]"]
    assert mlp((2,))[0].n_params(3) is None


def linear_problem(n: int = 600, seed: int = 0) -> Transitions:
    """Reward linear in the state, the next state independent of everything: every class is complete."""
    rng = np.random.default_rng(seed)
    x, following = rng.normal(size=(2, n, 4)).astype(np.float32)
    action = rng.integers(0, 2, n).astype(np.int32)
    reward = ((2 * action - 1) * x[:, 0] + 0.5 * rng.normal(size=n)).astype(np.float32)
    return Transitions(x, action, reward, following, np.zeros(n, bool), 2, discount=0.9)


def candidates_of(classes, data: Transitions, sweeps: int = 30, seed: int = 0):
    return fit_candidates(classes, lambda c, d, key: fqi(c, d, key, sweeps=sweeps), data, seed=seed, key=root(seed))


def test_sweeps_go_on_from_the_last_one():
    """With few steps a sweep, thirty sweeps only reach the discounted values if each starts from the one before."""
    data = linear_problem(500)  # as many as other tests pad to
    q = fqi(mlp((4,), 200, 20)[0], data, root(0), sweeps=60)[0]
    (linear,) = prefix_linear(Identity(), [5])
    oracle = fqi(linear, data, root(0), sweeps=60)[0]
    gap = np.abs(values_of(q, data.observation, 2) - values_of(oracle, data.observation, 2)).mean()
    assert gap < 0.5  # of values near 8

    class Counted(Mlp):
        def regress(self, *given, **named):
            calls.append("regress")
            return super().regress(*given, **named)

        def sweep_from(self, *given, **named):
            calls.append("sweep")
            return super().sweep_from(*given, **named)

    calls: list[str] = []
    fqi(Counted(4, 20, 20), data, root(0), sweeps=3)
    assert calls == ["regress", "sweep", "sweep"]


def test_comparisons_start_from_the_smaller_fit_and_fit_it_again():
    starts = []

    class Seen(Mlp):
        def regress_from(self, q, *given, **named):
            starts.append((self.width, q))
            return super().regress_from(q, *given, **named)

        def sweep_from(self, *given, **named):
            return Mlp(self.width, 20, 20).sweep_from(*given, **named)

    classes = [*prefix_linear(Identity(), [1, 5]), Seen(4, 20), Seen(8, 20)]
    candidates = candidates_of(classes, linear_problem(), sweeps=3)
    found = candidates.compare(2)
    assert [width for width, _ in starts] == [4, 8]
    assert all(q is candidates.fits(2)[0] for _, q in starts)
    assert found.se[0, 2] > 0
    constant = candidates.compare(0)
    assert [width for width, _ in starts[2:]] == [4, 8]
    np.testing.assert_allclose(constant.large[0, 0], constant.small[0], rtol=1e-5)
    assert constant.large[0, 2] < constant.small[0]


def test_the_refit_gap_tells_an_under_trained_class_from_a_good_one():
    data = linear_problem()
    good = PAIRED.select(candidates_of(mlp((4, 8), 200, 20), data, sweeps=40))
    assert (good.index, good.verdict, good.alarms) == (0, "certified", ())
    hasty = lambda c, d, key: fqi(Mlp(c.width, 20, 20, 1e-4), d, key, sweeps=10)  # noqa: E731
    poor = PAIRED.select(fit_candidates(mlp((4, 8), 200), hasty, data, key=root(0)))
    assert poor.verdict == "uncertified"
    (noise,) = [alarm for alarm in poor.alarms if alarm.name == "optimisation noise"]
    assert "mlp[4] by -" in noise.message


@pytest.mark.slow
def test_a_complete_network_class_is_rarely_rejected():
    """The bound of the design: at most 10 false rejections in 100 logs."""
    chosen = [
        PAIRED.select(candidates_of(mlp((2, 8, 32), 500), linear_problem(seed=s), seed=s)).index for s in range(100)
    ]
    assert sum(index != 0 for index in chosen) <= 10


def bandit(n: int = 600, seed: int = 0) -> BanditLog:
    """Uniform log of two arms; which one is better depends on the size of the first column, not on its sign."""
    rng = np.random.default_rng(seed)
    x, action = rng.normal(size=(n, 4)), rng.integers(0, 2, n).astype(np.int32)
    reward = (2 * action - 1) * (np.abs(x[:, 0]) - 0.8) + 0.3 * rng.normal(size=n)
    return BanditLog(x, action, reward, np.full(n, 0.5), ("a", "b"))


def test_learned_features_choose_what_a_line_cannot():
    log = bandit()
    classes = [*heads((1, 5)), MlpHead(4, 200), MlpHead(8, 200)]
    found = select_policy(log, classes)
    assert found.index is not None
    assert found.index >= 2
    new = bandit(400, seed=1)
    best = np.abs(new.context[:, 0]) > 0.8
    assert (found.act(new.context).argmax(1) == best).mean() > 0.85
    assert (found.act(new.context) == select_policy(log, classes).act(new.context)).all()


def test_the_bound_of_a_network_is_that_of_its_features_and_never_certifies():
    log = bandit(300)
    fit = MlpHead(4, 20).fit(log, 0.1)
    values, widths = fit.predict(log.context[:7])
    assert values.shape == widths.shape == (7, 2)
    assert (widths > 0).all()
    assert fit.dimension == 2 * (1 + 4 + 4)
    assert [c.certifies for c in (HeadLinear(1), MlpHead(4))] == [True, False]
    linear = HeadLinear(5).fit(log, 0.1)
    assert fit.residual <= linear.residual + 1e-6


def test_words_for_networks():
    log = bandit(60)
    assert [c.name for c in parse_classes(["constant", "linear:all", "mlp:4,16"], log)] == [
        "constant",
        "linear[4]",
        "mlp[4]",
        "mlp[16]",
    ]
    assert [c.name for c in parse_classes(["mlp:4"], log)] == ["mlp[4]"]
    bad = {
        "mlp:x": "not a whole number",
        "mlp:": "unknown class",
        "mlp:8,4": "in the order of their sizes",
        "mlp:0": "not a whole number",
    }
    for word, message in bad.items():
        with pytest.raises(ConfigError, match=message):
            parse_classes([word], log)
    with pytest.raises(ConfigError, match="in the order of their sizes"):
        parse_classes(["mlp:4", "linear:2"], log)
