"""The study of the driving simulator: its rule on made-up evidence, its slower egos, its scenes, a smoke run."""

import copy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gleanings import studies
from gleanings.core.errors import DataError
from gleanings.core.report import Report
from gleanings.core.study import Cost, Evidence, StudyConfig, run_study
from gleanings.driving.config import SimConfig
from gleanings.driving.dynamics import Bicycle
from gleanings.driving.families import make_scenes
from gleanings.driving.shards import save_scenes
from gleanings.driving.sim import Simulator
from gleanings.studies import _driving_scenes as scenes_of
from gleanings.studies._driving_ego import EGOS, Profile, ReactIf, SlowedEgo
from gleanings.studies._driving_playback import ARMS
from gleanings.studies._driving_reactivity import AGENTS, OUTCOMES, first_contact

STUDY = studies.load("driving-simulator")
ADE = {"log": 0.0, "bicycle": 0.014, "discrete": 0.05, "delta-local": 1e-5}


@pytest.fixture(autouse=True)
def quick_compilation():
    """Programs that run for milliseconds need no optimisation."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def made_up(families: int = 4, scenes: int = 100, processor: str = "AMD EPYC 9000") -> Evidence:
    """Evidence as the claim has it; scenes 0 to 29 of each family give a contact in which replayed cars hit a slow
    ego."""
    rng = np.random.default_rng(0)
    playback, reactivity = {}, {}
    for family in map(str, range(families)):
        zero = [0] * scenes
        playback[family] = {
            arm: {
                "sdc_contact": [False] * scenes,
                "sdc_off_road": [False] * scenes,
                "moving": [10] * scenes,
                "contact": zero,
                "off_road": list(zero),
                "ade_m": (ADE[arm] * rng.uniform(0.9, 1.1, scenes)).tolist(),
            }
            for arm in ARMS
        }
        hit = [int(k < 30) for k in range(scenes)]
        runs = {
            agents: {
                ego: {what: list(hit if agents == "log" and ego != "expert" else zero) for what in OUTCOMES}
                for ego in EGOS
            }
            for agents in AGENTS
        }
        reactivity[family] = {"runs": runs, "replay": {"page": f"{family}.html", "scene": f"{family}-0"}}
    speed = {
        "step": {"1": 0.3, "64": 20.0},
        "dense": {"1": 20.0, "64": 1300.0},
        "bare": 0.05,
        "rollout": 20.0,
        "idm": 0.5,
        "observe": 4.0,
        "dense rollout": 1500.0,
        "scene": {"objects": 128, "segments": 3000, "unmerged": 9000},
        "clock": "CPU",
    }
    values = {"speed": speed, "playback": playback, "reactivity": reactivity}
    return Evidence("driving-simulator", "quick", values, Cost(1.0, 1.0, 1.0), "2026-01-01", {"processor": processor})


def changed(path: str, value: object) -> Evidence:
    """`made_up` with one value replaced; `path` names it, its parts between colons."""
    found = copy.deepcopy(made_up())
    *way, last = path.split(":")
    place = found.values
    for key in way:
        place = place[key]
    if isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
    return found


@pytest.mark.parametrize(
    ("path", "value", "label", "against"),
    [
        ("speed:idm", 0.5, "reproduced", []),
        ("speed:idm", 0.9, "not reproduced", ["A times"]),
        ("speed:observe", None, "partly", []),
        ("speed:step", {"1": 0.3, "64": 25.0}, "not reproduced", ["A scaling"]),
        ("playback:1:discrete:sdc_off_road:3", True, "not reproduced", ["B ego"]),
        ("playback:1:log:sdc_contact:3", True, "not attempted", ["B ego", "C oracle"]),
        ("playback:1:bicycle:contact", [1] * 30 + [0] * 70, "reproduced", []),
        ("playback:1:bicycle:contact", [1] * 50 + [0] * 50, "not reproduced", ["B contact"]),
        ("playback:1:bicycle:off_road", [1] * 70 + [0] * 30, "reproduced", []),
        ("playback:1:bicycle:off_road", [1] * 90 + [0] * 10, "not reproduced", ["B off-road"]),
        ("playback:1:bicycle:ade_m", [0.3] * 100, "not reproduced", ["B bicycle"]),
        ("playback:1:delta-local:ade_m:0", None, "reproduced", []),
        ("reactivity:0:runs:log:expert:not_at_fault", [1] * 12 + [0] * 88, "partly", ["C null"]),
    ],
)
def test_the_verdict_is_that_of_the_worst_part(path, value, label, against):
    verdict = STUDY.decide(changed(path, value))
    assert verdict.label == label
    assert [check.name for check in verdict.checks if check.holds is False] == against


def test_on_another_processor_the_dense_twin_counts():
    found = made_up(processor="another")
    assert STUDY.decide(found).label == "reproduced"
    found.values["speed"]["dense rollout"] = 900.0
    assert STUDY.decide(found).label == "not reproduced"
    found = changed("speed:dense rollout", 900.0)
    assert STUDY.decide(found).label == "reproduced"


def test_given_scenes_are_not_hidden_by_generated_ones():
    found = made_up()
    found.values["playback"]["given"] = {
        arm: {name: values[:1] for name, values in rows.items()} for arm, rows in found.values["playback"]["0"].items()
    }
    assert STUDY.decide(found).label == "reproduced"
    found.values["playback"]["given"]["bicycle"]["ade_m"] = [0.06]
    verdict = STUDY.decide(found)
    assert [check.name for check in verdict.checks if check.holds is False] == ["B bicycle"]


def test_too_few_contacts_and_too_few_scenes():
    found = made_up()
    for family in found.values["reactivity"].values():
        for ego in ("brake-1", "brake-3", "slow-0.6"):
            family["runs"]["log"][ego]["not_at_fault"] = [int(k < 4) for k in range(100)]
    verdict = STUDY.decide(found)
    assert (verdict.label, next(c for c in verdict.checks if c.name == "C").holds) == ("not reproduced", False)
    assert STUDY.decide(made_up(families=2, scenes=40)).label == "underpowered"


def test_the_report_names_losses_first_and_links_replays(tmp_path):
    found = changed("reactivity:0:runs:idm:brake-1:not_at_fault", [1] * 50 + [0] * 50)
    first = STUDY.headline(found)
    assert "Reacting agents still hit the ego in 4.2% of the runs" in first
    assert "cause more" not in first
    assert "In 0 reacting" in STUDY.headline(changed("reactivity:0:runs:idm:brake-1:not_at_fault", [1] * 100))
    assert STUDY.headline(made_up()) == ""
    report = Report("title")
    STUDY.render(found, STUDY.decide(found), report)
    text = report.save(tmp_path / "report.html").read_text()
    assert '<a href="replays/3.html">3-0</a>' in text
    assert STUDY.thumbnail(found).lstrip().startswith("<svg")


def test_first_contact_decides_whose_fault_it_is():
    cases = {(0, 0, 0): (0, 0), (0, 1, 1): (1, 1), (1, 0, 1): (1, 0)}
    blame = jnp.asarray([True, False, False])
    for collision, expected in cases.items():
        assert tuple(map(int, first_contact(jnp.asarray(collision, bool), blame))) == expected


def test_slower_egos_follow_their_path_at_the_speed_asked_for():
    scene = jax.device_put(make_scenes("straight", 1000, 1)[0])
    profiles = Profile(*(jnp.asarray(column) for column in zip(*EGOS.values(), strict=True)))
    config = SimConfig(controlled="sdc", metrics=())

    def run(scene, profile):
        sim = Simulator(config, dynamics=Bicycle(), agents=ReactIf(jnp.asarray(False)))
        return sim.rollout(scene, SlowedEgo(profile, Bicycle()), jax.random.key(0), steps=60).trajectory

    ego, log = int(np.argmax(scene.objects.is_sdc)), scene.log
    rolled = jax.tree.map(np.asarray, jax.jit(jax.vmap(run, (None, 0)))(scene, profiles))
    speed = np.hypot(rolled.vx, rolled.vy)[:, :, ego]
    logged = np.hypot(log.vx, log.vy)[10:71, ego]
    past = 0.1 * np.arange(61)
    assert np.allclose(speed[0], logged, atol=0.05)
    assert np.allclose(speed[1], np.maximum(logged[0] - past, 0), atol=0.05)
    assert np.allclose(speed[2], np.maximum(logged[0] - 3 * past, 0), atol=0.05)
    assert np.allclose(speed[3, 30:], 0.6 * logged[30:], atol=0.05)
    x, y = np.asarray(scene.paths.x)[ego], np.asarray(scene.paths.y)[ego]
    off = np.hypot(rolled.x[1:, :, ego, None] - x, rolled.y[1:, :, ego, None] - y).min(-1)
    assert off.max() < 0.55  # half of the metre between samples
    others = np.arange(rolled.x.shape[-1]) != ego
    assert np.array_equal(rolled.x[2][:, others], np.where(log.valid, log.x, 0)[10:71, others])
    assert not np.asarray(ReactIf(jnp.asarray(True)).replays(scene))[ego]


def test_the_reference_scene_has_its_size():
    raw = scenes_of.reference_raw()
    assert abs(scenes_of.map_points(raw) - scenes_of.REFERENCE_POINTS) < 0.02 * scenes_of.REFERENCE_POINTS
    assert (len(raw.tracks), raw.sdc) == (scenes_of.REFERENCE_OBJECTS, 0)


def test_given_scenes_need_an_ego(tmp_path):
    scene = make_scenes("straight", 0, 1)[0]
    without = scene._replace(objects=scene.objects._replace(is_sdc=np.zeros_like(scene.objects.is_sdc)))
    save_scenes(tmp_path, [without])
    with pytest.raises(DataError, match="no scene with an ego"):
        scenes_of.given_scenes(tmp_path)
    save_scenes(tmp_path, [without, scene])
    assert len(scenes_of.given_scenes(tmp_path)) == 1


def test_a_smoke_run_is_taken_up_again(tmp_path: Path):
    def run() -> tuple[Evidence, float]:
        config = StudyConfig("smoke", None, 0, tmp_path)
        evidence, verdict = run_study(STUDY, config)
        assert verdict.label == "not attempted"
        return evidence, config.parts.reused.cpu_s

    evidence, reused = run()
    assert reused == 0
    assert evidence.values["playback"]["merge"]["log"]["sdc_contact"] == [False]
    assert evidence.values["reactivity"]["straight"]["runs"]["log"]["expert"]["contact"] == [0]
    assert (tmp_path / "replays" / "merge.html").stat().st_size > 10_000
    (tmp_path / "parts" / "merge-playback.json").unlink()
    again, reused = run()
    assert reused > 0
    assert again.values == evidence.values
    assert "replays/merge.html" in (tmp_path / "report.html").read_text()
