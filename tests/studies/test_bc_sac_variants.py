"""The study of what BC-SAC learns from: its rule on made-up evidence, its report, its arms, and a smoke run."""

import math
from pathlib import Path

import numpy as np
import pytest

from gleanings import studies
from gleanings.core.errors import ConfigError
from gleanings.core.report import Report
from gleanings.core.study import Cost, Evidence, StudyConfig, run_study
from gleanings.driving.learn.config import BCConfig, BCSACConfig
from gleanings.driving.learn.difficulty import Buckets
from gleanings.studies import _bc_sac_variants_arms as arms
from gleanings.studies import _bc_sac_variants_judge as rule
from gleanings.studies import _bc_sac_variants_plots as plots
from gleanings.studies import _bc_sac_variants_report as pages
from gleanings.studies import bc_sac_variants as study
from gleanings.studies._bc_sac_arms import setup
from gleanings.studies._bc_sac_outcomes import outcomes
from gleanings.studies._bc_sac_trials import hundredths
from gleanings.studies._bc_sac_variants_text import DEVIATIONS, PROTOCOL

from ._bc_sac_evidence import CONTROLS, _arm, _scenes, packed

FULL = study.SCALES["full"]
ALL = {f"{method}-{part}": (0.5, 0.1, 0.1, 0.95) for method in rule.METHODS for part in ("all", "top50", "top10")}
BETTER = {f"{method}-top10": (0.3, 0.05, 0.1, 0.95) for method in rule.METHODS}
WORSE = {"bc-top10": (0.7, 0.3, 0.1, 0.95)}
NOISY = {"hard": 32, "seeds": 3, "noise": 1.0, "swing": 0.1}


def made_up(rates=None, *, hard=160, all_of=160, seeds=8, swing=0.01, noise=0.5, without=(), size="full", variants=()):
    """Evidence in which the arms fail as `rates` say: in the hardest tenth, in the easier half of all, and so on."""
    chosen = ALL | dict.fromkeys(variants, (0.4, 0.1, 0.1, 0.9)) | CONTROLS | (rates or {})
    scenes = {"hard": _scenes(hard, 0), "all": _scenes(all_of, 1)}
    scenes["all"] |= {"easy": packed(np.arange(all_of) < all_of / 2)}
    told = {}
    for name in chosen:
        one = _arm(name, chosen[name], scenes, 1 if name in CONTROLS else seeds, swing, noise)
        for part, found in one["worlds"]["log"].items():
            ratio = np.full(len(scenes[part]["kind"]), chosen[name][3])
            ratio[0] = math.nan
            found["ways"] = [hundredths(ratio)] * len(found["failure"])
        told[name] = one
    sets = {part: {"scenes": 400, "kinds": {"merge": 400}} for part in plots.SETS}
    audit = {name: {"negative": 0.01, "reward": -0.002} for name in ("clearance", "binary", "no-offsets")}
    values = {
        "size": {"train": 4056, "seeds": seeds},
        "data": {"drawn": 99, "failed": 3, "sets": sets, "audits": {"pool": {}, "rewards": audit if variants else {}}},
        "scenes": scenes,
        "arms": {name: one for name, one in told.items() if name not in (*CONTROLS, *without)},
        "controls": {name: {"worlds": told[name]["worlds"]} for name in CONTROLS if name not in without},
    }
    return Evidence("bc-sac-variants", size, values, Cost(1.0, 1.0, 1.0), "2026-01-01", {"processor": "one"})


@pytest.mark.parametrize(
    ("rates", "options", "label"),
    [
        (BETTER, {}, "reproduced"),
        (BETTER | {"sac-top10": ALL["sac-all"]}, {}, "partly"),
        (BETTER | WORSE, {}, "not reproduced"),
        (WORSE, {}, "not reproduced"),
        ({}, {"noise": 0.05}, "not reproduced"),
        ({}, NOISY, "underpowered"),
        (WORSE | {"bc-top10": (1.0, 0.3, 0.1, 0.9), "bc-all": (0.2, 0.0, 0.1, 0.9)}, NOISY, "not reproduced"),
        (BETTER | {"expert replay": (0.05, 0.0, 0.0, 1.0)}, {}, "not attempted"),
        (BETTER | {"random": (0.5, 0.4, 0.3, 0.3)}, {}, "not attempted"),
        (BETTER, {"without": ("sac-top10",)}, "partly"),
        (BETTER, {"without": tuple(CONTROLS)}, "not attempted"),
    ],
)
def test_every_verdict(rates, options, label):
    verdict = rule.judge(made_up(rates, **options))
    assert verdict.label == label, verdict.summary


