"""The study of coupled gradients: its rule on made-up evidence, its controls and measurements, a smoke run."""

import dataclasses
import re
from functools import partial

import jax
import numpy as np
import pytest

from gleanings import studies
from gleanings.core.errors import ConfigError, GleaningsError
from gleanings.core.executor import InProcess, Processes, TaskResult
from gleanings.core.report import Report
from gleanings.core.stats import Interval
from gleanings.core.study import Cost, Evidence, StudyConfig, run_study
from gleanings.studies import _coupled_setup as setup
from gleanings.studies import _pieces, coupled_gradients
from gleanings.studies._coupled_judge import SEEDS_FOR_C4, interval_of, judge, log_ratios, ratios_by_checkpoint, shown
from gleanings.studies._coupled_plots import ratio_series
from gleanings.studies._coupled_setup import BASKET, BIASED, DIGITS, LARGE, LAUNCHER, NEW, PAPER, QUICK, SMOKE, UNBIASED
from gleanings.studies._coupled_text import reading

STUDY = studies.load("coupled-gradients")
GAINS = dict.fromkeys(PAPER, -0.08) | dict.fromkeys(NEW, -0.1) | {"pairs-4": 0.3, "pairs-8": 0.5}
GAINS |= {"ars": 2.0, "ars+": 1.5, "arsm": 1.0}


def made_up(gains=None, *, noise=0.05, seeds=3, bound=0.0, bound_seeds=3, failed=(), control=False, early=0.5):
    """Evidence with log variances that differ from RLOO's by `gains`, times `early` before the last checkpoint."""
    gains, rng = GAINS | (gains or {}), np.random.default_rng(0)
    names = setup.with_baselines(BASKET, 8)
    image = rng.normal(size=(seeds, 16))
    basket = {}
    for name in names:
        n = setup.evaluations(name, 8, 8)
        effect = gains.get(name, 0.0) * np.array([early, early, 1.0])[:, None, None]
        cells = (
            image - np.log(n) + effect + noise * rng.normal(size=(3, seeds, 16)) * (name not in ("rloo-4", "rloo-8"))
        )
        basket[name] = {"evaluations": n, "log_variance": cells.tolist(), "microseconds": 1.0 + n}
    check = {"num_evaluations": 2, "draws": 20_000, "mean_z2": 1.0, "mean_z2_limit": 5.7, "bias": 0.01}
    checks = [check | {"member": name, "max_abs_z": 2.0, "passed": name not in failed} for name in UNBIASED]
    training = {}
    for name in ("rloo-2", *PAPER, "reinmax"):
        elbo = -24 + 0.2 * rng.normal(size=bound_seeds) + bound * (name in PAPER)
        curve = {"elbo": [[-27.0, -25.0, -24.0]] * bound_seeds, "max_probability": [[0.2, 0.3, 0.4]] * bound_seeds}
        final = {"test_elbo": elbo.tolist(), "test_importance_weighted": (elbo + 0.5).tolist()}
        training[name] = {"seeds": list(range(bound_seeds)), "steps": [300, 1000, 3000], "milliseconds_per_step": 0.5}
        training[name] |= curve | final
    context = {
        name: {"evaluations": 1, "log_variance": image.tolist(), "relative_bias": [0.3] * seeds, "microseconds": 1.0}
        for name in ("local", *BIASED)
    }
    row = {"variance": 1.0, "standard_error": 0.01, "bias": 0.01, "noise": 0.01}
    toys = [
        row | {"objective": objective, "member": name, "evaluations": 2}
        for objective in ("mlp", "sep")
        for name in ("rloo-2", "tree")
    ]
    values = {
        "dataset": "made-up",
        "scale": dataclasses.asdict(dataclasses.replace(QUICK, seeds=seeds)),
        "checkpoints": [300, 1000, 3000],
        "unbiased": checks,
        "control": check | {"member": "unsorted-iw", "max_abs_z": 6.0, "passed": control},
        "toys": {"k3": toys},
        "training": training,
        "basket": basket,
        "rivals": {name: basket[name] for name in ("ars", "rloo-8")},
        "context": context,
    }
    return Evidence("coupled-gradients", "quick", values, Cost(1.0, 1.0, 1.0), "2026-01-01", {})


