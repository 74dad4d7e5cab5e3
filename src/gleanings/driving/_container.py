"""The file of compiled scenes: scenes of one size, memory-mapped. Source: ours.

The layout is that of safetensors: length of the header (u64, little-endian), header as JSON, data. Arrays have a
leading axis of scenes and start at multiples of 64 bytes; bytes between them are named too, so that other readers of
the layout find no holes. The header holds its own CRC32C and one of every array of every scene. A file that shrinks
while it is open ends the process, as with any memory map.
"""

import json
import math
import mmap
import os
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import google_crc32c
import numpy as np

from gleanings.core.errors import ConfigError, DataError
from gleanings.data.tfrecord import regular_size
from gleanings.driving.scene import Scene
from gleanings.driving.stack import LAYOUT, check_scene, names_of, scene_of, sizes_of, stack_scenes

VERSION = "2"
SUFFIX = ".scenes"
FORMAT, _ALIGN, _MAX_HEADER, _MAX_SCENES = "gleanings.driving.scenes", 64, 8 << 20, 4096
_CODES = {"b1": "BOOL", "i1": "I8", "u1": "U8", "i2": "I16", "u2": "U16", "i4": "I32", "f4": "F32"}
_OWN = {"format", "version", "check", "digest", "licence", "part", "names", "crc32c"}
_CHECK = b'"check": "%s"'
_AGAIN = "run compile again"


