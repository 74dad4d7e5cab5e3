"""From paths to scenes: raw files of any known format, or compiled ones, one after the other or by worker processes."""

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path

from gleanings.core.errors import ConfigError, DataError
from gleanings.driving._files import list_files
from gleanings.driving.compile import compile_scene
from gleanings.driving.config import CompileConfig
from gleanings.driving.families import FAMILIES
from gleanings.driving.readers.detect import (
    SceneError,
    Work,
    iter_raw,
    raw_items,
    read_raw,
    read_work,
    split,
)
from gleanings.driving.scene import Scene
from gleanings.driving.store import is_compiled, iterate

__all__ = ["SceneError", "check_source", "iter_raw", "iter_scenes", "load_scenes", "raw_items", "read_raw"]
_DEFAULT = CompileConfig()
_AHEAD = 2  # parts in flight for each worker: keeps them busy without holding a whole file in memory
Item = Scene | SceneError


def load_scenes(path: str | Path, *, config: CompileConfig = _DEFAULT, limit: int | None = None) -> list[Scene]:
    """At most `limit` scenes of a file, a folder or a glob pattern, raw or compiled.

    Raises: DataError for the first file or record that cannot be read (`iter_scenes` goes on behind it), ConfigError
    for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; expected 1 or more, or None")
    scenes: list[Scene] = []
    for item in islice(iter_scenes(path, config=config), limit):
        if isinstance(item, SceneError):
            raise item.error
        scenes.append(item)
    return scenes


def iter_scenes(
    paths: str | Path | Iterable[str | Path], *, config: CompileConfig = _DEFAULT, workers: int = 0
) -> Iterator[Item]:
    """The scenes of files, folders (with what they hold) and glob patterns, in order.

    What cannot be read is a SceneError in its place, and reading goes on behind it; in folders maps beside their scenes
    and plain text are passed over. `config` is for raw files. `workers` > 0: as many processes read and compile, with
    the same result; a script that asks for them needs the usual `if __name__ == "__main__":`. Raises: DataError for a
    folder or pattern without files, ConfigError for a negative number of workers.
    """
    if workers < 0:
        raise ConfigError(f"workers is {workers}; expected 0 or more")
    files = list_files(paths)
    return _by_workers(files, config, workers) if workers else _here(files, config)


def check_source(source: str) -> None:
    """ConfigError where a source is neither files nor a family, DataError where it leads to no file."""
    if source == "all" or source in FAMILIES:
        return
    if not Path(source).exists() and not any(mark in source for mark in "*?[/."):
        known = ", ".join(FAMILIES)
        raise ConfigError(f"{source!r} is neither a file or folder nor a family; families: {known}, all")
    missing = [file for file in list_files(source) if not file.exists()]
    if missing:
        raise DataError("cannot be opened: No such file or directory", missing[0])


def _from_store(file: Path) -> Iterator[Item]:
    for item in iterate([file]):
        yield _failed(file, item) if isinstance(item, DataError) else item


def _is_store(file: Path) -> bool:
    return file.is_file() and is_compiled(file)  # a pipe would block


def _here(files: list[Path], config: CompileConfig) -> Iterator[Item]:
    for file in files:
        try:
            if _is_store(file):
                yield from _from_store(file)
                continue
            for work in split(file):
                yield from _compile(work, config)
        except DataError as error:
            yield _failed(file, error)


def _failed(file: Path, error: DataError) -> SceneError:
    return SceneError(file, error.record if isinstance(error.record, int) else None, error)


def _compile(work: Work, config: CompileConfig) -> Iterator[Item]:
    """Scenes of one part; an error ends the part, not the file."""
    path, record = work[:2]
    try:
        for raw in read_work(work):
            yield compile_scene(raw, config)
    except DataError as error:
        yield SceneError(path, record, error)


def _compile_all(work: Work, config: CompileConfig) -> list[Item]:
    return list(_compile(work, config))


def _by_workers(files: list[Path], config: CompileConfig, workers: int) -> Iterator[Item]:
    # A forked child of a process that runs jax may hang; a fresh one loads no jax.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context)
    waiting: deque[tuple[Work, Future[list[Item]]]] = deque()
    try:
        for file in files:
            try:
                if _is_store(file):
                    yield from _finished(waiting, 0)
                    yield from _from_store(file)
                    continue
                for work in split(file):
                    waiting.append((work, pool.submit(_compile_all, work, config)))
                    yield from _finished(waiting, _AHEAD * workers)
            except DataError as error:
                yield from _finished(waiting, 0)
                yield _failed(file, error)
        yield from _finished(waiting, 0)
    finally:
        pool.shutdown(cancel_futures=True)


def _finished(waiting: deque[tuple[Work, Future[list[Item]]]], left: int) -> Iterator[Item]:
    """Results in order until at most `left` parts wait."""
    while len(waiting) > left:
        (path, record, _, _), future = waiting.popleft()
        try:
            yield from future.result()
        except BrokenProcessPool as error:
            message = "a worker process died, perhaps for want of memory; use fewer workers"
            raise DataError(message, path, record) from error