ONE_WIN = {"sb": 0.1, "tree": 0.1}


@pytest.mark.parametrize(
    ("changes", "label", "outcomes"),
    [
        ({}, "reproduced", {"C1": True, "C2": True, "C3": True, "C4": None, "N1": True, "null arm": True}),
        ({"gains": {"tree": 0.1}}, "reproduced", {"C2": True}),
        ({"gains": ONE_WIN}, "partly", {"C2": False, "C3": True}),
        ({"gains": dict.fromkeys(PAPER, 0.1)}, "partly", {"C2": False, "C3": True}),
        ({"gains": {"arsm": -0.1}}, "partly", {"C2": True, "C3": False}),
        ({"gains": {"ars+": 0.0}}, "partly", {"C2": True, "C3": False}),
        ({"gains": ONE_WIN | {"ars": -1}}, "not reproduced", {"C2": False, "C3": False}),
        ({"bound_seeds": 10, "bound": 0.3}, "reproduced", {"C4": True}),
        ({"bound_seeds": 10, "bound": -0.02}, "reproduced", {"C4": True}),
        ({"bound_seeds": 10, "bound": -0.6}, "partly", {"C2": True, "C3": True, "C4": False}),
        ({"bound_seeds": SEEDS_FOR_C4 - 1, "bound": -0.6}, "reproduced", {"C4": None}),
        ({"noise": 0.5}, "underpowered", {"null arm": False}),
        ({"failed": ("tree",)}, "not attempted", {"C1": False, "C2": True}),
        ({"control": True}, "not attempted", {"C1": False}),
        ({"gains": {"coupled-8": 0.1}}, "reproduced", {"N1": False}),
        ({"gains": {"coupled-8": 0.0}}, "reproduced", {"N1": None}),
    ],
)
def test_the_rule(changes, label, outcomes):
    verdict = judge(made_up(**changes))
    found = {check.name: check.holds for check in verdict.checks}
    assert {name: found[name] for name in outcomes} == outcomes
    assert verdict.label == label
    assert verdict.checks[0].name == "C2"


def test_c2_is_corrected_for_three_comparisons():
    """Three intervals just below 0 are enough each, but not after Holm's correction."""
    shapes, rng = (3, 16), np.random.default_rng(1)
    noise = rng.normal(size=shapes)
    spread = interval_of(noise - noise.mean())
    values = made_up().values
    base = np.asarray(values["basket"]["rloo-2"]["log_variance"])
    for name in PAPER:
        values["basket"][name]["log_variance"] = (base + noise - noise.mean() - 1.08 * spread.high).tolist()
    assert all(interval_of(log_ratios(values, name)).high < 0 for name in PAPER)
    assert judge(dataclasses.replace(made_up(), values=values)).checks[0].holds is False


def test_ratios_are_taken_at_equal_evaluations_and_from_the_last_checkpoint():
    values = made_up(noise=0.0).values
    assert interval_of(log_ratios(values, "ars")).estimate == pytest.approx(2.0)
    assert interval_of(log_ratios(values, "arsm", -3)).estimate == pytest.approx(0.5)
    assert interval_of(log_ratios(values, "coupled-8")).estimate == pytest.approx(-0.1)
    assert log_ratios(values, "coupled-4").shape == (3, 16)
    ratios = np.random.default_rng(0).normal(size=(3, 16))
    plain, widened = interval_of(ratios), interval_of(ratios, widened=True)
    assert widened.high - widened.low > 2 * (plain.high - plain.low)


def test_the_reading_follows_the_numbers():
    grows = reading(made_up(early=0.2).values)
    assert "the gain grows as the encoder becomes certain" in grows
    assert "cannot be seen in the bound" in grows
    assert "does not grow here" in reading(made_up(early=2.0).values)
    assert "clear of the noise" in reading(made_up(bound_seeds=10, bound=1.0).values)


@pytest.mark.parametrize("changes", [{}, {"seeds": 1, "bound_seeds": 1}, {"failed": ("tree",)}])
def test_report_and_thumbnail(changes, tmp_path):
    evidence = made_up(**changes)
    report = Report("made up")
    STUDY.render(evidence, judge(evidence), report)
    page = report.save(tmp_path / "report.html").read_text()
    body = re.sub(r"<style.*?</style>", "", page, flags=re.S)
    assert page.count("<svg") == 8
    assert not re.search(r"\bnan\b", re.sub(r"<[^>]*>", "", body))
    for words in ("CoupledLOO-8, stick", "What the numbers say", "Holm-adjusted", "K = 4; last checkpoint", "caught"):
        assert words in body
    assert ("FAILED" in body) == ("failed" in changes)
    assert STUDY.thumbnail(evidence).startswith("<svg")


