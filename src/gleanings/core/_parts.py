"""Resumable pieces of a study: each is computed once and kept as JSON, so an interrupted study continues."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import gleanings
from gleanings.core._cost import Cost, Meter
from gleanings.core.errors import ConfigError, DataError

Progress = Callable[[str, int, int | None], None]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")
_FLAT_LIST = re.compile(r'\[\n\s+([^\[\]{}"]*)\n\s+\]')  # a string in JSON holds no line break


class Parts:
    """Pieces kept in `directory`, one JSON file each, valid only under the `fingerprint` they were made with.

    `progress(name, done, total)` is called before a piece is computed and once it is there; `total` is what
    `expect` was told, or None. `reused` is the cost of the pieces taken over from an earlier process.
    """

    def __init__(
        self, directory: Path, fingerprint: Mapping[str, Any] | None = None, progress: Progress | None = None
    ) -> None:
        self.directory = Path(directory)
        self.reused = Cost(0.0, 0.0, 0.0)
        self.fingerprint: dict[str, Any] = to_json(dict(fingerprint or {}))
        self._progress = progress or (lambda name, done, total: None)
        self._done: set[str] = set()
        self._total: int | None = None

    def expect(self, total: int) -> None:
        """Announce how many pieces there will be, for the progress bar."""
        self._total = total

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        """The piece called `name`, from its file, or from `compute()` whose result is then stored atomically.

        Either way the value has been through JSON (arrays become lists, NaN and infinity None), so a resumed
        study sees what an uninterrupted one does. A file that is damaged or has another fingerprint is
        computed again. ConfigError: a name that is no file name, or a value that JSON cannot hold.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(f"part {name!r}: use letters, digits and . _ = + - only")
        path = self.directory / f"{name}.json"
        stored = self._stored(path)
        if stored is None:
            self._progress(name, len(self._done), self._total)
            meter = Meter()
            value = to_json(compute(), name)
            stored = {"fingerprint": self.fingerprint, "cost": to_json(meter.read()), "value": value}
            write_json(path, stored)
        elif name not in self._done:
            self.reused += Cost(**stored["cost"])
        self._done.add(name)
        self._progress(name, len(self._done), self._total)
        return stored["value"]

    def _stored(self, path: Path) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, DataError, TypeError, KeyError):
            stored = read_json(path)
            Cost(**stored["cost"])
            if stored["fingerprint"] == self.fingerprint and "value" in stored:
                return stored
        return None


def to_json(value: Any, where: str = "value") -> Any:
    """`value` as JSON can hold it: arrays as lists, dataclasses as dicts, NaN and infinity as None.

    ConfigError: anything else, naming its place.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__"):
        return to_json(np.asarray(value).tolist(), where)
    raise ConfigError(f"{where}: {type(value).__name__} cannot be kept as JSON; use numbers, text, lists, dicts")


def read_json(path: Path) -> Any:
    """Content of a JSON file. DataError: the file is missing, or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError("no such file", path) from error
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({error})", path) from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as strict JSON, lists of numbers on one line, atomically as `write_text` does."""
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
    write_text(path, _FLAT_LIST.sub(lambda match: "[" + " ".join(match[1].split()) + "]", text) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file so that it is the old or the new one at any time: temporary file, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def data_stamp(path: Path) -> list[list[Any]]:
    """[name, bytes, modification time] of a file, or of all files in a folder. DataError: no such path."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    try:
        found = [(file.name, file.stat()) for file in files if not file.is_dir()]
    except OSError as error:
        raise DataError(f"cannot read the data ({error.strerror}); check the path", path) from error
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in found]


def code_digest() -> str:
    """Version and digest of the code of gleanings, so that no stored piece outlives the code that made it."""
    root = Path(gleanings.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return f"{gleanings.__version__}+{digest.hexdigest()[:12]}"
