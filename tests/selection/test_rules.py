"""Rules that choose a class: what each must do, what ModBE must get right, and the mistakes it must not make."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from gleanings.core.errors import ConfigError, GleaningsError, NumericsError
from gleanings.selection import (
    BVFT,
    FQE,
    HoldOutTD,
    Identity,
    LargestClass,
    MeanMaxQ,
    ModBE,
    ModBEConfig,
    RegressedBellman,
    SmallestClass,
    Transitions,
    Trap,
    fit_candidates,
    fqi,
    modbe,
    prefix_linear,
    variance_trap,
)
from gleanings.selection.modbe import choose_by_hold_out, choose_by_modbe
from gleanings.selection.prefix import Comparisons, Rows, compare, factors, leading, regress, staged_fits
from gleanings.selection.trap import trap_regret, trap_rows

RULES = [ModBE(), HoldOutTD(), RegressedBellman(), FQE(), BVFT(), MeanMaxQ(), LargestClass(), SmallestClass()]
DIMS = (1, 3, 6, 12)
TRAP_DIMS = (1, 3, 6, 12, 24, 48, 96)


@functools.cache
def whole_trap() -> Transitions:
    return variance_trap(600, Trap(columns=12), key=jax.random.key(3))


def small_trap(n: int = 600) -> Transitions:
    """The first n rows of each stage; all tests share one draw, and those of one n one compiled solve."""
    data = whole_trap()
    return data.take(np.concatenate([data.at(stage)[:n] for stage in range(data.num_stages)]))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
class TestEveryRule:
    def test_returns_a_class_and_a_policy(self, rule):
        data, classes = small_trap(), prefix_linear(Identity(), DIMS)
        found = rule.select(fit_candidates(classes, None, data, seed=1))
        assert found.name == classes[found.index].name
        assert found.verdict in ("certified", "uncertified")
        assert found.num_classes == len(classes)
        probabilities = found.act(data.observation[:5])
        assert probabilities.shape == (5, 2)
        assert (probabilities.sum(1) == 1).all()
        again = rule.select(fit_candidates(classes, None, data, seed=1))
        assert again.to_json() == found.to_json()
        assert str(found).startswith(f"{found.name}, class {found.index + 1} of 4 | ")

    def test_one_class_is_chosen_but_not_certified(self, rule):
        found = rule.select(fit_candidates(prefix_linear(Identity(), [3]), None, small_trap()))
        assert (found.index, found.verdict) == (0, "uncertified")

    def test_a_constant_reward_or_few_rows_decide_nothing(self, rule):
        data, classes = small_trap(), prefix_linear(Identity(), DIMS)
        few = data.take(np.concatenate([data.at(0)[:40], data.at(1), data.at(2)]))
        constant = Transitions(**{**vars(data), "reward": np.ones_like(data.reward)})
        for log, word in ((constant, "same in every row"), (few, "at least 50")):
            found = rule.select(fit_candidates(classes, None, log))
            assert (found.index, found.verdict) == (0, "insufficient data")
            assert word in found.alarms[0].message


@functools.partial(jax.jit, static_argnames="n_most")
def trial(n_most: int, n: int, q: float, mistaken: bool, key: Array) -> dict[str, Array]:
    """Regret of each rule's choice, by one program for all of what follows, with `n` of `n_most` rows.

    mistaken: the large classes are fitted to their own targets, here all to those of the smallest class.
    """
    trap, masks, n_params = Trap(), leading(TRAP_DIMS), 2 * jnp.asarray(TRAP_DIMS, jnp.float32)
    rows = trap_rows(trap, n_most, n, q, key)
    factor = factors(rows, 2, 1e-3)
    fits = staged_fits(factor, rows, masks)
    targets = jnp.where(mistaken, fits.targets[:, :1], fits.targets)
    found = compare(factor, rows, fits._replace(targets=targets), masks)
    regret = trap_regret(trap, jnp.moveaxis(fits.weights, 0, 1))
    index = choose_by_modbe(found, n_params, ModBEConfig()).chosen
    return {
        "modbe": regret[index],
        "hold-out": regret[choose_by_hold_out(found)],
        "largest": regret[-1],
        "index": index,
        "index at no tolerance": choose_by_modbe(found, n_params, ModBEConfig("none")).chosen,
    }


def chosen(q: float, n: int, seeds: range, mistaken: bool = False) -> dict[str, np.ndarray]:
    """What `trial` finds, by seed."""
    found = [trial(1000, n, q, mistaken, jax.random.key(seed)) for seed in seeds]
    return {name: np.array([float(x[name]) for x in found]) for name in found[0]}


def test_modbe_avoids_the_trap_that_hold_out_falls_into():
    """The learning test: thresholds of the study at q = 0.5 and n = 1000, 20 seeds."""
    found = {name: x.mean() for name, x in chosen(0.5, 1000, range(20)).items()}
    assert found["modbe"] <= 0.02
    assert found["hold-out"] >= 0.8
    assert found["largest"] >= 0.2


def test_targets_of_the_large_class_would_keep_the_constant():
    """The mistake of regressing a large class on its own target: then a small variance of the target wins."""
    assert (chosen(0.2, 1000, range(5))["index"] == 1).all()
    assert chosen(0.2, 1000, range(5), mistaken=True)["index"].tolist() != [1] * 5


def test_zero_tolerance_rejects_the_complete_class_now_and_then():
    found = chosen(0.2, 250, range(20))
    assert (found["index"] == 1).mean() > (found["index at no tolerance"] == 1).mean()


def table_of(small: list[float], large: list[list[float]], effective: list[float], rows: float = 100) -> Comparisons:
    """Comparisons of one stage by hand."""
    big = jnp.asarray(large)[None]
    one = jnp.asarray(small)[None]
    return Comparisons(one, big, 0.1 * jnp.ones_like(big), one * 0, jnp.asarray(effective)[None], jnp.asarray([rows]))


def test_the_decision_by_hand():
    """Three classes: the first is rejected by the last only, the second by none."""
    found = table_of([2.0, 1.0, 1.0], [[2.0, 1.95, 1.0], [9.0, 1.0, 0.95], [9.0, 9.0, 1.0]], [50, 50, 50])
    n_params = jnp.array([1.0, 2.0, 3.0])
    choice = choose_by_modbe(found, n_params, ModBEConfig())
    assert int(choice.chosen) == 1
    assert choice.rejected.tolist() == [True, False, False]
    np.testing.assert_allclose(choice.tolerance[0, 0, 2], 1.0 * (1 + 2 * np.log(60)) / 100, rtol=1e-6)
    np.testing.assert_allclose(choice.excess[0, 1, 2], 0.05 - 0.95 * (2 + 2 * np.log(60)) / 100, rtol=1e-5)
    assert int(choose_by_modbe(found, n_params, ModBEConfig("paired_t", z=20.0)).chosen) == 0
    assert int(choose_by_modbe(found, n_params, ModBEConfig("none")).chosen) == 2
    assert int(choose_by_hold_out(found)) == 1


@pytest.mark.parametrize(("on_blind", "index"), [("keep", 0), ("largest", 2), ("holdout_td", 1)])
def test_a_test_that_could_not_fail_is_said_to_be_blind(on_blind, index):
    found = table_of([1.0, 0.9, 1.0], [[1.0] * 3] * 3, [5, 50, 50])
    choice = choose_by_modbe(found, jnp.ones(3), ModBEConfig(on_blind=on_blind))
    assert bool(choice.blind)
    assert int(choice.chosen) == index
    seen = choose_by_modbe(found._replace(effective_rows=jnp.full((1, 3), 50.0)), jnp.ones(3), ModBEConfig())
    assert not bool(seen.blind)


def test_a_rare_outcome_is_reported_as_blind():
    """Reward 1 but for three rows in 600: a constant passes, and nothing could have shown that it is wrong."""
    data = small_trap(200)
    reward = np.ones_like(data.reward)
    reward[::250] = 0
    one_stage = Transitions(**{**vars(data), "reward": reward, "stage": None, "discount": 0.5})
    found = modbe(prefix_linear(Identity(), DIMS), None, one_stage)
    assert found.verdict == "uncertified"
    assert found.alarms[0].name == "blind"


def test_reaching_the_largest_class_asks_for_a_larger_one():
    """The signal stands in a column that only the largest class has."""
    data, order = small_trap(), [7, 1, 2, 3, 4, 5, 6, 0, 8, 9, 10]
    moved = {name: getattr(data, name)[:, order] for name in ("observation", "next_observation")}
    found = modbe(prefix_linear(Identity(), DIMS), None, Transitions(**{**vars(data), **moved}))
    assert (found.index, found.verdict) == (3, "uncertified")
    assert "add a larger class" in found.alarms[0].message


def test_scaling_the_reward_or_copying_the_largest_class_changes_nothing():
    data, classes = small_trap(), prefix_linear(Identity(), DIMS)
    base = modbe(classes, None, data)
    scaled = modbe(classes, None, Transitions(**{**vars(data), "reward": 7 * data.reward}))
    assert scaled.index == base.index
    swapped = modbe(classes, None, Transitions(**{**vars(data), "action": 1 - data.action}))
    assert (swapped.act(data.observation[:50]) == base.act(data.observation[:50])[:, ::-1]).all()


def test_the_certificate_lists_every_comparison():
    found = modbe(prefix_linear(Identity(), DIMS), None, small_trap(), ModBEConfig(full_table=True))
    columns = found.certificate.table()
    assert {len(column) for column in columns.values()} == {3 * 6}
    early = modbe(prefix_linear(Identity(), DIMS), None, small_trap())
    assert (early.index, early.verdict) == (found.index, found.verdict) == (1, "certified")
    kept = np.isin(columns["small"], ["constant", "linear[2]"])
    for name, column in early.certificate.table().items():
        np.testing.assert_array_equal(column, columns[name][kept])
    assert (columns["rejects"] == (columns["delta"] > columns["tolerance"])).all()
    rejecting = columns["rejects"]
    assert (columns["rows_needed"][rejecting] < columns["rows"][rejecting]).all()
    assert "rows_needed" in found.certificate.html()


@pytest.mark.parametrize(
    ("fit", "error", "message"),
    [
        (lambda c, d, key: fqi(c, d, key)[:1], ConfigError, "1 fits for 3 stages"),
        (lambda c, d, key: [lambda x: np.zeros((len(x), 5))] * 3, ConfigError, r"expected \[B, A\]"),
        (lambda c, d, key: [lambda x: np.full((len(x), 2), np.nan)] * 3, NumericsError, "not finite"),
        (lambda c, d, key: 1 / 0, GleaningsError, "constant: the base learner raised ZeroDivisionError"),
    ],
)
def test_a_base_learner_that_misbehaves_is_named(fit, error, message):
    with pytest.raises(error, match=message):
        modbe(prefix_linear(Identity(), DIMS), fit, small_trap())


def test_weights_of_a_class_without_rows_of_an_action_stay_finite():
    features = np.random.default_rng(0).normal(size=(1, 200, 12)).astype(np.float32)
    ones = np.ones((1, 200), np.float32)
    rows = Rows(features, ones.astype(np.int32) * 0, features[..., 1], features, ones, ones, 0 * ones)
    rows, masks = jax.tree.map(jnp.asarray, rows), leading(DIMS)

    @jax.jit
    def solved(rows):
        stage = jax.tree.map(lambda x: x[0], rows)
        return regress(factors(rows, 2, 1e-3)[0], stage, stage.reward, masks)

    weights = np.asarray(solved(rows))
    assert np.isfinite(weights).all()
    assert (weights[:, 0] != 0).any()
    assert (weights[:, 1] == 0).all()


def test_classes_behind_the_accepted_one_are_never_fitted():
    fitted = []

    def fit(c, data, key):
        fitted.append(c.name)
        return fqi(c, data, key)

    classes = prefix_linear(Identity(), DIMS)
    assert modbe(classes, fit, small_trap()).index == 1
    assert fitted == ["constant", "linear[2]"]
    fitted.clear()
    modbe(classes, fit, small_trap(), ModBEConfig(full_table=True, refit=True))
    assert fitted == [*(c.name for c in classes), "linear[2]"]


def test_a_refit_uses_all_rows():
    data, classes = small_trap(), prefix_linear(Identity(), DIMS)
    plain, again = (modbe(classes, None, data, ModBEConfig(refit=refit)) for refit in (False, True))
    whole = fqi(classes[1], data, jax.random.key(0))
    np.testing.assert_allclose(again.q[0].weights, whole[0].weights, atol=2e-4)
    assert np.abs(again.q[0].weights - plain.q[0].weights).max() > 1e-2


def test_the_theoretical_tolerance_is_that_of_its_formula():
    data, classes = small_trap(), prefix_linear(Identity(), DIMS)
    omega = (0.1, 0.2, 0.3, 0.4)
    found = modbe(classes, None, data, ModBEConfig("theory", omega=omega, bound=3.0, full_table=True))
    columns = found.certificate.table()
    expected = [1.5 * w + 81 * np.log(2 * 16 * 3 / 0.1) / 120 for w in omega[:3]]
    order = [[c.name for c in classes].index(name) for name in columns["small"]]
    np.testing.assert_allclose(columns["tolerance"], np.array(expected)[order], rtol=1e-6)
    with pytest.raises(ConfigError, match="needs omega, a bound for each of 4 classes"):
        modbe(classes, None, data, ModBEConfig("theory", omega=(0.1,)))


def test_tolerances_that_exceed_the_error_certify_nothing():
    """Most columns a class with 60 rows a stage can have: p + 2 log(20 M H) > n, so zeta > s^2."""
    data, classes = small_trap(100), prefix_linear(Identity(), (6, 12))
    found = modbe(classes, None, data, ModBEConfig("practical"))
    assert (found.index, found.verdict, found.alarms[0].name) == (0, "uncertified", "vacuous")


def test_many_parameters_are_judged_by_a_paired_test_and_refused_by_name():
    """40 training rows a stage."""
    rng = np.random.default_rng(3)
    x, action = rng.normal(size=(150, 23)).astype(np.float32), rng.integers(0, 2, 150).astype(np.int32)
    reward, stage = rng.normal(size=150).astype(np.float32), np.arange(150) // 50
    data = Transitions(x, action, reward, x[::-1], np.zeros(150, bool), 2, stage=stage.astype(np.int32))
    classes = prefix_linear(Identity(), (1, 3, 22, 24))
    found = modbe(classes, None, data, ModBEConfig(full_table=True))
    columns = found.certificate.table()
    own = columns["small"] == "linear[21]"
    np.testing.assert_allclose(columns["tolerance"][own], 2.5 * columns["se"][own], rtol=1e-6)
    assert "parameters" in [alarm.name for alarm in found.alarms]
    with pytest.raises(ConfigError, match=r"class linear\[21\] has 44 parameters; use 'auto' or 'paired_t'"):
        modbe(classes, None, data, ModBEConfig("practical"))


def test_a_gram_matrix_that_float32_cannot_factor_is_tried_in_float64():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 1)).astype(np.float32)
    twins = np.concatenate([x, x * np.float32(1 + 1e-4), rng.normal(size=(400, 1))], 1).astype(np.float32)
    action = rng.integers(0, 2, 400).astype(np.int32)
    reward = (x[:, 0] * (2 * action - 1) + 0.1 * rng.normal(size=400)).astype(np.float32)
    ends = np.ones(400, bool)
    data = Transitions(twins, action, reward, twins, ends, 2, stage=np.zeros(400, np.int32))
    tiny = fit_candidates(prefix_linear(Identity(), (1, 2, 3, 4), ridge=1e-13), None, data)
    assert np.isfinite(tiny.fits(3)[0].weights).all()
    assert ModBE().select(tiny).index == 1
    singular = Transitions(**{**vars(data), "observation": twins[:, [0, 0, 2]]})
    hopeless = fit_candidates(prefix_linear(Identity(), (1, 2, 3, 4), ridge=0.0), None, singular)
    with pytest.raises(NumericsError, match=r"stage 0 is not positive definite \(condition number"):
        hopeless.fits(3)


def test_bvft_by_enumeration():
    """Four classes at one resolution: the loss of a class is its distance to the mean target of rows in equal cells."""
    candidates = fit_candidates(prefix_linear(Identity(), DIMS), None, small_trap())
    data, losses, spread = candidates.data, np.zeros((4, 4)), []
    found = []
    for stage in range(3):
        rows = data.at(stage)[candidates.split.valid[data.at(stage)]]
        found.append([candidates.at_actions(k, stage, rows) for k in range(4)])
        spread += [value for values, _ in found[-1] for value in values]
    rho = 0.1 * (max(spread) - min(spread))
    for i in range(4):
        for j in range(4):
            squares = []
            for per_class in found:
                cells: dict[tuple, list] = {}
                for own, other, y in zip(per_class[i][0], per_class[j][0], per_class[i][1], strict=True):
                    cells.setdefault((own // rho, other // rho), []).append((own, y))
                for members in cells.values():
                    mean = np.mean([y for _, y in members])
                    squares += [(own - mean) ** 2 for own, _ in members]
            losses[i, j] = np.sqrt(np.mean(squares))
    assert BVFT((0.1,)).select(candidates).index == int(losses.max(1).argmin())


def test_rules_without_a_certificate_say_when_nothing_speaks_for_a_larger_class():
    rng = np.random.default_rng(1)
    noise = Transitions(**{**vars(small_trap()), "reward": rng.normal(size=1800).astype(np.float32)})
    candidates = fit_candidates(prefix_linear(Identity(), DIMS), None, noise)
    found = LargestClass().select(candidates)
    assert (found.index, found.verdict, found.alarms[0].name) == (3, "insufficient data", "no evidence")
    assert LargestClass().select(fit_candidates(prefix_linear(Identity(), DIMS), None, small_trap())).alarms == ()