def test_texts_and_scales_are_those_of_the_page():
    assert all(getattr(STUDY, field).strip() for field in ("claim", "paper_figure", "protocol", "deviations", "rule"))
    for scale in (SMOKE, QUICK, DIGITS, LARGE, LAUNCHER):
        first, second, last = scale.checkpoints
        assert last == scale.steps
        assert 0.08 < first / last < 0.12
        assert 0.25 < second / last < 0.4
        assert scale.bound_seeds >= scale.seeds
        for name in (*scale.trained, *scale.members, *scale.biased, *scale.unbiased):
            assert setup.label(name)
    assert (QUICK.images, QUICK.draws, QUICK.steps, QUICK.seeds) == (64, 400, 3000, 3)
    assert DIGITS.bound_seeds >= SEEDS_FOR_C4 <= LARGE.bound_seeds
    assert all(setup.member(name).is_unbiased for name in UNBIASED)
    assert setup.scale_of("full", None) is DIGITS


def test_what_each_size_runs(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).integers(0, 256, (40, 3, 3), dtype=np.uint8))
    assert setup.scale_of("full", tmp_path / "x.npz") is LARGE
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert setup.scale_of("full", tmp_path / "x.npz") is LAUNCHER
    assert setup.scale_of("full", None) is DIGITS
    assert setup.load("full", tmp_path / "x.npz").name == "x"
    images = setup.load("smoke", None)
    assert [len(split) for split in (images.train, images.valid, images.test)] == [64, 64, 64]
    assert setup.greys(images.train, images.maximum).max() == 1


def test_pieces_of_a_large_run():
    pieces = coupled_gradients._first_pieces(LARGE, setup.load("smoke", None), 103)
    trainings = {name: piece.args for name, piece in pieces.items() if name.startswith("train")}
    assert set(trainings) == {"train-rloo-2", "train-iw", "train-sb", "train-tree", "train-rloo-2-k4"}
    assert {name: (list(args[3]), args[4]) for name, args in trainings.items()} == {
        "train-rloo-2": (list(range(103, 113)), LARGE.seeds),
        **{f"train-{name}": (list(range(103, 113)), 0) for name in PAPER},
        "train-rloo-2-k4": (list(range(103, 103 + LARGE.seeds)), LARGE.seeds),
    }
    assert trainings["train-rloo-2-k4"][1].categories == 4
    arms = coupled_gradients._arms(LARGE)
    assert {"rloo-2", "rloo-4", "rloo-8", "rloo-16", "rloo-121", *BASKET} == set(arms[""][1])
    assert arms["-k4"][1:] == (("ars", "ars+", "arsm", "rloo-4", "rloo-7"), True)
    assert list(coupled_gradients._arms(QUICK)) == [""]


def test_expensive_estimators_are_shown_where_they_were_measured():
    values = made_up().values
    for name in ("arsm", "rloo-29"):
        values["basket"][name]["log_variance"] = values["basket"][name]["log_variance"][-1:]
    first, second, last = ratios_by_checkpoint(values, "arsm")
    assert first is second is None
    assert last.estimate == pytest.approx(np.e, rel=0.05)
    assert all(ratios_by_checkpoint(values, "ars"))
    assert ratio_series(values, "arsm").x == ["step 3,000"]
    assert judge(dataclasses.replace(made_up(), values=values)).label == "reproduced"


@pytest.mark.parametrize(("lead", "words"), [(1.0, "it leads"), (-1.0, "it trails"), (0.0, "is level")])
def test_the_reading_places_the_biased_rival(lead, words):
    values = made_up(bound_seeds=10).values
    noise = 0.01 * np.random.default_rng(1).normal(size=10)
    unbiased = {name: np.mean(values["training"][name]["test_elbo"]) for name in ("rloo-2", *PAPER)}
    base = values["training"][max(unbiased, key=unbiased.get)]["test_elbo"]
    values["training"]["reinmax"]["test_elbo"] = (np.asarray(base) + lead + noise - noise.mean()).tolist()
    assert words in reading(values)


