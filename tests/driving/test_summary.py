"""Comfort, score, rewards, summaries and evaluation against values worked out by hand."""

import json

import equinox as eqx
import jax
import numpy as np
import pytest
from tests.driving._scenes import straight, tiny_scene, turning

from gleanings.core.errors import ConfigError
from gleanings.driving import evaluation
from gleanings.driving.agents import LogPlayback
from gleanings.driving.comfort import comfort
from gleanings.driving.config import SimConfig
from gleanings.driving.dynamics import Bicycle
from gleanings.driving.evaluation import evaluate, roll_out
from gleanings.driving.metrics import measure
from gleanings.driving.policies import expert
from gleanings.driving.raw import Kind
from gleanings.driving.reward import GoalReward, LinearReward
from gleanings.driving.score import score
from gleanings.driving.sim import Simulator
from gleanings.driving.state import Metric
from gleanings.driving.summary import summarise

from ._metric_random import STEPS, random_scene, street
from ._metric_scenes import build, drive, track

_comfort = jax.jit(comfort)


def _motions(steps: int = 81) -> np.ndarray:
    """Eight motions [8, T, 5]; 4 brakes, 5 turns, 6 weaves, 7 jerks too hard."""
    time = 0.1 * np.arange(steps)
    ride = np.zeros((8, steps, 5))
    for i, a in enumerate((0.0, 1.0, 2.2, -3.9, -4.3)):
        ride[i, :, 0], ride[i, :, 3] = 40 * time + a * time**2 / 2, 40 + a * time
    ride[5] = drive(0, 0, 0, 10, steps, turn=0.6)
    ride[6, :, 0], ride[6, :, 2] = 5 * time, 0.3 * np.sin(3 * time)
    ride[7, :, 0] = 40 * time - 0.4 * time**2 - 3.1 * np.sin(2 * time) / 4
    return ride


def test_comfort_forgives_noise_and_sees_every_bound():
    scene = build([track(motion) for motion in _motions()])
    quiet = np.asarray(_comfort(scene, scene.log).value)
    assert quiet.tolist() == [True, True, True, True, False, False, False, False]
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, (2, *scene.log.x.shape)).astype(np.float32)
    loud = scene.log._replace(x=scene.log.x + noise[0], y=scene.log.y + noise[1])
    assert np.asarray(_comfort(scene, loud).value)[:2].all()


def test_comfort_is_of_riders_with_eleven_valid_steps_in_a_row():
    motion = drive(0, 0, 0, 5, 81)
    gaps, last = np.arange(81) % 11 > 0, np.arange(81) >= 70
    kinds = [
        Kind.VEHICLE,
        Kind.CYCLIST,
        Kind.PEDESTRIAN,
        Kind.OTHER,
        Kind.VEHICLE,
        Kind.VEHICLE,
        Kind.CYCLIST,
        Kind.CYCLIST,
    ]
    valid = [None] * 4 + [gaps, last, None, None]
    scene = build([track(motion, kind, some) for kind, some in zip(kinds, valid, strict=True)])
    assert np.asarray(_comfort(scene, scene.log).mask).tolist() == [True, True, False, False, False, True, True, True]
    short = jax.tree.map(lambda field: field[:10], scene.log)
    assert not np.asarray(comfort(scene, short).mask).any()


def _flat(value: float | bool, steps: int = STEPS - 1, n: int = 8, mask: bool = True) -> Metric:
    return Metric(
        np.full((steps, n), value, bool if isinstance(value, bool) else np.float32), np.full((steps, n), mask)
    )


def test_score_is_a_product_and_a_weighted_mean():
    tracks = [track(drive(-50 + 12 * i, -2, 0, 5, STEPS)) for i in range(8)]
    scene = street(tracks, np.zeros((3, STEPS)), np.zeros(3))
    fields = {"at_fault": False, "off_road_m": -1.0, "wrong_way": False, "progress_ratio": 0.5, "ttc_low": False}
    metrics = {name: _flat(value) for name, value in fields.items()} | {"speeding_mps": _flat(0.5)}
    metrics = jax.tree.map(np.copy, metrics)
    metrics["at_fault"].value[3, 0] = True
    metrics["off_road_m"].value[3, 1] = 0.31
    metrics["wrong_way"].value[:13, 2] = True  # 0.5 m a step
    metrics["wrong_way"].value[:11, 3] = True
    metrics["progress_ratio"].value[-1, 4] = 0.2
    metrics["ttc_low"].value[5, 5] = True
    metrics["speeding_mps"].value[5, 6] = 1.1
    metrics["progress_ratio"].mask[:, 7] = False
    value, mask = jax.jit(score)(scene, metrics, scene.log)
    whole = (5 + 2.5 + 4 + 2) / 16
    expected = [0, 0, 0, whole, 0, whole - 5 / 16, whole - 4 / 16, 1.0]
    np.testing.assert_allclose(value, expected, atol=1e-6)
    assert np.asarray(mask).all()


class Rewards(eqx.Module):
    """Two rewards in one program; the second counts seven times."""

    both: tuple[LinearReward, GoalReward]

    def __call__(self, scene, previous, state, metrics):
        first, second = (reward(scene, previous, state, metrics) for reward in self.both)
        return first + 7 * second


LINEAR = LinearReward({"collision": -1.0, "log_divergence": -0.5})


