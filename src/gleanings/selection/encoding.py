"""Columns of a table as numbers: standardised where they are numeric, one-hot or hashed where they are text."""

import contextlib
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from gleanings.core.errors import ConfigError, DataError
from gleanings.data.tables import Columns, column_names, columns_of, read_table, require

MAX_LEVELS = 50
_MAX_RANGE, _ROUNDING, _MOSTLY = 10_000, 1e-12, 0.9
OTHER = "other"
PER_ACTION, NEXT = "propensity:", "next_"
Missing = Literal["refuse", "indicator"]
_RANGE = re.compile(r"(?P<stem>.*?)(?P<first>\d+):(?P=stem)(?P<last>\d+)")


@dataclass(frozen=True)
class ColumnEncoding:
    """One column: text `levels`, or text in `buckets`, or `mean` and `scale` of numbers.

    indicator: a second column marks missing numbers.
    """

    name: str
    levels: tuple[str, ...] | None = None
    buckets: int = 0
    mean: float = 0.0
    scale: float = 1.0
    indicator: bool = False

    def names(self) -> list[str]:
        """Names of the encoded columns."""
        if self.levels is not None:
            return [f"{self.name}={level}" for level in self.levels]
        if self.buckets:
            return [f"{self.name}#{bucket}" for bucket in range(self.buckets)]
        return [self.name, *([f"{self.name} missing"] * self.indicator)]

    def transform(self, column: np.ndarray) -> Float[np.ndarray, "N C"]:
        """Encoded values; a text level that was not seen is the level `other`, or all zero where there is none.

        DataError: text among numbers, or numbers missing where none was when this was fitted.
        """
        if self.levels is not None:
            text = as_text(column)
            known = np.isin(text, self.levels)
            text = np.where(known, text, OTHER)
            return (text[:, None] == np.array(self.levels)[None]).astype(np.float64)
        if self.buckets:
            levels, index = np.unique(as_text(column), return_inverse=True)
            return np.eye(self.buckets)[[zlib.crc32(str(level).encode()) % self.buckets for level in levels]][index]
        values = numbers(column, self.name)
        missing = np.isnan(values)
        refuse(f"column {self.name!r}", missing & (not self.indicator) | np.isinf(values), "not finite")
        scaled = (np.where(missing, self.mean, values) - self.mean) / self.scale
        return np.stack([scaled, missing.astype(np.float64)][: 1 + self.indicator], 1)