def test_the_reading_doubts_timings_that_the_null_arm_contradicts():
    values = made_up().values
    assert "too much noise" not in reading(values)
    assert "for 0 of 7" not in reading(values)
    values["basket"]["null"]["microseconds"] *= 2
    assert "took 2.00 times as long as the first. That is too much noise" in reading(values)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        ((0.894, 0.861, 0.92), "0.89 [0.86, 0.92]"),
        ((-0.03, -0.284, 0.4), "−0.03 [−0.28, 0.40]"),
        ((20.0, 19.66, 20.4), "20.0 [19.7, 20.4]"),
        ((-123.44, -130.0, -110.6), "−123 [−130, −111]"),
    ],
)
def test_intervals_in_sentences(interval, text):
    assert shown(Interval(*interval, 0.95, 3)) == text


class Backwards:
    """An executor whose results arrive in the reverse order."""

    def run(self, fn, items):
        for index, item in reversed(list(enumerate(items))):
            yield TaskResult(index, fn(item), None, 1)


@pytest.mark.parametrize("executor", [None, InProcess(), Backwards()])
def test_pieces_are_computed_once_by_any_executor(executor, tmp_path):
    calls = []
    pieces = {name: partial(lambda name: calls.append(name) or {"name": name}, name) for name in "abc"}
    config = StudyConfig("quick", None, 0, tmp_path, executor)
    assert _pieces.compute({"b": pieces["b"]}, config) == {"b": {"name": "b"}}
    again = StudyConfig("quick", None, 0, tmp_path, executor)
    assert _pieces.compute(pieces, again) == {name: {"name": name} for name in "abc"}
    assert sorted(calls) == ["a", "b", "c"]


def test_a_failed_piece_is_named(tmp_path):
    def broken():
        raise ConfigError("no such thing")

    config = StudyConfig("quick", None, 0, tmp_path, InProcess())
    with pytest.raises(GleaningsError, match="basket-x: ConfigError: no such thing"):
        _pieces.compute({"basket-x": broken}, config)


def test_smoke_run_end_to_end_and_its_continuation(tmp_path, monkeypatch):
    told = []
    config = StudyConfig("smoke", None, 0, tmp_path, None, lambda name, done, total: told.append((name, done, total)))
    evidence, verdict = run_study(STUDY, config)
    assert verdict.label == "not attempted"
    assert told[-1] == ("basket-tree", 6, 6)
    values = evidence.values
    assert values["dataset"] == "digits"
    assert np.isfinite(values["basket"]["tree"]["log_variance"]).all()
    assert np.shape(values["basket"]["tree"]["log_variance"]) == (3, 1, 16)
    assert -50 < values["training"]["rloo-2"]["test_elbo"][0] < -20
    assert not values["control"]["passed"]
    assert "What the numbers say" in (tmp_path / "report.html").read_text()
    assert Evidence.load(tmp_path / "evidence.json") == evidence
    assert not jax.config.read("jax_disable_most_optimizations")

    (tmp_path / "parts" / "basket-tree.json").unlink()
    for name in ("train", "toys", "unbiased"):
        monkeypatch.setattr(coupled_gradients, name, lambda *_: pytest.fail("computed again"))
    again, _ = run_study(STUDY, StudyConfig("smoke", None, 0, tmp_path))
    again.values["basket"]["tree"].pop("microseconds")
    values["basket"]["tree"].pop("microseconds")
    assert again.values == values


@pytest.mark.slow
def test_processes_give_what_one_process_gives(tmp_path):
    runs = [StudyConfig("smoke", None, 0, tmp_path / name, executor) for name, executor in EXECUTORS.items()]
    one, two = (run_study(STUDY, config)[0].values for config in runs)
    for name in ("rloo-2", "tree"):
        pair = (values["basket"][name]["log_variance"] for values in (one, two))
        np.testing.assert_allclose(*pair, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        one["training"]["rloo-2"]["test_elbo"], two["training"]["rloo-2"]["test_elbo"], rtol=1e-5
    )


EXECUTORS = {"one": None, "two": Processes(2)}
