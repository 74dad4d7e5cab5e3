"""The studies of model selection: their rules on made-up evidence, their measurements, smoke runs, their reports."""

import numpy as np
import pytest

from gleanings import studies
from gleanings.core.report import Report
from gleanings.core.study import Cost, Evidence, StudyConfig, run_study, write_report
from gleanings.studies import _batch_judge, _modbe_judge, modbe
from gleanings.studies._batch_trials import BEST, RULES, VALUED, trials
from gleanings.studies._modbe_networks import NETWORK_RULES, STARTS, merge, network_trials
from gleanings.studies._modbe_trials import CARTPOLE_RULES, Cell, cartpole_trials
from gleanings.studies._modbe_trials import RULES as MODBE_RULES
from gleanings.studies._modbe_trials import trials as modbe_trials

MODBE, BATCH = studies.load("modbe"), studies.load("batch-policy-selection")


def evidence(name: str, values: dict) -> Evidence:
    return Evidence(name, "quick", values, Cost(1.0, 1.0, 1.0), "2026-01-01", {})


def made_up_modbe(changes=None, *, seeds=25, noise=0.001, cells=None) -> Evidence:
    """Regrets by rule and cell as the claim has them, but for `changes` {(q, n, rule): regret}."""
    rng = np.random.default_rng(0)
    found = {}
    for q in (0.2, 1.0):
        for n in (500, 1000, 4000):
            mean = dict.fromkeys(MODBE_RULES, 0.3) | {"modbe": 0.01, "best": 0.005, "largest": 0.4, "smallest": 0.9}
            mean["hold-out"] = 0.9 if q < 0.8 else 0.0
            mean |= {rule: value for (a, b, rule), value in (changes or {}).items() if (a, b) == (q, n)}
            regret = {rule: (m + noise * rng.normal(size=seeds)).tolist() for rule, m in mean.items()}
            choice = {"modbe": [1] * seeds, "hold-out": [0] * seeds}
            found[_modbe_judge.cell_name(q, n)] = {
                "regret": regret,
                "choice": choice,
                "certified": [True] * seeds,
                "ratio": np.ones((7, 7)).tolist(),
                "bellman": dict.fromkeys(MODBE_RULES, 1 / n),
            }
    found["c1-n1000"] = found["q1-n4000"] | {"regret": {rule: [0.01] * seeds for rule in MODBE_RULES}}
    values = {"q": [0.2, 1.0], "n": [500, 1000, 4000], "seeds": seeds, "cells": found | (cells or {}), "cartpole": {}}
    return evidence("modbe", values)


@pytest.mark.parametrize(
    ("changes", "label", "outcomes"),
    [
        ({}, "reproduced", [True] * 5),
        ({(0.2, 500, "modbe"): 0.06}, "not reproduced", [False, True, True, True, True]),
        ({(0.2, 500, "hold-out"): 0.4}, "not reproduced", [True, False, True, True, True]),
        ({(1.0, 4000, "hold-out"): 0.2}, "not reproduced", [True, False, True, True, True]),
        ({(0.2, 1000, "largest"): 0.1}, "partly", [True, True, False, True, True]),
        ({(0.2, 4000, "largest"): 0.1}, "reproduced", [True] * 5),
    ],
)
def test_the_rule_of_modbe(changes, label, outcomes):
    verdict = MODBE.decide(made_up_modbe(changes))
    assert verdict.label == label
    assert [check.holds for check in verdict.checks] == outcomes


def test_modbe_has_to_find_the_class_and_to_measure_it_well():
    found = made_up_modbe()
    found.values["cells"]["q0.2-n1000"]["choice"]["modbe"] = [1] * 19 + [0] * 6
    assert MODBE.decide(found).label == "partly"
    assert MODBE.decide(made_up_modbe(noise=0.5)).label == "underpowered"
    different = {"regret": {rule: [0.3 * (rule == "hold-out")] * 25 for rule in MODBE_RULES}}
    assert MODBE.decide(made_up_modbe(cells={"c1-n1000": different})).label == "partly"


