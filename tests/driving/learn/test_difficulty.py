"""Scores, buckets and the model of near misses, against cases whose answer is known and against enumeration."""

import jax
import numpy as np
import pytest
from tests.driving.learn._windows import family_windows

from gleanings.core.errors import ConfigError
from gleanings.driving.learn.config import BucketConfig
from gleanings.driving.learn.difficulty import (
    auc,
    difficulty_scores,
    first_observations,
    fit_difficulty_model,
    make_buckets,
    near_misses,
    planner_drives,
)
from gleanings.driving.scene import Scene
from gleanings.driving.stack import text_array

KEY, TWO = jax.random.key(0), BucketConfig(simulations=2)


def alone(scene: Scene) -> Scene:
    """The ego without others."""
    valid = scene.log.valid & (np.arange(16) == 0)
    return scene._replace(log=scene.log._replace(valid=valid))


def blocked(scene: Scene, metres: float) -> Scene:
    """The ego, and one that stands so far ahead of its centre."""
    scene, log = alone(scene), scene.log
    yaw = log.yaw[1, 0]
    x, y, z, turned, vx, vy = (field.copy() for field in log[:6])
    place = (log.x[1, 0] + metres * np.cos(yaw), log.y[1, 0] + metres * np.sin(yaw), log.z[1, 0], yaw, 0, 0)
    for field, value in zip((x, y, z, turned, vx, vy), place, strict=True):
        field[:, 1] = value
    valid = scene.log.valid.copy()
    valid[:, 1] = True
    objects = scene.objects
    size = {name: getattr(objects, name).copy() for name in ("length", "width", "height")}
    for field in size.values():
        field[1] = field[0]
    return scene._replace(log=type(log)(x, y, z, turned, vx, vy, valid), objects=objects._replace(**size))


def named(scene: Scene, name: str) -> Scene:
    return scene._replace(scene_id=text_array(name, 32))


def test_scores_rank_what_is_known_to_be_hard():
    road = family_windows("straight")[0]
    cases = [alone(road), blocked(road, 60.0), blocked(road, 5.5), named(blocked(road, 5.5), "other")]
    drives = planner_drives(cases, TWO, KEY)
    scores = difficulty_scores(cases, TWO, KEY)
    speed = np.hypot(road.log.vx[1, 0], road.log.vy[1, 0])
    assert speed > 5
    assert scores[0] == 0
    assert scores[2] == 2  # in contact: failed, without distance
    assert 0 <= scores[1] < 1
    np.testing.assert_array_equal(drives.failed, [[False] * 2, [False] * 2, [True] * 2, [True] * 2])
    assert (drives.clearance_m[0] == 100).all()
    assert drives.clearance_m[1, 0] != drives.clearance_m[1, 1]  # noise
    np.testing.assert_array_equal(near_misses(cases, TWO, KEY), [False, False, True, True])
    np.testing.assert_array_equal(difficulty_scores(cases[::-1], TWO, KEY), scores[::-1])
    with pytest.raises(ConfigError, match="simulations is 0; expected 1 or more"):
        planner_drives(cases, BucketConfig(simulations=0))
    with pytest.raises(ConfigError, match="needs a model"):
        difficulty_scores(cases, BucketConfig(kind="model"))


def test_buckets_are_shares_of_the_calibration_scenes():
    rng = np.random.default_rng(0)
    calibration, scores = (np.maximum(rng.normal(0, 1, count), 0) for count in (4000, 3000))
    names = [f"scene-{k}" for k in range(3000)]
    buckets = make_buckets(scores, calibration, names)
    for name, share in {"all": 1, "top50": 0.5, "top10": 0.1, "top3": 0.03, "bottom50": 0.5, "top20": 0.2}.items():
        assert abs(buckets.mask(name).mean() - share) < 0.02, name
    assert buckets.names == ("all", "top50", "top10", "top3", "bottom50")
    assert not (buckets.mask("top50") & buckets.mask("bottom50")).any()
    assert (buckets.mask("top50") | buckets.mask("bottom50")).all()
    assert scores[buckets.mask("top10")].min() >= scores[~buckets.mask("top10")].max()
    assert all(buckets.mask(name).shape == scores.shape for name in buckets.names)
    half = make_buckets(scores[::2], calibration, names[::2])
    np.testing.assert_array_equal(half.mask("top10"), buckets.mask("top10")[::2])
    np.testing.assert_array_equal(half.rank, buckets.rank[::2])


def test_buckets_that_cannot_be():
    one = np.ones(1)
    with pytest.raises(ConfigError, match="at least one calibration scene"):
        make_buckets(one, one[:0], ["a"])
    with pytest.raises(ConfigError, match="2 names"):
        make_buckets(one, one, ["a", "b"])
    for name in ("top", "top0", "top100", "hard"):
        with pytest.raises(ConfigError, match="choose from all, top50"):
            make_buckets(one, one, ["a"]).mask(name)


def test_area_under_the_curve_counts_pairs():
    rng = np.random.default_rng(1)
    scores, labels = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.3
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels] for b in scores[~labels]]
    assert auc(scores, labels) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert np.isnan(auc(scores, np.ones(60, bool)))


@pytest.mark.slow
def test_the_model_finds_what_the_first_observation_tells():
    base = family_windows("straight", "curve")
    rng, scenes = np.random.default_rng(2), []
    for k in range(80):
        scene, factor = base[k % len(base)], np.float32(rng.uniform(0.2, 1.8))
        log = scene.log._replace(vx=scene.log.vx * factor, vy=scene.log.vy * factor)
        scenes.append(named(scene._replace(log=log), f"log{k}"))
    seen = first_observations(scenes)
    labels = seen[:, 0] > np.median(seen[:, 0])
    model = fit_difficulty_model(scenes, labels, KEY)
    assert model.auc > 0.8
    found = difficulty_scores(scenes, BucketConfig(kind="model"), model=model)
    assert ((found >= 0) & (found <= 1)).all()
    assert auc(found, labels) > 0.9
    with pytest.raises(ConfigError, match="both are needed"):
        fit_difficulty_model(scenes, np.ones(80, bool), KEY)
