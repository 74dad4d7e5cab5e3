"""The report of a run from made-up drives: what it shows, its size, and the files beside it."""

import re
from dataclasses import replace

import numpy as np
import pytest

from gleanings.core.report import Report
from gleanings.driving.learn import assessment as module
from gleanings.driving.learn.assessment import LOG, Assessment, _masks, save_scenes
from gleanings.driving.learn.config import BCSACConfig, WorldConfig
from gleanings.driving.learn.demos import Audit
from gleanings.driving.learn.evaluate import PolicyEvaluation
from gleanings.driving.learn.outcomes import Outcomes
from gleanings.driving.learn.report import evaluation_report, training_report
from gleanings.driving.learn.style import Style
from gleanings.driving.learn.training import Training
from gleanings.driving.scene import Scene
from gleanings.driving.stack import text_array

from ._outcomes import outcomes_with

COUNT, WORLDS = 120, ("log", "idm")
AUDIT = Audit(4, 160, 150, 3, 7, (0.001, 0.002, 0.0123, 0.2), 0.1, 0.01, 0.05, -0.02, ())
CONFIG = Training(BCSACConfig(iterations=3), seeds=(3, 5))
ROWS = [
    {"step": step, "time": 0.0, **{f"seed-{seed}/{name}": 0.1 * step + seed for seed in (3, 5) for name in names}}
    for step, names in ((1, ("actor/bc_nll",)), (2, ("actor/bc_nll",)), (3, ("actor/bc_nll", "validation/failure")))
]


def outcomes(seed: int) -> Outcomes:
    rng = np.random.default_rng(seed)
    failed = rng.random(COUNT) < 0.25
    first = np.where(failed, rng.integers(0, 40, COUNT), -1)
    return outcomes_with(failed, first, rng.uniform(0.3, 1.1, COUNT))


