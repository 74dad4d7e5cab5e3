"""Damaged checkpoints are found, named and passed over; a full disk costs only the step it hit."""

import errno
import random
import shutil
import subprocess
from contextlib import suppress

import jax.numpy as jnp
import numpy as np
import pytest

from gleanings.core import checkpoint
from gleanings.core.checkpoint import Checkpoints
from gleanings.core.errors import CheckpointError
from gleanings.core.loop import fit
from gleanings.core.metrics import read_metrics
from gleanings.core.rundir import RunDirectory

LIKE = {"w": jnp.zeros((16, 4)), "half": jnp.zeros(5, jnp.bfloat16), "n": jnp.int32(0)}


def _flip(file, dice):
    content = bytearray(file.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    file.write_bytes(content)


def _truncate(file, dice):
    file.write_bytes(file.read_bytes()[: dice.randrange(file.stat().st_size)])


DAMAGES = [_flip, _truncate, lambda file, dice: file.unlink(), lambda file, dice: file.write_bytes(b"")]


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    store = Checkpoints(tmp_path_factory.mktemp("intact") / "c")
    for step in (1, 2):
        store.save(step, {"w": LIKE["w"] + step, "half": LIKE["half"] - step, "n": jnp.int32(step)})
    return store.directory


@pytest.mark.parametrize("trials", [12, pytest.param(100, marks=pytest.mark.slow)])
def test_any_damage_is_found_and_named(intact, tmp_path, trials):
    dice = random.Random(trials)
    for trial in range(trials):
        directory = shutil.copytree(intact, tmp_path / str(trial))
        files = sorted(file for file in (directory / "0000000002").rglob("*") if file.is_file())
        file = dice.choice(files)
        DAMAGES[trial % 4](file, dice)
        restored = Checkpoints(directory).restore(LIKE)
        assert restored.step == 1, f"damage to {file} was not found"
        assert file.name == "digests.json" or restored.skipped[0].startswith(f"{file}: ")
        assert str(directory / "0000000002") in restored.skipped[0]
        for name, zero in LIKE.items():
            np.testing.assert_array_equal(restored.state[name], zero - 1 if name == "half" else zero + 1)
        with pytest.raises(CheckpointError, match="0000000002"):
            Checkpoints(directory).restore(LIKE, step=2)


def test_all_damaged_names_every_step(intact, tmp_path):
    directory = shutil.copytree(intact, tmp_path / "c")
    for step in (1, 2):
        (directory / f"{step:010d}" / "step.json").unlink()
    with pytest.raises(CheckpointError, match=r"0000000002/step\.json: missing; .*0000000001/step\.json: missing"):
        Checkpoints(directory).restore(LIKE)


def _count(state, batch, key):
    return {"n": state["n"] + 1, "w": state["w"]}, {"loss": state["n"]}


def _fit(run, **options):
    state = {"n": jnp.zeros(()), "w": jnp.ones((64, 64))}
    return fit(_count, state, steps=40, seed=0, run=run, save_every=10, log_every=5, progress=False, **options)


def test_a_run_resumes_before_the_damage(tmp_path):
    with RunDirectory.create(tmp_path / "r", {}) as run:
        for event in _fit(run):
            if event.step == 25:
                break
    (run.path / "checkpoints" / "0000000020" / "step.json").write_text("{}")
    with RunDirectory.create(tmp_path / "r", {}, resume=True) as run:
        events = list(_fit(run))
        assert "0000000020/step.json: content changed" in run.status["damaged"][0]
    assert [event.step for event in events] == [15, 20, 25, 30, 35, 40]
    assert float(events[-1].state["n"]) == 40
    assert [row["step"] for row in read_metrics(run.path / "metrics.jsonl").rows] == list(range(5, 45, 5))


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(folder):
    with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"0" * 4096)


def _train_and(act, path):
    """Train until `act` makes the disk fail at step 25."""
    with RunDirectory.create(path, {}) as run:
        for event in _fit(run):
            if event.step == 25:
                act()


def _assert_only_one_step_was_lost(error, path):
    assert (error.exit_code, error.step) == (4, 30)
    run = RunDirectory.open(path)
    assert run.checkpoints.steps() == [10, 20]
    assert float(run.checkpoints.restore({"n": jnp.zeros(()), "w": jnp.ones((64, 64))}).state["n"]) == 20
    assert [row["step"] for row in read_metrics(path / "metrics.jsonl").rows][:5] == [5, 10, 15, 20, 25]


def test_full_disk(small_disk):
    with pytest.raises(CheckpointError, match="cannot be written") as caught:
        _train_and(lambda: _fill(small_disk), small_disk / "r")
    _assert_only_one_step_was_lost(caught.value, small_disk / "r")
    (small_disk / "filler").unlink()
    with RunDirectory.create(small_disk / "r", {}, resume=True) as run:
        assert float(list(_fit(run))[-1].state["n"]) == 40


def test_a_writer_that_fails(tmp_path, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CheckpointError, match="cannot be written: OSError") as caught:
        _train_and(lambda: monkeypatch.setattr(checkpoint, "sync", full), tmp_path / "r")
    _assert_only_one_step_was_lost(caught.value, tmp_path / "r")
    assert RunDirectory.open(tmp_path / "r").status["status"] == "failed"