@pytest.fixture(scope="module")
def run():
    scene, rewards = random_scene(3)[0], Rewards((LINEAR, GoalReward()))
    sim = Simulator(SimConfig(controlled="all"), dynamics=Bicycle(), agents=LogPlayback(), reward=rewards)
    rollout = sim.rollout(scene, expert(sim.dynamics), jax.random.key(0))._replace(state=None)
    return scene, sim, jax.device_get(rollout)


def test_a_rollout_is_measured_like_its_trajectory(run):
    scene, _, rollout = run
    again = measure(scene, rollout.trajectory, tuple(rollout.metrics))
    for name, (value, mask) in rollout.metrics.items():
        np.testing.assert_array_equal(mask, again[name].mask, name)
        np.testing.assert_allclose(
            np.asarray(value, float), np.asarray(again[name].value, float), atol=1e-4, err_msg=name
        )


def test_summary_is_the_mean_over_the_objects_of_a_group(run):
    scene, _, rollout = run
    groups = {
        "controlled": np.asarray(rollout.controlled),
        "sdc": scene.objects.is_sdc,
        "predicted": scene.objects.to_predict,
        "moving": (scene.objects.kind == 1) & (scene.objects.extent > 5),
        "all": scene.objects.exists,
    }
    how = {
        "overlap_gap": np.min,
        "ttc_s": np.min,
        "log_divergence": np.mean,
        "progress_m": _last,
        "progress_ratio": _last,
    }
    for who, group in groups.items():
        found = summarise(scene, rollout, who)
        lived = group & (np.asarray(rollout.flags) & 1).any(0)
        assert found["n"] == lived.sum()
        for name, (value, mask) in rollout.metrics.items():
            value, mask = np.asarray(value), np.asarray(mask)
            reduce = how.get(name, np.max)
            values = [float(reduce(value[mask[:, i], i])) for i in np.flatnonzero(lived & mask.any(0))]
            assert found[f"{name}_n"] == len(values)
            if values:
                assert abs(found[name] - np.mean(values)) < 1e-5, (who, name)
            else:
                assert np.isnan(found[name])
        assert {"ade_m", "fde_m", "comfort", "score"} <= set(found)
    with pytest.raises(ConfigError, match="who='me' is not known; known: controlled, sdc"):
        summarise(scene, rollout, "me")


def test_a_rollout_of_no_steps_has_a_summary_without_values(run):
    scene, _, rollout = run
    none = jax.tree.map(lambda rows: rows[:0], (rollout.metrics, rollout.flags))
    start = jax.tree.map(lambda rows: rows[:1], rollout.trajectory)
    found = summarise(scene, rollout._replace(metrics=none[0], flags=none[1], trajectory=start))
    assert {value for name, value in found.items() if name[-2:] == "_n"} == {0.0}
    assert np.isnan([found["collision"], found["ade_m"], found["score"]]).all()


def _last(values: np.ndarray) -> float:
    return values[-1]


def test_rewards(run):
    scene, _, roll = run
    assert LINEAR.names == ("collision", "log_divergence")
    assert hash(LINEAR) == hash(LinearReward({"log_divergence": -0.5, "collision": -1.0}))
    with pytest.raises(ConfigError, match="metric 'crash' is not known"):
        LinearReward({"crash": 1.0})
    value = {name: np.asarray(metric.value, float) for name, metric in roll.metrics.items()}
    linear = -value["collision"] - 0.5 * value["log_divergence"]
    goals, rows = scene.goals, roll.trajectory
    away = np.hypot(rows.x - goals.x, rows.y - goals.y)
    lives = rows.valid[1:] & rows.valid[:-1] & goals.exists
    enters = (value["goal_reached"] > 0) & (away[:-1] > goals.radius)
    goal = np.where(lives, 0.1 * (away[:-1] - away[1:]) + enters, 0) - value["collision"] - value["off_road"]
    np.testing.assert_allclose(roll.reward, linear + 7 * goal, atol=1e-3)


def test_evaluation_is_that_of_single_scenes():
    scenes = [tiny_scene([turning(speed), straight(30, 0, speed)]) for speed in (4.0, 8.0, 12.0)]
    sim = Simulator(SimConfig(metrics=("infeasible", "log_divergence")), dynamics=Bicycle(), agents=LogPlayback())
    key, policy = jax.random.key(0), expert(sim.dynamics)
    found = evaluate(sim, scenes, policy, key, batch=2)
    done = []
    for index, row, rollout in roll_out(sim, scenes, policy, key, batch=2):
        done.append(index)
        alone = summarise(scenes[index], rollout)
        for name, value in row.items():
            assert value == pytest.approx(alone[name], abs=1e-5, nan_ok=True)
            assert value == pytest.approx(found.rows[index][name], abs=1e-5, nan_ok=True)
    assert sorted(done) == [0, 1, 2]
    compiled = evaluation._run._cached._cache_size()
    ((index, row, rollout),) = roll_out(sim, scenes, policy, key, batch=2, indices=[1])
    assert (index, row) == (1, pytest.approx(found.rows[1], abs=1e-5, nan_ok=True))
    assert evaluation._run._cached._cache_size() == compiled, "a part of a run needs no program of its own"
    assert found.means["ade_m"].estimate == pytest.approx(np.mean([row["ade_m"] for row in found.rows]))
    assert found.means["ade_m"].n == 3
    assert "3 scenes, objects: controlled" in found.table()
    assert json.loads(json.dumps(found.to_json()))["means"]["infeasible"]["n"] == 3
    with pytest.raises(ConfigError, match="no scenes"):
        evaluate(sim, [], policy, key)
