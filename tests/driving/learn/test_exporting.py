"""Policies out of checkpoints: the same files as at the end of the run, and refusals that say what to do."""

import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from gleanings import cli
from gleanings.core.config import save
from gleanings.driving.learn import training
from gleanings.driving.learn.config import BCConfig, NetConfig, WorldConfig
from gleanings.driving.learn.demos import Demonstrations
from gleanings.driving.learn.policy import load_policy
from gleanings.driving.learn.training import train
from gleanings.driving.observation import observation_size

CONFIG = BCConfig(net=NetConfig(width=8, trunk=(16,)), batch=16, gradient_steps=2, iterations=2)
OPTIONS = {"seeds": (3, 5), "save_every": 1, "progress": False}


def _demos() -> Demonstrations:
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(32, observation_size(WorldConfig().observe))).astype(np.float32)
    action, rows = rng.uniform(-0.9, 0.9, (32, 2)).astype(np.float32), np.arange(32, dtype=np.int32)
    return Demonstrations(obs, action, np.ones((32, 2), bool), np.zeros(32, np.int32), rows)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "bc"
    assert len(list(train(CONFIG, (), _demos(), directory=folder, **OPTIONS))) == 2
    return folder


def export(run: Path, *rest: str) -> int:
    return cli.main(["drive", "export", str(run), *rest])


@pytest.mark.parametrize("seed", [3, 5])
def test_an_exported_policy_is_that_of_the_run(finished, tmp_path, seed):
    assert export(finished, "--seed", str(seed), "--out", str(tmp_path / "policy")) == 0
    own, other = (
        {path.name: path.read_bytes() for path in folder.iterdir()}
        for folder in (tmp_path / "policy", finished / "artifacts" / f"policy-{seed}")
    )
    assert own == other


def test_what_broke_off_is_exported_as_such(tmp_path, monkeypatch):
    plain = training._update

    def poisoned(config, *data):
        update = plain(config, *data)

        def one(states, batch, key):
            states, metrics = update(states, batch, key)
            bad = jnp.arange(2) * (states.step == 4)
            return states, metrics | {"actor/error": jnp.where(bad == 1, jnp.inf, metrics["actor/error"])}

        return one

    monkeypatch.setattr(training, "_update", poisoned)
    options = OPTIONS | {"directory": tmp_path / "run", "on_nonfinite": "skip-seed"}
    assert [event.frozen for event in train(CONFIG, (), _demos(), **options)] == [{}, {"seed 5": 2}]
    for seed, frozen_at in ((3, None), (5, 2)):
        assert export(tmp_path / "run", "--seed", str(seed), "--out", str(tmp_path / f"{seed}")) == 0
        assert load_policy(tmp_path / f"{seed}").contract.frozen_at == frozen_at
        own = (tmp_path / f"{seed}" / "policy.json").read_bytes()
        assert own == (tmp_path / "run" / "artifacts" / f"policy-{seed}" / "policy.json").read_bytes()


def test_what_cannot_be_exported_is_one_line(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "cut")
    (last,) = (tmp_path / "cut" / "checkpoints").glob("*2")
    shutil.rmtree(last)
    (tmp_path / "other").mkdir()
    save(CONFIG, tmp_path / "other" / "config.json")
    cases = [
        (tmp_path / "absent", "3", 2, "absent is not a run directory"),
        (tmp_path / "other", "3", 2, "other is no run of `gleanings drive train`"),
        (finished, "4", 2, "trained seeds 3, 5, not 4"),
        (tmp_path / "cut", "3", 2, "saved after 1 of 2 iterations: finish it with `gleanings drive train --resume"),
    ]
    for run, seed, code, line in cases:
        assert export(run, "--seed", seed, "--out", str(tmp_path / "policy")) == code
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert line in error
        assert error.count("\n") == 1
    assert not (tmp_path / "policy").exists()


def test_a_damaged_checkpoint_is_named(finished, tmp_path, capsys):
    (file,) = (finished / "checkpoints").glob("*2/step.json")
    whole = file.read_bytes()
    try:
        file.write_bytes(whole.replace(b'"metrics"', b'"Metrics"'))
        assert export(finished, "--seed", "3", "--out", str(tmp_path / "policy")) == 4
        assert "step.json" in capsys.readouterr().err
    finally:
        file.write_bytes(whole)
