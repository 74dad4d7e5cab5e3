"""Runs that are killed or stopped go on to the same bits."""

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

_SCRIPT = Path(__file__).with_name("trainer.py")
_TRAINER = runpy.run_path(str(_SCRIPT))


def _launch(path, steps):
    """A training process that has begun to train."""
    command = [sys.executable, str(_SCRIPT), str(path), str(steps)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while process.poll() is None and _pid(path) != process.pid and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def _pid(path):
    try:
        return RunDirectory.open(path).status["pid"]
    except ConfigError:
        return None


def _logged(path):
    file = path / "metrics.jsonl"
    return [row["step"] for row in read_metrics(file).rows] if file.exists() else []


def _finish(path, steps):
    with RunDirectory.create(path, {"steps": steps}, resume=True) as run:
        return _TRAINER["train"](run, steps)


def _assert_same_bits(event, steps):
    whole = _TRAINER["train"](None, steps)
    for name, array in whole.state.items():
        both = [jax.random.key_data(x) if name == "key" else x for x in (array, event.state[name])]
        np.testing.assert_array_equal(*both)
    assert event.metrics == whole.metrics


def _lost_steps(path):
    """Steps that were logged but not saved, and the number of steps saved."""
    run = RunDirectory.open(path)
    saved = run.checkpoints.latest() or 0
    return max(_logged(path), default=0) - saved, saved


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_sigkill_at_random_times(tmp_path, kills):
    path, steps, dice = tmp_path / "r", 60 * kills, random.Random(kills)
    progress = [0]
    for _ in range(kills):
        goal = progress[-1] + dice.randrange(60)
        process = _launch(path, steps)
        while process.poll() is None and max(_logged(path), default=0) < goal:
            time.sleep(0.02)
        time.sleep(dice.uniform(0, 0.1))
        process.kill()
        _, errors = process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0), errors
        lost, saved = _lost_steps(path)
        assert lost <= _TRAINER["SAVE_EVERY"]
        progress.append(saved)
    assert progress == sorted(progress)
    assert progress[-1] > 0
    _assert_same_bits(_finish(path, steps), steps)
    rows = read_metrics(path / "metrics.jsonl")
    assert ([row["step"] for row in rows.rows], rows.broken) == (list(range(1, steps + 1)), 0)


@pytest.mark.parametrize(("signum", "codes"), [(signal.SIGTERM, (143,)), (signal.SIGINT, (130, -signal.SIGINT))])
def test_stop_signals(tmp_path, signum, codes):
    # An uncaught KeyboardInterrupt ends Python by SIGINT itself, which a shell reports as 130.
    path, steps = tmp_path / "r", 100_000
    process = _launch(path, steps)
    deadline = time.monotonic() + 120
    while process.poll() is None and not _logged(path) and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(ConfigError, match=f"process {process.pid} is writing this run"):
        RunDirectory.create(path, {"steps": steps}, resume=True)
    begun = time.monotonic()
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in codes, errors
    assert time.monotonic() - begun < 10
    status = RunDirectory.open(path).status
    assert (status["status"], status["signal"]) == ("stopped", signal.Signals(signum).name)
    assert _lost_steps(path)[0] <= 0
    assert RunDirectory.open(path).checkpoints.latest() == status["step"]
    end = status["step"] + 15
    with RunDirectory.create(path, {"steps": end}, resume=True, allow_change=True) as run:
        _assert_same_bits(_TRAINER["train"](run, end), end)