def test_hypotheses_are_paired_corrected_and_turned():
    tests = rule.hypotheses(made_up(BETTER | WORSE).values)
    assert [(name, test.shown, test.reversed) for name, test in tests.items()] == [
        ("bc", False, True),
        ("sac", True, False),
        ("bc-sac", True, False),
    ]
    raw = sorted(test.found.p_less for test in tests.values())
    assert min(test.p for test in tests.values()) == pytest.approx(3 * raw[0])
    assert tests["sac"].found.estimate == pytest.approx(-0.2, abs=0.01)
    verdict = rule.judge(made_up(BETTER | WORSE))
    assert "Shown to be better: SAC, BC-SAC; shown to be worse: BC." in verdict.summary
    assert [check.holds for check in verdict.checks] == [False, True, True, True, True]
    two = rule.judge(made_up(BETTER, without=("sac-all", "sac-top10", "sac-top50")))
    assert next(check for check in two.checks if check.name == "H SAC").measured == "not run"


def test_progress_is_paired_where_it_is_defined():
    values = made_up({"bc-top10": (0.5, 0.1, 0.1, 0.5)}).values
    grid = plots.ways(values, "bc-top10")
    assert grid.shape == (8, 160)
    assert np.isnan(grid[:, 0]).all()
    assert (grid[:, 1:] == 0.5).all()
    found = plots.paired(values, "bc-top10", "bc-all", "progress")
    assert found.estimate == pytest.approx(-0.45)
    assert found.items == 159
    ratio = np.array([-0.5, 0.004, 0.016, 1.0, 2.7, np.nan])
    values["arms"]["bc-all"]["worlds"]["log"]["all"]["ways"] = [hundredths(ratio)]
    values["scenes"]["all"]["kind"] = ["merge"] * 6
    np.testing.assert_array_equal(plots.ways(values, "bc-all", "all"), [[0.0, 0.0, 0.02, 1.0, 2.0, np.nan]])
    values["scenes"]["all"]["kind"] = ["merge"] * 5
    with pytest.raises(ConfigError, match="progress of"):
        plots.ways(values, "bc-all", "all")


def test_what_speaks_against_the_claim_stands_first():
    assert pages.headline(made_up(BETTER)) == ""
    assert pages.headline(made_up(WORSE, size="smoke")) == ""
    lost = pages.headline(made_up(BETTER | WORSE))
    assert lost.startswith("BC trained on the hardest tenth of the scenes fails there more, by more than chance: 70.")
    assert "SAC trained" not in lost
    elsewhere = pages.headline(made_up(BETTER | {"sac-top10": (0.3, 0.9, 0.1, 0.9)}))
    assert elsewhere.startswith("In scenes as they come SAC trained on the hardest tenth fails more: ")
    missed = pages.headline(made_up(BETTER | {"random": (0.5, 0.4, 0.3, 0.3)}))
    assert missed.startswith("A control misses: random, failure* ")


@pytest.mark.parametrize("variants", [(), arms.VARIANTS])
def test_a_page_has_its_figures_before_its_tables(tmp_path, variants):
    evidence = made_up(BETTER, variants=variants)
    report = Report("title")
    pages.render(evidence, rule.judge(evidence), report)
    text = report.save(tmp_path / "report.html").read_text()
    assert text.index("<svg") < text.index("<table")
    assert ("Part F" in text) == ("contact costs\nnothing" in text) == bool(variants)
    assert all((plots.VARIANTS[name] in text) == (name in variants) for name in plots.VARIANTS)
    assert pages.thumbnail(evidence).startswith("<svg")


def test_a_tiny_run_is_judged_and_shown_without_intervals(tmp_path):
    evidence = made_up(hard=4, all_of=8, seeds=2, size="smoke", without=("sac-all", "sac-top10", "sac-top50"))
    for scenes in evidence.values["scenes"].values():
        scenes["kind"], scenes["site"] = ["curve"] * len(scenes["kind"]), [0] * len(scenes["site"])
    verdict = rule.judge(evidence)
    first = verdict.checks[0].interval
    assert first
    assert math.isnan(first.low)
    report = Report("title")
    pages.render(evidence, verdict, report)
    assert "Failure by what was trained on" in report.save(tmp_path / "report.html").read_text()


