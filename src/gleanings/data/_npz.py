"""Reading plain arrays out of an npz file that may be hostile: sizes are checked before memory is taken."""

import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped, UInt8

from gleanings.core.errors import DataError

MAX_BYTES = 1 << 30
MAX_RATIO = 200
_SMALL = 16 << 20
_MAX_DIRECTORY = 64 << 10
_MAX_HEADER = 4096
_CHUNK = 1 << 20
_MAX_CODE = 0x10FFFF
BYTES = r"[|<]?u1"
PLAIN = r"[|<]?(b1|[iu][1248]|f[248]|U[1-9]\d{0,3})"
_KINDS = {BYTES: "uint8", PLAIN: "numbers, booleans or text"}
_FORMAT_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, struct.error)


@runtime_checkable
class Readable(Protocol):
    """What the readers need of an open file."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, none at the end."""
        ...


def check_size(size: int, stored: int, packed: bool, path: Path, record: str | None = None) -> None:
    """Refuse to make `size` bytes out of `stored` bytes when that is impossible or a decompression bomb.

    Raises: DataError above 1 GiB, or above 200 times the stored size (16 MiB is always allowed) when packed.
    """
    if not packed and size > stored:
        raise DataError(f"truncated: found {stored:,} bytes, expected {size:,}", path, record)
    limit = min(MAX_BYTES, max(_SMALL, MAX_RATIO * stored))
    if size > limit:
        raise DataError(f"found {size:,} bytes to unpack, at most {limit:,} are read", path, record)


def fill(stream: Readable, size: int, path: Path, record: str | None = None) -> UInt8[np.ndarray, " size"]:
    """Exactly `size` bytes of `stream`, read in pieces. Raises: DataError if it ends early or goes on."""
    out = np.empty(size, np.uint8)
    position = 0
    while position < size:
        piece = stream.read(min(_CHUNK, size - position))
        if not piece:
            raise DataError(f"truncated: found {position:,} bytes, expected {size:,}", path, record, position)
        out[position : position + len(piece)] = np.frombuffer(piece, np.uint8)
        position += len(piece)
    if stream.read(1):
        raise DataError(f"found more than the {size:,} bytes its header declares", path, record, size)
    return out


class Npz:
    """An open npz file: its `keys`, and `read(key)`."""

    def __init__(self, file: BufferedIOBase, path: Path) -> None:
        self.path = path
        _check_directory(file, path)
        self._zip = zipfile.ZipFile(file)
        self._members = {}
        for member in self._zip.infolist():
            key = member.filename.removesuffix(".npy")
            if not re.fullmatch(r"[\w.-]{1,100}", key) or key in self._members:
                raise DataError(f"unsafe or repeated member name {key[:100]!a}", path)
            self._members[key] = member

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the arrays in the file."""
        return tuple(self._members)

    def read(self, key: str, dtypes: str = BYTES) -> Shaped[np.ndarray, "..."]:
        """The array called `key`. Raises: DataError(path, key) unless it is a plain array of one of `dtypes`."""
        member = self._members[key]
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError("found an unknown compression, expected stored or deflate", self.path, key)
        stored = min(member.compress_size, self.path.stat().st_size)
        check_size(member.file_size, stored, member.compress_type != zipfile.ZIP_STORED, self.path, key)
        with self._zip.open(member) as stream:
            shape, fortran, offset, found = _header(stream, self.path, key)
            if not re.fullmatch(dtypes, found):
                raise DataError(f"found dtype {found!a}, expected {_KINDS[dtypes]}", self.path, key)
            dtype = np.dtype(found)
            size = math.prod(shape) * dtype.itemsize
            if size != member.file_size - offset:
                message = f"found {member.file_size - offset:,} bytes, expected {size:,} for shape {shape}"
                raise DataError(message, self.path, key)
            flat = fill(stream, size, self.path, key)
        if dtype.kind == "U" and flat.size and flat.view(np.uint32).max() > _MAX_CODE:
            raise DataError("found text that is not Unicode", self.path, key)
        flat = flat.view(dtype)
        return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


@contextmanager
def open_npz(path: Path) -> Iterator[Npz]:
    """Open `path` for reading. Raises: DataError for whatever is wrong with the file."""
    try:
        with path.open("rb") as file:
            yield Npz(file, path)
    except _FORMAT_ERRORS as error:
        raise DataError(f"damaged npz file ({error})", path) from error


def _check_directory(file: BufferedIOBase, path: Path) -> None:
    # zipfile makes an object for each directory entry, so a large directory costs far more than its bytes.
    # A comment or a zip64 record would let it read another directory than the one checked here.
    size = file.seek(0, 2)
    file.seek(max(0, size - 42))
    tail = file.read()
    end = tail[-22:]
    if len(end) < 22 or not end.startswith(b"PK\5\6") or end[-2:] != b"\0\0" or tail[:4] == b"PK\6\7":
        raise DataError("not a complete npz file (no zip directory at its end)", path)
    if struct.unpack_from("<I", end, 12)[0] > _MAX_DIRECTORY:
        raise DataError("the zip directory is larger than 64 KiB", path)


def _header(stream: Readable, path: Path, key: str) -> tuple[tuple[int, ...], bool, int, str]:
    """Shape, Fortran order, header length and dtype, parsed without evaluating anything."""
    start = stream.read(8)
    if len(start) < 8 or start[:6] != b"\x93NUMPY" or start[6] not in (1, 2, 3):
        raise DataError("found no npy header", path, key)
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(stream.read(width), "little")
    if length > _MAX_HEADER:
        raise DataError(f"found a header of {length:,} bytes, at most {_MAX_HEADER:,} are read", path, key)
    text = stream.read(length).decode("latin1")
    dtype = re.search(r"""['"]descr['"]:\s*['"]([^'"]{1,20})['"]""", text)
    order = re.search(r"""['"]fortran_order['"]:\s*(True|False)""", text)
    shape = re.search(r"""['"]shape['"]:\s*\(([\d, ]{0,200})\)""", text)
    if dtype is None or order is None or shape is None:
        raise DataError("found an npy header that is not of a plain array", path, key)
    sizes = tuple(int(part) for part in shape[1].split(",") if part.strip())
    return sizes, order[1] == "True", 8 + width + length, dtype[1]
