"""Protocol buffers without protobuf: the wire format, decoded for a schema that the caller knows.

Format: the public encoding page of Protocol Buffers. Nothing is recursive: a caller opens one message after another,
so that nesting is as deep as its schema. Fields may stand in any order, repeated scalars packed or not.
"""

import struct
from collections.abc import Mapping
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int64, Shaped, UInt8, UInt64

from gleanings.core.errors import DataError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_FIELDS = 1_000_000
"""Largest number of fields of one message."""
MAX_MESSAGES = 200_000
"""Largest number of messages opened of one repeated field."""
MAX_PACKED = 16 << 20
"""Largest number of bytes of packed varints in one field."""
Scalar = Literal["varint", "double", "float"]
WIRE = {"varint": VARINT, "double": FIXED64, "float": FIXED32}
DTYPE = {"double": np.dtype("<f8"), "float": np.dtype("<f4")}
_MAX_LAYOUTS = 16
Spans = Int64[np.ndarray, "_ 2"]


class WireError(DataError):
    """Bytes that are no message of the expected schema; `message` without the place, `offset` within the payload."""

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(message, offset=offset)
        self.message = message


class Message:
    """The fields of the message that fills `data[start:end]`, found in one pass; values are decoded when asked for.

    Raises: WireError for a truncated or overlong field, groups, unknown wire types, field number 0 and more than
    `MAX_FIELDS` fields. A getter raises it where a field has another wire type than the one asked for.
    """

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self.data = data
        self._found = _scan(data, start, len(data) if end is None else end)

    def numbers(self) -> list[int]:
        """Numbers of the fields that are there, each once."""
        return sorted({tag >> 3 for tag in self._found})

    def spans(self, number: int) -> Spans:
        """Start and end in `data` of each length-delimited field of that number, in order."""
        self._only(number, BYTES)
        return np.array(self._found.get(number << 3 | BYTES, []), np.int64).reshape(-1, 2)

    def messages(self, number: int) -> "list[Message]":
        """Each field of that number, opened as a message."""
        self._only(number, BYTES)
        ends = self._found.get(number << 3 | BYTES, [])
        if len(ends) > 2 * MAX_MESSAGES:
            raise WireError(f"field {number} holds {len(ends) // 2:,} messages; at most {MAX_MESSAGES:,} are read")
        return [Message(self.data, ends[i], ends[i + 1]) for i in range(0, len(ends), 2)]

    def message(self, number: int) -> "Message | None":
        """The last field of that number opened as a message, None if there is none."""
        self._only(number, BYTES)
        ends = self._found.get(number << 3 | BYTES)
        return Message(self.data, ends[-2], ends[-1]) if ends else None

    def content(self, number: int) -> bytes:
        """The last field of that number as bytes, empty if there is none."""
        self._only(number, BYTES)
        ends = self._found.get(number << 3 | BYTES)
        return self.data[ends[-2] : ends[-1]] if ends else b""

    def integer(self, number: int, default: int = 0) -> int:
        """The last varint of that number, as a signed 64-bit number."""
        self._only(number, VARINT)
        ends = self._found.get(number << 3)
        return signed(_varint(self.data, ends[-2], ends[-1])[0]) if ends else default

    def real(self, number: int, kind: Literal["double", "float"], default: float = float("nan")) -> float:
        """The last double or float of that number."""
        self._only(number, WIRE[kind])
        ends = self._found.get(number << 3 | WIRE[kind])
        return struct.unpack_from("<d" if kind == "double" else "<f", self.data, ends[-2])[0] if ends else default

    def integers(self, number: int) -> Int64[np.ndarray, " n"]:
        """All varints of a repeated field, packed or not."""
        return np.concatenate([_packed_varints(part) for part in self._parts(number, VARINT)] or [_NO_INTEGERS])

    def reals(self, number: int, kind: Literal["double", "float"]) -> Float[np.ndarray, " n"]:
        """All doubles (float64) or floats (float32) of a repeated field, packed or not."""
        dtype = DTYPE[kind]
        parts = self._parts(number, WIRE[kind])
        for part in parts:
            if len(part) % dtype.itemsize:
                raise WireError(f"field {number} has {len(part)} bytes; expected a multiple of {dtype.itemsize}")
        return np.concatenate([part.view(dtype) for part in parts] or [np.zeros(0, dtype)])

    def _parts(self, number: int, wire: int) -> list[UInt8[np.ndarray, " n"]]:
        """Bytes of a repeated scalar: neighbours that are not packed become one part."""
        packed, single = self._found.get(number << 3 | BYTES, []), self._found.get(number << 3 | wire, [])
        self._only(number, BYTES, wire)
        view = np.frombuffer(self.data, np.uint8)
        parts = [(packed[i], view[packed[i] : packed[i + 1]]) for i in range(0, len(packed), 2)]
        alone = np.array(single, np.int64).reshape(-1, 2)
        cuts = np.searchsorted(alone[:, 0], [start for start, _ in parts])
        for group in np.split(alone, cuts):
            if len(group):
                parts.append((int(group[0, 0]), view[_within(group)]))
        parts.sort(key=lambda part: part[0])
        return [part for _, part in parts]

    def _only(self, number: int, *wires: int) -> None:
        for wire in (VARINT, FIXED64, BYTES, FIXED32):
            if wire not in wires and number << 3 | wire in self._found:
                at = self._found[number << 3 | wire][0]
                raise WireError(f"field {number} has wire type {wire}; expected {' or '.join(map(str, wires))}", at)


