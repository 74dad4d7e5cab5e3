"""The rule of the study of BC-SAC on made-up evidence: reading it, its differences, its gates, every verdict."""

import math

import numpy as np
import pytest
from scipy import stats

from gleanings.core.errors import ConfigError
from gleanings.studies import _bc_sac_judge as rule
from gleanings.studies import _bc_sac_outcomes as read

from ._bc_sac_evidence import CONTROLS, RATES, made_up, packed

ALL = "H1 H2 H3 R2"
SLOW = {"sac": (0.2, 0.1, 0.7, 0.6)}
"""SAC fails less than BC-SAC, but stands."""
STANDS = {"bc-sac": (0.3, 0.03, 0.8, 0.4)}
"""BC-SAC fails least, but stands more than SAC."""
FEW = {"hard": 32, "all_of": 64, "seeds": 3, "noise": 1.0, "swing": {"bc": 0.1, "bc-sac": 0.1}}


def outcome(evidence):
    verdict = rule.judge(evidence)
    return verdict.label, {check.name: check.holds for check in verdict.checks}, verdict


def test_bits_are_read_back():
    flags = np.random.default_rng(0).random(29) < 0.5
    assert np.array_equal(read.unpacked(packed(flags), 29), flags)
    with pytest.raises(ConfigError, match="4 bytes of bits for 40 scenes"):
        read.unpacked(packed(flags), 40)


def test_groups_and_rates_are_those_of_their_scenes():
    values = made_up().values
    grid = read.outcomes(values, "bc", "failure", "top3")
    whole = np.stack([read.unpacked(row, 160) for row in values["arms"]["bc"]["worlds"]["log"]["hard"]["failure"]])
    assert np.array_equal(grid, whole[:, 112:])
    assert read.outcomes(values, "random", "failure", "easy").shape == (1, 80)
    found = read.rate(values, "bc", "failure")
    assert found.estimate == pytest.approx(whole.mean())
    assert 0 < found.low < found.estimate < found.high < 1
    assert read.rate(values, "expert replay", "failure").low == 0
    # Without a share of the scenes that all arms fail alike, the interval is about that of the two means.
    difference = read.difference(values, "bc-sac", "bc", "failure")
    of_seed = grid_of(values, "bc-sac").mean(1) - grid_of(values, "bc").mean(1)
    assert difference.per_seed == pytest.approx(tuple(of_seed))
    assert difference.se > of_seed.std(ddof=1) / math.sqrt(8)


def grid_of(values, who, part="hard"):
    return read.outcomes(values, who, "failure", part)


def test_the_contrast_is_the_difference_of_differences():
    values = made_up(noise=1.0).values
    parts = [read.difference(values, "bc-sac", "bc", "failure", part) for part in ("hard", "easy")]
    found = read.difference(values, "bc-sac", "bc", "failure", against="easy")
    assert found.estimate == pytest.approx(parts[0].estimate - parts[1].estimate)
    assert found.items == 160 + 80
    # Arms that differ at random by scene: both sides are almost independent, also where they share maps.
    assert found.se == pytest.approx(math.hypot(parts[0].se, parts[1].se), rel=0.25)


def test_holm_steps_down_and_r2_waits():
    tests = rule.hypotheses(made_up().values)
    raw = sorted(tests[name].found.p_less for name in ("H1", "H2", "H3"))
    assert max(tests[name].p for name in ("H1", "H2", "H3")) <= 3 * raw[-1]
    assert min(tests[name].p for name in ("H1", "H2", "H3")) == pytest.approx(3 * raw[0])
    assert tests["R2"].p == tests["R2"].found.p_less
    assert tests["R2"].counted
    found = tests["H1"].found
    assert found.p_less == pytest.approx(stats.t(7).cdf(found.estimate / found.se))
    missed = rule.hypotheses(made_up(STANDS).values)
    assert not missed["H2"].shown
    assert missed["R2"].shown
    assert not missed["R2"].counted
    assert rule._test_check("R2", missed["R2"]).holds is None


@pytest.mark.parametrize(
    ("rates", "options", "label", "held"),
    [
        ({}, {}, "reproduced", ALL),
        ({}, {"without": ("bc-sac-null",)}, "reproduced", ALL),
        (
            {"bc-sac": (0.5, 0.08, 0.05, 0.9), "sac": (0.7, 0.2, 0.5, 0.7)},
            {"noise": 0.1},
            "partly",
            ALL,
        ),  # saves 17 %
        ({}, {"swing": {"sac": 0.08}}, "partly", ALL),
        (SLOW, {}, "partly", "H1 H2 H3"),
        (STANDS, {}, "partly", "H1 H3"),
        ({"bc": (0.6, 0.5, 0.05, 0.9), "bc-sac": (0.4, 0.1, 0.05, 0.9)}, {}, "partly", "H1 H2"),
        ({"bc-sac": (0.59, 0.08, 0.05, 0.9), "sac": (0.5, 0.1, 0.6, 0.7)}, {}, "not reproduced", "H2"),
        ({"bc": (0.6, 0.5, 0.05, 0.9), "bc-sac": (0.4, 0.2, 0.8, 0.4)}, {}, "not reproduced", "H1"),
        ({"bc-sac": (0.55, 0.08, 0.05, 0.9)}, FEW, "underpowered", ""),
    ],
)
def test_every_verdict(rates, options, label, held):
    like = {"bc-sac-null": (RATES | rates)["bc"]}
    found, holds, verdict = outcome(made_up(like | rates, **options))
    assert found == label, verdict.summary
    assert " ".join(name for name in ALL.split() if holds[name]) == held
    assert ("Unstable" in verdict.summary) == ("sac" in options.get("swing", {}))


