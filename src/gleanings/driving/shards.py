"""Compiling many files into a folder: a kill loses at most one shard, and a second run does what is left. Ours."""

import glob
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gleanings.core.errors import ConfigError, DataError
from gleanings.driving._container import FORMAT, SUFFIX, VERSION, CompiledFile, is_compiled, save_scenes
from gleanings.driving._files import list_files
from gleanings.driving.compile import compile_scene
from gleanings.driving.config import CompileConfig
from gleanings.driving.raw import RawScene
from gleanings.driving.readers.detect import detect, read_work, split
from gleanings.driving.scene import Scene

_SHARD, _MAX_ERRORS = 64, 1000  # scenes and messages a shard
_MAPS = {"argoverse": "log_map_archive_*.json", "ngsim": "*.net.xml"}
_DEFAULT = CompileConfig()


@dataclass(frozen=True)
class CompiledSource:
    """What became of a source: its compiled files, the scenes in them, how many of these an earlier run had left, and
    what is wrong with the records that gave none."""

    source: Path
    files: tuple[Path, ...]
    scenes: int
    found: int
    errors: tuple[str, ...]
    skipped: bool = False


@dataclass(frozen=True)
class CompileReport:
    """What became of all sources."""

    sources: tuple[CompiledSource, ...]

    @property
    def scenes(self) -> int:
        """Scenes in the folder."""
        return sum(source.scenes for source in self.sources)

    @property
    def skipped(self) -> int:
        """Sources that an earlier run had done."""
        return sum(source.skipped for source in self.sources)

    @property
    def errors(self) -> list[str]:
        """What could not be read."""
        return [error for source in self.sources for error in source.errors]


def compile_files(
    sources: Sequence[str | Path],
    folder: str | Path,
    config: CompileConfig = _DEFAULT,
    *,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
    shard: int = _SHARD,
) -> CompileReport:
    """Compile every record of files, folders and glob patterns into `folder`, `shard` scenes at a time.

    A broken record is reported and no obstacle; compiled files among the sources are passed over. Shards of an earlier
    run on the same content and maps with the same settings stay; those of other maps or settings are replaced. workers:
    processes, each of which takes whole files; 0: this one. progress: called with the files done and all files. Two
    runs at once in one folder are not meant. Raises: DataError for a path that leads to no file, ConfigError for no
    sources, workers < 0, shard < 1 or a folder that cannot be made, OSError for one that cannot be written.
    """
    if not sources or shard < 1 or workers < 0:
        raise ConfigError(f"{len(sources)} sources, shards of {shard}, {workers} workers; expected 1, 1 and 0 or more")
    compile_one = partial(_compile_source, folder=Path(folder), config=config, shard=shard)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: no folder can be made there: {error.strerror}") from error
    files = [file for file in list_files(sources) if not (file.is_file() and is_compiled(file))]
    done: list[CompiledSource] = []
    for source in _by_workers(compile_one, files, workers) if workers else map(compile_one, files):
        done.append(source)
        if progress:
            progress(len(done), len(files))
    _drop_older(Path(folder), done)
    return CompileReport(tuple(done))


def source_digests(path: Path, config: CompileConfig) -> tuple[str, str]:
    """SHA-256 of a file alone; and of it, the maps beside it, the settings and the version of the format.

    DataError: it cannot be read.
    """
    content = _digest(path)
    maps = [f"{beside.name} {_digest(beside)}" for beside in _maps(path)]
    return content, hashlib.sha256(" ".join([FORMAT, VERSION, repr(config), content, *maps]).encode()).hexdigest()


def _maps(path: Path) -> list[Path]:
    """Maps that a reader may take from beside a file: that of the same name, else all."""
    try:
        pattern = _MAPS.get(detect(path))
    except DataError:  # compiling tells why
        pattern = None
    if pattern is None:
        return []
    own = path.with_name(pattern.replace("*", path.stem.removeprefix("scenario_")))
    return [own] if own.is_file() else sorted(map for map in path.parent.glob(pattern) if map.is_file())


def _drop_older(folder: Path, done: Sequence[CompiledSource]) -> None:
    """Remove what earlier runs made of the same sources with other settings or maps: each scene is there once."""
    kept = {file.name for source in done for file in source.files}
    made = {_origin(name) for name in kept}
    for old in list(folder.glob(f"*{SUFFIX}")) if made else []:
        if old.name not in kept and _origin(old.name) in made:
            old.unlink(missing_ok=True)


def _origin(name: str) -> str:
    """Name of a compiled file without digest of the settings, part and number: its source."""
    return name.rsplit("-", 3)[0]


def _digest(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise DataError("is a device, pipe or socket; expected a file", path)
    total = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                total.update(block)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path) from error
    return total.hexdigest()


