"""Files of all seven formats of scenes, small ones and real ones, damaged at random: scenes or DataError, nothing else.

Each load is bounded in time and in memory, and each message is one printable line.
"""

import re
import shutil
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from tests.driving import _files
from tests.driving._writers import womd_scene, write_example, write_scenario

from gleanings.core.errors import DataError
from gleanings.data.tfrecord import is_tfrecord, masked_crc, write_tfrecord
from gleanings.driving.raw import RawScene
from gleanings.driving.readers._json import load_json
from gleanings.driving.readers._sumo import read_net
from gleanings.driving.readers._unpickle import unpickle
from gleanings.driving.readers._xml import parse_xml
from gleanings.driving.readers.detect import read_raw


def womd(encode: Callable[..., bytes], *sizes: int) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        write_tfrecord(folder / "small.tfrecord", [encode(womd_scene(steps=30), *sizes)])
        return folder / "small.tfrecord"

    return write


# Format -> what writes a small file, and the names of what is damaged in turn.
SMALL: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "womd example": (womd(write_example, 8, 300), ("small.tfrecord",)),
    "womd scenario": (womd(write_scenario), ("small.tfrecord",)),
    "gpudrive": (_files.write_nocturne, ("small.json",)),
    "scenarionet": (_files.write_scenarionet, ("small.pkl",)),
    "commonroad": (_files.write_commonroad, ("small.xml",)),
    "argoverse": (_files.write_argoverse, ("scenario_abc.parquet", "log_map_archive_abc.json")),
    "ngsim": (_files.write_ngsim, ("small.shf", "small.net.xml")),
}
# Format -> folder and patterns in the shared data; the first is the file to load.
REAL: dict[str, tuple[str, ...]] = {
    "womd example": ("waymo-open-dataset", "motion_data_one_example.tfrecord"),
    "womd scenario": ("waymo-open-dataset", "motion_data_one_scenario.tfrecord"),
    "gpudrive": ("gpudrive", "tfrecord-00000-of-01000_4.json"),
    "scenarionet": ("scenarionet", "overpass*.pkl"),
    "commonroad 2018b": ("commonroad", "USA_Lanker*.xml"),
    "commonroad 2020a": ("commonroad", "USA_US101*.xml"),
    "argoverse": ("av2", "scenario_*.parquet", "log_map_archive_0*.json"),
    "ngsim": ("ngsim-smarts", "*.shf", "*.net.xml"),
}
SECONDS = 5.0


def flip(data: bytearray, rng: np.random.Generator) -> None:
    for at in rng.integers(0, len(data), rng.integers(1, 9)):
        data[at] ^= 1 << rng.integers(8)


def cut(data: bytearray, rng: np.random.Generator) -> None:
    del data[rng.integers(0, len(data)) :]