def made_up_batch(changes=None, *, pair=0.5) -> Evidence:
    rng = np.random.default_rng(0)
    names = [*RULES, BEST]
    base = {
        "a-uniform-n200": {"hold-out": 0.01, "ccs": 0.1, BEST: 0.0},
        "a-uniform-n3200": {"hold-out": 0.01, "ccs": 0.1, "slope": 0.01, BEST: 0.0},
        "b-n800": {"ccs": 0.0, "hold-out-lcb": 0.3, "hold-out": 0.2, "slope": 0.0, BEST: 0.0},
        "c-n400": {"ccs": 0.0, BEST: 0.15, "hold-out": 0.5},
        "e-n1000": {},
        "p3-n500": {"hold-out": 0.2, "ccs": 0.6, BEST: 0.15},
    }
    cells = {}
    for cell, means in base.items():
        means = dict.fromkeys(names, 0.2) | means | (changes or {}).get(cell, {})
        cells[cell] = {name: (m + 0.001 * rng.normal(size=20)).tolist() for name, m in means.items()}
    worlds = {"A": dict.fromkeys(names, [0.1] * 20), "B": dict.fromkeys(names, [pair - 0.1] * 20)}
    sweeps = {"c-n400": {"0.5": dict.fromkeys(names, 0.1)}}
    count = {"trials": 20, "certified": 10, "wrong": 1}
    values = {"seeds": 20, "cells": cells, "pair": {"d-n60": worlds}, "sweeps": sweeps, "clicks": {}}
    values["certificates"] = {cell: {name: dict(count) for name in (*RULES, VALUED)} for cell in (*cells, "d-n60")}
    return evidence("batch", values | {"absent": {"digits": None, "clicks": "no `--data`"}})


@pytest.mark.parametrize(
    ("changes", "pair", "label"),
    [
        ({}, 0.5, "reproduced"),
        ({"c-n400": {"ccs": 0.1}}, 0.5, "partly"),
        ({"a-uniform-n200": {"hold-out": 0.09}}, 0.5, "partly"),
        ({"b-n800": {"slope": 0.3}}, 0.5, "partly"),
        (
            {"c-n400": {"ccs": 0.1}, "a-uniform-n200": {"hold-out": 0.09}, "b-n800": {"slope": 0.3}},
            0.5,
            "not reproduced",
        ),
        ({}, 0.6, "not attempted"),
    ],
)
def test_the_rule_of_batch_policy_selection(changes, pair, label):
    assert BATCH.decide(made_up_batch(changes, pair=pair)).label == label
    assert _batch_judge.judge(made_up_batch(changes, pair=pair)).checks[3].holds is (pair == 0.5)


def made_up_networks() -> dict:
    tests = {"choice": [0, 1], "noise": [True, False], "worse": [0.0, 0.5], "least": [-0.25, 0.5]}
    steps = {name: [100.0, 150.0] for name in (*NETWORK_RULES, "mlp[2]", "best")}
    both = dict.fromkeys(STARTS, tests)
    return {"cartpole": {"steps": steps, "tests": both}, "complete": {"tests": both}}


