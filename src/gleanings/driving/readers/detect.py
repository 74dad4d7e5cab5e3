"""Which format a file has, found by its content, and its scenes."""

import contextlib
import importlib
import mmap
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gleanings.core.errors import DataError
from gleanings.data.protowire import Message
from gleanings.data.tfrecord import HEADER, is_tfrecord, read_tfrecord, regular_size
from gleanings.driving.raw import RawScene
from gleanings.driving.readers import _womd, womd_example, womd_scenario

Format = Literal["womd", "nocturne", "scenarionet", "commonroad", "argoverse", "ngsim"]
KNOWN = (
    "WOMD tf.Example or Scenario (TFRecord), GPUDrive/Nocturne (JSON), ScenarioNet (pickle), CommonRoad (XML), "
    "Argoverse 2 (scenario parquet beside its map JSON), NGSIM (sqlite beside a SUMO net)"
)
_HEAD = 64 << 10
_MAX_BYTES: dict[Format, int] = {"womd": 64 << 30, "ngsim": 8 << 30, "argoverse": 4 << 30}
_MAX_BYTES |= {"nocturne": 512 << 20, "scenarionet": 256 << 20, "commonroad": 512 << 20}
_KEY = re.compile(rb'"([^"\\]{1,60})"\s*:')
_COMMENT, _ROOT = re.compile(rb"<!--.*?-->", re.DOTALL), re.compile(rb"<([A-Za-z][\w:.-]{0,60})")
_ARGOVERSE_MAP = (b'"pedestrian_crossings"', b'"lane_segments"')


@dataclass(frozen=True)
class SceneError:
    """A file, or a record of one, that could not be read."""

    path: Path
    record: int | None
    error: DataError


Work = tuple[Path, int | None, Format, bytes | None]
"""A file, or one record of it with its bytes, that can be read apart from the others."""


def read_raw(path: str | Path) -> list[RawScene]:
    """All scenes of a file. Raises: DataError for the first record that is broken, and for unknown formats."""
    return list(iter_raw(path))


def iter_raw(path: str | Path) -> Iterator[RawScene]:
    """The scenes of a file one by one; errors as `read_raw`, when the broken record is reached."""
    for work in split(path):
        yield from read_work(work)


def raw_items(path: str | Path) -> Iterator[RawScene | DataError]:
    """The scenes of a file, with an error in the place of each record that is broken; raises nothing."""
    try:
        for work in split(path):
            try:
                yield from read_work(work)
            except DataError as error:
                yield error
    except DataError as error:
        yield error


def split(path: str | Path) -> Iterator[Work]:
    """The file in parts: each record of a TFRecord, other files as a whole. Raises: DataError as `detect`."""
    path = Path(path)
    form = detect(path)
    if form != "womd":
        yield path, None, form, None
        return
    for record, payload in enumerate(read_tfrecord(path)):
        yield path, record, form, payload


def read_work(work: Work) -> Iterator[RawScene]:
    """The scenes of a part. Raises: DataError."""
    path, record, form, payload = work
    if payload is not None and record is not None:
        yield _womd.parse_record(payload, path, record, _parse_any)
        return
    reader: Callable[[Path], Iterator[RawScene]] = importlib.import_module(f"gleanings.driving.readers.{form}").read
    yield from reader(path)


def detect(path: Path) -> Format:
    """The format of a file, by its content. Raises: DataError for no file, an empty or too large one, or none known."""
    size = regular_size(path, max(_MAX_BYTES.values()))
    if size == 0:
        raise DataError("is empty", path)
    head = _read_head(path)
    form = _by_head(head, path)
    if form is None:
        raise DataError(f"is in no known format: {_describe(head)}. Known: {KNOWN}", path)
    if size > _MAX_BYTES[form]:
        raise DataError(f"has {size:,} bytes; at most {_MAX_BYTES[form]:,} are read of {form} files", path)
    return form


def _read_head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_HEAD)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path) from error


def is_companion(path: Path) -> bool:
    """Whether a file is a map that a reader takes from beside its scene, or plain text that is no data."""
    try:
        size = regular_size(path, max(_MAX_BYTES.values()))
        head = _read_head(path)
    except DataError:
        return False  # reading it tells why
    if size == 0:
        return False
    start = _text_start(head)
    if start == b"{":
        return _contains(path, _ARGOVERSE_MAP)
    if start == b"<":
        return _root(head) == "net"
    return start != b"[" and _is_text(head)


def _by_head(head: bytes, path: Path) -> Format | None:
    if is_tfrecord(head):
        return "womd"
    if head.startswith(b"SQLite format 3\0"):
        return "ngsim"
    if head.startswith(b"PAR1"):
        return "argoverse"
    if re.match(rb"\x80[\x02-\x05]", head):
        return "scenarionet"
    start = _text_start(head)
    if start == b"<" and _root(head) == "commonRoad":
        return "commonroad"
    if start == b"{" and _contains(path, (b'"objects"', b'"roads"')):
        return "nocturne"
    return None


def _text_start(head: bytes) -> bytes:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _root(head: bytes) -> str:
    """Name of the root element of an XML file; '' if there is none."""
    found = _ROOT.search(_COMMENT.sub(b"", head))
    return found.group(1).decode("ascii", "replace") if found else ""


def _is_text(head: bytes) -> bool:
    with contextlib.suppress(UnicodeDecodeError):
        head[:-4].decode()  # the last letter may be cut
        return b"\0" not in head
    return False


def _contains(path: Path, words: tuple[bytes, ...]) -> bool:
    """Whether all of the words stand in the file, without loading it."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return all(view.find(word) >= 0 for word in words)


def _describe(head: bytes) -> str:
    """What an unknown file looks like, in a few words."""
    start = _text_start(head)
    if start == b"{":
        keys = [key.decode("utf-8", "replace") for key in _KEY.findall(head)[:5]]
        return f"JSON whose first keys are {', '.join(keys) or 'none'}"
    if start == b"<":
        return f"XML whose root is {_root(head) or 'missing'}"
    if head[:2] == b"\x1f\x8b":
        return "gzip; unpack it first"
    if head.startswith(b"ARROW1"):
        return "a feather table, such as the annotations of a sensor log, which has no poses of the ego in the city"
    hint = ""
    if len(head) >= HEADER and int.from_bytes(head[:8], "little") < 1 << 32:
        hint = "; if it is a TFRecord, its first length does not match its CRC: damaged"
    return f"it begins with {head[:8]!r}{hint}"


def _parse_any(payload: bytes, path: Path, record: int) -> RawScene:
    if womd_example.is_example(payload):
        return womd_example.parse(payload, path, record)
    message = Message(payload)
    if womd_scenario.is_scenario(message):
        return womd_scenario.parse(payload, path, record)
    numbers = message.numbers()
    if numbers == [1]:
        features = message.message(1)
        names = [entry.content(1) for entry in features.messages(1)[:5]] if features else []
        first = b", ".join(names).decode("utf-8", "replace") or "none"
        raise DataError(f"a tf.Example of no known data set; its first keys are {first}. Known: {KNOWN}", path, record)
    raise DataError(f"a record of no known kind; its fields are {numbers[:8]}. Known: {KNOWN}", path, record)
