"""Studies: pieces that survive a kill, evidence on disk, verdicts, and the tables made from them."""

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from gleanings import studies
from gleanings.core import _parts, study
from gleanings.core._cost import Meter, machine
from gleanings.core._parts import to_json, write_json, write_text
from gleanings.core.errors import ConfigError, DataError
from gleanings.core.stats import Interval
from gleanings.core.study import (
    Check,
    Cost,
    Evidence,
    Parts,
    Verdict,
    print_scoreboard,
    refresh_readme,
    results_table,
    run_study,
    scoreboard,
)

from ._toy_study import STUDY, config, toy


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (np.array([1.0, np.nan, np.inf]), [1.0, None, None]),
        (np.bool_(True), True),
        ({1: (2.5, "a"), "b": None}, {"1": [2.5, "a"], "b": None}),
        (Path("a/b"), "a/b"),
        (Interval(1.0, 0.0, math.nan, 0.95, 3), {"estimate": 1.0, "low": 0.0, "high": None, "level": 0.95, "n": 3}),
    ],
)
def test_values_become_json(value, expected):
    assert to_json(value) == expected


def test_jax_arrays_become_json():
    import jax.numpy as jnp

    assert to_json({"x": jnp.arange(3)}) == {"x": [0, 1, 2]}


@pytest.mark.parametrize("value", [{"a": [1, object()]}, {"a": {1, 2}}, {"a": b"bytes"}, {"a": 1j}])
def test_what_json_cannot_hold_is_named(value):
    with pytest.raises(ConfigError, match=r"^study\.a"):
        to_json(value, "study")


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
trees = st.recursive(leaves, lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=20)


@settings(max_examples=40)
@given(trees)
def test_written_json_reads_back(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "round_trip.json"
    write_json(path, value)
    assert _parts.read_json(path) == value == to_json(value)


def test_numbers_stand_on_one_line(tmp_path):
    write_json(tmp_path / "a.json", {"x": [[1.0, 2.0], [3.0]], "s": ["[", "b"]})
    assert "[1.0, 2.0]" in (tmp_path / "a.json").read_text()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_text(tmp_path / "a", "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(_parts.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_text(tmp_path / "a", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


def counted(parts: Parts, name: str = "one", value: object = 1.5) -> tuple[object, int]:
    """The piece, and how often it was computed."""
    calls = []
    return parts.get(name, lambda: calls.append(1) or value), len(calls)


def test_a_piece_is_computed_once_and_is_the_same_when_read_again(tmp_path):
    value = {"curve": np.linspace(0, 1, 3, dtype=np.float32), 3: math.nan}
    fresh, first = counted(Parts(tmp_path), value=value)
    again, second = counted(Parts(tmp_path), value="other")
    assert (first, second) == (1, 0)
    assert fresh == again == {"curve": [0.0, 0.5, 1.0], "3": None}


@pytest.mark.parametrize("key", ["size", "seed", "data", "code"])
def test_a_piece_of_another_configuration_is_not_reused(tmp_path, key):
    settings = {"size": "quick", "seed": 1, "data": [["a", 1, 2]], "code": "x"}
    counted(Parts(tmp_path, settings))
    assert counted(Parts(tmp_path, dict(settings)))[1] == 0
    assert counted(Parts(tmp_path, {**settings, key: "other"}), value=2)[1] == 1


@pytest.mark.parametrize(
    "damage", ["", "{", '{"fingerprint": {}}', "[]", "null", "3", "\udcff", '{"cost": 1}', "[" * 5000]
)
def test_a_damaged_piece_is_computed_again(tmp_path, damage):
    counted(Parts(tmp_path))
    (tmp_path / "one.json").write_text(damage, errors="surrogateescape")
    assert counted(Parts(tmp_path), value=7) == (7, 1)
    assert counted(Parts(tmp_path)) == (7, 0)


def test_every_truncation_of_a_piece_is_noticed(tmp_path):
    counted(Parts(tmp_path), value=[1, 2, 3])
    whole = (tmp_path / "one.json").read_bytes()
    for length in range(0, len(whole) - 2, 7):
        (tmp_path / "one.json").write_bytes(whole[:length])
        assert counted(Parts(tmp_path), value=[1, 2, 3])[1] == 1


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "a\n"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="use letters"):
        counted(Parts(tmp_path), name)


def test_progress_is_told_before_and_after(tmp_path):
    seen = []
    counted(Parts(tmp_path), "a")
    parts = Parts(tmp_path, progress=lambda *state: seen.append(state))
    counted(parts, "a")
    parts.expect(2)
    counted(parts, "b")
    counted(parts, "b")
    assert seen == [("a", 1, None), ("b", 1, 2), ("b", 2, 2), ("b", 2, 2)]


def test_only_pieces_of_an_earlier_process_count_as_reused(tmp_path):
    def work():
        return sum(i * i for i in range(200_000))

    first = Parts(tmp_path)
    first.get("a", work)
    first.get("a", work)
    assert first.reused == Cost(0.0, 0.0, 0.0)
    second = Parts(tmp_path)
    second.get("a", work)
    assert second.reused.wall_s > 0.001
    assert second.reused.cpu_s > 0.001


CHILD = """
import sys, time
from pathlib import Path
from gleanings.core.study import Parts
parts = Parts(Path(sys.argv[1]), {"seed": 1})
for i in range(40):
    print(parts.get(f"p{i}", lambda: time.sleep(0.005) or [i * 0.1] * 2000)[0], flush=True)
"""


def test_a_killed_study_continues_where_it_was(tmp_path):
    command, killed = [sys.executable, "-c", CHILD, str(tmp_path)], 0
    for wait in (0.02, 0.05, 0.08):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout.readline()
            time.sleep(wait)
            os.kill(child.pid, signal.SIGKILL)
            child.stdout.read()
        killed += child.returncode == -signal.SIGKILL
    finished = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("p*.json")}
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert killed
    assert [float(line) for line in done.stdout.split()] == [i * 0.1 for i in range(40)]
    assert finished
    assert all((tmp_path / name).stat().st_mtime_ns == stamp for name, stamp in finished.items())


