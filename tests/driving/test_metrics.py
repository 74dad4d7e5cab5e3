"""All metrics against the NumPy oracle on random scenes, and their invariances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gleanings.driving.metrics import measure
from gleanings.driving.raw import DEFAULT_SIZE, Kind
from gleanings.driving.scene import Scene, Trajectory

from . import _metric_oracle as oracle
from ._metric_scenes import build, drive, track

STEPS = 24


def random_scene(seed: int) -> tuple[Scene, Trajectory]:
    """Eight objects that weave along a road with edges, lanes and lights, with gaps; and a motion near their log."""
    rng = np.random.default_rng(seed)
    tracks = []
    for _ in range(8):
        kind = Kind(rng.integers(4))
        yaw = rng.choice([0.0, 0.3, np.pi - 0.01, -np.pi / 2]) + rng.normal(0, 0.1)
        motion = drive(
            rng.uniform(-20, 20), rng.uniform(-8, 8), yaw, rng.choice([0, 0.3, 5, 12]), STEPS, rng.normal(0, 0.1)
        )
        valid = np.ones(STEPS, bool)
        valid[: rng.integers(0, 6)] = False
        valid[rng.integers(0, STEPS) :][: rng.integers(0, 4)] = False
        size = tuple(np.array(DEFAULT_SIZE[kind]) * rng.uniform(0.8, 1.3))
        goal = (*motion[-1, :2], 2.0) if rng.random() < 0.7 else None
        z = float(rng.choice([0.8, 0.8, 0.8, 6.5]))
        tracks.append(track(motion, kind, valid * (rng.random() < 0.9), size=size, z=z, goal=goal))
    x = np.linspace(-60, 60, 9)
    lines = [(np.stack([x[::d], y + rng.normal(0, 0.5, 9), np.zeros(9)], 1)) for d, y in ((1, -6), (-1, 7))]
    lanes = [(np.stack([x[::d], np.full(9, y), np.zeros(9)], 1), v) for d, y, v in ((1, -2, 8.0), (-1, 2, np.nan))]
    states = rng.choice([0, 1, 4, 4, 6, 7], (3, STEPS // 6)).repeat(6, 1)
    lights = [(states[k], rng.uniform(-15, 15), y, yaw) for k, (y, yaw) in enumerate(((-2, 0), (2, 3.1), (-3, 0.4)))]
    some = rng.random(3) < 0.9
    scene = build(tracks, lines, lanes, lights, start=int(rng.integers(3)))
    # What is not there is padding, so that one compiled program serves all scenes.
    nothing = np.float32(np.inf)
    scene = scene._replace(
        edges=scene.edges._replace(z=np.where(some[0], scene.edges.z, nothing)),
        lanes=scene.lanes._replace(z=np.where(some[1], scene.lanes.z, nothing)),
        lights=scene.lights._replace(exists=scene.lights.exists & some[2]),
    )
    return scene, _near_the_log(scene, rng)


def _near_the_log(scene: Scene, rng: np.random.Generator) -> Trajectory:
    """From the start to past the log: drifting away from it, with gaps of its own."""
    log, first = scene.log, int(scene.start)
    rows = np.minimum(first + np.arange(STEPS), STEPS - 1)
    shape = (len(rows), log.x.shape[1])
    drift = np.linspace(0, 1, len(rows))[:, None] * rng.normal(0, 1.5, (3, 1, shape[1]))
    noise = rng.normal(0, 0.02, (4, *shape))
    valid = log.valid.any(0) & (rng.random(shape) < 0.97)
    fields = [log.x[rows] + drift[0] + noise[0], log.y[rows] + drift[1], log.z[rows], log.yaw[rows] + drift[2] * 0.1]
    fields += [log.vx[rows] + noise[2], log.vy[rows] + noise[3]]
    return Trajectory(*(np.where(valid, field, 0).astype(np.float32) for field in fields), valid)


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
