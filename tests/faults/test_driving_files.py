"""Files of all seven formats of scenes, small ones and real ones, damaged at random: scenes or DataError, nothing else.

Each load is bounded in time and in memory, and each message is one printable line.
"""

import re
import shutil
import time
import tracemalloc
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from gleanings.core.errors import DataError
from gleanings.driving.raw import RawScene
from tests.driving import _files

Write = Callable[[Path], Path]
# Format -> (module of readers, file that a test makes, what is damaged in turn, files of the shared data).
SMALL: dict[str, tuple[str, Write, tuple[str, ...]]] = {
    "gpudrive": ("nocturne", _files.write_nocturne, ("small.json",)),
    "scenarionet": ("scenarionet", _files.write_scenarionet, ("small.pkl",)),
    "commonroad": ("commonroad", _files.write_commonroad, ("small.xml",)),
    "argoverse": ("argoverse", _files.write_argoverse, ("scenario_abc.parquet", "log_map_archive_abc.json")),
    "ngsim": ("ngsim", _files.write_ngsim, ("small.shf", "small.net.xml")),
}
REAL: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "gpudrive": ("nocturne", "gpudrive", ("tfrecord-00000-of-01000_4.json",)),
    "scenarionet": ("scenarionet", "scenarionet", ("overpass_*.pkl",)),
    "commonroad 2018b": ("commonroad", "commonroad", ("USA_Lanker-1_1_T-1.xml",)),
    "commonroad 2020a": ("commonroad", "commonroad", ("USA_US101-4_1_T-1.xml",)),
    "argoverse": ("argoverse", "av2", ("scenario_*.parquet", "log_map_archive_0*.json")),
    "ngsim": ("ngsim", "ngsim-smarts", ("*.shf", "*.net.xml")),
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


def load(module: str, path: Path) -> Iterator[RawScene]:
    return import_module(f"gleanings.driving.readers.{module}").read(path)


def examine(module: str, path: Path, size: int) -> str:
    """The message of a load, or '' if it gave scenes; asserts its bounds."""
    tracemalloc.start()
    start = time.process_time()
    message = ""
    try:
        assert all(isinstance(scene, RawScene) for scene in load(module, path))
    except DataError as error:
        message = str(error)
        assert message.isprintable()
        assert 0 < len(message) < 600
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.process_time() - start < SECONDS
    assert peak < (64 << 20) + 20 * size
    return message


def damage(module: str, path: Path, names: tuple[str, ...], trials: int) -> list[str]:
    """Messages of loading `path` while one of the files beside it is damaged, each in every way in turn."""
    whole = {name: (path.parent / name).read_bytes() for name in names}
    assert examine(module, path, sum(map(len, whole.values()))) == ""
    rng, messages = np.random.default_rng(trials), []
    for trial in range(trials):
        name = names[trial % len(names)]
        mutant = bytearray(whole[name])
        DAMAGE[trial // len(names) % len(DAMAGE)](mutant, rng)
        (path.parent / name).write_bytes(mutant)
        messages.append(examine(module, path, sum(map(len, whole.values())) + len(mutant)))
        (path.parent / name).write_bytes(whole[name])
    return messages


@pytest.mark.parametrize("trials", [20, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SMALL)
def test_small_files_damaged_at_random(tmp_path: Path, name: str, trials: int):
    module, write, names = SMALL[name]
    messages = damage(module, write(tmp_path), names, trials)
    assert sum(map(bool, messages)) > trials // 5


@pytest.mark.parametrize("trials", [5, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
@pytest.mark.parametrize("name", REAL)
def test_real_files_damaged_at_random(tmp_path: Path, shared_data: Path, name: str, trials: int):
    module, folder, patterns = REAL[name]
    copies = []
    for pattern in patterns:
        (source,) = (shared_data / "driving" / folder).glob(pattern)
        copies.append(Path(shutil.copyfile(source, tmp_path / source.name)))
    assert len(damage(module, copies[0], tuple(copy.name for copy in copies), trials)) == trials