def save_scenes(
    folder: str | Path,
    scenes: Sequence[Scene],
    *,
    digest: str = "",
    licence: str = "",
    stem: str = "scenes",
    notes: Mapping[str, str] = MappingProxyType({}),
) -> list[Path]:
    """Write scenes into `folder`, those of equal size into one file, and return the files in order.

    digest: of the source, for a later run to see what is done. notes: more text for the header. Files get their names
    when they are complete; those of the same names are replaced. ConfigError: no scenes, or a name of a note that is
    taken. OSError: the folder cannot be written.
    """
    if not scenes:
        raise ConfigError("no scenes to save")
    if taken := _OWN & set(notes):
        raise ConfigError(f"notes cannot be called {', '.join(sorted(taken))}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    groups: dict[tuple[int, ...], list[Scene]] = {}
    for scene in scenes:
        groups.setdefault(tuple(sizes_of(scene).values()), []).append(scene)
    parts = [group[at : at + _MAX_SCENES] for group in groups.values() for at in range(0, len(group), _MAX_SCENES)]
    paths = [folder / f"{stem}-{number:04d}{SUFFIX}" for number in range(len(parts))]
    for number, (path, group) in enumerate(zip(paths, parts, strict=True)):
        about = {"digest": digest, "licence": licence, "part": f"{number + 1}/{len(parts)}", **notes}
        _write(path, stack_scenes(group), about)
    return paths


def is_compiled(path: str | Path) -> bool:
    """Whether a file begins as a compiled one, of whatever version; a pipe, which would block, is none."""
    if not Path(path).is_file():
        return False
    try:
        with Path(path).open("rb") as stream:
            start = stream.read(256)
    except OSError:
        return False
    return start[8:].startswith(b'{"__metadata__": {"format": "' + FORMAT.encode())


class CompiledFile:
    """A compiled file, opened; its scenes are checked when they are taken, and are read-only views of the map.

    DataError: not a compiled file, of another version, cut, or changed, with the name of the array.

    about: what the header says: format, version, digest, licence, part, names.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._data = _map(self.path)
        header, begin = _header(self._data, self.path)
        self.about: dict[str, Any] = header.pop("__metadata__")
        self.names: list[str] = _strings(self.about.get("names"), self.path)
        self._sums = _sums(self.about.get("crc32c"), len(self.names), self.path)
        self._arrays = _arrays(header, self._data, begin, len(self.names), self.path)
        try:
            sizes_of(scene_of(self._arrays), batch=1)
        except DataError as error:
            raise DataError(f"{error}; {_AGAIN}", self.path) from None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Scene:
        if not 0 <= index < len(self):
            raise IndexError(index)
        arrays: dict[str, Any] = {}
        for name, stacked in self._arrays.items():
            arrays[name] = stacked[index]
            if _crc(stacked[index]) != self._sums[name][index]:
                raise DataError(f"array {name} does not match its CRC32C; {_AGAIN}", self.path, index)
        scene = scene_of(arrays)
        try:
            check_scene(scene)
        except DataError as error:
            raise DataError(f"{error}; {_AGAIN}", self.path, index) from None
        return scene


def _crc(array: np.ndarray | np.generic) -> int:
    if isinstance(array, np.ndarray) and not array.flags.writeable and array.flags.c_contiguous and array.size:
        return google_crc32c.value(array)  # pyright: ignore[reportArgumentType]
    return google_crc32c.value(array.tobytes())


def _write(path: Path, scenes: Scene, about: dict[str, str]) -> None:
    arrays = {name: np.ascontiguousarray(array) for name, array in zip(LAYOUT, _flat(scenes), strict=True)}
    sums = {name: [_crc(one) for one in array] for name, array in arrays.items()}
    entries: dict[str, Any] = {
        "__metadata__": {
            "format": FORMAT,
            "version": VERSION,
            "check": "0" * 8,
            **about,
            "names": json.dumps(names_of(scenes)),
            "crc32c": json.dumps(sums),
        }
    }
    at = 0
    for name, array in arrays.items():
        entries[name] = _entry(_CODES[array.dtype.str[1:]], list(array.shape), at, array.nbytes)
        at += array.nbytes
        if rest := -at % _ALIGN:
            entries[f"_.{name}"] = _entry("U8", [rest], at, rest)
            at += rest
    text = json.dumps(entries).encode()
    text += b" " * (-(8 + len(text)) % _ALIGN)
    text = text.replace(_CHECK % b"00000000", _CHECK % f"{google_crc32c.value(text):08x}".encode(), 1)
    if len(text) > _MAX_HEADER:
        raise ConfigError(f"a header of {len(text):,} bytes; save fewer scenes into one folder at once")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            for array in arrays.values():
                stream.write(array.tobytes())
                stream.write(bytes(-stream.tell() % _ALIGN))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _flat(scenes: Scene) -> list[np.ndarray]:
    return [np.asarray(field) for part in scenes for field in (part if isinstance(part, tuple) else (part,))]


def _entry(code: str, shape: list[int], begin: int, size: int) -> dict[str, Any]:
    return {"dtype": code, "shape": shape, "data_offsets": [begin, begin + size]}


def _map(path: Path) -> mmap.mmap:
    regular_size(path, sys.maxsize)
    try:
        with path.open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be opened ({error})", path) from error


def _header(data: mmap.mmap, path: Path) -> tuple[dict[str, Any], int]:
    """The header, checked, and where the data begins."""
    if len(data) < 8:
        raise DataError(f"{len(data)} bytes are no compiled scenes", path)
    size = struct.unpack("<Q", data[:8])[0]
    if size > min(_MAX_HEADER, len(data) - 8):
        raise DataError(f"the header should have {size:,} bytes; it was cut, or is no compiled file; {_AGAIN}", path)
    text = data[8 : 8 + size]
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the header is damaged ({type(error).__name__}); {_AGAIN}", path, offset=8) from None
    about = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise DataError("no file of compiled scenes", path)
    if about.get("version") != VERSION:
        raise DataError(f"version {about.get('version')!r} of the format, not {VERSION}; {_AGAIN}", path)
    found = str(about.get("check")).encode()
    if google_crc32c.value(text.replace(_CHECK % found, _CHECK % b"00000000", 1)) != _hexadecimal(found):
        raise DataError(f"the header does not match its CRC32C; {_AGAIN}", path, offset=8)
    return header, 8 + size


def _hexadecimal(text: bytes) -> int:
    return int(text, 16) if len(text) == 8 and text.isalnum() and not text.strip(b"0123456789abcdef") else -1


def _strings(text: object, path: Path) -> list[str]:
    found = _json(text, path)
    if not isinstance(found, list) or not 0 < len(found) <= _MAX_SCENES or not all(isinstance(x, str) for x in found):
        raise DataError(f"the header names no scenes; {_AGAIN}", path, offset=8)
    return found


def _sums(text: object, count: int, path: Path) -> dict[str, list[int]]:
    found = _json(text, path)
    for name in LAYOUT:
        sums = found.get(name) if isinstance(found, dict) else None
        if not isinstance(sums, list) or len(sums) != count:
            raise DataError(f"array {name} has no CRC32C of each scene; {_AGAIN}", path, offset=8)
    return found


def _json(text: object, path: Path) -> Any:
    try:
        return json.loads(text if isinstance(text, str) else "")
    except (ValueError, RecursionError):
        raise DataError(f"the header is damaged; {_AGAIN}", path, offset=8) from None


def _arrays(header: dict[str, Any], data: mmap.mmap, begin: int, count: int, path: Path) -> dict[str, np.ndarray]:
    """The arrays as views. Entries must lie inside the file, one behind the other without overlap."""
    if missing := [name for name in LAYOUT if name not in header]:
        raise DataError(f"array {missing[0]} is missing; {_AGAIN}", path)
    spans = {name: _span(name, entry, len(data) - begin, path) for name, entry in header.items()}
    end = 0
    for name, (_, _, first, last) in sorted(spans.items(), key=lambda item: item[1][2:]):
        if first != end:
            raise DataError(f"array {name} starts at byte {first}, not {end}; {_AGAIN}", path, offset=begin + first)
        end = last
        if name not in LAYOUT and any(data[begin + first : begin + last][:_ALIGN]):
            raise DataError(f"the padding {name} is not empty; {_AGAIN}", path, offset=begin + first)
    if begin + end != len(data):
        raise DataError(f"{len(data):,} bytes, the header tells of {begin + end:,}; {_AGAIN}", path)
    arrays: dict[str, np.ndarray] = {}
    for name, spec in LAYOUT.items():
        code, shape, first, last = spans[name]
        if code != _CODES[spec.dtype.str[1:]] or shape[:1] != [count] or len(shape) != len(spec.axes) + 1:
            raise DataError(f"array {name} is {code} {shape}; {_AGAIN}", path)
        if (begin + first) % _ALIGN:
            raise DataError(f"array {name} is not aligned; {_AGAIN}", path, offset=begin + first)
        flat = np.frombuffer(data, spec.dtype, (last - first) // spec.dtype.itemsize, begin + first)
        arrays[name] = flat.reshape(shape)
    return arrays


def _span(name: str, entry: object, room: int, path: Path) -> tuple[str, list[int], int, int]:
    """Type, shape and byte range of an entry whose size fits its shape."""
    entry = entry if isinstance(entry, dict) else {}
    code, shape, span = str(entry.get("dtype")), entry.get("shape"), entry.get("data_offsets")
    sizes = {code: np.dtype(kind).itemsize for kind, code in _CODES.items()}
    if (
        not isinstance(shape, list)
        or not isinstance(span, list)
        or (len(span), code in sizes, len(shape) <= 4) != (2, True, True)
        or not all(type(x) is int and 0 <= x <= room for x in [*shape, *span])
    ):
        raise DataError(f"array {name} is not described as it should be; {_AGAIN}", path)
    if span[1] - span[0] != math.prod(shape) * sizes[code] or span[1] > room:
        raise DataError(f"array {name} has {span[1] - span[0]:,} bytes, which is not its shape; {_AGAIN}", path)
    return code, shape, span[0], span[1]
