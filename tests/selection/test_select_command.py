"""`gleanings select`: what it prints and writes, and its exit codes."""

import csv
import json

import numpy as np
import pytest

from gleanings.cli import main


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    n = 900
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
    assert "propensity: none logged" in capsys.readouterr().out
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