def columns(data: bytes, spans: Spans, kinds: Mapping[int, Scalar]) -> dict[int, Shaped[np.ndarray, " n"]]:
    """Scalar fields of many small messages of one schema, for each field number an array over the messages.

    double and float: float64, NaN where absent; varint: int64, 0 where absent; the last of several counts. Messages of
    one length and layout are decoded together. Raises: WireError as `Message`.
    """
    out: dict[int, Shaped[np.ndarray, " n"]] = {
        number: np.zeros(len(spans), np.int64) if kind == "varint" else np.full(len(spans), np.nan)
        for number, kind in kinds.items()
    }
    view = np.frombuffer(data, np.uint8)
    lengths = spans[:, 1] - spans[:, 0]
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        if length == 0:
            continue
        table = np.lib.stride_tricks.sliding_window_view(view, int(length))[spans[rows, 0]]
        for _ in range(_MAX_LAYOUTS):
            if not len(rows):
                break
            same = _decode_like_first(table, rows, kinds, out)
            table, rows = table[~same], rows[~same]
        for row in rows:
            message = Message(data, *spans[row].tolist())
            for number, kind in kinds.items():
                value = message.integer(number) if kind == "varint" else message.real(number, kind)
                out[number][row] = value
    return out


def _decode_like_first(
    table: UInt8[np.ndarray, "n L"],
    rows: Int64[np.ndarray, " n"],
    kinds: Mapping[int, Scalar],
    out: dict[int, Shaped[np.ndarray, " N"]],
) -> Bool[np.ndarray, " n"]:
    """Fill `out` for the rows whose fields stand where those of the first row do; which rows that were."""
    first = table[0].tobytes()
    message = Message(first)
    fixed = np.ones(len(first), bool)  # bytes that must agree: everything but values
    where: list[tuple[int, int, int]] = []
    same = np.ones(len(table), bool)
    for number, kind in kinds.items():
        wire = WIRE[kind]
        message._only(number, wire)
        ends = message._found.get(number << 3 | wire)
        if not ends:
            continue
        start, end = ends[-2:]
        where.append((number, start, end))
        fixed[start:end] = False
        if wire == VARINT:
            same &= ((table[:, start:end] >= 0x80) == (table[0, start:end] >= 0x80)).all(1)
    same &= (table[:, fixed] == table[0, fixed]).all(1)
    for number, start, end in where:
        part = np.ascontiguousarray(table[same, start:end])
        if kinds[number] == "varint":
            shifts = np.uint64(7) * np.arange(end - start, dtype=np.uint64)
            out[number][rows[same]] = ((part & 0x7F).astype(np.uint64) << shifts).sum(1, dtype=np.uint64).view(np.int64)
        else:
            out[number][rows[same]] = part.view(DTYPE[kinds[number]])[:, 0]
    return same


def _scan(data: bytes, at: int, end: int) -> dict[int, list[int]]:
    """For each tag (number << 3 | wire) the starts and ends of its values, flat."""
    found: dict[int, list[int]] = {}
    count = 0
    while at < end:
        begin = at
        tag = data[at]
        at += 1
        if tag >= 0x80:
            tag, at = _varint(data, begin, end)
        wire = tag & 7
        if wire in (VARINT, BYTES):
            if at < end and data[at] < 0x80:  # most of them; a call would double the time
                value, stop = data[at], at + 1
            else:
                value, stop = _varint(data, at, end)
            if wire == BYTES:
                at, stop = stop, stop + value
        elif wire == FIXED64:
            stop = at + 8
        elif wire == FIXED32:
            stop = at + 4
        else:
            raise WireError(f"wire type {wire} of field {tag >> 3}: a group, or no protocol buffer", begin)
        count += 1
        if stop > end or not 8 <= tag < 1 << 32 or count > MAX_FIELDS:
            raise WireError(_refusal(tag, count, stop - end), begin)
        spans = found.get(tag)
        if spans is None:
            found[tag] = [at, stop]
        else:
            spans.append(at)
            spans.append(stop)
        at = stop
    return found


def _refusal(tag: int, count: int, beyond: int) -> str:
    if count > MAX_FIELDS:
        return f"more than {MAX_FIELDS:,} fields"
    if beyond > 0:
        return f"field {tag >> 3} ends {beyond:,} bytes behind its message"
    return f"field number {tag >> 3} is not allowed"


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The unsigned varint at `at`, and where it ends."""
    value = shift = 0
    begin = at
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
    raise WireError("a varint of more than ten bytes" if shift >= 70 else "truncated inside a varint", begin)


def signed(value: int) -> int:
    """An unsigned 64-bit number read as two's complement."""
    return value - (1 << 64) if value >> 63 else value


_NO_INTEGERS = np.zeros(0, np.int64)


def _packed_varints(part: UInt8[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
    """Varints that follow each other without gaps."""
    if len(part) > MAX_PACKED:
        raise WireError(f"{len(part):,} bytes of packed varints; at most {MAX_PACKED:,} are read")
    last = part < 0x80
    if last.all():
        return part.astype(np.int64)
    ends = np.flatnonzero(last)
    starts = np.concatenate((np.zeros(1, np.int64), ends[:-1] + 1))
    lengths = ends - starts + 1
    if not last[-1] or lengths.max() > 10:
        raise WireError("a packed varint is truncated or has more than ten bytes")
    out: UInt64[np.ndarray, " m"] = (part[starts] & 0x7F).astype(np.uint64)
    for k in range(1, int(lengths.max())):
        longer = np.flatnonzero(lengths > k)
        out[longer] |= (part[starts[longer] + k] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * k)
    return out.view(np.int64)


def _within(spans: Spans) -> Int64[np.ndarray, " n"]:
    """All positions inside the spans, in order."""
    lengths = spans[:, 1] - spans[:, 0]
    before = np.cumsum(lengths) - lengths
    return np.repeat(spans[:, 0] - before, lengths) + np.arange(int(lengths.sum()))
