"""From paths to scenes: formats found by content, folders and patterns, errors in their place, worker processes."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.driving._writers import write_example, write_scenario

from gleanings.core.errors import ConfigError, DataError
from gleanings.data.protoencode import put_bytes, put_varint
from gleanings.data.tfrecord import write_tfrecord
from gleanings.driving._files import list_files
from gleanings.driving.load import SceneError, iter_scenes, load_scenes, raw_items, read_raw
from gleanings.driving.raw import Kind, MapFeature, RawLight, RawScene, RawTrack
from gleanings.driving.readers.detect import detect
from gleanings.driving.scene import Scene, name_of
from gleanings.driving.store import save_scenes


def street(name: str = "0123456789abcdef") -> RawScene:
    """Two lanes, one behind the other, between two edges, and three objects that drive along them."""
    steps, times = 91, np.arange(91) * 0.1

    def line(y: float, start: float, end: float) -> np.ndarray:
        x = np.arange(start, end + 0.25, 0.5)
        return np.stack((x, np.full(len(x), y), np.zeros(len(x))), -1)

    def track(i: int) -> RawTrack:
        x = (20 * i + (4 + i) * times).astype(np.float32).astype(float)
        position = np.stack((x, np.zeros(steps), np.full(steps, 0.75)), -1)
        velocity = np.tile([4.0 + i, 0.0], (steps, 1))
        valid = np.arange(steps) >= 5 * i
        return RawTrack(str(i + 3), Kind.VEHICLE, position, np.zeros(steps), velocity, np.full((steps, 3), 1.5), valid)

    features = (
        MapFeature("lane", line(0, 0, 60), "7", successors=("8",), linked=True),
        MapFeature("lane", line(0, 60, 120), "8", linked=True),
        MapFeature("road_edge", line(-2.5, 0, 120), "101"),
        MapFeature("road_edge", line(2.5, 0, 120)[::-1].copy(), "102"),
        MapFeature("crosswalk", np.array([[58.0, -2, 0], [60, -2, 0], [60, 2, 0], [58, 2, 0]]), "103", closed=True),
    )
    lights = (RawLight("8", np.repeat([4, 6], [50, 41]).astype(np.uint8), np.array([60.0, 0, 0])),)
    return RawScene(name, times, 10, tuple(map(track, range(3))), features, lights, 0, (1,), (1, 2))


def same(one: Scene, other: Scene) -> list[str]:
    """Names of the parts that differ."""
    out = []
    for name, a, b in zip(one._fields, one, other, strict=True):
        parts = [(name, a, b)]
        if isinstance(a, tuple):
            parts = [(f"{name}.{field}", *values) for field, *values in zip(type(a)._fields, a, b, strict=True)]
        out += [part for part, x, y in parts if x.dtype != y.dtype or not np.array_equal(x, y, x.dtype.kind == "f")]
    return out


def test_both_formats_compile_to_the_same_scene(tmp_path: Path) -> None:
    for number, payload in enumerate((write_example(street(), 8, 1000, seed=1), write_scenario(street(), seed=2))):
        write_tfrecord(tmp_path / f"{number}", [payload])
    (example,), (scenario,) = (load_scenes(tmp_path / name) for name in "01")
    assert same(example, scenario) == ["source"]
    assert example.lights.exists.sum() == 1
    assert example.lanes.successors[0, 0] == 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two records, one of them behind a broken one; a compiled file; a readme; a strange file."""
    bad = put_bytes(5, "x") + put_varint(77, 1)
    write_tfrecord(tmp_path / "a.json", [write_scenario(street("first"))])
    write_tfrecord(tmp_path / "b", [bad, write_example(street("second"), 8, 1000)])
    save_scenes(tmp_path / "c", load_scenes(tmp_path / "a.json"))
    (tmp_path / "LICENSE").write_text("Do what you like.")
    (tmp_path / "z").write_bytes(b"\0\1\2\3" * 9)
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_stand_in_their_place(folder: Path, workers: int) -> None:
    items = list(iter_scenes(folder, workers=workers))
    first, broken, second, compiled, strange = items
    assert isinstance(broken, SceneError)
    assert isinstance(strange, SceneError)
    assert (broken.path, broken.record) == (folder / "b", 0)
    assert "its fields are [5, 77]" in str(broken.error)
    assert (strange.path, strange.record) == (folder / "z", None)
    assert [name_of(scene) for scene in (first, second, compiled) if isinstance(scene, Scene)] == [
        "first",
        "second",
        "first",
    ]
    assert isinstance(first, Scene)
    assert isinstance(compiled, Scene)
    assert same(first, compiled) == []