def test_a_run_leaves_evidence_and_report(tmp_path):
    evidence, verdict = run_study(toy(), config(tmp_path))
    assert evidence.values == {"first": [0.5, 1.0, 2.0], "second": [0.5, 1.0, 2.0]}
    assert (evidence.study, evidence.size, evidence.data) == ("toy", "quick", "")
    assert Evidence.load(tmp_path / "evidence.json") == evidence
    stored = json.loads((tmp_path / "evidence.json").read_text())
    assert Verdict.from_dict(stored["verdict"]) == verdict
    assert stored["about"]["paper_figure"] == "Table 1: 0.9."
    html = (tmp_path / "report.html").read_text()
    order = [f"<h2>{name}</h2>" for name in ("Claim", "In the paper", "Found", "Protocol", "Decision rule", "Citation")]
    assert [html.index(text) for text in order] == sorted(html.index(text) for text in order)
    assert "@article{toy}" in html
    assert evidence.machine["processor"] in html


def test_evidence_names_its_data_briefly(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "LICENSE").write_text("of no interest")
    for count, name in enumerate(("a.csv", "b.csv", "c.csv", "d.csv"), 1):
        (tmp_path / "logs" / name).write_text(name)
        evidence, _ = run_study(toy(), config(tmp_path / name, size="smoke", data=tmp_path / "logs"))
        assert evidence.data == ("a.csv", "a.csv, b.csv", "a.csv and 2 more files", "a.csv and 3 more files")[count - 1]


def test_smoke_gives_no_verdict(tmp_path):
    evidence, verdict = run_study(toy(), config(tmp_path, size="smoke"))
    assert verdict.label == "not attempted"
    assert len(verdict.checks) == 2
    assert toy().decide(evidence) == verdict


