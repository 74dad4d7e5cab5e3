"""Outcomes, tables and comparisons against values worked out by hand; no program is compiled but that of the drives."""

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from gleanings.core.errors import ConfigError
from gleanings.driving.config import ObserveConfig
from gleanings.driving.learn import drives as drives_module
from gleanings.driving.learn import evaluate as evaluate_module
from gleanings.driving.learn.baselines import controls
from gleanings.driving.learn.config import BCConfig, WorldConfig
from gleanings.driving.learn.contract import LIMITS, Contract, make_contract
from gleanings.driving.learn.drives import drive
from gleanings.driving.learn.evaluate import FEWEST, PolicyEvaluation, compare, evaluate_policy, kind_of
from gleanings.driving.learn.outcomes import outcomes_of

from ._drivers import CHUNK, COUNT, FAMILIES, WORLD, driven, family_bank, family_scenes, outcomes
from ._outcomes import outcomes_with


@pytest.fixture(autouse=True)
def _chunks(monkeypatch):
    monkeypatch.setattr(drives_module, "_CPU_CHUNK", CHUNK)


@dataclass
class Halves:
    """The first and the second half of C scenes."""

    count: int
    names: tuple[str, ...] = ("first", "second")

    def mask(self, name):
        return (np.arange(self.count) < self.count // 2) == (name == "first")


def made(failed, ratio, label="made", trained="log", kinds=("curve", "jam")) -> PolicyEvaluation:
    """An evaluation of which only failures and progress are meant."""
    failed, ratio = np.asarray(failed, bool), np.asarray(ratio, float)
    count = len(failed)
    found = outcomes_with(failed, np.where(failed, 3, -1), ratio)
    names = tuple(f"{kinds[i % len(kinds)]}-0-{i}" for i in range(count))
    buckets = {"all": np.ones(count, bool)} | {name: Halves(count).mask(name) for name in Halves.names}
    return PolicyEvaluation(label, names, {"log": found, "idm": found}, buckets, trained)


def test_outcomes_of_a_drive():
    found, drives = outcomes("brake to stop"), driven("brake to stop")
    bank = family_bank()
    for i in range(COUNT):
        failed = drives.collision[i] | drives.off_road[i]
        assert found.failed[i] == failed.any()
        assert found.first_failure[i] == (np.flatnonzero(failed)[0] if failed.any() else -1)
        x, y = (np.asarray(field)[i, 3::2, 0] for field in (bank.log.x, bank.log.y))
        away = np.hypot(drives.pose.x[i, 1:] - x, drives.pose.y[i, 1:] - y)
        assert found.ade_m[i] == pytest.approx(away.mean(), rel=1e-5)
        arcs = np.asarray(bank.paths.logged)[i, 0, [1, 81]]
        assert found.progress_ratio[i] == pytest.approx(drives.progress_m[i, -1] / (arcs[1] - arcs[0]), rel=1e-4)
    assert found.clearance_m == pytest.approx(drives.clearance_m.min(1))


def test_a_log_that_ends_early_or_stands_is_masked():
    bank, drives = family_bank(), driven("expert replay")
    valid = np.array(bank.log.valid)
    valid[0, 2:, 0] = False  # no log after the start
    valid[1, 40:, 0] = False  # half a log
    logged = np.array(bank.paths.logged)
    logged[2, 0] = 7.0  # no progress
    found = outcomes_of(
        WORLD, bank._replace(log=bank.log._replace(valid=valid), paths=bank.paths._replace(logged=logged)), drives
    )
    assert np.isnan(found.progress_ratio[[0, 2]]).all()
    assert np.isnan(found.ade_m[0])
    assert found.progress_ratio[[1, 3]] == pytest.approx(1.0, abs=0.02)
    assert found.ade_m[1] < 0.1
    assert not found.failure_star(0.9)[[0, 1, 2]].any()


def test_failure_star_adds_little_progress_but_no_undefined_one():
    one = made([True, False, False, False], [1.0, 0.49, 0.51, np.nan]).outcomes()
    assert one.failure_star().tolist() == [True, True, False, False]
    assert one.values("failure_star@0.7").tolist() == [1, 1, 1, 0]
    assert one.values("failure").tolist() == [1, 0, 0, 0]
    for bad in ("speed", "failure_star@x"):
        with pytest.raises(ConfigError):
            one.values(bad)


def test_an_evaluation_is_the_outcomes_of_a_drive():
    found = evaluate_policy(controls()["brake to stop"], family_scenes(), key=jax.random.key(5), buckets=Halves(COUNT))
    assert found.outcomes().progress_m == pytest.approx(outcomes("brake to stop").progress_m)
    assert [kind_of(name) for name in found.scenes] == list(FAMILIES)
    assert found.figure("failure_star", "first").n == COUNT // 2
    text = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(text)["worlds"]["log"]["scenes"][1]["scene"] == found.scenes[1]


def test_a_policy_whose_training_broke_off_fails_everywhere(monkeypatch):
    contract = make_contract("bc", BCConfig(), WorldConfig(), frozen_at=17)
    monkeypatch.setattr(evaluate_module, "drive", lambda *arguments: driven("expert replay"))
    found = evaluate_policy(SimpleNamespace(contract=contract), family_scenes())
    whole = outcomes("expert replay")
    assert not whole.failed.any()
    assert found.outcomes().failed.all()
    assert found.outcomes().first_failure.tolist() == [0] * COUNT
    assert [found.figure(metric).estimate for metric in ("failure", "failure_star@0.3")] == [1.0, 1.0]
    assert found.outcomes().progress_m == pytest.approx(whole.progress_m)
    np.testing.assert_array_equal(found.outcomes().collision, whole.collision)
    line = "training broke off at iteration 17 by NaN or infinity: counts as failing in every scene"
    assert found.table().splitlines()[1] == line
    assert "broke off" not in replace(found, frozen_at=None).table()
    assert (found.to_json()["frozen_at"], found.to_json()["worlds"]["log"]["scenes"][0]["failure"]) == (17, 1.0)
    good = replace(found, worlds={"log": whole}, frozen_at=None)
    assert compare([found, good], [good, good]).per_seed == (1.0, 0.0)


def test_table_shows_intervals_n_and_the_shifted_world():
    found = made([True] * 12 + [False] * 48, [1.0] * 60)
    lines = found.table().splitlines()
    assert [line.split()[:4] for line in lines[2:5]] == [
        ["log", "no", name, n] for name, n in (("all", "60"), ("first", "30"), ("second", "30"))
    ]
    assert "20 [12, 32]" in lines[2]
    assert lines[5].split()[:2] == ["idm", "yes"]
    assert not made([True], [1.0], trained="").shifted("idm")
    few = made([True] * 12 + [False] * 46, [1.0] * 58).figure("failure", "second")
    assert (few.n, np.isnan(few.low)) == (29, True)


def test_compare_pairs_seeds_and_scenes():
    rng = np.random.default_rng(0)
    count = 80
    a = [made(rng.random(count) < 0.1, np.ones(count)) for _ in range(4)]
    b = [made(rng.random(count) < 0.6, np.ones(count)) for _ in range(4)]
    found = compare(a, b)
    rates = [x.outcomes().failed.mean() - y.outcomes().failed.mean() for x, y in zip(a, b, strict=True)]
    assert found.per_seed == pytest.approx(tuple(rates))
    assert (found.seeds, found.items, found.p_less < 0.01) == (4, count, True)
    contrast = compare(a, b, bucket="first", against="second")
    halves = [compare(a, b, bucket=name).estimate for name in ("first", "second")]
    assert contrast.estimate == pytest.approx(halves[0] - halves[1])
    assert contrast.se > found.se
    alone, pairs = (compare(a, b, bucket="first", against="second", clusters=np.arange(count) // k) for k in (1, 2))
    assert alone.estimate == pairs.estimate == pytest.approx(contrast.estimate)
    assert alone.se == pytest.approx(contrast.se, rel=0.1)
    assert pairs.se != alone.se
    with pytest.raises(ConfigError, match="79 labels"):
        compare(a, b, clusters=np.arange(79))


def test_compare_leaves_out_undefined_scenes_and_gives_no_interval_to_few():
    ratio = np.where(np.arange(40) < 11, np.nan, 1.0)
    found = compare([made([False] * 40, ratio)] * 2, [made([False] * 40, ratio / 2)] * 2, "progress_ratio")
    assert found.estimate == pytest.approx(0.5)
    assert (found.items, np.isnan(found.p_less)) == (29, True)
    assert str(FEWEST) in found.note


def test_what_cannot_be_compared_is_refused():
    one, other = made([True] * 40, [1.0] * 40), made([True] * 39, [1.0] * 39)
    for a, b, options in (
        ([one], [other], {}),
        ([one], [one] * 2, {}),
        ([], [], {}),
        ([one], [one], {"metric": "comfort"}),
    ):
        with pytest.raises(ConfigError, match="compare"):
            compare(a, b, **options)
    for options in ({"bucket": "top1"}, {"world": "sim"}):
        with pytest.raises(ConfigError, match="known: "):
            compare([one], [one], **options)


def test_a_contract_names_both_values_of_what_differs():
    contract = make_contract("bc", BCConfig(), WorldConfig())
    contract.check(WorldConfig(others="idm", edge_m=1.0), 0.1)
    world = WorldConfig(observe=replace(WorldConfig().observe, objects=8), every=4)
    with pytest.raises(ConfigError, match=r"every is 2 in the policy, 4 in the world; observe.objects is 6.*, 8"):
        contract.check(world, 0.1)
    with pytest.raises(ConfigError, match=r"dt is 0.1 s in the policy, 0.2 s"):
        contract.check(WorldConfig(), 0.2)
    with pytest.raises(ConfigError, match="limits is"):
        replace(contract, limits=(-5.0, *LIMITS[1:])).check(WorldConfig(), 0.1)


def test_driving_checks_before_it_compiles():
    @dataclass
    class Blind:
        contract: Contract

    blind = Blind(make_contract("bc", BCConfig(), WorldConfig(observe=ObserveConfig(objects=1))))
    with pytest.raises(ConfigError, match=r"observe.objects is 1 in the policy, 6"):
        drive(WORLD, family_bank(), blind, jax.random.key(0))
    with pytest.raises(ConfigError, match="make_bank"):
        drive(WORLD, family_scenes()[0], blind, jax.random.key(0))
    with pytest.raises(ConfigError, match="log or idm"):
        evaluate_policy(blind, family_scenes(), others=("sim",))
    with pytest.raises(ConfigError, match="needs a Policy"):
        evaluate_policy(blind, family_scenes(), sample=True)


def test_scenes_of_one_log_are_not_counted_as_independent():
    """12 logs of 10 equal scenes each, of which half the logs fail; 9 logs have no interval."""
    failed = np.repeat(np.arange(12) % 2 == 0, 10)
    apart = made(failed, np.ones(120), kinds=("drive",))
    names = tuple(f"drive{i // 10}/{i % 10}-0" for i in range(120))
    together = replace(apart, scenes=names)
    wide, narrow = together.figure("failure"), apart.figure("failure")
    assert wide.estimate == narrow.estimate == 0.5
    assert wide.n == 120
    assert wide.high - wide.low > 2.5 * (narrow.high - narrow.low)
    few = PolicyEvaluation(
        "few", names[:90], {"log": made(failed[:90], np.ones(90)).outcomes()}, {"all": np.ones(90, bool)}
    )
    assert np.isnan(few.figure("failure").low)


def test_scenes_of_one_log_are_drawn_together_in_comparisons():
    failed = np.repeat(np.arange(12) % 2 == 0, 10)
    names = tuple(f"drive{i // 10}/{i % 10}-0" for i in range(120))
    a, b = (replace(made(one, np.ones(120)), scenes=names) for one in (failed, failed & False))
    assert compare([a], [b]) == compare([a], [b], clusters=a.logs)
    alone = compare([made(failed, np.ones(120), kinds=("log",))], [made(failed & False, np.ones(120), kinds=("log",))])
    assert compare([a], [b]).se > 2 * alone.se
