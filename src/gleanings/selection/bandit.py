"""A bandit log: contexts, the actions taken, their rewards, and how likely the logger was to take them."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from gleanings.core.errors import ConfigError
from gleanings.data.tables import Columns
from gleanings.selection.encoding import (
    PER_ACTION,
    Encoding,
    Missing,
    action_labels,
    context_columns,
    fit_encoding,
    numbers,
    refuse,
    table_columns,
)
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
            refuse(name, ~np.isfinite(values.reshape(len(values), math.prod(values.shape[1:]))).all(1), "not finite")
        if self.propensity is not None:
            refuse("propensity", ~((self.propensity > 0) & (self.propensity <= 1)), "not in (0, 1]")

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
        buckets: int = 0,
        rows: int | None = None,
    ) -> "BanditLog":
        """The log in a table: a path to CSV, JSON lines, Parquet or npz, or a dict or data frame.

        The arguments name columns; `context` may hold ranges such as x0:x9 and is by default every other column.
        Without `propensity` columns called propensity:LABEL, one an action, serve. Text with more than 50 levels is
        hashed into `buckets` columns. ConfigError: a column that is not there, more than 50 different texts in one and
        no buckets. DataError: an empty table, or values that cannot be used, with their rows.
        """
        named = [name for name in (action, reward, propensity, group) if name]
        columns = table_columns(table, named, context, rows)
        per_action = [c for c in columns if c.startswith(PER_ACTION)]
        names = context_columns(columns, context, [*named, *per_action])
        encoding = fit_encoding(columns, names, missing, buckets)
        taken, index = np.unique(action_labels(columns[action], action), return_inverse=True)
        labels = tuple(str(label) for label in taken)
        chance = None if propensity is None else numbers(columns[propensity], propensity)
        if propensity is None and per_action:
            every, chances = _by_action(columns, labels)
            index = np.array([every.index(label) for label in labels])[index]
            labels = every
            chance = np.stack([chances[label] for label in labels], 1)[np.arange(len(index)), index]
        rewards = numbers(columns[reward], reward)
        groups = None if group is None else np.unique(columns[group], return_inverse=True)[1]
        context_of_rows = encoding.transform(columns, consume=True)
        return cls(context_of_rows, index.astype(np.int32), rewards, chance, labels, groups, encoding)

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


def _by_action(columns: Columns, labels: Sequence[str]) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """All actions that were logged or have a column of propensities, and these columns by action.

    ConfigError: a logged action has none. DataError: no probabilities, or they do not sum to 1.
    """
    named = {_as_label(c.removeprefix(PER_ACTION), labels): c for c in columns if c.startswith(PER_ACTION)}
    for label in labels:
        if label not in named:
            raise ConfigError(
                f"no column {PER_ACTION + label!r} for a logged action; it has {', '.join(named.values())}"
            )
    chances = {label: numbers(columns[name], name) for label, name in named.items()}
    for label, chance in chances.items():
        refuse(f"column {named[label]!r}", ~((chance >= 0) & (chance <= 1)), "not in [0, 1]")
    refuse("propensities", np.abs(sum(chances.values()) - 1) > 1e-3, "not 1 in sum over the actions")
    return tuple(sorted(chances)), chances


def _as_label(text: str, labels: Sequence[str]) -> str:
    """What a column calls an action, as the actions' own column does: True and 1.0 are 1 among whole numbers."""
    if text in labels:
        return text
    with contextlib.suppress(ValueError):
        value = {"true": 1.0, "false": 0.0}.get(text.lower())
        value = float(text) if value is None else value
        return f"{value:.0f}" if value == round(value) else text
    return text
