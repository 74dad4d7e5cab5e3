"""`gleanings select`: what it prints and writes, and its exit codes."""

import csv
import json

import numpy as np
import pytest

from gleanings.cli import main
from gleanings.selection.question import Asked


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    n = 2000
    x = rng.normal(size=(n, 3))
    arm = rng.integers(0, 2, n)
    click = (rng.random(n) < 0.5 + 0.3 * np.tanh(x[:, 0]) * (2 * arm - 1)).astype(int)
    path = tmp_path / "log.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["arm", "click", "p", "x0", "x1", "x2"])
        writer.writerows([["left", "right"][a], c, 0.5, *row.round(4)] for a, c, row in zip(arm, click, x, strict=True))
    return path


def run(table, out, *more: str) -> int:
    named = ["--action", "arm", "--reward", "click", "--propensity", "p", "--classes", "constant", "linear:1,all"]
    return main(["select", str(table), *named, "--out", str(out), *more])


def test_a_table_becomes_a_decision_with_a_report(table, tmp_path, capsys):
    assert run(table, tmp_path / "run", "--context", "x0:x2", "--require-certified") == 0
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("linear[1], class 2 of 3 | certified | value 0.")
    assert first.endswith("unseen rows | 0 alarms")
    decision = json.loads((tmp_path / "run" / "artifacts" / "decision.json").read_text())
    assert (decision["index"], decision["verdict"]) == (1, "certified")
    assert decision["value"]["DR"]["low"] > 0.5
    assert (tmp_path / "run" / "artifacts" / "overlap.csv").read_text().startswith("n,ess,")
    report = (tmp_path / "run" / "report.html").read_text()
    assert "linear[1]" in report
    assert "share under the choice" in report
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "done"


def test_modbe_writes_its_certificate(table, tmp_path, capsys):
    assert run(table, tmp_path / "run", "--rule", "modbe") == 0
    rows = list(csv.DictReader((tmp_path / "run" / "artifacts" / "certificate.csv").open()))
    assert {row["small"] for row in rows} == {"constant", "linear[1]"}
    assert "Comparisons" in (tmp_path / "run" / "report.html").read_text()


def test_alarms_are_printed_and_can_fail_the_command(table, tmp_path, capsys):
    arguments = ["--action", "arm", "--reward", "click", "--context", "x0", "--out", str(tmp_path / "run")]
    assert main(["select", str(table), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "propensity: none logged, so they are estimated" in printed
    assert " by DR on " in printed
    assert "IPS" not in json.loads((tmp_path / "run" / "artifacts" / "decision.json").read_text())["value"]
    arguments[-1] = str(tmp_path / "again")
    assert main(["select", str(table), *arguments, "--require-certified"]) == 1
    assert "the verdict is 'uncertified'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--reward", "clik"], 2, "no column 'clik'; did you mean 'click'?"),
        (["--classes", "forest"], 2, "unknown class 'forest'"),
        (["--report-fraction", "0.9"], 2, "report_fraction 0.9"),
        (["--reward", "arm"], 3, "holds text"),
        (["--rule", "bvft"], 2, "rule 'bvft' is not for logs of decisions; use auto, hold-out"),
        (["--episode", "arm"], 2, "--propensity belongs to logs of one decision a row"),
    ],
)
def test_bad_options_are_one_line(table, tmp_path, capsys, more, code, message):
    assert run(table, tmp_path / "run", *more) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_missing_file_is_a_data_error(tmp_path, capsys):
    assert run(tmp_path / "absent.csv", tmp_path / "run") == 3
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["trap", "nested", "mixing", "digits"])
def test_demonstrations_need_no_file(name, tmp_path, capsys):
    assert main(["select", f"demo:{name}", "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    if name == "trap":
        assert printed.startswith("linear[2], class 2 of 7 | certified")
    else:
        assert float(printed.split("truth: regret ")[1].split()[0]) < 0.2
    assert main(["select", "demo:none", "--out", str(tmp_path / "no")]) == 2
    assert "unknown demonstration 'none'; use trap, digits" in capsys.readouterr().err


def test_episodes_become_a_decision(tmp_path, capsys):
    rng = np.random.default_rng(0)
    path = tmp_path / "trips.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trip", "s0", "s1", "a", "r"])
        for trip in range(60):
            for _ in range(20):
                s, a = rng.normal(size=2).round(3), int(rng.integers(0, 2))
                writer.writerow([trip, *s, a, round(s[0] * (2 * a - 1) + 0.3 * rng.normal(), 3)])
    named = ["--episode", "trip", "--action", "a", "--reward", "r", "--discount", "0.5", "--out", str(tmp_path / "run")]
    assert main(["select", str(path), *named, "--classes", "constant", "linear:1,all"]) == 0
    assert capsys.readouterr().out.startswith("linear[1], class 2 of 3 | certified | 0 alarms")
    assert "60 of 1200 rows left out" in (tmp_path / "run" / "report.html").read_text()
    assert main(["select", str(path), *named[:-1], str(tmp_path / "no"), "--rule", "ccs"]) == 2
    assert "rule 'ccs' is not for logs of episodes" in capsys.readouterr().err


def test_an_interrupted_run_is_resumed_to_the_same_decision(table, tmp_path, capsys, monkeypatch):
    assert run(table, tmp_path / "whole") == 0
    monkeypatch.setattr(Asked, "answer", interrupt)
    assert run(table, tmp_path / "cut") == 130
    assert f"continue with: gleanings resume {tmp_path / 'cut'}" in capsys.readouterr().err
    assert json.loads((tmp_path / "cut" / "status.json").read_text())["status"] == "stopped"
    assert not (tmp_path / "cut" / "artifacts").exists()
    monkeypatch.undo()
    assert main(["resume", str(tmp_path / "cut")]) == 0
    for name in ("decision.json", "overlap.csv", "policy.npz"):
        assert (tmp_path / "cut" / "artifacts" / name).read_bytes() == (
            tmp_path / "whole" / "artifacts" / name
        ).read_bytes()
    capsys.readouterr()
    table.write_text(table.read_text() + "left,1,0.5,0,0,0\n")
    assert main(["resume", str(tmp_path / "cut")]) == 3
    assert "the file has changed since the run began" in capsys.readouterr().err
    assert run(table, tmp_path / "cut") == 2
    assert "exists" in capsys.readouterr().err


def interrupt(self):
    raise KeyboardInterrupt


def test_a_run_with_a_bad_column_leaves_no_folder(table, tmp_path):
    assert run(table, tmp_path / "run", "--context", "x7") == 2
    assert not (tmp_path / "run").exists()
