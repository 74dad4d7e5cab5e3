"""The run of the study of BC-SAC: its splits, what is frozen before the test, clips, and a smoke run."""

from pathlib import Path

import numpy as np
import pytest

from gleanings.core.errors import ConfigError, DataError
from gleanings.core.study import StudyConfig, run_study
from gleanings.driving.families import make_scenes
from gleanings.driving.learn.config import BCConfig, BCSACConfig
from gleanings.driving.learn.hazards import KINDS, SHARED, _deck
from gleanings.driving.store import save_scenes
from gleanings.studies import _bc_sac_scenes
from gleanings.studies import bc_sac as study
from gleanings.studies._bc_sac_arms import FIELDS, GRIDS, TIMES, setup
from gleanings.studies._bc_sac_outcomes import outcomes, unpacked
from gleanings.studies._bc_sac_scenes import DECK, SPLITS, kinds_and_sites, load_bank, make_given, shards
from gleanings.studies._bc_sac_scenes import SHARED as SHARED_MAPS
from gleanings.studies._bc_sac_trials import packed, pick_clips

FULL = study.SCALES["full"]


def test_splits_share_no_map_and_no_seed():
    seen: dict[int, str] = {}
    for seed in range(3):
        for split in SPLITS:
            for (name, shard), count in shards(split, seed, 10_400, 104):
                assert seen.setdefault(shard, f"{split}{seed}") == f"{split}{seed}"
                assert (name, count) == (split, 104)
    counts = [count for _, count in shards("train", 0, 250, 104)]
    assert counts == [104, 104, 42]
    assert shards("validation", 0, 0, 104) == []


def test_maps_are_numbered_as_hazards_share_them():
    assert len(_deck(KINDS, 0.3)) == DECK
    assert SHARED == SHARED_MAPS
    names = ["cut_in-7-0", "merge-7-207", "merge-7-208", "cut_in-8-0", "occluded_pedestrian-7-1"]
    kinds, sites = kinds_and_sites(names)
    assert kinds == ["cut_in", "merge", "merge", "cut_in", "occluded_pedestrian"]
    assert sites == [0, 0, 1, 2, 0]


def test_the_test_scenes_stay_shut_until_all_is_frozen(tmp_path):
    config = StudyConfig("full", None, 0, tmp_path)
    with pytest.raises(ConfigError, match="only after all that is tuned is frozen"):
        study.tested(config, FULL, tmp_path, study.COMMITTED, {})
    config.parts.get("frozen", lambda: study.COMMITTED)
    assert len(study.open_test(config, FULL)) == 50


def test_tuning_sees_validation_scenes_only_and_freezes_the_least_failure_star(tmp_path, monkeypatch):
    asked: list[str] = []
    best = {"bc": 3e-4, "sac": 0.05, "bc-sac": 0.3, "sac-progress": 0.01}

    def found(pieces, config):
        values = {}
        for name, piece in pieces.items():
            asked.append(name)
            if name == "demos":
                assert len(piece.args[1]) == FULL.train / FULL.fine
            if name.startswith("tune-"):
                assert {split for shard in piece.args[1:3] for split, _ in shard} == {"train", "validation"}
                assert len(piece.args[1]) == FULL.driven / FULL.fine
                arm, value = piece.args[3], piece.args[4][piece.args[3]][FIELDS[piece.args[3]]]
                values[name] = {"failure_star": [0.1 if value == best[arm] else 0.5] * 2}
            else:
                values[name] = {"names": [], "scores": []}
        return values

    monkeypatch.setattr(study, "compute", found)
    config = StudyConfig("full", None, 0, tmp_path)
    frozen, tuning, _ = study.prepare(config, FULL, tmp_path)
    assert {arm: frozen[arm][FIELDS[arm]] for arm in FIELDS} == best
    assert (frozen["bc-sac"]["temperature"], frozen["sac-progress"]["temperature"]) == (0.02, 0.05)
    assert len(tuning) == sum(map(len, GRIDS.values()))
    assert not any("test" in name for name in asked)
    assert (config.parts.directory / "frozen.json").exists()


@pytest.mark.parametrize("size", ["smoke", "quick", "full"])
def test_pieces_cover_all_seeds_once_and_arms_take_turns(size):
    scale = study.SCALES[size]
    turns = study._turns(scale)
    for arm in scale.arms:
        seeds = [seed for who, group in turns if who == arm for seed in group]
        assert tuple(sorted(seeds)) == study._seeds(scale, arm)
    assert [arm for arm, _ in turns[: len(scale.arms)]] == sorted(scale.arms, key=study._SLOW.index)
    tuned = {arm: len(group) for arm, group in turns if scale.tuning and arm in GRIDS}
    assert set(tuned.values()) <= {len(study.TUNING_SEEDS)}


