"""The study of driving agents: its rule on made-up evidence, its arms, its splits, its report, a smoke run."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from gleanings import studies
from gleanings.core.errors import ConfigError
from gleanings.core.report import Report
from gleanings.core.study import StudyConfig, run_study
from gleanings.driving.learn.config import BCConfig, DQNConfig
from gleanings.studies import _agents_judge as rule
from gleanings.studies import _agents_report as pages
from gleanings.studies import driving_agents as study
from gleanings.studies._agents_arms import ARMS, BITS, CLONES, CLONING_RATE, CONTROLS, TRAINED, setup
from gleanings.studies._bc_sac_arms import setup as setup_bc_sac
from gleanings.studies._bc_sac_outcomes import outcomes
from gleanings.studies._bc_sac_scenes import SPLITS, shards

from ._agents_evidence import made_up

FULL = study.SCALES["full"]
SAME = {"bc-gaussian": (0.1, 0.1, 0.1, 0.1), "bc-discrete-blind": (0.1, 0.05, 0.1, 0.05)}
"""Heads and routes make no difference."""
STILL = {"dqn-idm": (0.2, 0.08, 0.2, 0.08)}
"""The world makes none."""
FEW = {"scenes": 48, "seeds": 3, "swing": 0.08, "noise": 1.0}


def outcome(evidence):
    verdict = rule.judge(evidence)
    return verdict.label, {check.name: check.holds for check in verdict.checks}, verdict


@pytest.mark.parametrize(
    ("rates", "options", "label", "held"),
    [
        ({}, {}, "reproduced", "R1 R2 W D1 D2"),
        ({"dqn-idm": (0.2, 0.15, 0.2, 0.09)}, {}, "partly", "R1 R2 W D1 D2"),  # 1.7 times
        (STILL, {}, "partly", "R1 R2 D1 D2"),
        (SAME, {}, "partly", "W D2"),
        (SAME | STILL, {}, "not reproduced", "D2"),
        ({"bc-mixture": (0.05, 0.05, 0.1, 0.1)}, {}, "partly", "R1 R2 W D1"),
        (SAME | STILL, FEW, "underpowered", ""),
    ],
)
def test_every_verdict(rates, options, label, held):
    found, holds, verdict = outcome(made_up(rates, **options))
    assert " ".join(name for name in rule.HYPOTHESES if holds[name]) == held
    assert found == label, verdict.summary
    fails = [bool(check.holds) for check in verdict.checks[:5]]
    assert fails == sorted(fails)  # what fails is quoted first


@pytest.mark.parametrize(
    ("rates", "gate"),
    [
        ({"expert replay": (0.02, 0.0, 0.0, 0.0)}, "expert replay"),
        ({"random": (0.7, 0.6, 0.7, 0.6)}, "random"),
        ({"dqn-log": (0.97, 0.9, 0.9, 0.9)}, "better than random"),
    ],
)
def test_each_gate_stops_the_verdict(rates, gate):
    label, holds, verdict = outcome(made_up(rates))
    assert label == "not attempted"
    assert [name for name in ("expert replay", "random", "better than random") if not holds[name]] == [gate]
    assert gate in verdict.summary


def test_w_is_paired_by_scene_and_seed_and_its_ratio_is_that_of_the_rates():
    values = made_up().values
    own, other = (outcomes(values, "dqn-idm", "collision", "all", world) for world in ("idm", "log"))
    test, found = rule.hypotheses(values)["W"], rule.ratio(values)
    np.testing.assert_allclose(test.found.per_seed, (own - other).mean(1))
    assert found.estimate == pytest.approx(other.mean() / own.mean())
    assert 1 < found.low < found.estimate < found.high
    assert found.estimate / found.low == pytest.approx(found.high / found.estimate)  # symmetric in its logarithm


def test_the_interval_of_the_ratio_is_that_of_resampled_ratios():
    """Against a bootstrap of the logarithm itself, by seeds and by maps within kinds."""
    values, rng = made_up(seeds=8, noise=0.6, scenes=480).values, np.random.default_rng(1)
    own, other = (outcomes(values, "dqn-idm", "collision", "all", world) for world in ("idm", "log"))
    kinds, maps = rule.maps_of(values, "all")
    of_map = {one: np.flatnonzero(maps == one) for one in np.unique(maps)}
    of_kind = [[of_map[one] for one in np.unique(maps[kinds == kind])] for kind in np.unique(kinds)]
    drawn = []
    for _ in range(1500):
        seeds = rng.integers(len(own), size=len(own))
        rows = np.concatenate([found[i] for found in of_kind for i in rng.integers(len(found), size=len(found))])
        drawn.append(math.log(other[seeds][:, rows].mean() / own[seeds][:, rows].mean()))
    found = rule.ratio(values)
    ours = math.log(found.high / found.low) / 2 / rule._t(8) * math.sqrt(7 / 8)
    assert ours == pytest.approx(np.std(drawn), rel=0.2)


def test_no_collisions_give_no_interval():
    never = rule.ratio(made_up({"dqn-idm": (0.2, 0.1, 0.2, 0.0)}).values)
    assert (never.estimate, math.isnan(never.low)) == (math.inf, True)
    label, holds, verdict = outcome(made_up({"dqn-idm": (0.2, 0.0, 0.2, 0.0)}))
    assert (label, holds["W"], holds["W, ratio"]) == ("partly", False, None)
    assert "collides nan times as often" in verdict.summary


def test_holm_covers_all_five():
    tests = rule.hypotheses(made_up().values)
    raw = [one.found.p_less for one in tests.values()]
    assert min(one.p for one in tests.values()) == pytest.approx(5 * min(raw))
    assert max(one.p for one in tests.values()) >= max(raw)


def test_only_the_other_world_is_shifted():
    assert [(arm, world) for arm in ARMS for world in ("log", "idm") if not rule.shifted(arm, world)] == [
        *((arm, "log") for arm in (*CLONES, "dqn-log")),
        ("dqn-idm", "idm"),
    ]


def test_arms_differ_in_what_they_are_named_for():
    found = {arm: setup(arm, FULL.effort) for arm in ARMS}
    learners = {arm: learner for arm, (learner, _) in found.items()}
    assert {one.iterations * one.gradient_steps for one in learners.values()} == {FULL.effort.updates}
    assert {one.batch for one in learners.values()} == {256}
    heads = {arm: one.head for arm, one in learners.items() if isinstance(one, BCConfig)}
    assert list(heads.values()) == ["categorical", "categorical", "gaussian", "mixture"]
    assert [arm for arm, one in learners.items() if not one.net.use_route] == ["bc-discrete-blind"]
    assert {arm: world.others for arm, (_, world) in found.items() if isinstance(learners[arm], DQNConfig)} == TRAINED
    assert {world.others for arm, (_, world) in found.items() if arm in CLONES} == {"log"}
    # What was tuned in the other study is this one's normal distribution.
    tuned = {"bc": {"learning_rate": CLONING_RATE}}
    assert learners["bc-gaussian"] == setup_bc_sac("bc-short", tuned, FULL.effort)[0]
    with pytest.raises(ConfigError, match="no arm 'wayformer'"):
        setup("wayformer", FULL.effort)


def test_no_scene_is_one_of_the_other_study_or_of_another_split():
    largest = {"train": FULL.train, "test": FULL.test}
    own = [{shard for (_, shard), _ in shards(name, seed, count, FULL.shard, study.STARTS)}
           for seed in range(3) for name, count in largest.items()]  # fmt: skip
    other = {shard for seed in range(3) for name in SPLITS for (_, shard), _ in shards(name, seed, 10_400, 104)}
    assert len(set.union(*own, other)) == sum(map(len, own)) + len(other)


def test_pieces_cover_all_arms_in_both_worlds():
    pieces = study._drives(FULL, Path(), {})
    assert len(pieces) == 2 * (len(ARMS) + 1)
    assert list(pieces)[:2] == ["drive-bc-discrete-log", "drive-bc-discrete-idm"]  # two programs, side by side
    assert set(study.SCALES["quick"].arms) == {*ARMS} - {"dqn-log"}  # no hypothesis is of it


def page(evidence, folder):
    report = Report("title")
    pages.render(evidence, rule.judge(evidence), report)
    return report.save(folder / "report.html").read_text()


def test_what_the_training_owes_is_the_difference_of_both_changes():
    values = made_up().values
    change = {
        arm: np.subtract(*(outcomes(values, arm, "collision", "all", world).mean(1) for world in ("log", "idm")))
        for arm in ("dqn-idm", "dqn-log")
    }
    found = rule.owed_to_training(values)
    np.testing.assert_allclose(found.per_seed, change["dqn-idm"] - change["dqn-log"])
    del values["arms"]["dqn-log"]
    assert rule.owed_to_training(values) is None


def test_losses_stand_first():
    assert pages.headline(made_up()).startswith("Part of W is the worlds themselves")
    lost = pages.headline(made_up(SAME))
    assert lost.startswith("Not shown (R1): with its route")
    assert "Not shown (D1)" in lost
    assert "(W)" not in lost
    assert pages.headline(made_up(SAME, size="smoke")) == ""
    evidence = made_up({"random": (0.7, 0.6, 0.7, 0.6)})
    evidence.values["arms"]["dqn-idm"]["worlds"]["log"]["all"]["progress"] = [0.2, 0.4]
    found = pages.headline(evidence)
    assert found.startswith("A control misses: random, failure* 7")
    assert found.endswith("DQN, IDM stands more than it drives: it makes 30 % of the log's progress.")


def test_every_section_is_there_and_plots_come_first(tmp_path):
    text = page(made_up(), tmp_path)
    assert text.index("<svg") < text.index("<table")
    assert text.count("<svg") == 8
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert titles[:3] == ["Trained in one world, driven in another", "Hypotheses", "With the route and without"]
    assert text.count("shifted</td>") == text.count("as trained</td>") == 2
    assert len(text) < 300_000
    without = made_up()
    del without.values["arms"]["dqn-log"]
    assert "trained: log" not in page(without, tmp_path)
    assert pages.thumbnail(made_up()).startswith("<svg")


def test_the_texts_say_what_the_rule_does():
    about = studies.load("driving-agents")
    full = study.SCALES["full"]
    assert f"{full.train:,} training and {full.test:,} test scenes, {full.seeds} seeds" in about.protocol
    assert f"{full.effort.updates:,} gradient steps" in about.deviations
    assert f"ratio of W is at least {rule.RATIO:g}" in about.rule
    assert f"Holm over the five at {rule.LEVEL:g}".replace("0.", ".") in about.rule
    quick = study.SCALES["quick"]
    assert f"{quick.train} training and {quick.test} test scenes, {quick.seeds} seeds" in about.protocol
    assert set(rule.CLAIMS) == set(rule.HYPOTHESES) == set(pages._VERSUS)


@pytest.mark.slow
def test_a_smoke_run_gives_no_verdict_and_is_taken_up_again(tmp_path: Path):
    evidence, verdict = run_study(study.STUDY, StudyConfig("smoke", None, 0, tmp_path))
    assert verdict.label == "not attempted"
    for who in (*ARMS, *CONTROLS):
        for world in study.WORLDS:
            grids = [outcomes(evidence.values, who, metric, "all", world) for metric in BITS]
            assert {grid.shape for grid in grids} == {(2 if who in ARMS else 1, 16)}
            failure, star, collision, *_ = grids
            assert (failure <= star).all()
            assert (collision <= failure).all()
    for name in ("train-dqn-idm", "drive-dqn-idm-log"):
        (tmp_path / "parts" / f"{name}.json").unlink()
    again, _ = run_study(study.STUDY, StudyConfig("smoke", None, 0, tmp_path))
    assert again.values == evidence.values