def test_a_resumed_run_has_the_cost_of_both_and_equal_values(tmp_path):
    def slow(stop: bool):
        def run(config):
            config.parts.get("a", lambda: time.sleep(0.1))
            if stop:
                raise KeyboardInterrupt
            return {"b": config.parts.get("b", lambda: 2.0)}

        return run

    plain = {"judge": lambda evidence: Verdict("reproduced", "Yes.")}
    with pytest.raises(KeyboardInterrupt):
        run_study(toy(run=slow(True), **plain), config(tmp_path))
    assert not (tmp_path / "evidence.json").exists()
    started = time.perf_counter()
    evidence, _ = run_study(toy(run=slow(False), **plain), config(tmp_path))
    assert time.perf_counter() - started < 5
    assert evidence.values == {"b": 2.0}
    assert evidence.cost.wall_s >= 0.1


def test_evidence_must_be_a_mapping(tmp_path):
    with pytest.raises(ConfigError, match="must return a dict, got list"):
        run_study(toy(run=lambda config: [1.0]), config(tmp_path))


def test_settings_follow_seed_data_and_code(tmp_path, monkeypatch):
    data = tmp_path / "images.npz"
    data.write_bytes(b"123")
    base = config(tmp_path, data=data)
    assert base.parts.fingerprint["data"] == [["images.npz", 3, data.stat().st_mtime_ns]]
    assert config(tmp_path, data=data).parts.fingerprint == base.parts.fingerprint
    assert config(tmp_path, data=data, seed=1).parts.fingerprint != base.parts.fingerprint
    data.write_bytes(b"1234")
    assert config(tmp_path, data=data).parts.fingerprint != base.parts.fingerprint
    assert (
        config(tmp_path, data=tmp_path).parts.fingerprint["data"]
        == config(tmp_path, data=data).parts.fingerprint["data"]
    )
    with pytest.raises(DataError, match=r"absent\.npz: cannot read"):
        config(tmp_path, data=tmp_path / "absent.npz")
    monkeypatch.setattr(study, "code_digest", lambda: "newer")
    assert config(tmp_path).parts.fingerprint["code"] == "newer"


def test_code_digest_sees_every_change(tmp_path, monkeypatch):
    monkeypatch.setattr(_parts.gleanings, "__file__", str(tmp_path / "__init__.py"))
    found = {_parts.code_digest()}
    for content in ("a = 1", "a = 2"):
        (tmp_path / "module.py").write_text(content)
        found.add(_parts.code_digest())
    (tmp_path / "module.py").rename(tmp_path / "other.py")
    found.add(_parts.code_digest())
    assert len(found) == 4


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"study": "a"}', '{"study": 1, "cost": {"wall": 2}}'])
def test_what_is_no_evidence_is_refused(tmp_path, text):
    path = tmp_path / "evidence.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"evidence\.json: not "):
        Evidence.load(path)
    with pytest.raises(DataError, match="no such file"):
        Evidence.load(tmp_path / "absent.json")


def test_verdicts_round_trip_and_check_their_label():
    verdict = Verdict(
        "underpowered", "s", (Check("a", "b", "c", Interval(1.0, 0.0, 2.0, 0.9, 5), True), Check("d", "e", "f"))
    )
    assert Verdict.from_dict(to_json(verdict)) == verdict
    unknown = Verdict("partly", "s", (Check("a", "b", "c", Interval(1.0, math.nan, 2.0, 0.9, 5)),))
    assert str(Verdict.from_dict(to_json(unknown))) == str(unknown)
    with pytest.raises(ConfigError, match="proven"):
        Verdict.from_dict({"label": "proven", "summary": "", "checks": []})
    with pytest.raises(ConfigError, match="not a verdict"):
        Verdict.from_dict({"label": "partly"})


