"""A bandit log: contexts, the actions taken, their rewards, and how likely the logger was to take them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from gleanings.core.errors import ConfigError, DataError
from gleanings.data.tables import columns_of, read_table, require
from gleanings.selection.encoding import Encoding, Missing, expand_columns, fit_encoding
from gleanings.selection.log import Transitions


@dataclass(frozen=True)
class BanditLog:
    """Rows of one decision each.

    context [N, C]; action [N] in 0..A-1, the index into `labels`; reward [N]; propensity [N] in (0, 1] of the logged
    action, or None. group [N]: rows that must not be split. encoding: how a table's context became `context`.
    """

    context: Float[np.ndarray, "N C"]
    action: Int[np.ndarray, " N"]
    reward: Float[np.ndarray, " N"]
    propensity: Float[np.ndarray, " N"] | None
    labels: tuple[str, ...]
    group: Int[np.ndarray, " N"] | None = None
    encoding: Encoding | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(v) for name in _ROWS if (v := getattr(self, name)) is not None}
        if len(set(lengths.values())) > 1:
            raise ConfigError(f"bandit log: columns differ in length: {lengths}")
        if len(self.labels) < 2:
            raise ConfigError(f"bandit log: one action only ({', '.join(self.labels)}); there is nothing to choose")
        if len(self.action) and not (self.action.min() >= 0 and self.action.max() < self.num_actions):
            raise ConfigError(f"bandit log: actions must lie in 0..{self.num_actions - 1}")
        for name in ("context", "reward"):
            values = getattr(self, name)
            _refuse(name, ~np.isfinite(values.reshape(len(values), math.prod(values.shape[1:]))).all(1), "not finite")
        if self.propensity is not None:
            _refuse("propensity", ~((self.propensity > 0) & (self.propensity <= 1)), "not in (0, 1]")

    @property
    def num_actions(self) -> int:
        """A."""
        return len(self.labels)

    def __len__(self) -> int:
        return len(self.reward)

    @classmethod
    def from_table(
        cls,
        table: Any,
        *,
        action: str,
        reward: str,
        propensity: str | None = None,
        context: Sequence[str] | None = None,
        group: str | None = None,
        missing: Missing = "refuse",
        rows: int | None = None,
    ) -> "BanditLog":
        """The log in a table: a path to CSV, JSON lines or Parquet, or a dict or data frame.

        The arguments name columns; `context` may hold ranges such as x0:x9 and is by default every other column.
        ConfigError: a column that is not there, more than 50 different texts in one. DataError: an empty table, or
        values that cannot be used, with their rows.
        """
        named = [name for name in (action, reward, propensity, group) if name]
        whole = isinstance(table, str | Path)
        columns = read_table(table, None, rows) if whole else columns_of(table)
        where = str(table) if whole else "the table"
        require(columns, named, where)
        if not len(columns[reward]):
            raise DataError("no rows", table if whole else None)
        names = expand_columns(context, list(columns)) if context else [c for c in columns if c not in named]
        encoding = fit_encoding(columns, names, missing)
        labels, index = np.unique(_as_labels(columns[action], action), return_inverse=True)
        return cls(
            encoding.transform(columns),
            index.astype(np.int32),
            _numbers(columns[reward], reward),
            None if propensity is None else _numbers(columns[propensity], propensity),
            tuple(str(label) for label in labels),
            None if group is None else np.unique(columns[group], return_inverse=True)[1],
            encoding,
        )

    def take(self, rows: Int[np.ndarray, " n"] | Bool[np.ndarray, " N"]) -> "BanditLog":
        """Some of the rows."""
        kept = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v[rows] for k, v in kept.items() if isinstance(v, np.ndarray)})

    def as_transitions(self) -> Transitions:
        """The log as a staged process with one stage, to which ModBE applies."""
        n = len(self)
        context = self.context.astype(np.float32)
        return Transitions(
            context,
            self.action,
            self.reward.astype(np.float32),
            context,
            np.ones(n, bool),
            self.num_actions,
            stage=np.zeros(n, np.int32),
            group=self.group,
        )


_ROWS = ("context", "action", "reward", "propensity", "group")


def _refuse(name: str, bad: Bool[np.ndarray, " N"], what: str) -> None:
    found = np.flatnonzero(bad)
    if found.size:
        rows = ", ".join(map(str, found[:5]))
        raise DataError(f"{name}: {found.size} rows are {what}, the first ones {rows}; mend or leave them out")


def _as_labels(column: np.ndarray, name: str) -> np.ndarray:
    """Actions as text or whole numbers."""
    if column.dtype.kind in "US":
        _refuse(f"column {name!r}", column == "", "empty")
        return column
    values = column.astype(np.float64)
    _refuse(f"column {name!r}", ~np.isfinite(values), "not finite")
    _refuse(f"column {name!r}", values != np.round(values), "not whole numbers")
    return values.astype(np.int64)


def _numbers(column: np.ndarray, name: str) -> np.ndarray:
    if column.dtype.kind in "US":
        raise DataError(f"column {name!r} holds text, such as {column[0]!r}; numbers are needed")
    return column.astype(np.float64)
