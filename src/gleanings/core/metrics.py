"""Metrics of a run: one JSON object a line, which is the truth, and a TensorBoard view of it."""

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gleanings.core._files import write_atomic
from gleanings.core.errors import CheckpointError, ConfigError, DataError

_RESERVED = ("step", "time")


@dataclass(frozen=True)
class Metrics:
    """`rows` as written: `step`, `time` (seconds since 1970) and the metrics. `broken` lines were ignored."""

    rows: list[dict[str, float | int]]
    broken: int


def read_metrics(path: str | Path) -> Metrics:
    """Rows of a metrics file, in the order written. Raises DataError if the file cannot be read."""
    rows, broken = [], 0
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"metrics cannot be read: {error.strerror}", path) from error
    for line in lines:
        row = _parse(line)
        if row is None:
            broken += 1
        else:
            rows.append(row)
    return Metrics(rows, broken)


class MetricsWriter:
    """Appends rows to the JSONL file `path`; each is on its way to disk when `write` returns.

    `tensorboard` is the folder of the TensorBoard view, or None for no view.
    """

    def __init__(self, path: str | Path, tensorboard: str | Path | None = None) -> None:
        self.path, self._tensorboard, self._purge = Path(path), tensorboard, None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8", buffering=1)
        if _torn(self.path):
            self._file.write("\n")

    @cached_property
    def _view(self) -> Any:
        from gleanings.core._tensorboard import TensorBoardView  # late: it takes longer than all the rest

        assert self._tensorboard is not None
        return TensorBoardView(Path(self._tensorboard), self._purge)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Append one row: flat names to numbers.

        Raises ConfigError for other values, CheckpointError when the disk is full.
        """
        row: dict[str, float | int] = {"step": step, "time": round(time.time(), 3)}
        for name, value in metrics.items():
            if name in _RESERVED:
                raise ConfigError(f"metric {name!r}: this name is taken by the row itself")
            row[name] = _scalar(name, value)
        try:
            self._file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise CheckpointError(f"metrics cannot be written: {error.strerror}", step, self.path) from error
        if self._tensorboard is not None:
            self._view.write(step, {name: row[name] for name in metrics})

    def truncate(self, step: int) -> None:
        """Drop the rows after `step` and broken lines, so that a resumed curve has no row twice."""
        kept = [row for row in read_metrics(self.path).rows if row["step"] <= step]
        self.close()
        write_atomic(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = self.path.open("a", encoding="utf-8", buffering=1)
        self._purge = step + 1

    def close(self) -> None:
        """Close the file and the view. A row that the disk refused is not tried again."""
        with suppress(OSError):
            self._file.close()
        if "_view" in self.__dict__:
            self._view.close()
            del self._view


def _torn(path: Path) -> bool:
    """Whether the last line was cut off by a kill."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        return size > 0 and file.read(1) != b"\n"


def _scalar(name: str, value: Any) -> float | int:
    try:
        return value if type(value) in (int, float) else float(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"metric {name!r}: expected a number, got {value!r}") from error


def _parse(line: bytes) -> dict[str, float | int] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    good = isinstance(row, dict) and isinstance(row.get("step"), int)
    return row if good and all(isinstance(value, int | float) for value in row.values()) else None