def _by_workers(
    compile_one: Callable[[Path], CompiledSource], files: Sequence[Path], workers: int
) -> Iterator[CompiledSource]:
    # A forked child of a process that runs jax may hang; a fresh one loads no jax.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(compile_one, files)
        except BrokenProcessPool as error:
            raise DataError("a worker process died, perhaps for want of memory; use fewer workers") from error


def _compile_source(source: Path, folder: Path, config: CompileConfig, shard: int) -> CompiledSource:
    try:
        content, digest = source_digests(source, config)
    except DataError as error:
        return CompiledSource(source, (), 0, 0, (str(error),))
    done = _Done(f"{source.stem[:80]}-{content[:12]}-{digest[:12]}", folder, digest)
    while done.recover():
        pass
    found, skipped = done.scenes, done.last
    if not skipped:
        for left in folder.glob(f".{glob.escape(done.stem)}-*.tmp"):  # of a run that was killed
            left.unlink(missing_ok=True)
        _finish(done, source, config, shard)
    return CompiledSource(source, tuple(done.files), done.scenes, found, tuple(done.errors), skipped)


def _finish(done: "_Done", source: Path, config: CompileConfig, shard: int) -> None:
    """Compile the records that are not `done`."""
    waiting: list[Scene] = []
    records, errors = 0, list[str]()
    for item in _compiled(source, config, skip=done.records):
        if isinstance(item, DataError):
            errors.append(str(item))
        else:
            if len(waiting) == shard:
                done.write(waiting, records, errors, last=False)
                waiting, records, errors = [], 0, []
            waiting.append(item)
        records += 1
    done.write(waiting, records, errors, last=True)


def _compiled(source: Path, config: CompileConfig, skip: int) -> Iterator[Scene | DataError]:
    """The scenes of a source behind the first `skip` ones, broken ones counted; an error ends its part of the file."""
    record = 0
    try:
        for work in split(source):
            if work[3] is not None and record < skip:  # one record of a TFRecord is one scene: no need to decode it
                record += 1
                continue
            try:
                for raw in read_work(work):
                    record += 1
                    if record > skip:
                        yield _one(raw, config, source, record - 1)
            except DataError as error:
                record += 1
                if record > skip:
                    yield error
    except DataError as error:
        yield error


def _one(raw: RawScene, config: CompileConfig, source: Path, record: int) -> Scene | DataError:
    try:
        return compile_scene(raw, config)
    except DataError as error:
        return DataError(str(error), source, record)


class _Done:
    """The shards of one source that are complete."""

    def __init__(self, stem: str, folder: Path, digest: str) -> None:
        self.stem, self.folder, self.digest = stem, folder, digest
        self.files: list[Path] = []
        self.errors: list[str] = []
        self.parts = self.records = self.scenes = 0
        self.last = False

    def recover(self) -> bool:
        """Count the next shard in if all its files are there and open; False: they are not, or all is done."""
        first = self.folder / f"{self._stem()}-0000{SUFFIX}"
        if self.last or not first.exists():
            return False
        try:
            about = CompiledFile(first).about
            count = int(about["part"].partition("/")[2])
            files = [self.folder / f"{self._stem()}-{number:04d}{SUFFIX}" for number in range(count)]
            opened = [CompiledFile(file) for file in files]
            records, errors = int(about["records"]), [str(error) for error in json.loads(about["errors"])]
        except (DataError, KeyError, ValueError, TypeError, AttributeError, RecursionError):
            return False
        if any(file.about.get("digest") != self.digest for file in opened):
            return False
        self._count(files, sum(map(len, opened)), records, errors, about.get("last") == "1")
        return True

    def write(self, scenes: Sequence[Scene], records: int, errors: list[str], last: bool) -> None:
        """Write the next shard, if there are scenes, and count it in."""
        files: list[Path] = []
        if scenes:
            notes = {"records": str(records), "errors": json.dumps(errors[:_MAX_ERRORS]), "last": str(int(last))}
            licence = bytes(scenes[0].source).rstrip(b"\0").decode("ascii", "replace")
            files = save_scenes(
                self.folder, scenes, digest=self.digest, licence=licence, stem=self._stem(), notes=notes
            )
        self._count(files, len(scenes), records, errors, last)

    def _stem(self) -> str:
        return f"{self.stem}-{self.parts:04d}"

    def _count(self, files: Sequence[Path], scenes: int, records: int, errors: Sequence[str], last: bool) -> None:
        self.files += files
        self.errors += errors
        self.parts, self.records, self.scenes = self.parts + 1, self.records + records, self.scenes + scenes
        self.last = last