def assessment(strata: tuple[str, ...] = ("",), worlds: tuple[str, ...] = WORLDS) -> Assessment:
    """Two seeds in these worlds, two controls in one; the strata one after the other."""
    names = [f"{('cut_in', 'nothing')[k % 2]}-3-{k}" for k in range(COUNT)]
    of = tuple(strata[k * len(strata) // COUNT] for k in range(COUNT))
    difficulty = np.linspace(0, 2, COUNT)
    masks = _masks(names, of, difficulty, of, difficulty)

    def made(label: str, seed: int, worlds: tuple[str, ...], trained: str = "log") -> PolicyEvaluation:
        drives = {world: outcomes(seed + k) for k, world in enumerate(worlds)}
        return PolicyEvaluation(label, tuple(names), drives, masks, trained)

    u = np.linspace(-1, 1, 50)
    scenes = tuple(Scene(**dict.fromkeys(Scene._fields) | {"scene_id": text_array(name, 32)}) for name in names)
    policies = {f"seed {seed}": made(f"seed {seed}", seed, worlds) for seed in CONFIG.seeds}
    judged = {name: made(name, 7, WORLDS[:1], "") for name in (LOG, "random")}
    styles = {label: dict.fromkeys(worlds, Style(0.1, 0.2, 0.3)) for label in policies}
    actions = dict.fromkeys((LOG, *policies), (u, u))
    return Assessment(WorldConfig(), scenes, of, difficulty, policies, judged, styles, actions)


def test_a_run_is_shown_plots_first(tmp_path):
    one = assessment()
    clips = {one.scenes[4].scene_id.tobytes().decode().rstrip("\0"): "<figure class='clip'>played</figure>"}
    path = training_report(CONFIG, ROWS, {"generated": AUDIT}, one, clips, ("Few logs.",)).save(
        tmp_path / "report.html"
    )
    page = path.read_text()
    assert len(page) < 600_000
    heads = re.findall(r"<h2>(.*?)</h2>", page)
    assert heads == [
        *("Read this first", "Failure against progress", "Failure by difficulty", "Learning", "Worst failures"),
        *("Failure by kind of scene", "Actions", "Demonstrations", "All figures"),
    ]
    assert page.index("<svg") < page.index("<table")
    assert "<figure class='clip'>played</figure>" in page
    assert "Few logs." in page
    failed = one.policies["seed 5"].figure("failure", "top50", "idm")
    assert f"{100 * failed.estimate:.0f} [{100 * failed.low:.0f}, {100 * failed.high:.0f}]" in page.replace(
        "\u00a0", " "
    )
    assert "Shifted world, not trained in: others by IDM." in page
    assert not re.search(r"(?:src|href)=\"https?:", page)


def test_a_seed_whose_training_broke_off_is_said_first_and_shown_by_no_clip(tmp_path, monkeypatch):
    one, count = assessment(), np.zeros(COUNT, int)
    worlds = {world: replace(found, first_failure=count) for world, found in one.policies["seed 3"].worlds.items()}
    broken = replace(one.policies["seed 3"], worlds=worlds, frozen_at=2)
    one = replace(one, policies=dict(one.policies) | {"seed 3": broken})
    assert list(one.policies) == ["seed 3", "seed 5"]
    path = training_report(CONFIG, ROWS, {"generated": AUDIT}, one, {}, ("Few logs.",)).save(tmp_path / "report.html")
    page = path.read_text().replace("\u00a0", " ")
    said = "seed 3: training broke off at iteration 2 by NaN or infinity: counts as failing in every scene"
    assert 0 < page.index(said) < page.index("Few logs.") < page.index("<svg")
    assert "seed 5 fails in no test scene" in page
    assert "100 [97, 100]" in page
    save_scenes(one, (3, 5), tmp_path / "scenes.npz")
    with np.load(tmp_path / "scenes.npz", allow_pickle=False) as found:
        assert (found["failed"][0].all(), found["failed"][1].all()) == (True, False)
    monkeypatch.setattr(module, "episode_clips", lambda world, scenes, drivers: [" ".join(drivers)] * len(scenes))
    clips = module.failure_clips(one, dict.fromkeys(one.policies), 2)
    own = one.policies["seed 5"].outcomes()
    assert list(clips) == [one.policies["seed 5"].scenes[i] for i in np.flatnonzero(own.failed)[::-1][:2]]
    assert set(clips.values()) == {"seed 5"}
    alone = replace(one, policies={"seed 3": broken})
    page = evaluation_report(alone, {}, "my logs").save(tmp_path / "other.html").read_text()
    assert said in page
    assert "seed 3 has no contact and stays on the road" in page
    assert "fails in no test scene" not in page


def test_strata_are_never_mixed(tmp_path):
    one = assessment(("logs", "generated"), WORLDS[:1])
    assert list(one.groups) == ["logs", "generated"]
    assert all(list(group) == ["all", "bottom50", "top50", "top10", "top3"] for group in one.groups.values())
    page = evaluation_report(one, {}, "my logs").save(tmp_path / "report.html").read_text()
    assert "Failure by difficulty: logs" in page
    assert "Failure by difficulty: generated" in page
    counts = {int(one.policies["seed 3"].mask(name).sum()) for name in ("logs", "generated")}
    assert counts == {COUNT // 2}
    assert "fails in no test scene" in page


def test_buckets_are_ranked_within_a_stratum():
    names, scores = [str(k) for k in range(6)], np.array([5.0, 6.0, 7.0, 0.0, 1.0, 2.0])
    masks = _masks(names, ("a",) * 3 + ("b",) * 3, scores, ("a",) * 2 + ("b",) * 2, np.array([6.5, 6.5, 0.5, 0.5]))
    assert masks["a top50"].tolist() == [False, False, True, False, False, False]
    assert masks["b top50"].tolist() == [False, False, False, False, True, True]
    assert list(_masks(names, ("a",) * 6, scores, (), np.zeros(0))) == ["all"]


def test_scenes_are_written_by_seed_world_and_scene(tmp_path):
    one = assessment()
    save_scenes(one, (3, 5), tmp_path / "scenes.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["scenes.npz"]
    with np.load(tmp_path / "scenes.npz", allow_pickle=False) as found:
        assert found["seed"].tolist() == [3, 5]
        assert found["world"].tolist() == list(WORLDS)
        assert found["scene"].tolist() == list(one.policies["seed 3"].scenes)
        own = one.policies["seed 5"].outcomes("idm")
        np.testing.assert_array_equal(found["failed"][1, 1], own.failed)
        assert found["progress"][1, 1] == pytest.approx(own.progress_ratio)
        steps = found["first_failure_step"][1, 1]
        np.testing.assert_array_equal(steps[own.failed], 2 * (own.first_failure[own.failed] + 1))
        assert (steps[~own.failed] == -1).all()


def test_only_the_scripts_of_fragments_run(tmp_path, browser):
    piece = "<p>waits</p><script>document.currentScript.previousElementSibling.textContent = 'played';</script>"
    report = Report("Clips").fragment(piece, "a clip").fragment(piece)
    path = report.figure("<script>document.title = 'stolen'</script>").save(tmp_path / "report.html")
    page, console = browser(path, "--dump-dom")
    assert page.count("<p>played</p>") == 2
    assert "<title>Clips</title>" in page
    assert len(console) == 1
    assert "Content Security Policy" in console[0]


def test_clips_show_failures_of_every_stratum(monkeypatch):
    one = assessment(("logs", "generated"), WORLDS[:1])
    monkeypatch.setattr(module, "episode_clips", lambda world, scenes, drivers: [" ".join(drivers)] * len(scenes))
    clips = module.failure_clips(one, dict.fromkeys("abcd"), 4)
    first = one.policies["seed 3"]
    failed = [first.scenes[i] for i in np.flatnonzero(first.outcomes().failed)[::-1]]
    of = dict(zip(first.scenes, one.strata, strict=True))
    logs, generated = ([name for name in failed if of[name] == stratum][:2] for stratum in ("logs", "generated"))
    assert list(clips) == logs + generated
    assert set(clips.values()) == {"a b c"}
