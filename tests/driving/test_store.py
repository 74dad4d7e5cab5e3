"""Compiled files: what is written comes back bit for bit, mapped; folders are compiled shard by shard."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from tests.driving._files import write_argoverse, write_ngsim, write_nocturne, write_scenarionet
from tests.driving._raw import driving, light, scene, straight_road

from gleanings.core.errors import ConfigError, DataError
from gleanings.data.tfrecord import write_tfrecord
from gleanings.driving import shards
from gleanings.driving.compile import compile_scene
from gleanings.driving.config import CompileConfig
from gleanings.driving.raw import RawScene
from gleanings.driving.scene import Scene, name_of
from gleanings.driving.stack import arrays_of
from gleanings.driving.store import (
    CompiledFile,
    compile_files,
    describe,
    is_compiled,
    iterate,
    load_compiled,
    save_scenes,
)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    wide = CompileConfig(objects=64)
    raws = [scene([driving(5.0 + k)], straight_road(), lights=(light(),)) for k in range(3)]
    return [compile_scene(raws[0]), compile_scene(raws[1], wide), compile_scene(raws[2])]


def equal(one: Scene, two: Scene) -> None:
    for name, array in arrays_of(one).items():
        other = arrays_of(two)[name]
        assert (other.dtype, other.shape, other.tobytes()) == (array.dtype, array.shape, array.tobytes()), name


def test_scenes_come_back_bit_for_bit_and_read_only(tmp_path: Path, scenes: list[Scene]) -> None:
    paths = save_scenes(tmp_path / "new", scenes, digest="d", licence="free")
    assert [path.name for path in paths] == ["scenes-0000.scenes", "scenes-0001.scenes"]
    loaded = [one for path in paths for one in load_compiled(path)]
    for one, two in zip(loaded, [scenes[0], scenes[2], scenes[1]], strict=True):
        equal(one, two)
    with pytest.raises(ValueError, match="read-only"):
        loaded[0].log.x[0, 0] = 1.0
    file = CompiledFile(paths[0])
    assert (len(file), file.names, file.about["digest"], file.about["licence"]) == (2, ["by hand"] * 2, "d", "free")
    with pytest.raises(IndexError):
        file[2]
    assert len(load_compiled(paths[0], limit=1)) == 1
    assert is_compiled(paths[0])
    assert not is_compiled(tmp_path / "none")


def test_the_file_is_a_safetensors_file_without_holes(tmp_path: Path, scenes: list[Scene]) -> None:
    (path,) = save_scenes(tmp_path, scenes[:1])
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    assert all(isinstance(value, str) for value in header.pop("__metadata__").values())
    spans = sorted(entry["data_offsets"] for entry in header.values())
    assert [begin for begin, _ in spans] == [0, *(end for _, end in spans[:-1])]
    assert 8 + size + spans[-1][1] == len(data)
    for name, array in arrays_of(scenes[0]).items():
        begin, end = header[name]["data_offsets"]
        assert (8 + size + begin) % 64 == 0
        assert data[8 + size + begin : 8 + size + end] == array.tobytes()


def test_reading_goes_on_behind_a_damaged_scene(tmp_path: Path, scenes: list[Scene]) -> None:
    paths = save_scenes(tmp_path, scenes)
    data = bytearray(paths[0].read_bytes())
    size = struct.unpack("<Q", data[:8])[0]
    data[8 + size + json.loads(data[8 : 8 + size])["log.x"]["data_offsets"][1] - 1] ^= 1  # in the last scene
    paths[0].write_bytes(data)
    (tmp_path / "other").write_bytes(b"no scenes")
    items = list(iterate([paths[0], tmp_path / "other", paths[1]]))
    assert [isinstance(item, Scene) for item in items] == [True, False, False, True]
    assert "does not match its CRC32C; run compile again" in str(items[1])


def test_a_file_is_described(tmp_path: Path, scenes: list[Scene]) -> None:
    text = describe(save_scenes(tmp_path, scenes, licence="free")[0], limit=1)
    wanted = ("2 compiled scenes", "free", "1 in 32 slots, 1 ego", "2 edge segments, 6 lanes", "lights   1", "... more")
    for part in wanted:
        assert part in text


def test_what_cannot_be_saved_is_refused(tmp_path: Path, scenes: list[Scene]) -> None:
    with pytest.raises(ConfigError, match="no scenes"):
        save_scenes(tmp_path, [])
    with pytest.raises(ConfigError, match="cannot be called digest"):
        save_scenes(tmp_path, scenes, notes={"digest": "x"})


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A TFRecord whose records stand for scenes: 'k' is a car at k m/s, 'bad' is broken. Counts what is decoded."""

    def read(work: tuple[Path, int, str, bytes]) -> list[RawScene]:
        READ.append(work[3])
        if work[3] == b"bad":
            raise DataError("broken", work[0], work[1])
        return [scene([driving(float(work[3]))])]

    READ.clear()
    monkeypatch.setattr(shards, "read_work", read)
    monkeypatch.setattr(shards, "split", lambda path: ((path, k, "womd", one) for k, one in enumerate(RECORDS)))
    write_tfrecord(tmp_path / "a.tfrecord", RECORDS)
    return tmp_path / "a.tfrecord"


