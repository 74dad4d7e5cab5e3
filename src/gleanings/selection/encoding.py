"""Columns of a table as numbers: standardised where they are numeric, one-hot where they are text."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from gleanings.core.errors import ConfigError, DataError
from gleanings.data.tables import require

MAX_LEVELS = 50
OTHER = "other"
Missing = Literal["refuse", "indicator"]
_RANGE = re.compile(r"(?P<stem>.*?)(?P<first>\d+):(?P=stem)(?P<last>\d+)")


@dataclass(frozen=True)
class ColumnEncoding:
    """One column: text `levels`, or `mean` and `scale` of numbers, with an `indicator` of missing values or without."""

    name: str
    levels: tuple[str, ...] | None = None
    mean: float = 0.0
    scale: float = 1.0
    indicator: bool = False

    def names(self) -> list[str]:
        """Names of the encoded columns."""
        if self.levels is not None:
            return [f"{self.name}={level}" for level in self.levels]
        return [self.name, *([f"{self.name} missing"] * self.indicator)]

    def transform(self, column: np.ndarray) -> Float[np.ndarray, "N C"]:
        """Encoded values; a text level that was not seen is the level `other`, or all zero where there is none."""
        if self.levels is not None:
            text = column.astype(np.str_)
            known = np.isin(text, self.levels)
            text = np.where(known, text, OTHER)
            return (text[:, None] == np.array(self.levels)[None]).astype(np.float64)
        values = column.astype(np.float64)
        missing = np.isnan(values)
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

    def transform(self, table: Mapping[str, np.ndarray]) -> Float[np.ndarray, "N C"]:
        """The context of rows. ConfigError: a column is missing."""
        require(table, [column.name for column in self.columns])
        rows, start = len(next(iter(table.values()))) if table else 0, 0
        encoded = np.zeros((rows, len(self.names)))
        for column in self.columns:
            width = len(column.names())
            encoded[:, start : start + width] = column.transform(table[column.name])
            start += width
        return encoded


def fit_encoding(table: Mapping[str, np.ndarray], names: Sequence[str], missing: Missing = "refuse") -> Encoding:
    """Encoding of these columns.

    ConfigError: text with more than 50 levels. DataError: NaN or infinity in numbers, unless `missing` is "indicator",
    which puts the mean there and adds a column that says so.
    """
    require(table, names)
    return Encoding(tuple(_fit_column(name, table[name], missing) for name in names))


def expand_columns(given: Sequence[str], there: Sequence[str]) -> list[str]:
    """Column names with ranges such as `x0:x9` written out. ConfigError: a column that is not there."""
    names: list[str] = []
    for item in given:
        match = _RANGE.fullmatch(item)
        if match and item not in there:
            first, last = int(match["first"]), int(match["last"])
            names += [f"{match['stem']}{i}" for i in range(first, last + 1)]
        else:
            names.append(item)
    require(there, names)
    return names


def _fit_column(name: str, column: np.ndarray, missing: Missing) -> ColumnEncoding:
    if column.dtype.kind in "US":
        levels = np.unique(column)
        if len(levels) > MAX_LEVELS:
            raise ConfigError(f"column {name!r} has {len(levels)} different texts; at most {MAX_LEVELS}. Leave it out")
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
    return ColumnEncoding(name, None, mean, scale if scale > 0 else 1.0, bool(bad.size))