def test_an_arm_differs_in_what_it_is_named_for():
    base = setup("bc-sac", arms.FROZEN, FULL.effort)
    found = {arm: arms.settings(arm, FULL.effort) for arm in (*study._trained(FULL), *arms.VARIANTS)}
    assert len(found) == 9 + 6
    assert all(found[f"bc-sac-{part}"] == base for part in arms.TRAINED_ON)
    assert all(isinstance(found[f"bc-{part}"][0], BCConfig) for part in arms.TRAINED_ON)
    learners = [one for one, _ in found.values() if isinstance(one, BCSACConfig)]
    assert {one.imitation_weight for one in learners} == {0.0, arms.FROZEN["bc-sac"]["imitation_weight"]}
    assert {one.iterations * one.gradient_steps for one, _ in found.values()} == {FULL.effort.updates}
    changed = {arm: world for arm, (_, world) in found.items() if world != base[1]}
    assert list(changed) == list(arms.REWARDS)
    assert changed["binary"].reward == "binary"
    assert (changed["no-offsets"].clearance_m, changed["no-offsets"].edge_m) == (0.0, 0.0)
    assert changed["absorb"].after_failure == "absorb"
    waiting = {arm: getattr(one, "critic_first", 0) for arm, (one, _) in found.items()}
    assert {arm: steps for arm, steps in waiting.items() if steps} == {"warm-start": FULL.effort.updates // 10}
    assert study._trained(FULL)[:2] == ["bc-sac-all", "sac-all"]


def test_sets_of_training_scenes_are_shares_by_rank_and_never_empty(tmp_path):
    rank = np.linspace(0, 1, 100)
    names = tuple(f"merge-1-{i}" for i in range(100))
    sets = study._hardest(Buckets(names, rank, (50, 10)))
    assert {name: len(found) for name, found in sets.items()} == {"all": 100, "top50": 50, "top10": 10}
    assert sets["top10"] == names[90:]
    assert study._hardest(Buckets(names, rank / 2, (50, 10)))["top10"] == names[99:]
    found = {"pool": {"sizes": {"C": 5, "I": 3}, "audit": {"kept": 4000}, "names": names}}
    found["pool-alone"] = {"sizes": {"C": 4, "I": 9}, "audit": {"kept": 3900}, "names": names[:98]}
    shards = (("variants-train", 13500),)
    pools = study._pools(FULL, tmp_path, shards, sets, found)
    assert set(pools) == {*study._trained(FULL), *arms.VARIANTS}
    assert {pool.rows for pool in pools.values()} == {4000}
    assert {pool.sizes for pool in pools.values()} == {(("C", 5), ("I", 9))}
    assert pools["sac-top10"].driven == pools["sac-top10"].shown == names[90:]
    assert (pools["few-demos"].driven, len(pools["few-demos"].shown)) == (names, 10)
    assert pools["no-followers"].shards == (("train", 13500),)
    assert pools["no-followers"].driven == names[:98]
    for arm in ("binary", "no-offsets", "absorb", "warm-start"):
        assert pools[arm] == pools["bc-sac-all"]


def test_a_variant_with_fewer_seeds_is_paired_with_the_first_of_its_base():
    values = made_up(variants=arms.VARIANTS).values
    base, other = (values["arms"][name]["worlds"]["log"] for name in (arms.BASE, "binary"))
    whole = plots.paired(values, "binary", arms.BASE, "progress")
    for part in other.values():
        for name, rows in part.items():
            if isinstance(rows, list) and len(rows) == 8:
                part[name] = rows[:3]
    for metric in plots.METRICS:
        found = plots.paired(values, "binary", arms.BASE, metric)
        assert len(found.per_seed) == 3
    np.testing.assert_allclose(found.per_seed, whole.per_seed[:3])
    assert len(base["hard"]["failure"]) == 8


def test_texts_say_what_runs():
    assert studies.load("bc-sac-variants") is study.STUDY
    assert f"{FULL.train:,} training scenes, {FULL.seeds} seeds, {FULL.effort.iterations} iterations" in PROTOCOL
    assert f"{FULL.effort.environments} episodes and {FULL.effort.gradient_steps} gradient steps" in PROTOCOL
    assert f"{FULL.effort.iterations} iterations instead" in DEVIATIONS
    assert f"part F {FULL.changed} seeds" in " ".join(PROTOCOL.split())
    quick = study.SCALES["quick"]
    assert f"{quick.train} scenes, {quick.seeds} seeds, {quick.effort.iterations} iterations" in PROTOCOL
    assert all(f"`{name}`" in PROTOCOL for name in arms.VARIANTS)
    assert set(plots.VARIANTS) == set(arms.VARIANTS)
    assert (rule.METHODS, plots.BASE, tuple(plots.SETS)) == (arms.METHODS, arms.BASE, arms.TRAINED_ON)


@pytest.mark.slow
def test_a_smoke_run_gives_no_verdict_and_is_taken_up_again(tmp_path: Path):
    evidence, verdict = run_study(study.STUDY, StudyConfig("smoke", None, 0, tmp_path))
    assert verdict.label == "not attempted"
    assert outcomes(evidence.values, "warm-start", "failure", "hard").shape[0] == 2
    assert set(evidence.values["arms"]) == {"bc-all", "bc-top10", "bc-sac-all", "bc-sac-top10", "warm-start"}
    for name in ("train-warm-start", "drive-warm-start"):
        (tmp_path / "parts" / f"{name}.json").unlink()
    again, _ = run_study(study.STUDY, StudyConfig("smoke", None, 0, tmp_path))
    assert again.values == evidence.values
    assert "Part F" in (tmp_path / "report.html").read_text()
