"""The run directory: its files, its lock, its status, and what it refuses."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from gleanings.core.errors import ConfigError
from gleanings.core.rundir import RunDirectory


@dataclass(frozen=True)
class Settings:
    rate: float = 0.1
    steps: int = 3


def test_files_of_a_run(tmp_path):
    with RunDirectory.create(tmp_path / "a" / "run", Settings()) as run:
        assert (run.status["status"], run.status["pid"]) == ("running", os.getpid())
        run.metrics.write(1, {"loss": 1.0})
        run.checkpoints.save(1, {"n": 1})
        assert run.artifacts.is_dir()
    names = {entry.name for entry in run.path.iterdir()}
    assert names >= {"config.json", "environment.json", "status.json", "metrics.jsonl", "tensorboard"}
    assert names >= {"checkpoints", "artifacts"}
    assert not [name for name in names if name.endswith(".tmp")]
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["versions"]["jax"]
    assert len(environment["devices"]) == 8
    assert environment["memory_gib"] > 0.5
    assert RunDirectory.open(run.path).config == {"rate": 0.1, "steps": 3}


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "done"), (KeyboardInterrupt(), "stopped"), (SystemExit(143), "stopped"), (OSError("x"), "failed")],
)
def test_status_on_leaving(tmp_path, error, status):
    def body():
        with RunDirectory.create(tmp_path / "r", Settings()):
            if error is not None:
                raise error

    if error is None:
        body()
    else:
        with pytest.raises(type(error)):
            body()
    found = RunDirectory.open(tmp_path / "r").status
    assert found["status"] == status
    assert found.get("error") == ("OSError: x" if status == "failed" else None)


def test_existing_run_is_refused_unless_resumed(tmp_path):
    RunDirectory.create(tmp_path / "r", Settings()).close()
    with pytest.raises(ConfigError, match="exists: resume it"):
        RunDirectory.create(tmp_path / "r", Settings())
    RunDirectory.create(tmp_path / "r", {"rate": 0.1, "steps": 3}, resume=True).close()


def test_resume_with_another_configuration(tmp_path):
    RunDirectory.create(tmp_path / "r", Settings()).close()
    changed = Settings(rate=0.2)
    with pytest.raises(ConfigError, match=r"rate: 0\.1 -> 0\.2$"):
        RunDirectory.create(tmp_path / "r", changed, resume=True)
    run = RunDirectory.create(tmp_path / "r", changed, resume=True, allow_change=True)
    assert run.config["rate"] == 0.2
    run.close()


def test_second_writer_is_refused_until_the_first_leaves(tmp_path):
    first = RunDirectory.create(tmp_path / "r", Settings())
    for _ in range(2):
        with pytest.raises(ConfigError, match=f"process {os.getpid()} is writing this run"):
            RunDirectory.create(tmp_path / "r", Settings(), resume=True)
    assert RunDirectory.open(tmp_path / "r").status["status"] == "running", "reading needs no lock"
    first.close()
    RunDirectory.create(tmp_path / "r", Settings(), resume=True).close()


def test_interrupted_creation_can_be_resumed_but_a_foreign_folder_cannot(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / ".config.json.1.tmp").write_text("{")
    RunDirectory.create(tmp_path / "r", Settings(), resume=True).close()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"not a run directory: thesis\.tex"):
        RunDirectory.create(tmp_path / "foreign", Settings(), resume=True)


def test_reading_only(tmp_path):
    RunDirectory.create(tmp_path / "r", Settings()).close()
    run = RunDirectory.open(tmp_path / "r")
    for act in (lambda: run.metrics, lambda: run.set_status("done")):
        with pytest.raises(ConfigError, match="read only"):
            act()
    with pytest.raises(ConfigError, match=r"no config\.json"):
        RunDirectory.open(tmp_path)
    run.config_path.write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json: cannot be read"):
        RunDirectory.create(tmp_path / "r", Settings(), resume=True)


def test_light_modules_do_not_import_jax():
    code = "import sys, gleanings.core.rundir, gleanings.core.metrics; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
