"""TFRecord framing: what is written comes back, and what is damaged is named with its place."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from gleanings.core.errors import DataError
from gleanings.data.tfrecord import is_tfrecord, masked_crc, read_tfrecord, write_tfrecord

PAYLOADS = [b"", b"a", bytes(range(256)) * 9]


def crc32c(data: bytes) -> int:
    """Bit by bit, from the definition: reflected polynomial 0x82F63B78."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_tfrecord(tmp_path / "f", PAYLOADS)
    return tmp_path / "f"


def test_masked_crc_is_that_of_the_definition() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the published check value
    for data in PAYLOADS:
        crc = crc32c(data)
        assert masked_crc(data) == (((crc >> 15) | (crc << 17 & 0xFFFFFFFF)) + 0xA282EAD8) % 2**32


def test_records_come_back(file: Path) -> None:
    assert list(read_tfrecord(file)) == PAYLOADS
    assert is_tfrecord(file.read_bytes()[:12])
    assert not is_tfrecord(b"{}" * 20)
    assert not is_tfrecord(b"")


def test_every_flipped_byte_is_found_behind_the_whole_records(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    starts = np.cumsum([0] + [len(payload) + 16 for payload in PAYLOADS])
    for at in [*range(60), *np.random.default_rng(0).integers(60, len(data), 60).tolist()]:
        bad = tmp_path / "bad"
        bad.write_bytes(data[:at] + bytes([data[at] ^ 64]) + data[at + 1 :])
        record = int(np.searchsorted(starts, at, "right")) - 1
        part = "length" if at - starts[record] < 12 else "payload"
        read = []
        with pytest.raises(DataError, match=f"the {part} does not match its CRC") as error:
            read.extend(read_tfrecord(bad))
        assert error.value.record == record
        assert error.value.offset is not None
        assert 0 <= error.value.offset - starts[record] <= 12
        found = read_tfrecord(bad)
        assert [next(found) for _ in range(record)] == PAYLOADS[:record]


def test_a_length_is_checked_before_memory_is_taken(tmp_path: Path) -> None:
    for length, words in ((1 << 62, "at most 134,217,728"), (1 << 26, "truncated: 4 of 67,108,868")):
        head = struct.pack("<Q", length)
        (tmp_path / "f").write_bytes(head + struct.pack("<I", masked_crc(head)) + b"abcd")
        with pytest.raises(DataError, match=words):
            next(read_tfrecord(tmp_path / "f"))
    write_tfrecord(tmp_path / "f", PAYLOADS)
    with pytest.raises(DataError, match="a record of 2,304 bytes; at most 100"):
        list(read_tfrecord(tmp_path / "f", limit=100))


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in (("pipe", "device, pipe"), ("", "folder"), ("none", "No such file"), ("a\0b", "null")):
        with pytest.raises(DataError, match=words):
            list(read_tfrecord(tmp_path / path))