def test_costs_are_measured():
    meter = Meter(reset_peak=True)
    block = np.ones(30_000_000 // 8)
    while meter.read().cpu_s < 0.05:
        block.sum()
    time.sleep(0.05)
    cost = meter.read()
    assert 0.1 <= cost.wall_s < 30
    assert cost.peak_memory_mb > 30
    assert cost + Cost(1.0, 2.0, 1e6) == Cost(cost.wall_s + 1, cost.cpu_s + 2, 1e6)
    subprocess.run([sys.executable, "-c", "sum(range(5_000_000))"], check=True)
    assert meter.read().cpu_s > cost.cpu_s + 0.02
    assert machine()["cores"] >= 1


@pytest.fixture
def entries(tmp_path):
    evidence, verdict = run_study(toy(), config(tmp_path / "toy"))
    return [toy().entry(evidence, verdict, tmp_path / "toy" / "report.html"), toy("idle").entry()]


def test_scoreboard_shows_every_study_and_its_json_says_the_same(tmp_path, entries):
    page = scoreboard(entries, tmp_path)
    html, records = page.read_text(), json.loads((tmp_path / "scoreboard.json").read_text())
    assert [record["name"] for record in records] == ["toy", "idle"]
    assert [record["verdict"]["label"] for record in records] == ["partly", "not attempted"]
    assert records[0]["run"]["cost"]["wall_s"] == entries[0].evidence.cost.wall_s
    assert (records[0]["report"], records[1]["report"], records[1]["run"]) == ("toy/report.html", None, None)
    assert "values" not in records[0]["run"]
    for text in ("The toy study", "What toy claims", "Table 1: 0.9.", "n = 3", "MB peak", '<a href="toy/report.html">'):
        assert html.count(text) == 1 + (text == "Table 1: 0.9.")
    assert html.count("<svg") == 1
    assert "gleanings reproduce idle" in html
    assert "&lt;positive&gt;" in html


def test_terminal_table_says_all(entries):
    console = Console(width=160, record=True, file=io.StringIO())
    print_scoreboard(entries, console)
    text = console.export_text()
    interval = entries[0].verdict.checks[0].interval
    for part in (
        "toy",
        "◐ partly",
        "✓ holds",
        "– undecided",
        f"mean | of three {interval}, n = 3",
        "idle",
        "not been run",
    ):
        assert part in text


def test_readme_table_comes_from_results(tmp_path, entries):
    (tmp_path / "results").mkdir()
    (tmp_path / "toy" / "evidence.json").rename(tmp_path / "results" / "toy.json")
    stored = json.loads((tmp_path / "results" / "toy.json").read_text())
    table = results_table(tmp_path / "results", [entry.about for entry in entries])
    head, _, ran, idle = table.splitlines()
    cells = ran.replace("\\|", "").count("|")
    assert cells == head.count("|") == idle.replace("\\|", "").count("|") == 6
    assert "[The toy study](https://arxiv.org/abs/2106.08056)" in ran
    assert "✓ C1: mean \\| of three" in ran
    assert "n = 3<br>– C2: not measured" in ran
    assert "**partly** (quick, 20" in ran
    assert "**not attempted**" in idle
    for damage in ({}, {**stored, "about": {"name": "a"}}, {**stored, "verdict": None}):
        (tmp_path / "results" / "bad.json").write_text(json.dumps(damage))
        with pytest.raises(DataError, match=r"bad\.json"):
            results_table(tmp_path / "results")


def test_readme_is_refreshed_between_its_marks(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# A\n<!-- results:begin -->\nold\n<!-- results:end -->\nend\n")
    assert not refresh_readme(readme, "| new |\n", check=True)
    assert "old" in readme.read_text()
    assert not refresh_readme(readme, "| new |\n")
    assert readme.read_text() == "# A\n<!-- results:begin -->\n\n| new |\n\n<!-- results:end -->\nend\n"
    assert refresh_readme(readme, "| new |\n", check=True)
    readme.write_text("no marks")
    with pytest.raises(ConfigError, match="results:begin"):
        refresh_readme(readme, "")


def test_unknown_study_names_the_nearest(monkeypatch):
    with pytest.raises(ConfigError, match="did you mean 'coupled-gradients'"):
        studies.load("coupled-gradient")
    monkeypatch.setitem(studies.STUDIES, "toy", f"{toy.__module__}:STUDY")
    assert studies.load("toy") is STUDY