@pytest.mark.parametrize(("study", "made_up"), [(MODBE, made_up_modbe), (BATCH, made_up_batch)])
def test_reports_render_made_up_evidence(study, made_up, tmp_path):
    found = made_up()
    if study is MODBE:
        steps = {rule: [100.0, 120.0, 90.0] for rule in CARTPOLE_RULES}
        steps["best"] = [180.0, 195.0, 190.0]
        cell = {"steps": steps, "blind": [True, False, True], "certified": [False, True, False], "failures": [3, 4, 5]}
        found.values["cartpole"] = {"n1000": cell, "n4000": cell}
        found.values["networks"] = made_up_networks()
    report = Report("title")
    study.render(found, study.decide(found), report)
    text = report.save(tmp_path / "report.html").read_text()
    assert "nan" not in text.lower().replace("nano", "")
    assert study.thumbnail(found).lstrip().startswith("<svg")
    if study is MODBE:
        # 7 cells of 25 sound choices; on CartPole one certified choice, 75 steps behind, at each of two sizes.
        assert "Of 177 certified choices 2 are wrong, 1.1%" in text
        assert text.index("CartPole") < text.index("Networks") < text.index("The variance trap")
        page = write_report(study, found, study.decide(found), tmp_path / "whole.html").read_text()
        first = page.index("On CartPole with noisy velocities and 1000 logged steps ModBE")
        assert first < page.index("the method loses") < page.index("Decision rule")
        assert first < page.index("Claim")


@pytest.mark.parametrize("study", [MODBE, BATCH], ids=lambda s: s.name)
def test_a_smoke_run_gives_no_verdict_and_the_same_twice(study, tmp_path):
    runs = [run_study(study, StudyConfig("smoke", None, 0, tmp_path / str(i))) for i in range(2)]
    assert runs[0][1].label == "not attempted"
    assert runs[0][0].values == runs[1][0].values
    assert (tmp_path / "0" / "report.html").stat().st_size < 1_000_000


def test_a_trial_depends_on_its_seed_only():
    """Its place among the seeds, and what the others are, change nothing."""
    cell = Cell("x", 200)
    many, one = modbe_trials([cell], range(1000, 1006))["x"], modbe_trials([cell], range(1003, 1009))["x"]
    for rule in MODBE_RULES:
        np.testing.assert_allclose(many["regret"][rule][3], one["regret"][rule][0], atol=1e-5)
    regret = np.array(list(many["regret"].values()))
    assert (np.array(many["regret"]["best"]) <= regret + 1e-6).all()
    a, b = trials("c", 100, range(1000, 1003)), trials("c", 100, range(1002, 1003))
    assert all(a[name][2] == b[name][0] for name in a)


def test_cartpole_returns_are_steps_and_the_best_is_best():
    found = cartpole_trials(200, range(1000, 1002))
    steps = np.array(list(found["steps"].values()))
    assert ((steps >= 1) & (steps <= 200)).all()
    assert (np.array(found["steps"]["best"]) >= steps).all()
    assert len(found["blind"]) == len(found["failures"]) == 2


@pytest.mark.slow
def test_a_trial_of_networks_has_an_entry_for_each_rule_class_and_start():
    found = network_trials([7], rows=300, widths=(2, 4))
    steps = {name: x[0] for name, x in found["cartpole"]["steps"].items()}
    assert set(steps) == {*NETWORK_RULES, "mlp[2]", "mlp[4]", "best"}
    assert all(1 <= x <= 200 for x in steps.values())
    assert steps["best"] == max(steps.values())
    assert steps["largest"] == steps["mlp[4]"]
    twice = merge([found, network_trials([7], rows=300, widths=(2, 4))])
    for name, x in twice["cartpole"]["steps"].items():
        assert x == [steps[name]] * 2


def test_pieces_of_networks_are_put_together_in_their_order():
    one, other = made_up_networks(), made_up_networks()
    other["complete"]["tests"] = {name: {key: [9] for key in x} for name, x in other["complete"]["tests"].items()}
    both = merge([one, other])
    assert both["complete"]["tests"]["fresh"]["choice"] == [0, 1, 9]
    assert both["cartpole"]["steps"]["best"] == [100.0, 150.0] * 2


def test_controls_are_those_of_the_protocol():
    cells = modbe.controls()
    assert list(cells) == ["c1", "c2", "c3", "c4", "c5"]
    assert [len(cell.dims) for cell in cells["c5"]] == [3, 5, 7]
    assert cells["c1"][0].trap.stages == 1
