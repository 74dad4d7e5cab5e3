"""Image files that lie, break off or were changed at random: only DataError, quickly, and in little memory."""

import gzip
import io
import os
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gleanings.core.errors import DataError
from gleanings.data._npz import MAX_RATIO
from gleanings.data.images import read_images

GREY = np.random.default_rng(0).integers(0, 256, (60, 9, 7), np.uint8)
_16_MIB = 16 << 20


def npy(shape: object, descr: object = "'|u1'", data: bytes = b"", header: str | None = None) -> bytes:
    header = header or f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode("latin1") + data


def npz(members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def saved(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def idx(shape: tuple[int, ...], data: bytes, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + data


def declared(size: int, kind: int) -> bytes:
    """A member that claims, wherever its size stands, to hold `size` images of one pixel."""
    member = npy((size, 1, 1), data=b"abc")
    whole = npz({"x.npy": member}, kind)
    return whole.replace(struct.pack("<I", len(member)), struct.pack("<I", len(member) - 3 + size))


GOOD = saved(x=GREY)
DIRECTORY = GOOD.rindex(b"PK\5\6")
HOSTILE: dict[str, tuple[str, bytes]] = {
    "pickle in an object array": ("f.npz", saved(x=np.array([{"a": 1}, print], object))),
    "pickle called npy": ("f.npz", npz({"x.npy": b"cos\nsystem\n(S'true'\ntR."})),
    "code in the header": ("f.npz", npz({"x.npy": npy("__import__('os').abort()")})),
    "code as a header": ("f.npz", npz({"x.npy": npy(0, header="__import__('os').abort()")})),
    "zip bomb": ("f.npz", npz({"x.npy": npy((64 << 20, 1, 1), data=bytes(64 << 20))}, zipfile.ZIP_DEFLATED)),
    "bzip2 bomb": ("f.npz", npz({"x.npy": npy((8 << 20, 1, 1), data=bytes(8 << 20))}, zipfile.ZIP_BZIP2)),
    "header bomb by shape": ("f.npz", npz({"x.npy": npy((1 << 40, 28, 28))})),
    "header bomb by digits": ("f.npz", npz({"x.npy": npy(f"({'9' * 190},)")})),
    "header bomb by length": ("f.npz", npz({"x.npy": b"\x93NUMPY\x02\x00\xff\xff\xff\xff"})),
    "header bomb by brackets": ("f.npz", npz({"x.npy": npy("(" * 4000)})),
    "declared size, stored": ("f.npz", declared(8 << 20, zipfile.ZIP_STORED)),
    "declared size, deflated": ("f.npz", declared(1 << 30, zipfile.ZIP_DEFLATED)),
    "path traversal": ("f.npz", npz({"../../x.npy": npy((1, 1, 1), data=b"a"), "x.npy": b""})),
    "absolute member": ("f.npz", npz({"/tmp/x.npy": npy((1, 1, 1), data=b"a"), "x.npy": b""})),
    "control characters": ("f.npz", npz({"x\x1b[2J\n.npy": b"", "x.npy": b""})),
    "crowded directory": ("f.npz", npz({f"{i}.npy": b"" for i in range(1500)})),
    "directory elsewhere": ("f.npz", GOOD[:DIRECTORY] + b"PK\6\7" + bytes(16) + GOOD[DIRECTORY:]),
    "directory past the file": ("f.npz", GOOD[:DIRECTORY] + b"PK\5\6" + b"\xff" * 16 + bytes(2)),
    "zip of a zip": ("f.npz", npz({"x.npy": GOOD})),
    "idx of 4 GiB": ("f-idx3-ubyte", idx((1 << 32 - 1, 1, 1), b"abc")),
    "idx of rank 255": ("f-idx3-ubyte", b"\0\0\x08\xff" + bytes(2000)),
    "idx with a tail": ("f-idx3-ubyte", idx((1, 2, 2), b"abcdefgh")),
    "idx of floats": ("f-idx3-ubyte", idx((1, 1, 1), b"abcd", kind=13)),
    "gzip bomb": ("f.gz", gzip.compress(idx((64 << 20, 1, 1), bytes(64 << 20)))),
    "gzip cut short": ("f.gz", gzip.compress(idx((60, 9, 7), GREY.tobytes()))[:-900]),
}


def refused(path: Path) -> DataError:
    """The error of reading `path`, after checks of its time, memory and line."""
    limit = 2 * path.stat().st_size + (1 << 20)
    tracemalloc.start()
    start = time.monotonic()
    try:
        with pytest.raises(DataError) as caught:
            read_images(path)
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()
    assert time.monotonic() - start < 5
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    return caught.value


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(tmp_path: Path, case: str):
    name, content = HOSTILE[case]
    path = tmp_path / name
    path.write_bytes(content)
    assert refused(path).path == path
    assert sorted(tmp_path.iterdir()) == [path]


def test_special_files_do_not_hang(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(DataError, match="no such file"):
        read_images(tmp_path / "pipe.npz")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "train-images-idx3-ubyte")
    with pytest.raises(DataError, match="no file called train-images"):
        read_images(tmp_path / "folder")


@pytest.mark.parametrize("excess", [0, 1])
def test_the_ratio_limit_is_exact(excess: int):
    from gleanings.data._npz import check_size

    stored = (32 << 20) // MAX_RATIO
    if excess:
        with pytest.raises(DataError, match="bytes to unpack"):
            check_size(MAX_RATIO * stored + excess, stored, True, Path("x"))
    else:
        check_size(MAX_RATIO * stored, stored, True, Path("x"))


def mutant(content: bytes, rng: np.random.Generator) -> bytes:
    """`content` with a few bytes changed, a piece cut out, repeated or set to one value, or its end lost."""
    data = bytearray(content)
    # Half of the places lie in the headers, at both ends, where the sizes stand.
    edge = rng.choice([0, max(0, len(data) - 128), int(rng.integers(len(data)))])
    at = min(int(edge + rng.integers(128)), len(data) - 1)
    length = int(rng.integers(1, 64))
    change: Callable[[], object] = [
        lambda: data.__setitem__(at, data[at] ^ 1 << int(rng.integers(8))),
        lambda: data.__setitem__(slice(at, at + 4), rng.bytes(4)),
        lambda: data.__setitem__(slice(at, at + length), bytes([rng.choice([0, 255])]) * length),
        lambda: data.__delitem__(slice(at, at + length)),
        lambda: data.__setitem__(slice(at, at), data[at : at + length]),
        lambda: data.__delitem__(slice(at, None)),
    ][rng.integers(6)]
    change()
    return bytes(data)


FORMATS = {
    "f.npz": GOOD,
    "g.npz": npz({"x.npy": npy(GREY.shape, data=GREY.tobytes())}),
    "f-idx3-ubyte": idx(GREY.shape, GREY.tobytes()),
    "f.gz": gzip.compress(idx(GREY.shape, GREY.tobytes())),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("mutants", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_mutants_are_read_or_refused(tmp_path: Path, name: str, mutants: int):
    rng = np.random.default_rng(mutants)
    path = tmp_path / name
    messages = []
    tracemalloc.start()
    start = time.monotonic()
    try:
        for _ in range(mutants):
            path.write_bytes(mutant(FORMATS[name], rng))
            try:
                images = read_images(path)
                assert images.train.ndim == 3
            except DataError as error:
                messages.append(str(error))
        assert tracemalloc.get_traced_memory()[1] < _16_MIB + (1 << 20)
    finally:
        tracemalloc.stop()
    assert time.monotonic() - start < 0.2 * mutants
    assert len(messages) > mutants // 4
    assert all(message.isprintable() for message in messages)
