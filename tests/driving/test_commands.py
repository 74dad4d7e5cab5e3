"""`gleanings drive` from the outside: what it writes, how it goes on after a stop, and what it says to bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gleanings.driving as gd
from gleanings.cli import main
from gleanings.core.metrics import read_metrics
from gleanings.core.rundir import RunDirectory

from . import _files

RUN = ["drive", "run", "straight", "--agents", "idm", "--count", "3", "--batch", "2", "--steps", "12", "--replays", "1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drive") / "run"
    assert main([*RUN, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    """A folder with two scenes in two formats, one that breaks off, and a file of no known format."""
    folder = tmp_path_factory.mktemp("logs")
    _files.write_nocturne(folder)
    _files.write_commonroad(folder)
    (folder / "cut.xml").write_bytes((folder / "small.xml").read_bytes()[:-70])
    (folder / "other.bin").write_bytes(b"\x7fELF" + bytes(64))
    return folder


def test_a_run_leaves_rows_report_and_replay(run: Path):
    rows = read_metrics(run / "metrics.jsonl").rows
    assert sorted(int(row["step"]) for row in rows) == [0, 1, 2]
    assert all(row["collision"] == 0.0 and row["ade_m"] < 0.05 for row in rows)
    found = json.loads((run / "artifacts" / "evaluation.json").read_text())
    assert found["means"]["off_road"]["estimate"] == 0.0
    assert len(found["scenes"]) == 3
    (page,) = (run / "artifacts").glob("replay-*.html")
    report = (run / "report.html").read_text()
    assert page.name in report
    assert "straight-0-1" in report
    assert RunDirectory.open(run).status["status"] == "done"


def test_an_interrupted_run_takes_its_rows_over(run: Path, tmp_path: Path, capsys, monkeypatch):
    from gleanings.driving import run as module

    done, asked = [], []

    def watched(*args, **kwargs):
        asked.append(list(kwargs["indices"]))
        for item in ROLL_OUT(*args, **kwargs):
            yield item
            done.append(item[0])
            if len(done) == 2:
                raise KeyboardInterrupt

    ROLL_OUT = module.roll_out
    monkeypatch.setattr(module, "roll_out", watched)
    folder = tmp_path / "run"
    assert main([*RUN, "--out", str(folder)]) == 130
    assert f"gleanings resume {folder}" in capsys.readouterr().err
    assert RunDirectory.open(folder).status["status"] == "stopped"
    kept = {int(row["step"]): row for row in read_metrics(folder / "metrics.jsonl").rows}
    assert len(kept) == 2
    assert main(["resume", str(folder)]) == 0
    assert set(asked[1]) == {0, 1, 2} - set(kept)
    rows = {int(row["step"]): row for row in read_metrics(folder / "metrics.jsonl").rows}
    whole = {int(row["step"]): row for row in read_metrics(run / "metrics.jsonl").rows}
    for step, row in rows.items():
        assert {k: v for k, v in row.items() if k != "time"} == {k: v for k, v in whole[step].items() if k != "time"}
    pages = [path.name for path in (folder / "artifacts").glob("replay-*.html")]
    assert pages == [path.name for path in (run / "artifacts").glob("replay-*.html")]


def test_rows_taken_over_keep_what_was_not_defined(tmp_path: Path):
    from gleanings.driving.run import Drive, _finished

    with RunDirectory.create(tmp_path / "run", Drive("straight")) as folder:
        folder.metrics.write(1, {"n": 1.0, "collision": 0.0, "collision_n": 1.0, "red_light_n": 0.0})
        folder.metrics.flush() if hasattr(folder.metrics, "flush") else None
        row = _finished(folder, 2)[1]
    assert row["red_light"] != row["red_light"]
    assert row["collision"] == 0.0


def test_a_finished_run_is_not_written_over(run: Path, capsys):
    assert main([*RUN, "--out", str(run)]) == 2
    assert "exists: resume it" in capsys.readouterr().err


def test_compile_inspect_and_view(records: Path, tmp_path: Path, capsys):
    out = tmp_path / "compiled"
    assert main(["drive", "compile", str(records), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("2 scenes")
    assert "cut.xml" in said.err
    assert "other.bin" in said.err
    assert main(["drive", "compile", str(records), "--out", str(out)]) == 0
    assert "2 files were there already" in capsys.readouterr().out
    (file, *_) = sorted(out.glob("*.scenes"))
    for path, said in ((file, "1 compiled scenes"), (records / "small.xml", "commonroad")):
        assert main(["drive", "inspect", str(path)]) == 0
        assert said in capsys.readouterr().out
    for name in ("a.html", "a.gif"):
        assert main(["drive", "view", str(file), "--out", str(tmp_path / name)]) == 0
        assert (tmp_path / name).stat().st_size > 10_000


def test_view_takes_all_families_in_turn(tmp_path: Path):
    page = tmp_path / "page.html"
    assert main(["drive", "view", "all", "--scene", "16", "--out", str(page)]) == 0
    assert "straight-0-1" in page.read_text()


def test_scenes_without_a_step_are_passed_over(tmp_path: Path):
    from gleanings.driving.run import Drive, scenes_of

    scene = gd.make_scenes("straight")[0]
    ended = scene._replace(start=np.int32(len(scene.log.x) - 1))
    gd.save_scenes(tmp_path, [scene, ended])
    kept, skipped = scenes_of(Drive(str(tmp_path)))
    assert len(kept) == 1
    assert skipped == ["record straight-0-0: starts at its last step: nothing is left to simulate"]


def test_view_lists_the_pages_of_a_run(run: Path, capsys):
    assert main(["drive", "view", str(run)]) == 0
    assert "replay-" in capsys.readouterr().out


def test_view_shows_a_scene_of_a_run_as_it_was_and_as_a_film(run: Path, tmp_path: Path, capsys):
    (page,) = (run / "artifacts").glob("replay-*.html")
    number, again, film = page.stem.split("-")[1], tmp_path / "again.html", tmp_path / "film.gif"
    for out in (again, film):
        assert main(["drive", "view", str(run), "--scene", number, "--out", str(out)]) == 0
    assert again.read_text() == page.read_text()
    with Image.open(film) as picture:
        assert picture.n_frames > 10
    assert main(["drive", "view", str(run), "--scene", "3"]) == 2
    assert "the run has scenes 0 to 2" in capsys.readouterr().err


def test_text_of_a_file_cannot_steer_the_terminal(tmp_path: Path, capsys):
    path = _files.write_nocturne(tmp_path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"scenario_id": "\ud800\x1b[2J\nx"}))
    assert main(["drive", "inspect", str(path)]) == 0
    assert capsys.readouterr().out.startswith("scene \\ud800\\x1b[2J\\nx\n")
    content["objects"][0] |= {"id": "\x1b]0;x\x07", "type": None}
    content["tl_states"] = {"\x1b]0;x\x07": 1}
    path.write_text(json.dumps(content))
    assert main(["drive", "inspect", str(path)]) == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said[:-1].isprintable()


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert main(["drive", "inspect", str(tmp_path / "pipe")]) == 3
    assert "is a device, pipe" in capsys.readouterr().err


def test_families_are_listed(capsys):
    assert main(["drive", "families"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(gd.FAMILIES)
    assert len(lines) == 16


@pytest.mark.parametrize(
    ("arguments", "code", "match"),
    [
        (["run", "strait"], 2, "neither a file or folder nor a family; families: straight"),
        (["run", "missing.tfrecord"], 3, "missing.tfrecord"),
        (["run", "straight", "--count", "0"], 2, "1 or more"),
        (["view", "straight", "--scene", "-1"], 2, "numbered from 0"),
        (["view", "straight", "--out", "film.avi"], 2, "a .gif or an .mp4"),
        (["view", "nothing.json"], 3, "nothing.json"),
        (["inspect", "nothing.json"], 3, "nothing.json"),
        (["compile", "nothing.json", "--out", "c"], 3, "nothing.json"),
        (["run", "strait", "--out", "kept"], 2, "neither a file"),
        (["run", "straight", "--steps", "0", "--out", "kept"], 2, "steps 0"),
        (["run", "straight", "--limit", "0"], 2, "limit must be 1 or more"),
        (["run", "straight", "--limit", "-5"], 2, "limit must be 1 or more"),
        (["view", "strait"], 2, "neither a file or folder nor a family; families: straight"),
        (["view", "straight", "--out", "file/a.html"], 2, "cannot be written"),
        (["compile", "file", "--out", "file/c"], 2, "no folder can be made there"),
        (["compile", ".", "--out", "kept", "--simplify", "nan"], 2, "simplify_m is nan"),
        (["compile", ".", "--out", "kept", "--simplify", "-1"], 2, "simplify_m is -1"),
        (["fly"], 2, "unknown command of `gleanings drive`"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], code: int, match: str, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["drive", *arguments]) == code
    assert not (tmp_path / "kept").exists()
    said = capsys.readouterr().err
    assert match in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_reading_and_viewing_load_no_jax(records: Path, tmp_path: Path):
    script = f"""
import sys
import gleanings.driving as gd
from gleanings.cli import main
gd.save_replay(gd.load_scenes({str(records / "small.json")!r})[0], None, {str(tmp_path / "r.html")!r})
assert main(["drive", "inspect", {str(records / "small.json")!r}]) == 0
assert main(["drive", "compile", {str(records / "small.json")!r}, "--out", {str(tmp_path / "c")!r}]) == 0
assert "jax" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there():
    assert set(gd.__all__) == set(dir(gd))
    for name in gd.__all__:
        assert getattr(gd, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Simulatr'"):
        _ = gd.Simulatr


def test_no_public_name_hides_behind_a_module():
    """Importing `gleanings.driving.x` binds `x` in the package to the module, and so must not be a public name."""
    modules = {path.stem for path in Path(gd.__file__).parent.glob("*") if path.stem != "__init__"}
    assert modules.isdisjoint(gd.__all__)