def test_a_loss_to_sac_stands_first():
    evidence = made_up(SLOW)
    _, holds, verdict = outcome(evidence)
    start = "On raw failure SAC fails in 20.0 % ["
    assert verdict.summary.startswith(start)
    assert verdict.checks[0].name == "R2"
    assert verdict.checks[0].measured.startswith(start)
    assert "of the hardest scenes, covering 60 % and 92 % of the log's distance; the paper's" in verdict.summary
    assert (holds["R2"], rule.negative(evidence.values).endswith("is not reproduced here.")) == (False, True)
    _, _, won = outcome(made_up())
    assert won.checks[0].name == "H1"
    assert rule.negative(made_up().values) == ""


@pytest.mark.parametrize(
    ("rates", "gate"),
    [
        ({"expert replay": (0.02, 0.0, 0.0, 1.0)}, "expert replay"),
        ({"expert replay": (0.0, 0.02, 0.0, 1.0)}, "expert replay"),
        ({"brake to stop": (0.6, 0.5, 0.7, 0.1)}, "brake to stop"),
        ({"brake to stop": (0.5, 0.3, 1.0, 0.1)}, "brake to stop"),
        ({"brake to stop": (0.6, 0.5, 0.98, 0.1), "constant speed": (1.0, 1.0, 0.0, 1.0)}, "brake to stop"),
        ({"brake to stop": (0.6, 0.5, 0.98, 0.1), "sac-progress": (1.0, 1.0, 0.0, 1.0)}, "brake to stop"),
        ({"random": (0.6, 0.5, 0.3, 0.1)}, "random"),
        ({"bc-shuffled": (0.62, 0.1, 0.2, 0.9)}, "shuffled labels"),
        ({"bc-sac-null": (0.5, 0.08, 0.05, 0.9)}, "A/A without gain"),
    ],
)
def test_each_gate_stops_the_verdict(rates, gate):
    label, holds, verdict = outcome(made_up(rates, hard=96, all_of=96))
    assert [name for name in holds if holds[name] is False and not name.startswith(("H", "R"))] == [gate]
    assert label == "not attempted"
    assert f"{gate}: " in verdict.summary


def test_a_gate_that_was_not_measured_is_missed():
    for name in ("expert replay", "brake to stop", "random", "bc-shuffled"):
        missing = [
            check for check in rule.gates(made_up(hard=64, all_of=64, without=(name,)).values) if not check.holds
        ]
        assert [(check.measured, check.holds) for check in missing] == [("not measured", None)]


def test_halves_of_the_seeds_are_compared():
    evidence = made_up(swing={"bc": 0.0})
    values = evidence.values
    assert outcome(evidence)[1]["A/A of seeds"]
    better = made_up({"bc": (0.4, 0.08, 0.05, 0.9)}, swing={"bc": 0.0}).values["arms"]["bc"]
    ours, theirs = (one["worlds"]["log"]["hard"] for one in (values["arms"]["bc"], better))
    for metric in ("failure", "failure_star"):
        ours[metric][4:] = theirs[metric][4:]
    assert not outcome(evidence)[1]["A/A of seeds"]


def test_a_bc_that_cannot_drive_is_reported_only():
    bad = (0.6, 0.2, 0.05, 0.9)
    label, holds, _ = outcome(made_up({"bc": bad}))
    assert (label, holds["BC, easy half"], holds["H1, as many steps"]) == ("reproduced", False, True)


def test_bc_with_as_many_steps_is_what_nothing_to_gain_is_compared_with():
    good = (0.2, 0.1, 0.05, 0.9)
    label, holds, _ = outcome(made_up({"bc-short": good, "bc-sac-null": good}))
    assert (label, holds["A/A without gain"], holds["H1, as many steps"]) == ("reproduced", True, False)
    assert not outcome(made_up({"bc-short": good}))[1]["A/A without gain"]


def test_a_tiny_run_is_judged_without_intervals():
    evidence = made_up(hard=4, all_of=8, seeds=2, size="smoke", without=("bc-sac-null",))
    for scenes in evidence.values["scenes"].values():
        scenes["kind"], scenes["site"] = ["curve"] * len(scenes["kind"]), [0] * len(scenes["site"])
    _, _, verdict = outcome(evidence)
    first = next(check for check in verdict.checks if check.name == "H1")
    assert first.interval
    assert math.isnan(first.interval.low)
    assert set(CONTROLS) == set(evidence.values["controls"])
