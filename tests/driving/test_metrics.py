"""All metrics against the NumPy oracle on random scenes, and their invariances."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gleanings.core.errors import ConfigError
from gleanings.driving.families import FAMILIES, make_scenes
from gleanings.driving.load import load_scenes
from gleanings.driving.metrics import measure
from gleanings.driving.scene import Scene, Trajectory

from . import _metric_oracle as oracle
from ._metric_random import random_scene


def assert_agrees(scene: Scene, trajectory: Trajectory) -> dict[str, int]:
    """Compares everything with the oracle; number of compared values that are not 0 by name."""
    found = measure(scene, trajectory)
    expected = oracle.measure(scene, trajectory, int(scene.start))
    assert set(found) == set(expected)
    seen = {}
    for name, (value, mask, doubt) in expected.items():
        got, where = np.asarray(found[name].value), np.asarray(found[name].mask)
        assert got.dtype == (bool if value.dtype == bool else np.float32), name
        unsure = doubt if name in ("progress_ratio", "speeding_mps", "wrong_way", "comfort") else np.zeros_like(doubt)
        assert ((where == mask) | unsure).all(), name
        assert not got[~where].any(), name
        use = mask & where & ~doubt
        tolerance = 0 if value.dtype == bool else 1.1e-3
        worst = np.abs(got.astype(float) - value)[use].max(initial=0)
        assert worst <= tolerance, (name, worst, np.argwhere(use & (np.abs(got.astype(float) - value) > tolerance))[:3])
        seen[name] = int((use & (value != 0)).sum())
    return seen


def _check_random(seed: int) -> None:
    assert_agrees(*random_scene(seed))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_all_metrics_are_those_of_the_oracle(seed):
    _check_random(seed)


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_all_metrics_are_those_of_the_oracle_on_many_scenes(seed):
    _check_random(seed)


def test_permuted_objects_permute_the_metrics():
    scene, trajectory = random_scene(7)
    order = np.random.default_rng(0).permutation(8)

    def take(part, axis=-1):
        return type(part)(*(np.take(field, order, axis) for field in part))

    other = scene._replace(
        log=take(scene.log),
        objects=take(scene.objects),
        goals=take(scene.goals),
        paths=take(scene.paths, 0),
        lights=scene.lights._replace(arc=scene.lights.arc[order]),
    )
    found, permuted = measure(scene, trajectory), measure(other, take(trajectory))
    for name, (value, mask) in found.items():
        np.testing.assert_array_equal(np.asarray(mask)[..., order], permuted[name].mask, name)
        np.testing.assert_allclose(
            np.asarray(value, float)[..., order], np.asarray(permuted[name].value, float), atol=1e-4
        )


@pytest.mark.parametrize("seed", range(2))
def test_rigid_motion_changes_no_distance(seed):
    scene, trajectory = random_scene(seed)
    found = measure(scene, trajectory)
    moved = measure(_moved(scene), _turned(trajectory))
    doubt = oracle.measure(scene, trajectory, int(scene.start))
    for name, (value, mask) in found.items():
        if np.asarray(value).dtype == bool:
            assert (np.asarray(value) == moved[name].value)[np.asarray(mask) & ~doubt[name][2]].all(), name
        elif name != "ttc_s":
            sure = np.asarray(mask) & np.asarray(moved[name].mask)
            assert np.abs(np.asarray(value) - moved[name].value)[sure].max(initial=0) < 3e-3, name


ANGLE, SHIFT = np.pi / 2, (3.0, -5.0)


_VECTORS = (("x", "y", 1), ("ax", "ay", 1), ("vx", "vy", 0), ("dx", "dy", 0), ("nax", "nay", 0), ("nbx", "nby", 0))


def _turned(part):
    """A named tuple with points, directions and yaws turned by ANGLE, and points moved by SHIFT."""
    fields = part._asdict()
    for a, b, point in _VECTORS:
        if a in fields:
            u, v = fields[a].astype(float), fields[b].astype(float)
            live = fields.get("valid", np.ones(u.shape, bool))
            turned = (np.cos(ANGLE) * u - np.sin(ANGLE) * v, np.sin(ANGLE) * u + np.cos(ANGLE) * v)
            fields[a], fields[b] = (
                np.where(live, w + point * s, 0).astype(np.float32) for w, s in zip(turned, SHIFT, strict=True)
            )
    if "yaw" in fields:
        fields["yaw"] = np.float32((fields["yaw"] + ANGLE + np.pi) % (2 * np.pi) - np.pi)
    return type(part)(**fields)


def _moved(scene: Scene) -> Scene:
    parts = ("log", "edges", "lanes", "lights", "paths", "goals")
    return scene._replace(**{name: _turned(getattr(scene, name)) for name in parts})


def test_unknown_names_and_wrong_shapes_are_refused():
    scene, trajectory = random_scene(0)
    with pytest.raises(ConfigError, match=r"metric 'crash' is not known; known: collision, .*goal_reached"):
        measure(scene, trajectory, ["crash"])
    with pytest.raises(ConfigError, match=r"shape \(1, 8\); at least 2 rows of 8 objects"):
        measure(scene, jax.tree.map(lambda field: field[:1], trajectory))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_all_metrics_are_those_of_the_oracle_on_every_family(family):
    _check_drifting(make_scenes(family, seed=3)[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["motion_data_one_example", "motion_data_one_scenario"])
def test_all_metrics_are_those_of_the_oracle_on_real_scenes(shared_data, name):
    _check_drifting(load_scenes(shared_data / "driving" / "waymo-open-dataset" / f"{name}.tfrecord")[0])


def _check_drifting(scene: Scene) -> None:
    """Objects that leave their log by a metre or two within 25 steps."""
    first, n = int(scene.start), scene.log.x.shape[1]
    rows = Trajectory(*(field[first : first + 26] for field in scene.log))
    drift = np.linspace(0, 1, 26)[:, None] * np.random.default_rng(0).normal(0, 1, (2, 1, n))
    x, y = (np.where(rows.valid, v + d, 0).astype(np.float32) for v, d in zip(rows[:2], drift, strict=True))
    assert_agrees(scene, rows._replace(x=x, y=y))
