"""TFRecord files: records framed by their length and masked CRC32C sums (format: TensorFlow's public description).

A record is: length (u64), masked CRC of those 8 bytes (u32), payload, masked CRC of the payload (u32), little-endian.
"""

import os
import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import google_crc32c

from gleanings.core.errors import DataError

MAX_RECORD = 128 << 20
MAX_FILE = 64 << 30
HEADER = 12
_FOOTER = 4


def read_tfrecord(path: str | Path, limit: int = MAX_RECORD) -> Iterator[bytes]:
    """Payloads of the file's records, in order, each checked before it is given out; none from an empty file.

    Raises: DataError with record and byte offset for a file that ends inside a record, a CRC that differs (named:
    length or payload), or a record of more than `limit` bytes; records before it have been delivered.
    """
    path = Path(path)
    size = regular_size(path, MAX_FILE)
    with path.open("rb") as stream:
        offset = record = 0
        while offset < size:
            header = stream.read(HEADER)
            if len(header) < HEADER:
                raise DataError(f"truncated: {len(header)} of {HEADER} bytes of the length", path, record, offset)
            length, crc = struct.unpack("<QI", header)
            if crc != masked_crc(header[:8]):
                raise DataError("the length does not match its CRC: the file is damaged here", path, record, offset)
            if length > limit:
                raise DataError(f"a record of {length:,} bytes; at most {limit:,} are read", path, record, offset)
            offset += HEADER
            if length + _FOOTER > size - offset:
                found = max(size - offset, 0)
                raise DataError(f"truncated: {found:,} of {length + _FOOTER:,} bytes of payload", path, record, offset)
            payload, footer = stream.read(length), stream.read(_FOOTER)
            if len(payload) < length or len(footer) < _FOOTER:
                raise DataError("truncated: the file became shorter while it was read", path, record, offset)
            if struct.unpack("<I", footer)[0] != masked_crc(payload):
                raise DataError("the payload does not match its CRC: the file is damaged here", path, record, offset)
            yield payload
            offset, record = offset + length + _FOOTER, record + 1


def write_tfrecord(path: str | Path, payloads: Iterable[bytes]) -> None:
    """Write one record for each payload, over a file that is there."""
    with Path(path).open("wb") as stream:
        for payload in payloads:
            length = struct.pack("<Q", len(payload))
            stream.write(length + struct.pack("<I", masked_crc(length)))
            stream.write(payload + struct.pack("<I", masked_crc(payload)))


def is_tfrecord(head: bytes) -> bool:
    """Whether a file that begins with `head` (12 bytes or more) is framed as a TFRecord: the length's CRC fits."""
    return len(head) >= HEADER and struct.unpack("<I", head[8:HEADER])[0] == masked_crc(head[:8])


def masked_crc(data: bytes) -> int:
    """CRC32C turned right by 15 bits plus a constant, as TFRecord stores it."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def regular_size(path: Path, limit: int) -> int:
    """Bytes of an ordinary file. Raises: DataError for none, a folder, a device or pipe, or more than `limit` bytes."""
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be opened: {getattr(error, 'strerror', None) or error}", path) from error
    if stat.S_ISDIR(found.st_mode):
        raise DataError("is a folder; expected a file", path)
    if not stat.S_ISREG(found.st_mode):
        raise DataError("is a device, pipe or socket; expected a file", path)
    if found.st_size > limit:
        raise DataError(f"has {found.st_size:,} bytes; at most {limit:,} are read", path)
    return found.st_size