def test_arms_differ_in_what_they_are_named_for():
    found = {arm: setup(arm, study.COMMITTED, FULL.effort) for arm in FULL.arms}
    updates = {arm: learner.iterations * learner.gradient_steps for arm, (learner, _) in found.items()}
    assert {arm: n / FULL.effort.updates for arm, n in updates.items() if n != FULL.effort.updates} == {"bc": TIMES}
    assert len({learner.batch for learner, _ in found.values()}) == 1
    assert isinstance(found["bc"][0], BCConfig)
    weights = {arm: one.imitation_weight for arm, (one, _) in found.items() if isinstance(one, BCSACConfig)}
    assert [arm for arm, weight in weights.items() if weight == 0] == ["sac", "sac-progress"]
    assert [arm for arm, (_, world) in found.items() if world.progress_weight] == ["sac-progress"]
    assert [arm for arm, (_, world) in found.items() if not world.edge_weight] == ["bc-sac-null"]
    with pytest.raises(ConfigError, match="no arm 'mgail'"):
        setup("mgail", study.COMMITTED, FULL.effort)


def test_clips_are_of_the_hardest_scenes_by_a_fixed_rule():
    flags = {"bc": [1, 1, 1, 1, 0, 1, 0, 0], "sac": [1, 0, 1, 1, 1, 0, 0, 0], "bc-sac": [1, 1, 1, 1, 1, 0, 1, 0]}
    found = {arm: {"failure": [packed(np.array(row, bool))]} for arm, row in flags.items()}
    np.testing.assert_array_equal(unpacked(found["bc"]["failure"][0], 8), np.array(flags["bc"], bool))
    score = np.array([2.0, 2.0, 1.5, 1.0, 0.9, 0.8, 0.7, 0.6])
    names = list("bacdefgh")
    assert pick_clips(found, score, names) == [
        *((name, "BC-SAC fails") for name in "abcd"),
        ("g", "BC-SAC fails, SAC does not"),
        ("f", "BC fails, BC-SAC does not"),
    ]


def test_a_scene_that_is_gone_is_named(tmp_path):
    with pytest.raises(ConfigError, match="lacks scene 'merge-1-0'"):
        load_bank(tmp_path, (("test", 1),), ("merge-1-0",))


def test_given_logs_are_driven_by_all_arms_in_both_worlds(tmp_path, monkeypatch):
    names, logs = ["a/0-10", "a/1-10", "b/0-10"], ["a", "a", "b"]
    asked: dict[str, tuple] = {}

    def found(pieces, config):
        asked.update({name: piece.args for name, piece in pieces.items()})
        return {name: {"given": {}} for name in pieces}

    monkeypatch.setattr(study, "compute", found)
    monkeypatch.setattr(study, "make_given", lambda folder, source: {"names": names, "logs": logs})
    scale = study.SCALES["quick"]
    (tmp_path / "logs").touch()
    driven, about = study._given(StudyConfig("quick", tmp_path / "logs", 0, tmp_path / "run"), scale, tmp_path)
    assert set(driven) == {"controls"} | {f"{arm}-{world}" for arm in scale.arms for world in ("log", "idm")}
    assert about == {"given": {"names": names, "kind": ["given"] * 3, "site": [0, 0, 1]}}
    assert asked["given-sac-idm"][1] == {"given": ((study.GIVEN,), tuple(names))}
    assert asked["given-sac-idm"][2:] == ("idm", "sac", (0, 1, 2))
    assert study._given(StudyConfig("quick", None, 0, tmp_path / "none"), scale, tmp_path) == ({}, {})


def test_logs_that_cannot_be_read_stop_the_run_before_it_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "compute", lambda pieces, config: pytest.fail("nothing may be computed"))
    (tmp_path / "logs.txt").write_text("no log")
    with pytest.raises(DataError, match="in no known format"):
        study.run(StudyConfig("full", tmp_path / "logs.txt", 0, tmp_path / "run"))


def test_given_logs_are_cut_and_thinned_evenly(tmp_path, monkeypatch):
    save_scenes(tmp_path / "logs", make_scenes("merge", seed=0, count=2))
    whole = make_given(tmp_path / "all", tmp_path / "logs")
    assert len(whole["names"]) == len(set(whole["names"])) > 4
    monkeypatch.setattr(_bc_sac_scenes, "MOST_GIVEN", 3)
    few = make_given(tmp_path / "few", tmp_path / "logs")
    assert 1 < len(few["names"]) <= 3
    assert few["names"] == whole["names"][:: -(-len(whole["names"]) // 3)]
    bank = load_bank(tmp_path / "few", (study.GIVEN,), tuple(few["names"]))
    assert len(bank.start) == len(few["names"])


@pytest.mark.slow
def test_a_smoke_run_gives_no_verdict_and_is_taken_up_again(tmp_path: Path):
    config = StudyConfig("smoke", None, 0, tmp_path)
    evidence, verdict = run_study(study.STUDY, config)
    assert verdict.label == "not attempted"
    assert outcomes(evidence.values, "bc-sac", "failure", "hard").shape[0] == 2
    for name in ("train-sac-0", "drive-sac-log", "clips"):
        (tmp_path / "parts" / f"{name}.json").unlink()
    again, _ = run_study(study.STUDY, StudyConfig("smoke", None, 0, tmp_path))
    assert again.values == evidence.values
    assert 'class="gleanings-clip"' in (tmp_path / "report.html").read_text() or not evidence.values["clips"]