def remove(data: bytearray, rng: np.random.Generator) -> None:
    at = rng.integers(0, len(data))
    del data[at : at + rng.integers(1, 2 + len(data) // 4)]


def repeat(data: bytearray, rng: np.random.Generator) -> None:
    at = rng.integers(0, len(data))
    piece = data[at : at + rng.integers(1, 2 + len(data) // 8)]
    data[at:at] = piece * int(rng.integers(1, 4))


def overwrite(data: bytearray, rng: np.random.Generator) -> None:
    """With numbers that are large, negative or none."""
    piece = [b"\xff" * 8, b"\0" * 8, b"\0" * 6 + b"\xf0\x7f", b"\x7f" + b"\xff" * 7, b"\x80" * 9 + b"\1"][
        rng.integers(5)
    ]
    at = rng.integers(0, len(data))
    data[at : at + len(piece)] = piece


def _tokens(data: bytearray) -> list[re.Match[bytes]]:
    return list(re.finditer(rb"[A-Za-z_]{2,}|-?[0-9][0-9.eE+-]*", data))


def swap(data: bytearray, rng: np.random.Generator) -> None:
    """Two words or numbers of a text."""
    if len(tokens := _tokens(data)) > 1:
        one, two = sorted(rng.choice(len(tokens), 2, replace=False).tolist())
        first, second = tokens[one].group(), tokens[two].group()
        data[tokens[two].start() : tokens[two].end()] = first
        data[tokens[one].start() : tokens[one].end()] = second


def digits(data: bytearray, rng: np.random.Generator) -> None:
    """A number of a text by one that is larger, smaller or none."""
    numbers = [token for token in _tokens(data) if token.group()[:1] in b"-0123456789"]
    if numbers:
        token = numbers[rng.integers(len(numbers))]
        other = [b"1e308", b"-1", b"0", b"NaN", b"1e-300", b"9" * 400, b"null", b'"x"', b"[]", b"1e9999", b"{}"]
        data[token.start() : token.end()] = other[rng.integers(len(other))]


DAMAGE = (flip, cut, remove, repeat, overwrite, swap, digits)


def damaged(data: bytes, trial: int, rng: np.random.Generator) -> bytes:
    """The data with one kind of damage; three of four times under the checksums of a record, that would tell."""
    change, whole = DAMAGE[trial % len(DAMAGE)], bytearray(data)
    if is_tfrecord(data) and trial % 4:
        payload = whole[12:-4]
        change(payload, rng)
        length = struct.pack("<Q", len(payload))
        crcs = (struct.pack("<I", masked_crc(part)) for part in (length, bytes(payload)))
        return length + next(crcs) + payload + next(crcs)
    change(whole, rng)
    return bytes(whole)


def load(path: Path, limit: int | None) -> str:
    """The message of reading a file, '' if it gave scenes; asserts a printable line, and bounds on time and memory.

    Memory is watched where it has a limit; that takes several times as long.
    """
    if limit is not None:
        tracemalloc.start()
    start = time.process_time()
    message = ""
    try:
        assert all(isinstance(scene, RawScene) for scene in read_raw(path))
    except DataError as error:
        message = str(error)
        assert message.isprintable()
        assert 0 < len(message) < 600
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.process_time() - start < SECONDS * (1 if limit is None else 3)
    assert limit is None or peak < limit
    return message


def messages_of(path: Path, names: tuple[str, ...], trials: int, watch: int) -> list[str]:
    """What loading `path` says while one of the files beside it is damaged, each in every way in turn.

    Memory is watched in one of `watch` trials.
    """
    whole = {name: (path.parent / name).read_bytes() for name in names}
    size = sum(map(len, whole.values()))
    assert load(path, None) == ""
    rng, messages = np.random.default_rng(trials), []
    for trial in range(trials):
        name = names[trial % len(names)]
        mutant = damaged(whole[name], trial // len(names), rng)
        (path.parent / name).write_bytes(mutant)
        limit = (64 << 20) + 20 * (size + len(mutant))
        messages.append(load(path, limit if trial % watch == 0 else None))
        (path.parent / name).write_bytes(whole[name])
    return messages


@pytest.mark.parametrize("trials", [20, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SMALL)
def test_small_files_damaged_at_random(tmp_path: Path, name: str, trials: int):
    write, names = SMALL[name]
    messages = messages_of(write(tmp_path), names, trials, watch=1)
    assert sum(map(bool, messages)) > trials // 5


@pytest.mark.parametrize("trials", [5, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
@pytest.mark.parametrize("name", REAL)
def test_real_files_damaged_at_random(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch, name: str, trials: int
):
    # Checking the types of millions of calls would take twenty times as long as reading.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    folder, *patterns = REAL[name]
    copies = []
    for pattern in patterns:
        (source,) = (shared_data / "driving" / folder).glob(pattern)
        copies.append(Path(shutil.copyfile(source, tmp_path / source.name)))
    assert len(messages_of(copies[0], tuple(copy.name for copy in copies), trials, watch=5)) == trials


@pytest.mark.parametrize("read", [parse_xml, load_json, unpickle, read_net])
def test_devices_are_not_read_to_their_end(tmp_path: Path, read: Callable[[Path], object]):
    (path := tmp_path / "a.net.xml").symlink_to("/dev/zero")
    with pytest.raises(DataError, match="is a device, pipe or socket"):
        read(path)


def test_a_tag_without_end_and_many_attributes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.xml"
    path.write_bytes(b"<a " + b" ".join(b'a%d=""' % i for i in range(200_000)) + b"/>")
    begin = time.process_time()
    with pytest.raises(DataError, match="byte 0: a tag or comment of more than 1,048,576 bytes"):
        parse_xml(path)
    assert time.process_time() - begin < 0.2
    monkeypatch.setattr("gleanings.driving.readers._xml.MAX_ATTRIBUTES", 1000)
    path.write_bytes(b"<a>" + b'<b c="" d=""/>' * 500 + b"</a>")
    assert len(parse_xml(path)) == 500
    path.write_bytes(path.read_bytes()[:-4] + b'<b c=""/></a>')
    with pytest.raises(DataError, match=r"byte 7003: more than .* 1,000 attributes"):
        parse_xml(path)


def test_long_texts_and_tags_over_the_borders_of_pieces_are_whole(tmp_path: Path):
    shapes = [f"{i},{i}.5 " * (i * 997 % 20_000) for i in range(40)]
    path = tmp_path / "a.xml"
    path.write_text("<a>" + "".join(f'<b shape="{shape}">{shape}&lt;</b>' for shape in shapes) + "</a>", "utf-8")
    found = parse_xml(path)
    assert [node.get("shape") for node in found] == shapes
    assert [node.text for node in found] == [f"{shape}<" for shape in shapes]
