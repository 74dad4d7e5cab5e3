"""What the benchmark of learning to drive compares and counts: targets, shapes of products, refusing peers."""

import importlib
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gleanings.driving.config import ObserveConfig
from gleanings.driving.crop import crop_scene
from gleanings.driving.families import make_scenes
from gleanings.driving.learn.bank import make_bank
from gleanings.driving.learn.config import NetConfig, WorldConfig
from gleanings.driving.learn.heads import TanhGaussian
from gleanings.driving.learn.networks import Actor
from gleanings.driving.routes import with_lane_route
from gleanings.driving.stack import arrays_of


@pytest.fixture
def load(monkeypatch):
    folder = Path(__file__).parents[1] / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.syspath_prepend(str(folder / "peers"))
    yield importlib.import_module
    own = ("_driving_", "_peers", "_results", "_timing", "_worker", "sb3_peers", "rejax_peers")
    for name in [name for name in sys.modules if name.startswith(own)]:
        del sys.modules[name]


def test_targets_without_measurements_are_open(load):
    missing = {"side": "rejax", "setting": "batch 64", "not run": "no"}
    found = [
        *load("_driving_learning_training").training_targets([missing]),
        *load("_driving_learning_steps").step_targets([]),
        *load("_driving_learning_driving").driving_targets([]),
        *load("_driving_learning_scenes").scene_targets([]),
        *load("_driving_learning_gpu").gpu_targets([{"unmeasured": "no GPU on this machine"}]),
    ]
    assert {row[3] for row in found} == {None}
    assert len({row[0] for row in found}) == len(found)


def test_measured_rows_become_targets(load):
    """Of turns the median counts, of numbers of environments that which is best for the peer."""
    training = load("_driving_learning_training")
    sb3, columns = "stable-baselines3", ("side", "environments", "turn", "decisions_per_cpu_s")
    rates = [
        *(("gleanings", 64, turn, rate) for turn, rate in enumerate((6000, 3000, 9000))),
        *((sb3, 64, turn, rate) for turn, rate in enumerate((1500, 1500, 1500))),
        *((sb3, 16, turn, rate) for turn, rate in enumerate((2000, 500, 1000))),
        (sb3, 1, 0, 500),
        ("rejax", 64, 0, 5000),
    ]
    default = [{"setting": "default"} | dict(zip(columns, rate, strict=True)) for rate in rates]
    small = {"setting": "small observation"} | dict(zip(columns, (sb3, 64, 0, 1), strict=True))
    assert [row[3] for row in training.training_targets([*default, small])] == [4.0, 12.0, 1.2, None, None, None, None]
    rows = [{"case": "sac, flat", "cpu_ms": 2.0}, {"case": "bc-sac, flat", "cpu_ms": 2.5}]
    assert [row[3] for row in load("_driving_learning_steps").step_targets(rows)] == [1.25, None]


def test_measured_rows_of_a_gpu_become_targets(load):
    """A peer that was not run leaves its figures open; of two arrangements of a peer the faster counts."""
    gpu = load("_driving_learning_gpu")
    rows = [{"side": gpu.CPU, "decisions_per_wall_s": 5}]
    rows += [{"side": gpu.OWN, "seeds": n, "iteration_ms": n + 1, "decisions_per_wall_s": 100 * n} for n in (1, 8)]
    rows += [
        {"side": gpu.REJAX, "seeds": 1, "decisions_per_wall_s": 50},
        {"side": gpu.REJAX, "seeds": 8, "not run": ""},
    ]
    rows += [{"side": gpu.SB3, "decisions_per_wall_s": rate} for rate in (4, 2)] + [{"side": gpu.SB3, "not run": ""}]
    assert [row[3] for row in gpu.gpu_targets(rows)] == [4.5, 80.0, 25.0, 2.0, None]


def test_without_a_gpu_its_part_says_so(load):
    rows = []
    load("_driving_learning_gpu").measure_gpu(None, Path(), {}, True, rows.append)
    assert rows == [{"unmeasured": "no GPU on this machine"}]


def test_products_are_those_of_the_layers(load):
    """At 5 rows, a plain network of two hidden layers with 7 and 3 units."""
    observe = WorldConfig().observe
    actor = Actor(NetConfig(encoder="flat", trunk=(7, 3)), TanhGaussian(), observe, jax.random.key(0))
    steps, size = load("_driving_learning_steps"), actor.encoder.size
    shapes = steps.product_shapes(actor, jnp.zeros((5, size)))
    assert shapes == [(5, size, 7), (5, 7, 3), (5, 3, 4)]
    assert sum(map(steps.multiply_adds, shapes)) == 5 * (7 * size + 21 + 12)
    assert steps.step_flop(shapes, "sac") == 2 * 5 * (9 * 7 * size + 16 * (21 + 12))


@pytest.mark.parametrize("side", ["stable-baselines3", "rejax"])
def test_a_peer_that_is_missing_says_so(load, monkeypatch, side):
    training = load("_driving_learning_training")
    monkeypatch.delenv(training.VARIABLES[side], raising=False)
    assert training.VARIABLES[side] in training.asked(side, None, {})["not run"]
    assert "train" in training.asked(side, Path(sys.executable), {"source": "."})["not run"]


def test_a_worker_reads_the_bank_that_was_written(load, tmp_path):
    scenes = [crop_scene(with_lane_route(scene)) for scene in make_scenes("jam", seed=0, count=2)]
    load("_driving_learning_scenes").write_bank(tmp_path / "bank.npz", scenes)
    source = str(Path(__file__).parents[1] / "src")
    world, bank = load("_driving_bank").world_and_bank(source, str(tmp_path / "bank.npz"), {"objects": 3, "road": 0})
    assert world.config.observe == ObserveConfig(objects=3, road=0)
    expected = arrays_of(make_bank(scenes))
    found = arrays_of(bank)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
