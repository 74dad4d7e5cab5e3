"""What the benchmark of driving compares is the same: the dense twin, the scene it runs on, targets, refusing peers."""

import importlib
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from gleanings.driving.families import make_scenes
from gleanings.driving.idm import find_leader, point_at
from gleanings.driving.road import signed_distance
from gleanings.studies._driving_speed import simulator


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    yield importlib.import_module
    own = ("_driving_", "_peers", "_results", "_timing")
    for name in [name for name in sys.modules if name.startswith(own)]:
        del sys.modules[name]


def test_the_dense_twin_finds_the_same_edges(load):
    scene = jax.device_put(make_scenes("overpass", 0, 1)[0])
    rng, log = np.random.default_rng(0), scene.log
    rows, objects = np.nonzero(np.asarray(log.valid))
    at = rng.choice(len(rows), 2000)
    x, y = (np.asarray(field)[rows[at], objects[at]] + rng.uniform(-15, 15, 2000) for field in (log.x, log.y))
    z = np.asarray(log.z)[rows[at], objects[at]] - 0.8
    x, y, z = (value.astype(np.float32) for value in (x, y, z))
    expected, known = jax.jit(signed_distance)(scene, x, y, z)
    found = np.asarray(jax.jit(load("_driving_dense").dense_distance)(scene, x, y, z))
    expected, known = np.asarray(expected), np.asarray(known)
    assert known.all()
    inside = np.abs(expected) < 30  # beyond it, and outside the grid, distances are not told apart
    assert inside.mean() > 0.9
    assert np.abs(found - expected)[inside].max() < 1e-3


@pytest.mark.slow
def test_the_dense_twin_finds_the_same_leaders(load):
    dense = load("_driving_dense")
    scene = jax.device_put(make_scenes("jam", 0, 1)[0])
    state = simulator(()).reset(scene, jax.random.key(0))
    own = find_leader(scene, state, point_at(scene, state.arc[:, None]))
    twin = dense.dense_leader(scene, state)
    both = np.asarray(state.alive & (own.gap < 50) & (twin.gap < 60))
    assert both.sum() > 20
    # The twin enters a box at the first metre inside, the own search exactly.
    assert np.median(np.abs(np.asarray(own.gap - twin.gap))[both]) < 1.0
    assert np.abs(np.asarray(own.speed - twin.speed))[both].max() < 0.2


def test_targets_without_measurements_are_open(load):
    found = [
        *load("_driving_steps").step_targets([]),
        *load("_driving_scale").scale_targets([]),
        *load("_driving_files").file_targets([], []),
        *load("_driving_peers").peer_targets([{"simulator": "highway-env", "unmeasured": "no"}]),
    ]
    assert {row[3] for row in found} == {None}
    assert len({row[0] for row in found}) == len(found)


def test_measured_rows_become_targets(load):
    rows = [{"case": "memory", "carry_bytes": 8848, "temporary_bytes": 3e6}]
    rows += [{"case": "batch", "scenes": n, "how": "chunks of 8", "cpu_min_ms": ms} for n, ms in ((1, 0.2), (256, 0.3))]
    rows += [{"case": "batch", "scenes": 256, "how": "one vmap", "cpu_min_ms": 9.0}]
    assert [row[3] for row in load("_driving_scale").scale_targets(rows)] == [8.85, 3.0, None, 1.5]
    rows = [{"case": "batch", "scenes": n, "how": "one vmap", "agent_steps_per_wall_s": 7 * n} for n in (64, 1024)]
    rows += [{"case": "batch", "scenes": 4096, "how": "one vmap", "unmeasured": "too large"}]
    assert [row[3] for row in load("_driving_scale").scale_targets(rows)] == [None, None, 7168, None]


def test_a_peer_that_is_missing_says_so(load, monkeypatch):
    peers = load("_driving_peers")
    monkeypatch.delenv("GLEANINGS_HIGHWAY_PYTHON", raising=False)
    assert "--highway-python" in peers._peer("highway", None, "GLEANINGS_HIGHWAY_PYTHON", 1)["unmeasured"]
    answer = peers._peer("highway", Path(sys.executable), "GLEANINGS_HIGHWAY_PYTHON", 1)["unmeasured"]
    assert "highway" in answer


def test_a_small_part_of_the_benchmark_runs(load):
    """The stand-in, its memory, and its file: everything but the timed programs."""
    scene = load("_driving_scene").reference(None, points=2000)
    assert scene.facts()["source"].startswith("a generated stand-in")
    assert abs(scene.facts()["map_points"] - 2000) < 500
    rows = []
    load("_driving_files").measure_files(scene, 1, rows.append)
    assert {row["case"] for row in rows} == {"read a record", "compile", "open compiled", "compiled file"}