@dataclass(frozen=True)
class Encoding:
    """How the context columns of a table become numbers."""

    columns: tuple[ColumnEncoding, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the encoded columns, in order."""
        return tuple(name for column in self.columns for name in column.names())

    def transform(self, table: Mapping[str, np.ndarray], consume: bool = False) -> Float[np.ndarray, "N C"]:
        """The context of rows. `consume` takes each column out of a dict when it is encoded, which spares memory.

        ConfigError: a column is missing.
        """
        require(table, [column.name for column in self.columns])
        rows, start = len(next(iter(table.values()))) if table else 0, 0
        encoded = np.zeros((rows, len(self.names)))
        for column in self.columns:
            width = len(column.names())
            encoded[:, start : start + width] = column.transform(table[column.name])
            start += width
            if consume and isinstance(table, dict):
                del table[column.name]
        return encoded


def fit_encoding(
    table: Mapping[str, np.ndarray], names: Sequence[str], missing: Missing = "refuse", buckets: int = 0
) -> Encoding:
    """Encoding of these columns; text with more than 50 levels is hashed into `buckets` columns.

    ConfigError: such text, if `buckets` is 0. DataError: NaN or infinity in numbers, unless `missing` is "indicator",
    which puts the mean there and adds a column that says so.
    """
    require(table, names)
    if buckets < 0:
        raise ConfigError(f"{buckets} buckets for text: 0 for none, or a positive number")
    return Encoding(tuple(_fit_column(name, table[name], missing, buckets) for name in names))


def expand_columns(given: Sequence[str], there: Sequence[str]) -> list[str]:
    """Column names with ranges such as `x0:x9` written out.

    ConfigError: a column that is not there, or a range that runs backwards or is longer than 10,000.
    """
    names: list[str] = []
    for item in given:
        match = _RANGE.fullmatch(item)
        if not match or item in there:
            names.append(item)
            continue
        first, last, width = int(match["first"]), int(match["last"]), len(match["first"])
        if not 0 <= last - first <= _MAX_RANGE:
            raise ConfigError(f"range {item}: it must rise, by at most {_MAX_RANGE:,}")
        numbered = [f"{i:0{width}d}" for i in range(first, last + 1)]
        names += [f"{match['stem']}{number}" for number in numbered]
    require(there, names)
    return names


def table_columns(table: Any, named: Sequence[str], context: Sequence[str] | None, rows: int | None) -> Columns:
    """Columns of a path, dict or data frame; of a file only those that are named, next_* and propensity:*.

    ConfigError: a named column is not there, or `rows` is below 1. DataError: no rows.
    """
    if rows is not None and rows < 1:
        raise ConfigError(f"rows {rows}: at least 1 is needed")
    if not isinstance(table, str | Path):
        columns = columns_of(table)
    else:
        there = column_names(table)
        require(there, named, str(table))
        wanted = [*dict.fromkeys([*named, *expand_columns(context, there)])] if context else there
        columns = read_table(
            table, [*wanted, *(c for c in there if c.startswith((NEXT, PER_ACTION)) and c not in wanted)], rows
        )
    require(columns, named)
    if not columns or not len(next(iter(columns.values()))):
        raise DataError("no rows", table if isinstance(table, str | Path) else None)
    return {name: column[:rows] for name, column in columns.items()}


def context_columns(columns: Columns, context: Sequence[str] | None, others: Sequence[str]) -> list[str]:
    """The columns of the context: those given, or all but the `others`. ConfigError: a given one is among them."""
    if not context:
        return [c for c in columns if c not in others]
    names = expand_columns(context, list(columns))
    if both := [name for name in names if name in others]:
        raise ConfigError(f"column {both[0]!r} is in the context and has another part too; leave it out of one")
    return names


def action_labels(column: np.ndarray, name: str) -> np.ndarray:
    """Actions as text or whole numbers. DataError: other values, with their rows."""
    if column.dtype.kind in "US":
        refuse(f"column {name!r}", column == "", "empty")
        return column
    values = column.astype(np.float64)
    refuse(f"column {name!r}", ~np.isfinite(values), "not finite")
    refuse(f"column {name!r}", values != np.round(values), "not whole numbers")
    refuse(f"column {name!r}", np.abs(values) > 2**53, "too large to be told apart; write them as text")
    return values.astype(np.int64)


def as_text(column: np.ndarray) -> np.ndarray:
    """A column as text; whole numbers without a point, as files that hold nothing else are read as numbers."""
    if column.dtype.kind in "US":
        return column
    if column.dtype == bool:
        return np.where(column, "true", "false")
    return np.array([f"{value:.0f}" if value == np.round(value) else str(value) for value in column.tolist()], np.str_)


def numbers(column: np.ndarray, name: str) -> Float[np.ndarray, " N"]:
    """A column as floats. DataError: it holds text."""
    if column.dtype.kind in "US":
        row = int(np.argmin(_look_like_numbers(column)))
        raise DataError(f"column {name!r} holds text, such as {str(column[row])!r} in row {row}; numbers are needed")
    return column.astype(np.float64, copy=False)


def _look_like_numbers(column: np.ndarray) -> Bool[np.ndarray, " N"]:
    def is_number(text: str) -> bool:
        with contextlib.suppress(ValueError):
            float(text or "nan")
            return True
        return False

    levels, index = np.unique(column, return_inverse=True)
    return np.array([is_number(str(level)) for level in levels], bool)[index]


def refuse(name: str, bad: Bool[np.ndarray, " N"], what: str) -> None:
    """Raise DataError if a row is `bad`, with the count and the first five."""
    found = np.flatnonzero(bad)
    if found.size:
        rows = ", ".join(map(str, found[:5]))
        raise DataError(
            f"{name}: {found.size} rows are {what}, the first ones {rows}, counted from 0; mend or drop them"
        )


def _fit_column(name: str, column: np.ndarray, missing: Missing, buckets: int) -> ColumnEncoding:
    if column.dtype.kind in "US":
        if _MOSTLY <= (share := _look_like_numbers(column).mean()) < 1:
            row = int(np.argmin(_look_like_numbers(column)))
            found = f"{str(column[row])!r} in row {row}"
            raise DataError(f"column {name!r} holds numbers in {share:.1%} of rows, but {found}; mend or leave it out")
        levels = np.unique(as_text(column))
        if len(levels) > MAX_LEVELS and buckets:
            return ColumnEncoding(name, buckets=buckets)
        if len(levels) > MAX_LEVELS:
            excess = f"column {name!r} has {len(levels)} different texts; at most {MAX_LEVELS} become columns"
            raise ConfigError(f"{excess}. Hash them (--hash 64, buckets=64), or leave the column out")
        return ColumnEncoding(name, tuple(str(level) for level in levels))
    values = column.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size and (missing == "refuse" or np.isinf(values).any()):
        rows = ", ".join(map(str, bad[:5]))
        raise DataError(
            f"column {name!r}: {bad.size} values are not finite, the first in rows {rows}; mend them, or use "
            "missing='indicator' for NaN"
        )
    known = values[np.isfinite(values)]
    mean, scale = (float(known.mean()), float(known.std())) if known.size else (0.0, 0.0)
    varies = scale > _ROUNDING * max(abs(mean), scale) > 0
    return ColumnEncoding(name, None, 0, mean, scale if varies else 1.0, bool(bad.size))
