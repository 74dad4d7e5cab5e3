"""From nothing to a report by the commands, and the refusals that come before any work."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gleanings import cli
from gleanings.core.config import to_dict
from gleanings.core.rundir import RunDirectory
from gleanings.driving.clips import MOST_BYTES
from gleanings.driving.learn import cutting, run
from gleanings.driving.learn.config import BCConfig, WorldConfig
from gleanings.driving.learn.demos import Audit, Demonstrations
from gleanings.driving.learn.material import Material
from gleanings.driving.learn.split import Split
from gleanings.driving.learn.training import Training
from gleanings.driving.scene import Scene

from ._drivers import family_scenes


def drive(*arguments: str) -> int:
    return cli.main(["drive", *arguments])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("train", "--with-generated", "8"), "--with-generated adds hazards to --scenes"),
        (("train", "--seeds", "0"), "seeds and count are at least 1"),
        (("train", "--out", "."), "holds a run: go on with it by --resume"),
        (("export", "absent", "--out", "policy"), "absent is not a run directory"),
        (("demos", "--scenes", ".", "--out", "config.json"), "config.json: no folder can be made there"),
    ],
)
def test_refusals_come_at_once(arguments, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("config.json").write_text("{}")
    assert drive(*arguments) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_a_run_is_neither_resumed_nor_viewed_as_one_of_drive_run(tmp_path, capsys):
    with RunDirectory.create(tmp_path / "RUN", to_dict(Training(BCConfig()))):
        pass
    run = str(tmp_path / "RUN")
    for arguments, line in ((["resume"], f"drive train --out {run} --resume"), (["drive", "view"], "artifacts/clips")):
        assert cli.main([*arguments, run]) == 2
        error = capsys.readouterr().err
        assert line in error
        assert error.count("\n") == 1


def test_an_audit_is_written_though_the_reward_refuses(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cutting, "learning_scenes", lambda source, **options: list(family_scenes()))
    assert drive("demos", "--scenes", "any", "--out", str(tmp_path / "demos"), "--edge-m", "30") == 0
    shown = capsys.readouterr()
    assert "of the decisions have a negative reward: above 25% only bc learns of them" in shown.err
    audit = json.loads((tmp_path / "demos" / "demos.json").read_text())
    assert audit["negative"] > 0.25
    assert audit["left_out"] == {}
    with np.load(tmp_path / "demos" / "demos.npz") as held:
        assert len(held["obs"]) == audit["kept"]


def test_another_way_with_nan_is_refused_before_jax_is_loaded():
    code = "import sys\nfrom gleanings import cli\ntry:\n    cli.main(['drive', 'train', '--on-nonfinite', 'skip'])\n"
    code += "finally:\n    print('jax' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout) == (2, "False\n")
    assert "'stop', 'skip-seed'" in found.stderr


def test_demonstrations_of_strata_keep_their_scenes(monkeypatch):
    audit = Audit(1, 1, 1, 0, 0, (0.0, 0.0, 0.0, 0.0), 0.0, 0.0, 0.0, 0.0, ())

    def make(scenes, world, config):
        rows = np.arange(len(scenes), dtype=np.int32)
        zero = np.zeros((len(rows), 2), np.float32)
        return Demonstrations(zero, zero, zero > 0, rows, rows), audit

    monkeypatch.setattr(run, "make_demonstrations", make)
    scene = Scene(**dict.fromkeys(Scene._fields))
    material = Material(Split((scene,) * 5, (), (), ()), (2, 0, 0, 0))
    found, audits = run.demonstrate(material, WorldConfig())
    assert found.scene.tolist() == [0, 1, 2, 3, 4]
    assert found.step.tolist() == [0, 1, 2, 0, 1]
    assert list(audits) == ["logs", "generated"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_ends_in_a_report_and_its_policy_can_be_judged(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = ("--algorithm", "bc", "--count", "20", "--iterations", "2", "--seeds", "2", "--out", "RUN")
    assert drive("train", *settings) == 0
    assert "report: RUN/report.html" in capsys.readouterr().out
    artifacts = Path("RUN/artifacts")
    names = {"clips", "demos.json", "policy-0", "policy-1", "scenes.npz"}
    assert {path.name for path in artifacts.iterdir()} == names
    assert json.loads((artifacts / "demos.json").read_text())["generated"]["scenes"] == 20
    with np.load(artifacts / "scenes.npz", allow_pickle=False) as found:
        assert found["failed"].shape == (2, 2, 10)
    assert json.loads(Path("RUN/status.json").read_text())["status"] == "done"
    assert Path("RUN/report.html").stat().st_size <= 1_000_000
    before = Path("RUN/report.html").read_text()
    assert drive("train", *settings, "--resume") == 0
    assert Path("RUN/report.html").read_text() == before
    policy = str(artifacts / "policy-1")
    assert drive("evaluate", "--policy", policy, "--count", "10", "--others", "log,idm", "--out", "OUT") == 0
    judged = json.loads(Path("OUT/evaluation.json").read_text())
    assert [len(one["scenes"]) for one in judged["worlds"].values()] == [10, 10]
    with np.load(artifacts / "scenes.npz", allow_pickle=False) as found:
        failed = [row["failure"] for row in judged["worlds"]["log"]["scenes"]]
        assert failed == found["failed"][1, 0].tolist()
    assert "Evaluation: bc" in Path("OUT/report.html").read_text()
    assert all(path.stat().st_size < MOST_BYTES + 1000 for path in Path("OUT/clips").iterdir())
    assert drive("evaluate", "--policy", policy, "--count", "32", "--out", "MORE") == 0
    figures = json.loads(Path("MORE/evaluation.json").read_text())["worlds"]["log"]["figures"]
    assert {name: figures[name]["failure"]["n"] for name in ("all", "top50", "top10")} == {
        "all": 32,
        "top50": 16,
        "top10": 3,
    }
    capsys.readouterr()
    assert drive("evaluate", "--policy", policy, "--count", "10", "--others", "sim", "--out", "OUT") == 2
    assert "use log or idm" in capsys.readouterr().err
