"""Rules that choose a class: what each must do, what ModBE must get right, and the mistakes it must not make."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gleanings.core.errors import ConfigError, GleaningsError, NumericsError
from gleanings.selection import (
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
from gleanings.selection.prefix import Comparisons, compare, factors, leading, regress, staged_fits
from gleanings.selection.trap import trap_regret, trap_rows

RULES = [ModBE(), HoldOutTD(), RegressedBellman(), FQE(), MeanMaxQ(), LargestClass(), SmallestClass()]
DIMS = (1, 3, 6, 12)
TRAP_DIMS = (1, 3, 6, 12, 24, 48, 96)


def small_trap(n: int = 300, seed: int = 3) -> Transitions:
    return variance_trap(n, Trap(columns=12), key=jax.random.key(seed))


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
        few = small_trap(40)
        constant = Transitions(**{**vars(data), "reward": np.ones_like(data.reward)})
        for log, word in ((constant, "same in every row"), (few, "at least 50")):
            found = rule.select(fit_candidates(classes, None, log))
            assert (found.index, found.verdict) == (0, "insufficient data")
            assert word in found.alarms[0].message


def chosen(q: float, n: int, seeds: range, **changes) -> dict[str, np.ndarray]:
    """Regret of each rule's choice by seed; `changes` replace parts of the algorithm, to make known mistakes."""
    trap, masks = Trap(q), leading(TRAP_DIMS)
    config = changes.get("config", ModBEConfig())

    @jax.jit
    def one(key):
        rows = trap_rows(trap, n, n, q, key)
        factor = factors(rows, 2, 1e-3)
        fits = staged_fits(factor, rows, masks)
        judged = changes.get("rows", lambda rows: rows)(rows)
        targets = changes.get("targets", lambda fits: fits.targets)(fits)
        found = compare(factors(judged, 2, 1e-3), judged, fits._replace(targets=targets), masks)
        regret = trap_regret(trap, jnp.moveaxis(fits.weights, 0, 1))
        index = choose_by_modbe(found, 2 * jnp.asarray(TRAP_DIMS, jnp.float32), config).chosen
        return regret[index], regret[choose_by_hold_out(found)], regret[-1], index

    rows = np.array([[float(x) for x in one(jax.random.key(seed))] for seed in seeds])
    return dict(zip(("modbe", "hold-out", "largest", "index"), rows.T, strict=True))


def test_modbe_avoids_the_trap_that_hold_out_falls_into():
    """The learning test: thresholds of the study at q = 0.5 and n = 1000, 20 seeds."""
    found = {name: x.mean() for name, x in chosen(0.5, 1000, range(20)).items()}
    assert found["modbe"] <= 0.02
    assert found["hold-out"] >= 0.8
    assert found["largest"] >= 0.2


def test_targets_of_the_large_class_would_keep_the_constant():
    """The mistake of regressing a large class on its own target: then a small variance of the target wins."""
    found = chosen(0.2, 1000, range(5), targets=lambda fits: jnp.broadcast_to(fits.targets[:, :1], fits.targets.shape))
    assert (chosen(0.2, 1000, range(5))["index"] == 1).all()
    assert found["index"].tolist() != [1] * 5


def test_zero_tolerance_rejects_the_complete_class_now_and_then():
    wrong = chosen(0.2, 250, range(20), config=ModBEConfig("none"))
    right = chosen(0.2, 250, range(20))
    assert (right["index"] == 1).mean() > (wrong["index"] == 1).mean()


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


@pytest.mark.parametrize(("on_blind", "index"), [("keep", 0), ("largest", 2), ("hold_out", 1)])
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
    data = variance_trap(4000, Trap(0.5, columns=12, signals=((8, 0.5),)), key=jax.random.key(0))
    found = modbe(prefix_linear(Identity(), (1, 3, 12)), None, data)
    assert (found.index, found.verdict) == (2, "uncertified")
    assert "add a larger class" in found.alarms[0].message


def test_scaling_the_reward_or_copying_the_largest_class_changes_nothing():
    data, classes = small_trap(600), prefix_linear(Identity(), DIMS)
    base = modbe(classes, None, data)
    scaled = modbe(classes, None, Transitions(**{**vars(data), "reward": 7 * data.reward}))
    assert scaled.index == base.index
    swapped = modbe(classes, None, Transitions(**{**vars(data), "action": 1 - data.action}))
    assert (swapped.act(data.observation[:50]) == base.act(data.observation[:50])[:, ::-1]).all()


def test_the_certificate_lists_every_comparison():
    found = modbe(prefix_linear(Identity(), DIMS), None, small_trap(600))
    columns = found.certificate.table()
    assert {len(column) for column in columns.values()} == {3 * 6}
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
    rows = trap_rows(Trap(columns=12), 200, 200, 0.5, jax.random.key(0))
    never = rows._replace(action=jnp.zeros_like(rows.action))
    stage = jax.tree.map(lambda x: x[0], never)
    weights = regress(factors(never, 2, 1e-3)[0], stage, stage.reward, leading(DIMS))
    assert np.isfinite(np.asarray(weights)).all()
    assert (np.asarray(weights)[:, 1] == 0).all()
