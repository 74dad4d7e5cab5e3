"""Runs that learn to drive and are killed go on to the same bits: networks, moments, replay, priorities, policies."""

import json
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from gleanings.core.errors import ConfigError
from gleanings.core.metrics import read_metrics
from gleanings.core.rundir import RunDirectory
from gleanings.driving.families import make_scenes
from gleanings.driving.store import save_scenes

_SCRIPT = Path(__file__).with_name("driving_learner.py")
_LEARNER = runpy.run_path(str(_SCRIPT))
_LAST = _LEARNER["ITERATIONS"]
pytestmark = pytest.mark.plain_compilation


def _kill(arguments: list[str], folder: Path, last: int, every: int = 1) -> int:
    """A process that trains in the folder up to iteration `last`, saving every few, killed after a random one before;
    the newest it saved."""
    dice = random.Random(" ".join(arguments[1:]))
    flags = {"JAX_DISABLE_MOST_OPTIMIZATIONS": str(int(jax.config.values["jax_disable_most_optimizations"]))}
    goal, rows, deadline = dice.randrange(1, last), folder / "metrics.jsonl", time.monotonic() + 300
    command = [sys.executable, str(_SCRIPT), *arguments]
    with subprocess.Popen(command, env=os.environ | flags, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and time.monotonic() < deadline:
            if rows.exists() and max((row["step"] for row in read_metrics(rows).rows), default=0) >= goal:
                break
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.1))
        process.kill()
        _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    saved = RunDirectory.open(folder).checkpoints.latest() or 0
    assert goal - every <= saved < last
    return saved


def _assert_same_bits(one, other):
    """Of every array, which are named if they differ."""
    for (path, a), (_, b) in zip(*(jax.tree_util.tree_leaves_with_path(state) for state in (one, other)), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), jax.tree_util.keystr(path)


@pytest.mark.parametrize(
    ("algorithm", "seeds"),
    [("bc-sac", 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("dqn", 2), ("bc-sac", 4), ("dqn", 4)))],
)
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, algorithm, seeds):
    saved = _kill([str(tmp_path / "cut"), algorithm, str(seeds)], tmp_path / "cut", _LAST)
    again, whole = (_LEARNER["run"](tmp_path / name, algorithm, seeds) for name in ("cut", "whole"))
    assert (again.step, again.metrics) == (whole.step, whole.metrics)
    assert again.step == _LAST > saved
    state = whole.state
    _assert_same_bits(again.state, state)
    assert state.replay.count.tolist() == [6] * seeds
    assert state.replay.index.tolist() == [2] * seeds  # the ring went round
    assert (np.asarray(state.replay.reward) != 0).any()
    if algorithm == "dqn":
        assert len(np.unique(state.priority)) > 1
    rows = read_metrics(tmp_path / "cut" / "metrics.jsonl")
    assert ([row["step"] for row in rows.rows], rows.broken) == ([1, 2, 3, 4], 0)
    assert _policies(tmp_path / "cut") == _policies(tmp_path / "whole")


def _policies(folder: Path) -> dict[str, str]:
    """Digests of the arrays of the policies of a run."""
    files = (folder / "artifacts").glob("policy-*/policy.json")
    return {file.parent.name: json.loads(file.read_text())["files"]["arrays.npz"] for file in files}


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "last"), [("bc", 100), ("bc-sac", 40)], ids=["bc", "bc-sac"])
def test_a_killed_command_goes_on_to_the_same_policies(tmp_path, algorithm, last):
    save_scenes(tmp_path / "two", [make_scenes(family)[0] for family in ("straight", "curve")])
    options = ["--scenes", str(tmp_path / "two"), "--iterations", str(last), "--seeds", "2", "--no-report"]

    def arguments(name: str) -> list[str]:
        return ["drive", "train", "--algorithm", algorithm, *options, "--out", str(tmp_path / name)]

    _kill(arguments("cut"), tmp_path / "cut", last, every=4)
    command = _LEARNER["command"]
    assert command(arguments("cut")) == ConfigError.exit_code  # without --resume
    assert command([*arguments("cut"), "--resume", "--others", "idm"]) == ConfigError.exit_code
    assert command([*arguments("cut"), "--resume"]) == command(arguments("whole")) == 0
    assert _policies(tmp_path / "cut") == _policies(tmp_path / "whole") != {}