def test_paths_patterns_and_limits(folder: Path) -> None:
    assert list_files([folder / "b", f"{folder}/[ab]*"]) == [folder / "b", folder / "a.json", folder / "b"]
    assert [name_of(scene) for scene in load_scenes(folder, limit=1)] == ["first"]
    assert [name_of(scene) for scene in load_scenes(f"{folder}/a*")] == ["first"]
    with pytest.raises(DataError, match="b, record 0: a record of no known kind"):
        load_scenes(folder)
    assert [type(item) for item in raw_items(folder / "b")] == [DataError, RawScene]
    (folder / "d" / ".git").mkdir(parents=True)
    (folder / "d" / ".git" / "index").write_bytes(b"DIRC")
    for path, words in (
        (f"{folder}/q*", "matches no file"),
        (folder / "d", "without scenes"),
        (folder / "q", "No such"),
    ):
        with pytest.raises(DataError, match=words):
            load_scenes(path)
    for wrong in (lambda: load_scenes(folder, limit=0), lambda: iter_scenes(folder, workers=-1)):
        with pytest.raises(ConfigError, match="expected"):
            wrong()


def test_formats_are_found_by_content(tmp_path: Path) -> None:
    tfrecord = tmp_path / "r"
    write_tfrecord(tfrecord, [b""])
    heads = {
        "womd": tfrecord.read_bytes(),
        "nocturne": b'\xef\xbb\xbf {"objects": [], "roads": []}',
        "scenarionet": b"\x80\x04}.",
        "commonroad": b'<?xml version="1.0"?>\n<!-- <net> -->\n<commonRoad/>',
        "argoverse": b"PAR1....",
        "ngsim": b"SQLite format 3\0....",
    }
    for name, head in heads.items():
        (tmp_path / "file.csv").write_bytes(head)
        assert detect(tmp_path / "file.csv") == name


def test_unknown_files_are_described(tmp_path: Path) -> None:
    damaged = tmp_path / "r"
    write_tfrecord(damaged, [b"abc"])
    flipped = bytes([4]) + damaged.read_bytes()[1:]
    other = put_bytes(1, put_bytes(1, put_bytes(1, "image/height") + put_bytes(2, b"")))
    for content, words in (
        (b"", "is empty"),
        (b'{"lane_segments": {"5": 1}}', "first keys are lane_segments, 5. Known: WOMD tf.Example or Scenario"),
        (b"<osm/>", "root is osm"),
        (b"\x1f\x8b\x08abc", "gzip; unpack it first"),
        (flipped, "its first length does not match its CRC"),
        (b"x", "begins with b'x'"),
    ):
        (tmp_path / "f").write_bytes(content)
        with pytest.raises(DataError, match=words):
            read_raw(tmp_path / "f")
    write_tfrecord(damaged, [other])
    with pytest.raises(DataError, match=r"r, record 0: a tf\.Example of no known .* first keys are image/height"):
        read_raw(damaged)
    os.mkfifo(tmp_path / "pipe")
    for path, words in ((tmp_path / "pipe", "device, pipe"), (tmp_path, "is a folder")):
        with pytest.raises(DataError, match=words):
            read_raw(path)
    (item,) = iter_scenes(tmp_path / "pipe")
    assert isinstance(item, SceneError)


def test_a_repaired_scene_says_so(tmp_path: Path) -> None:
    scene = street()
    position = scene.tracks[0].position.copy()
    position[40, 0] = np.nan
    bad = replace(scene, tracks=(replace(scene.tracks[0], position=position), *scene.tracks[1:]))
    write_tfrecord(tmp_path / "f", [write_scenario(bad)])
    (raw,) = read_raw(tmp_path / "f")
    assert raw.repairs == {"invalid_pose": 1}
    assert not raw.tracks[0].valid[40]
