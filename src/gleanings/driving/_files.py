"""The files that paths stand for. Ours."""

import glob
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from gleanings.core.errors import DataError
from gleanings.driving.readers.detect import is_companion

_MAX_FILES = 1_000_000


def list_files(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """The files that paths, folders and glob patterns stand for, each in order; see `iter_scenes`.

    DataError: a folder or pattern without files.
    """
    listed = [paths] if isinstance(paths, str | Path) else list(paths)
    return [file for path in listed for file in _files(path)]


def _files(path: str | Path) -> list[Path]:
    """Files that a path stands for, sorted; in folders neither maps beside their scenes nor what is hidden."""
    name = os.fspath(path)
    if os.path.isdir(name):
        inside = sorted(islice(_inside(name), _MAX_FILES + 1))
        if len(inside) > _MAX_FILES:
            raise DataError(f"holds more than {_MAX_FILES:,} files; name them in parts", path)
        inside = [file for file in inside if not (file.is_file() and is_companion(file))]
        if not inside:
            raise DataError("is a folder without scenes", path)
        return inside
    if os.path.lexists(name) or not glob.has_magic(name):
        return [Path(path)]
    matches = sorted(islice(glob.iglob(name, recursive=True), _MAX_FILES))
    if not matches:
        raise DataError("matches no file", path)
    return [file for match in matches for file in (_files(match) if os.path.isdir(match) else [Path(match)])]


def _inside(name: str) -> Iterator[Path]:
    """Files below a folder but for hidden ones, and those of hidden folders such as .git."""
    for folder, folders, files in os.walk(name):
        folders[:] = [inner for inner in folders if inner[0] != "."]
        yield from (Path(folder) / file for file in files if file[0] != ".")
