"""The command: quick help, one-line errors with their exit codes, and a reproduction from start to citation."""

import hashlib
import importlib.util
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gleanings import _doctor, _fetch, _progress, _readme, _reproduce, cli, studies
from gleanings.core.errors import ConfigError, DataError

SCRIPT = Path(__file__).with_name("_coin.py")


@pytest.fixture
def coin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The registry holds the coin studies alone, and the current folder is an empty one."""
    spec = importlib.util.spec_from_file_location("_coin", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "_coin", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(studies, "STUDIES", module.REGISTRY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def the_run() -> Path:
    (folder,) = Path("runs").glob("reproduce-*")
    return folder


def test_help_is_quick_and_imports_neither_jax_nor_numpy():
    command = [sys.executable, "-c", "import sys; from gleanings.cli import main; main(sys.argv[1:]);"
               "print([m for m in ('jax', 'numpy', 'rich', 'tyro') if m in sys.modules])", "--help"]  # fmt: skip
    seconds, output = [], ""
    for _ in range(3):
        start = time.perf_counter()
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        seconds.append(time.perf_counter() - start)
    assert statistics.median(seconds) < 0.5
    assert all(name in output for name in cli.COMMANDS)
    assert output.endswith("\n[]\n")


def test_modules_that_promise_it_do_not_import_jax():
    core = ("config", "executor", "metrics", "report", "rundir", "stats", "study")
    others = ("cli", "data.images", "studies", "_reproduce", "_fetch")
    names = ["gleanings", *(f"gleanings.core.{n}" for n in core), *(f"gleanings.{n}" for n in others)]
    code = f"import sys, {', '.join(names)}; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("gleanings 0.")


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["reprduce"], 2, "unknown command 'reprduce'; did you mean 'reproduce'?"),
        (["xyzzy"], 2, "unknown command 'xyzzy'; choose from reproduce, resume"),
        (["reproduce", "cion"], 2, "unknown study 'cion'; did you mean 'coin'?"),
        (["reproduce", "--data", "absent.npz"], 3, "absent.npz: no such file or folder"),
        (["reproduce", "--resume"], 2, "no unfinished reproduction in runs; leave out --resume"),
        (["reproduce", "bent"], 3, "coin.npz: the coin is bent"),
        (["resume", "absent"], 2, "absent is not the folder of a reproduction"),
        (["report", "absent"], 2, "absent holds no evidence of a study"),
        (["cite", "absent"], 2, "absent holds no evidence of a study"),
        (["fetch", "fashion-mnits"], 2, "unknown data set 'fashion-mnits'; did you mean 'fashion-mnist'?"),
    ],
)
def test_errors_are_one_line_and_a_code(coin: Path, capsys: pytest.CaptureFixture[str], arguments, code, line):
    assert cli.main(arguments) == code
    error = capsys.readouterr().err
    assert error.startswith(f"error: {line}")
    assert error.count("\n") == 1


def test_debug_shows_the_traceback_and_keeps_the_code(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["reprduce", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_unexpected_error_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setitem(cli.COMMANDS, "doctor", ("", "no_such_module:f"))
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().err.startswith("error: ModuleNotFoundError: No module named 'no_such_module' (")


def test_a_room_lists_and_runs_its_own_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def count(to: int = 3) -> None:
        """Count up. Raises: nothing."""
        print(list(range(to)))

    room = type(sys)("room")
    room.COMMANDS = {"count": count}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "room", room)
    monkeypatch.setitem(cli.COMMANDS, "room", ("a room", "room"))
    assert cli.main(["room"]) == 0
    assert "count  Count up." in capsys.readouterr().out
    assert cli.main(["room", "count", "--to", "2"]) == 0
    assert capsys.readouterr().out == "[0, 1]\n"
    assert cli.main(["room", "cuont"]) == 2
    assert "unknown command of `gleanings room` 'cuont'; did you mean 'count'?" in capsys.readouterr().err


def test_reproduce_report_and_cite(coin: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["reproduce", "coin", "--seed", "7", "--commit-results", "results"]) == 0
    printed = capsys.readouterr().out
    run = the_run()
    assert "reproduced" in printed
    assert f"report: {run / 'report.html'}" in printed
    rows = json.loads((run / "scoreboard.json").read_text())
    assert [(row["name"], row["verdict"]["label"]) for row in rows] == [
        ("coin", "reproduced"),
        ("bent", "not attempted"),
    ]
    evidence = json.loads((run / "coin" / "evidence.json").read_text())
    assert evidence["values"]["first"][0] == 7
    assert (coin / "results" / "coin.json").read_text() == (run / "coin" / "evidence.json").read_text()
    assert json.loads((run / "status.json").read_text())["status"] == "done"

    (run / "report.html").unlink()
    (run / "coin" / "report.html").unlink()
    assert cli.main(["report", str(run)]) == 0
    assert "A coin" in (run / "report.html").read_text()
    assert cli.main(["report", str(run / "coin")]) == 0
    assert "heads 0.5" in (run / "coin" / "report.html").read_text()
    capsys.readouterr()
    assert cli.main(["cite", str(run)]) == 0
    assert capsys.readouterr().out == "@book{coin}\n"


def test_a_failing_study_does_not_stop_the_others(coin: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["reproduce", "bent", "coin"]) == 3
    assert "coin.npz: the coin is bent" in capsys.readouterr().err
    assert "It failed: coin.npz" in (the_run() / "scoreboard.json").read_text()
    assert (the_run() / "coin" / "evidence.json").is_file()
    assert json.loads((the_run() / "status.json").read_text())["status"] == "failed"


def test_data_and_copies_are_named_after_the_file(coin: Path):
    (coin / "mine.npz").write_bytes(b"any")
    assert cli.main(["reproduce", "coin", "--data", "mine.npz", "--out", "run", "--commit-results", "results"]) == 0
    assert json.loads((coin / "run" / "config.json").read_text())["data"] == str(coin / "mine.npz")
    assert (coin / "results" / "coin-mine.json").is_file()


def test_an_existing_folder_and_changed_settings_are_refused(coin: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["reproduce", "coin", "--out", "run"]) == 0
    assert cli.main(["reproduce", "coin", "--out", "run"]) == 2
    assert cli.main(["reproduce", "coin", "--out", "run", "--resume", "--seed", "1"]) == 2
    assert "seed: 0 -> 1" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_reproduction_continues(coin: Path, number: signal.Signals, code: int):
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "reproduce", "coin", "--seed", "5"],
        env={**os.environ, "COIN_SLEEP": "600"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (parts := list(Path("runs").glob("*/coin/parts/first.json"))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(10) == code
    assert f"continue with: gleanings resume {the_run()}" in process.stderr.read()  # type: ignore[union-attr]
    assert json.loads((the_run() / "status.json").read_text())["status"] == "stopped"
    before = json.loads(parts[0].read_text())["value"]
    subprocess.run([sys.executable, str(SCRIPT), "reproduce", "--resume"], check=True, capture_output=True)
    assert json.loads((the_run() / "coin" / "evidence.json").read_text())["values"]["first"] == before


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_names_study_and_part(monkeypatch: pytest.MonkeyPatch, terminal: bool):
    from rich.console import Console

    monkeypatch.setattr(_progress, "_QUIET_S", 0.0)
    console = Console(force_terminal=terminal, record=True, width=100, file=io.StringIO())
    with _progress.progress_of("coin", console) as show:
        show("first", 0, 2)
        show("second", 2, 2)
    text = console.export_text()
    assert "coin" in text
    assert "2/2" in text


def test_doctor_finds_no_failure_here_and_reports_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("no failure\n")
    assert "bit-equal" in printed
    monkeypatch.setattr(_doctor, "_free_memory_gib", lambda: 0.1)
    monkeypatch.setattr(_doctor, "_checkpoint", lambda: 1 / 0)
    with pytest.raises(SystemExit, match="1"):
        cli.main(["doctor"])
    assert capsys.readouterr().out.endswith("2 failure(s)\n")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for apt-get and dpkg-deb that deliver one file holding `data`."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "apt-get").write_text("#!/bin/sh\necho asked >> $GLEANINGS_CACHE/log\n: > $2.deb\n")
    (programs / "dpkg-deb").write_text('#!/bin/sh\n/bin/mkdir -p "$3/share"\nprintf data > "$3/share/a.gz"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("GLEANINGS_CACHE", str(tmp_path / "cache"))
    digest = hashlib.sha256(b"data").hexdigest()
    monkeypatch.setitem(_fetch.DATA, "toy", _fetch.DebianData("toy", "1", "share", {"a.gz": digest}, "use"))
    return tmp_path / "cache"


def test_fetch_downloads_once_and_checks(package: Path, capsys: pytest.CaptureFixture[str]):
    for _ in range(2):
        _fetch.fetch("toy")
        assert capsys.readouterr().out.startswith(f"{package / 'toy'}\n")
    assert (package / "toy" / "a.gz").read_bytes() == b"data"
    assert (package / "log").read_text() == "asked\n"
    assert {entry.name for entry in package.iterdir()} == {"toy", "log"}
    (package / "toy" / "a.gz").write_bytes(b"Data")
    with pytest.raises(DataError, match=r"a\.gz: found sha256 .* expected 3a6eb0790f39"):
        _fetch.fetch("toy")


def test_fetch_says_what_is_missing(package: Path, monkeypatch: pytest.MonkeyPatch):
    program = package.parent / "programs" / "apt-get"
    program.write_text("#!/bin/sh\necho 'E: no package toy' >&2\nexit 100\n")
    with pytest.raises(ConfigError, match=r"`apt-get download toy` failed: E: no package toy .*apt-get update"):
        _fetch.fetch("toy")
    monkeypatch.setenv("PATH", str(package))
    with pytest.raises(ConfigError, match=r"needs apt-get and dpkg-deb; otherwise put a\.gz into"):
        _fetch.fetch("toy")
    assert not (package / "toy").exists()


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GLEANINGS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    expected = Path.home() / "Library" / "Caches" if sys.platform == "darwin" else Path("/xdg")
    assert _fetch.cache() == expected / "gleanings"


def test_the_readme_table_is_made_from_results(coin: Path, monkeypatch: pytest.MonkeyPatch):
    _reproduce.reproduce(("coin",), commit_results=coin / "results")
    monkeypatch.setattr(_readme, "STUDIES", studies.STUDIES)
    readme = coin / "README.md"
    readme.write_text("<!-- results:begin -->\nold\n<!-- results:end -->\nbottom\n")
    assert _readme.main(readme, coin / "results", check=True) == 1
    assert _readme.main(readme, coin / "results", check=False) == 0
    assert _readme.main(readme, coin / "results", check=True) == 0
    text = readme.read_text()
    assert "**reproduced**" in text
    assert "old" not in text
    assert text.endswith("bottom\n")