def _edges(paths: tuple[Path, ...], out: Path) -> list[int]:
    """Road edges of the scenes of a folder into which the sources are compiled."""
    assert compile_files(paths, out).errors == []
    found = [one for file in sorted(out.iterdir()) for one in load_compiled(file)]
    return [int((one.edges.inv_l2 > 0).sum()) for one in found]


RECORDS = [b"1", b"bad", b"2", b"3", b"4", b"bad", b"5"]
READ: list[bytes] = []


def test_records_become_shards_and_a_second_run_skips_them(tmp_path: Path, source: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = compile_files([source], tmp_path / "out", shard=2, progress=lambda *args: calls.append(args))
    assert (report.scenes, report.skipped, len(report.errors), calls) == (5, 0, 2, [(1, 1)])
    files = report.sources[0].files
    assert len(files) == 3
    speeds = [float(one.objects.top_speed[0]) for file in files for one in load_compiled(file)]
    np.testing.assert_allclose(speeds, [1, 2, 3, 4, 5], rtol=1e-4)
    READ.clear()
    again = compile_files([source], tmp_path / "out", shard=2)
    assert (again.scenes, again.skipped, again.errors, READ) == (5, 1, report.errors, [])
    assert compile_files([tmp_path], tmp_path / "out", shard=2).skipped == 1
    (tmp_path / "out" / "mine.scenes").write_bytes(b"of the user")
    other = compile_files([source], tmp_path / "out", CompileConfig(max_objects=3), shard=2)
    assert (other.scenes, other.skipped) == (5, 0)
    left = sorted(path.name for path in (tmp_path / "out").iterdir())  # each scene once
    assert left == sorted(["mine.scenes", *(file.name for file in other.sources[0].files)])


def test_a_map_that_comes_later_is_compiled_in(tmp_path: Path) -> None:
    paths = write_argoverse(tmp_path), write_ngsim(tmp_path)
    beside = [tmp_path / "log_map_archive_abc.json", tmp_path / "small.net.xml"]
    maps = [path.read_bytes() for path in beside]
    for path in beside:
        path.unlink()
    assert _edges(paths, tmp_path / "out") == [0, 0]
    for path, content in zip(beside, maps, strict=True):
        path.write_bytes(content)
    found = _edges(paths, tmp_path / "out")
    assert len(found) == 2
    assert min(found) > 0


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder can be made there"):
        compile_files([write_nocturne(tmp_path)], tmp_path / "small.json" / "out")


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compile_files([source], tmp_path / "whole", shard=2)
    written = shards.save_scenes

    def killed(*args: object, **named: object) -> None:
        if "0002" in str(named["stem"]):
            raise KeyboardInterrupt
        return written(*args, **named)

    monkeypatch.setattr(shards, "save_scenes", killed)
    with pytest.raises(KeyboardInterrupt):
        compile_files([source], tmp_path / "out", shard=2)
    monkeypatch.setattr(shards, "save_scenes", written)
    (tmp_path / "out" / f".{whole.sources[0].files[2].name}.1.tmp").write_bytes(b"half")
    READ.clear()
    report = compile_files([source], tmp_path / "out", shard=2)
    assert RECORDS[6:] == READ
    assert (report.scenes, report.sources[0].found, report.errors) == (5, 4, whole.errors)
    for one, two in zip(report.sources[0].files, whole.sources[0].files, strict=True):
        assert one.name == two.name
        assert one.read_bytes() == two.read_bytes()
    assert sorted((tmp_path / "out").iterdir()) == sorted(report.sources[0].files)


def test_a_damaged_shard_is_made_again(tmp_path: Path, source: Path) -> None:
    files = compile_files([source], tmp_path / "out", shard=2).sources[0].files
    good = files[1].read_bytes()
    files[1].write_bytes(good[:-100])
    assert compile_files([source], tmp_path / "out", shard=2).sources[0].found == 2
    assert files[1].read_bytes() == good


def test_sources_that_are_no_scenes_are_reported(tmp_path: Path) -> None:
    (tmp_path / "notes.bin").write_bytes(b"hello")
    report = compile_files([tmp_path / "notes.bin"], tmp_path / "out")
    assert report.scenes == 0
    assert "no known format" in report.errors[0]
    with pytest.raises(ConfigError, match="0 sources"):
        compile_files([], tmp_path / "out")


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    report = compile_files([tmp_path / "pipe", "/dev/zero"], tmp_path / "out")
    assert [error.count("pipe or socket") for error in report.errors] == [1, 1]


def test_names_are_kept(tmp_path: Path, scenes: list[Scene]) -> None:
    assert name_of(load_compiled(save_scenes(tmp_path, scenes)[0])[0]) == "by hand"


@pytest.mark.slow
def test_workers_give_the_same_files(tmp_path: Path) -> None:
    sources = [write_nocturne(tmp_path), write_scenarionet(tmp_path)]
    alone = compile_files(sources, tmp_path / "alone")
    many = compile_files(sources, tmp_path / "many", workers=2)
    assert (alone.scenes, many.scenes, many.errors) == (2, 2, [])
    for one, two in zip(alone.sources, many.sources, strict=True):
        assert [file.read_bytes() for file in one.files] == [file.read_bytes() for file in two.files]
