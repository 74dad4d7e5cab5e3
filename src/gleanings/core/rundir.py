"""The folder of one run: configuration, environment, status, metrics, checkpoints, artifacts."""

import fcntl
import json
import os
import time
from contextlib import suppress
from dataclasses import is_dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from gleanings.core._environment import environment
from gleanings.core._files import write_atomic, write_json
from gleanings.core.config import differences, to_dict
from gleanings.core.errors import ConfigError
from gleanings.core.metrics import MetricsWriter

if TYPE_CHECKING:
    from gleanings.core.checkpoint import Checkpoints


class RunDirectory:
    """One run on disk: `create` it to write (a context manager, which releases the lock), `open` it to read.

    On leaving the context the status becomes `done`, `stopped` (Ctrl-C, SIGTERM) or `failed` (with the
    error).
    """

    def __init__(self, path: Path, lock: TextIO | None, keep: int, best: str | None, mode: Any) -> None:
        self.path, self._lock, self._retention = path, lock, (keep, best, mode)
        self.config_path = path / "config.json"

    @classmethod
    def create(
        cls,
        path: str | Path,
        config: Any,
        *,
        resume: bool = False,
        allow_change: bool = False,
        keep: int = 3,
        best: str | None = None,
        mode: Literal["min", "max"] = "min",
    ) -> "RunDirectory":
        """Make or resume the run at `path`, locked for this process.

        `config` is a dataclass or its JSON form; `keep`, `best` and `mode` are those of `Checkpoints`.
        Raises ConfigError when the run exists and `resume` is false, when another process holds it, and on
        resuming with a configuration that differs unless `allow_change`.
        """
        path = Path(path)
        held = to_dict(config) if is_dataclass(config) else config
        exists = path.is_dir() and any(entry.name != "lock" for entry in path.iterdir())
        if exists and not resume:
            raise ConfigError(
                f"{path} exists: resume it (`gleanings resume {path}`, or --resume), or choose another name"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{path}: no folder can be made there: {error.strerror}") from error
        run = cls(path, _lock(path / "lock"), keep, best, mode)
        try:
            run._start(held, allow_change)
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, path: str | Path) -> "RunDirectory":
        """An existing run, to read only and without a lock. Raises ConfigError if there is none."""
        run = cls(Path(path), None, 3, None, "min")
        if not run.config_path.is_file():
            raise ConfigError(f"{path} is not a run directory: it has no config.json")
        return run

    @property
    def config(self) -> dict[str, Any]:
        """JSON form of the configuration."""
        return _read(self.config_path)

    @property
    def status(self) -> dict[str, Any]:
        """Content of status.json: `status`, `pid`, `updated` (seconds since 1970) and details."""
        return _read(self.path / "status.json")

    @property
    def artifacts(self) -> Path:
        """Folder for whatever else the run makes."""
        folder = self.path / "artifacts"
        folder.mkdir(exist_ok=True)
        return folder

    def save_artifact(self, name: str, text: str) -> Path:
        """Write a text file into `artifacts`, atomically, and return its path."""
        self._writable()
        write_atomic(self.artifacts / name, text)
        return self.artifacts / name

    @cached_property
    def metrics(self) -> MetricsWriter:
        """Writer of metrics.jsonl and its TensorBoard view. Raises ConfigError on a run opened to read."""
        self._writable()
        return MetricsWriter(self.path / "metrics.jsonl", self.path / "tensorboard")

    @cached_property
    def checkpoints(self) -> "Checkpoints":
        """Checkpoints of the run."""
        from gleanings.core.checkpoint import Checkpoints  # imported late: it needs jax

        return Checkpoints(self.path / "checkpoints", *self._retention)

    def set_status(self, status: Literal["running", "stopped", "failed", "done"], **details: Any) -> None:
        """Replace status.json, atomically. `details` must be JSON-able."""
        self._writable()
        content = {"status": status, "pid": os.getpid(), "updated": round(time.time(), 3), **details}
        write_json(self.path / "status.json", content)

    def close(self) -> None:
        """Close the metrics and release the lock."""
        if "metrics" in self.__dict__:
            self.metrics.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        with suppress(OSError):  # a full disk must not hide the error that is on its way
            if kind is None or issubclass(kind, KeyboardInterrupt | SystemExit):
                if self.status["status"] == "running":
                    self.set_status("done" if kind is None else "stopped")
            else:
                self.set_status("failed", error=f"{kind.__name__}: {error}")
        self.close()

    def _start(self, config: dict[str, Any], allow_change: bool) -> None:
        if self.config_path.exists():
            changed = differences(self.config, config)
            if changed and not allow_change:
                listed = "; ".join(changed)
                raise ConfigError(
                    f"{self.path}: the configuration has changed; allow that (--allow-change), or undo {listed}"
                )
        elif strays := [e.name for e in self.path.iterdir() if e.name != "lock" and e.suffix != ".tmp"]:
            raise ConfigError(f"{self.path} is not a run directory: {min(strays)} but no config.json")
        write_json(self.config_path, config)
        write_json(self.path / "environment.json", environment())
        self.set_status("running")

    def _writable(self) -> None:
        if self._lock is None:
            raise ConfigError(f"{self.path} is open to read only")


def _lock(path: Path) -> TextIO:
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise ConfigError(f"{path.parent}: process {holder} is writing this run; wait or stop it") from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
