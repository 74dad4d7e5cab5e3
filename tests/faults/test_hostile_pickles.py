"""Pickles that want to run, to lie or to fill the memory: one DataError, quickly, and nothing has run."""

import collections
import contextlib
import os
import pickle
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gleanings.core.errors import DataError
from gleanings.driving.readers._unpickle import unpickle
from gleanings.driving.readers.scenarionet import read

HEAD = b"\x80\x04"


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def named(module: str, name: str) -> bytes:
    parts = (module.encode(), name.encode())
    return b"".join(b"\x8c" + bytes([len(part)]) + part for part in parts) + b"\x93"


def array(shape: bytes, data: bytes, code: str = "f4", order: str = "<", version: bytes = b"K\1") -> bytes:
    """An array as NumPy would write it, of which every part can lie."""
    blank = named("numpy.core.multiarray", "_reconstruct") + named("numpy", "ndarray") + b"K\0\x85C\1b\x87R"
    kind = named("numpy", "dtype") + b"\x8c" + bytes([len(code)]) + code.encode() + b"\x89\x88\x87R"
    state = b"(K\3\x8c\1" + order.encode() + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    return HEAD + blank + b"(" + version + shape + kind + state + b"\x89" + data + b"tb."


FOUR = b"C\x10" + bytes(16)
NESTED = Calls(map, Calls(eval, "1"), ["x"])
HOSTILE: dict[str, tuple[bytes, str]] = {
    "os.system": (pickle.dumps(Calls(os.system, "touch here"), 4), r"global (posix|nt)\.system"),
    "os.system in lines": (b"cos\nsystem\n(S'touch here'\ntR.", r"global os\.system"),
    "eval": (pickle.dumps({"tracks": Calls(eval, "open('here', 'w')")}, 4), r"global builtins\.eval"),
    "nested calls": (pickle.dumps(NESTED, 4), r"global builtins\.map"),
    "a dotted name": (HEAD + named("numpy", "ndarray.tofile") + b".", r"global numpy\.ndarray\.tofile"),
    "getattr": (pickle.dumps(Calls(getattr, "x", "upper"), 4), "getattr"),
    "numpy's own loader": (HEAD + named("numpy", "load") + b"\x8c\1x\x85R.", r"global numpy\.load"),
    "a name with a line end": (HEAD + named("os\nx", "system\x1b[2J") + b".", "global os"),
    "a class": (pickle.dumps(collections.OrderedDict(a=1), 4), r"global collections\.OrderedDict"),
    "a new object": (HEAD + named("collections", "defaultdict") + b")\x81.", "instance of a class"),
    "an old instance": (b"(icollections\ndefaultdict\n.", "instance of a class"),
    "persistent id": (b"Pid\n.", "persistent id"),
    "persistent id on the stack": (HEAD + b"K\1Q.", "persistent id"),
    "extension code": (HEAD + b"\x82\1.", "extension code"),
    "a buffer": (b"\x80\x05\x97.", "buffer outside"),
    "array of objects": (pickle.dumps(np.array([{"a": 1}, None], object), 4), "array of type 'O8'"),
    "structured array": (pickle.dumps(np.zeros(2, "f4,i4"), 4), "array of type 'V8'"),
    "array of huge texts": (array(b"K\4\x85", FOUR, "U99999"), "array of type"),
    "array of nothing": (array(b"J\xff\xff\xff\x7f\x85", b"C\0", "S0"), "array of type"),
    "a lying shape": (array(b"K\5\x85", FOUR), "with 16 bytes"),
    "a large shape": (array(b"J\0\0\0\x7fJ\0\0\0\x7f\x86", FOUR), "with 16 bytes"),
    "a negative shape": (array(b"J\xff\xff\xff\xffJ\xfc\xff\xff\xff\x86", FOUR), "impossible shape"),
    "a shape of texts": (array(b"\x8c\1x\x85", FOUR), "impossible shape"),
    "an empty giant": (array(b"(K\0" + b"J\xff\xff\xff\x7f" * 7 + b"t", b"C\0"), "damaged|impossible"),
    "a character beyond the last": (array(b"K\4\x85", b"C\x10" + b"\xff\xff\xff\x7f" * 4, "U1"), "a character"),
    "rank 60": (array(b"(" + b"K\1" * 60 + b"t", b"C\4abcd"), "impossible shape"),
    "data as a list": (array(b"K\4\x85", b"]"), "refused"),
    "another version": (array(b"K\4\x85", FOUR, version=b"K\2"), "refused"),
    "a strange order": (array(b"K\4\x85", FOUR, order="!"), "refused"),
    "state for a dict": (HEAD + b"}}b.", "refused"),
    "a call of a text": (HEAD + b"\x8c\1x)R.", "no global"),
    "dtype of code": (HEAD + named("numpy", "dtype") + b"\x8c\x04f4,O\x85R.", "array of type"),
    "defaultdict of a type": (
        HEAD + named("collections", "defaultdict") + named("numpy", "dtype") + b"\x85R.",
        "refused",
    ),
    "huge bytes": (HEAD + b"\x8e" + struct.pack("<Q", 1 << 60) + b".", "are announced"),
    "huge text": (HEAD + b"X\xff\xff\xff\xff.", "are announced"),
    "huge frame": (HEAD + b"\x95" + b"\xff" * 8 + b"K\1", "ends without"),
    "huge number": (HEAD + b"\x8b\xff\xff\xff\x7f.", "not one that plain data needs"),
    "memo far away": (HEAD + b"K\1r\xff\xff\xff\xff" + b"j\xfe\xff\xff\xff.", "damaged"),
    "memo of a mark": (HEAD + b"(\x94.", "a mark"),
    "a tuple as a key": (HEAD + b"})" + b"\x85" * 20_000 + b"Ns.", "as a key"),
    "a doubling key": (HEAD + b"})" + b"2\x86" * 60 + b"Ns.", "as a key"),
    "chosen hashes": (HEAD + b"}\x8a\x09" + b"\xff" * 8 + b"\0Ns.", "as a key"),
    "a number as a key": (HEAD + b"}G" + b"\x7f\xf0" + bytes(6) + b"Ns.", "as a key"),
    "nothing": (b"", "ends without"),
    "no stop": (HEAD + b"K\1", "ends without"),
    "two results": (HEAD + b"K\1K\2.", "damaged"),
    "no result": (HEAD + b".", "damaged"),
    "a key alone": (HEAD + b"}(K\1u.", "key without"),
    "no UTF-8": (HEAD + b"\x8c\1\xff.", "damaged"),
    "no mark": (HEAD + b"K\1t.", "no mark|damaged"),
    "no pickle": (b"{'a': 1}", "not one that plain data needs"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_it_is_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str):
    monkeypatch.chdir(tmp_path)
    data, message = HOSTILE[case]
    (path := tmp_path / "x.pkl").write_bytes(data)
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(DataError, match=message) as caught:
            list(read(path))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 20
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    assert os.listdir(tmp_path) == ["x.pkl"]


def test_size_and_instructions_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gleanings.driving.readers._unpickle._MAX_OPS", 10_000)
    (path := tmp_path / "x.pkl").write_bytes(HEAD + b"}" * 20_000)
    with pytest.raises(DataError, match="more than 10,000 instructions"):
        unpickle(path)
    with path.open("wb") as file:
        file.truncate((256 << 20) + 1)
    with pytest.raises(DataError, match="are read"):
        unpickle(path)
    with pytest.raises(DataError, match="is a folder"):
        unpickle(tmp_path)


@pytest.mark.parametrize(("make", "end"), [(b"\x85", b""), (b"\x94}h\0", b"0" * 39_999), (b"]2a", b"0" * 20_000)])
def test_deep_nesting_needs_no_recursion(tmp_path: Path, make: bytes, end: bytes):
    (path := tmp_path / "x.pkl").write_bytes(HEAD + b")" + make * 20_000 + end + b".")
    with contextlib.suppress(DataError):
        unpickle(path)
