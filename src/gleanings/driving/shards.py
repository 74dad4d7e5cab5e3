"""Compiling many files into a folder: a kill loses at most one shard, and a second run does what is left. Ours."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gleanings.core.errors import ConfigError, DataError
from gleanings.driving.compile import compile_scene
from gleanings.driving.config import CompileConfig
from gleanings.driving.raw import RawScene
from gleanings.driving.scene import Scene
from gleanings.driving.store import SUFFIX, VERSION, CompiledFile, save_scenes

_SHARD = 64  # scenes
Read = Callable[[Path], Iterable[RawScene | DataError]]


@dataclass(frozen=True)
class CompiledSource:
    """What became of a source: its compiled files, the scenes in them, how many of these an earlier run had left, and
    what is wrong with the records that gave none."""

    source: Path
    files: tuple[Path, ...]
    scenes: int
    found: int
    broken: tuple[str, ...]


def compile_files(
    sources: Sequence[str | Path],
    folder: str | Path,
    config: CompileConfig | None = None,
    progress: Callable[[Path, int], None] | None = None,
    *,
    read: Read,
    shard: int = _SHARD,
) -> list[CompiledSource]:
    """Compile every record of the files `sources` into `folder`, `shard` scenes at a time.

    read: gives the records of a file; one that is broken as a DataError, or by raising it, which ends the file. A
    broken record is reported and no obstacle. progress: called with the source and its scenes so far. Shards of an
    earlier run with the same content and settings stay; two runs at once in one folder are not meant. ConfigError: no
    sources, or shard < 1. OSError: the folder cannot be written.
    """
    if not sources or shard < 1:
        raise ConfigError(f"{len(sources)} sources in shards of {shard}; expected at least one of both")
    config = config or CompileConfig()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [_compile_source(Path(source), folder, config, progress, read, shard) for source in sources]


def source_digest(path: Path, config: CompileConfig) -> str:
    """SHA-256 of a file, the settings and the version of the format. DataError: it cannot be read."""
    total = hashlib.sha256(f"{VERSION} {config!r} ".encode())
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                total.update(block)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path) from error
    return total.hexdigest()


def _compile_source(
    source: Path,
    folder: Path,
    config: CompileConfig,
    progress: Callable[[Path, int], None] | None,
    read: Read,
    shard: int,
) -> CompiledSource:
    try:
        digest = source_digest(source, config)
    except DataError as error:
        return CompiledSource(source, (), 0, 0, (str(error),))
    stem = f"{source.stem[:80]}-{digest[:12]}"
    done = _Done(stem, folder, digest)
    found = done.scenes
    while done.recover():
        found = done.scenes
    if done.last:
        return CompiledSource(source, tuple(done.files), found, found, tuple(done.broken))
    for left in folder.glob(f".{_literal(stem)}-*.tmp"):
        left.unlink(missing_ok=True)
    waiting: list[Scene] = []
    records, broken = 0, list[str]()
    for item in _compiled(source, config, read, skip=done.records):
        if isinstance(item, Scene):
            if len(waiting) == shard:
                done.write(waiting, records, broken, last=False)
                waiting, records, broken = [], 0, []
            waiting.append(item)
            if progress:
                progress(source, done.scenes + len(waiting))
        else:
            broken.append(str(item))
        records += 1
    done.write(waiting, records, broken, last=True)
    return CompiledSource(source, tuple(done.files), done.scenes, found, tuple(done.broken))


def _literal(text: str) -> str:
    """`text` as a pattern that matches only itself."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)


def _compiled(source: Path, config: CompileConfig, read: Read, skip: int) -> Iterator[Scene | DataError]:
    """The records of a source behind the first `skip` ones, compiled."""
    try:
        for record, item in enumerate(read(source)):
            if record < skip:
                continue
            if isinstance(item, DataError):
                yield item
                continue
            try:
                yield compile_scene(item, config)
            except DataError as error:
                yield DataError(str(error), source, record)
    except DataError as error:
        yield error


class _Done:
    """The shards of one source that are complete."""

    def __init__(self, stem: str, folder: Path, digest: str) -> None:
        self.stem, self.folder, self.digest = stem, folder, digest
        self.files: list[Path] = []
        self.broken: list[str] = []
        self.parts = self.records = self.scenes = 0
        self.last = False

    def recover(self) -> bool:
        """Count the next shard in if all its files are there and open; False: it is not, or all is done."""
        first = self.folder / f"{self._stem()}-0000{SUFFIX}"
        if self.last or not first.exists():
            return False
        try:
            about = CompiledFile(first).about
            count = int(about["part"].partition("/")[2])
            files = [self.folder / f"{self._stem()}-{number:04d}{SUFFIX}" for number in range(count)]
            opened = [CompiledFile(file) for file in files]
            records, broken = int(about["records"]), json.loads(about["broken"])
        except (DataError, KeyError, ValueError, TypeError, AttributeError):
            return False
        if any(file.about.get("digest") != self.digest for file in opened):
            return False
        self._count(files, sum(map(len, opened)), records, list(map(str, broken)), about.get("last") == "1")
        return True

    def write(self, scenes: Sequence[Scene], records: int, broken: list[str], last: bool) -> None:
        """Write the next shard; without scenes only what is broken is kept."""
        files: list[Path] = []
        if scenes:
            notes = {"records": str(records), "broken": json.dumps(broken[:1000]), "last": str(int(last))}
            licence = bytes(scenes[0].source).rstrip(b"\0").decode("ascii", "replace")
            files = save_scenes(
                self.folder, scenes, digest=self.digest, licence=licence, stem=self._stem(), notes=notes
            )
        self._count(files, len(scenes), records, broken, last)

    def _stem(self) -> str:
        return f"{self.stem}-{self.parts:04d}"

    def _count(self, files: Sequence[Path], scenes: int, records: int, broken: Sequence[str], last: bool) -> None:
        self.files += files
        self.broken += broken
        self.parts, self.records, self.scenes = self.parts + 1, self.records + records, self.scenes + scenes
        self.last = last
