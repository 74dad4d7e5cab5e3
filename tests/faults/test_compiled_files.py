"""Compiled files that were cut, changed or made up: only DataError, quickly, and in little memory."""

import json
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from tests.driving._raw import driving, scene, straight_road

from gleanings.core.errors import DataError
from gleanings.driving.compile import compile_scene
from gleanings.driving.scene import Scene
from gleanings.driving.stack import LAYOUT, arrays_of
from gleanings.driving.store import is_compiled, load_compiled, save_scenes

Header = dict[str, Any]


@pytest.fixture(scope="module")
def one() -> Scene:
    return compile_scene(scene([driving(5.0)], straight_road()))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, one: Scene) -> bytes:
    return save_scenes(tmp_path_factory.mktemp("good"), [one, one])[0].read_bytes()


def refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            load_compiled(path)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    return str(caught.value)


def _mutations(tmp_path: Path, good: bytes, count: int) -> None:
    """Half of them cut the file, half flip a bit: in the header, in the data, anywhere."""
    rng = np.random.default_rng(0)
    header = 8 + struct.unpack("<Q", good[:8])[0]
    for number in range(count):
        data = bytearray(good)
        if number % 2:
            del data[rng.integers(len(good)) :]
        else:
            low, high = ((0, header), (header, len(good)), (0, len(good)))[number // 2 % 3]
            data[rng.integers(low, high)] ^= 1 << int(rng.integers(8))
        message = refused(tmp_path / "f.scenes", bytes(data))
        assert "run compile again" in message or "no compiled" in message or "cannot be opened" in message, message


def test_a_cut_or_flipped_file_is_refused(tmp_path: Path, good: bytes) -> None:
    _mutations(tmp_path, good, 30)


@pytest.mark.slow
def test_a_cut_or_flipped_file_is_refused_many_times(tmp_path: Path, good: bytes) -> None:
    _mutations(tmp_path, good, 200)


@pytest.mark.parametrize("name", ["log.x", "paths.limit", "grid.items", "lights.state", "dt"])
def test_a_changed_array_is_named(tmp_path: Path, good: bytes, name: str) -> None:
    size = struct.unpack("<Q", good[:8])[0]
    begin = json.loads(good[8 : 8 + size])[name]["data_offsets"][0]
    data = bytearray(good)
    data[8 + size + begin] ^= 4
    message = refused(tmp_path / "f.scenes", bytes(data))
    assert f"array {name} does not match its CRC32C; run compile again" in message
    assert "record 0" in message


def forged(good: bytes, change: Callable[[Header], object]) -> bytes:
    """The file with a changed header whose own CRC32C is right."""
    size = struct.unpack("<Q", good[:8])[0]
    header = json.loads(good[8 : 8 + size])
    change(header)
    header["__metadata__"]["check"] = "0" * 8
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    text = text.replace(b'"check": "00000000"', b'"check": "%08x"' % google_crc32c.value(text), 1)
    return struct.pack("<Q", len(text)) + text + good[8 + size :]


def put(name: str, key: str, value: object) -> Callable[[Header], object]:
    return lambda header: header[name].update({key: value})


FORGED: dict[str, tuple[Callable[[Header], object], str]] = {
    "older": (put("__metadata__", "version", "0"), "version '0'"),
    "no version": (lambda header: header["__metadata__"].pop("version"), "version None"),
    "missing array": (lambda header: header.pop("log.y"), "array log.y is missing"),
    "huge shape": (put("log.x", "shape", [2, 1 << 40, 1 << 40]), "array log.x is not described"),
    "negative shape": (put("log.x", "shape", [2, -91, -32]), "array log.x is not described"),
    "float in a shape": (put("log.x", "shape", [2, 91.0, 32]), "array log.x is not described"),
    "truth in a shape": (put("dt", "shape", [True]), "array dt is not described"),
    "another type": (put("log.valid", "dtype", "I8"), "array log.valid is I8"),
    "unknown type": (put("log.x", "dtype", "F64"), "array log.x is not described"),
    "other axes": (put("log.x", "shape", [2, 32, 91]), "log.y has 91 along T, not 32"),
    "overlap": (put("log.y", "data_offsets", [0, 2 * 91 * 32 * 4]), "starts at byte"),
    "past the end": (put("log.y", "data_offsets", [1 << 40, (1 << 40) + 2 * 91 * 32 * 4]), "not described"),
    "no checksum": (put("__metadata__", "crc32c", "{}"), "has no CRC32C"),
    "checksums that are text": (put("__metadata__", "crc32c", "[[["), "header is damaged"),
    "no names": (put("__metadata__", "names", "[]"), "names no scenes"),
    "names that are numbers": (put("__metadata__", "names", "[1, 2]"), "names no scenes"),
    "more names": (put("__metadata__", "names", '["a", "b", "c"]'), "no CRC32C of each"),
    "an entry that is no entry": (lambda header: header.update({"log.x": [1]}), "array log.x is not described"),
    "something more": (
        lambda header: header.update({"x": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}}),
        "padding x is not empty",
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_header_is_refused(tmp_path: Path, good: bytes, name: str) -> None:
    change, message = FORGED[name]
    assert message in refused(tmp_path / "f.scenes", forged(good, change))


@pytest.mark.parametrize(
    "data",
    [b"", b"abc", struct.pack("<Q", 1 << 60), struct.pack("<Q", 4) + b"null", struct.pack("<Q", 2) + b"{}",
     struct.pack("<Q", 100_000) + b"[" * 100_000, struct.pack("<Q", 5000) + b'{"a":' + b"9" * 4994 + b"}",
     struct.pack("<Q", 2) + b"\xff\xfe"],
    ids=["empty", "short", "huge", "null", "no metadata", "deep", "digits", "no text"],
)  # fmt: skip
def test_what_is_no_compiled_file_is_refused(tmp_path: Path, data: bytes) -> None:
    assert refused(tmp_path / "f.scenes", data)


def test_a_folder_a_pipe_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, words in ((".", "is a folder"), ("none", "cannot be opened"), ("pipe", "is a device, pipe")):
        assert not is_compiled(tmp_path / name)
        with pytest.raises(DataError, match=words):
            load_compiled(tmp_path / name)


def test_indices_that_leave_their_array_are_refused(tmp_path: Path, one: Scene) -> None:
    items = np.array(one.grid.items)
    items[0] = 60000
    (path,) = save_scenes(tmp_path, [one._replace(grid=one.grid._replace(items=items))])
    assert "grid.items holds" in refused(path, path.read_bytes())


def test_every_array_has_its_checksum(good: bytes) -> None:
    size = struct.unpack("<Q", good[:8])[0]
    sums = json.loads(json.loads(good[8 : 8 + size])["__metadata__"]["crc32c"])
    assert set(sums) == set(LAYOUT)


def test_checksums_are_those_of_the_arrays(good: bytes, one: Scene) -> None:
    size = struct.unpack("<Q", good[:8])[0]
    sums = json.loads(json.loads(good[8 : 8 + size])["__metadata__"]["crc32c"])
    for name, array in arrays_of(one).items():
        assert sums[name] == [google_crc32c.value(array.tobytes())] * 2
