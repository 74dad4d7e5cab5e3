"""Logs as arrays: transitions of a staged or a discounted decision process, and how their rows are split."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from gleanings.core.errors import ConfigError, DataError
from gleanings.selection.encoding import NEXT, Encoding, Missing, action_labels, context_columns, table_columns
from gleanings.selection.episodes import read_steps

_MIN_ROWS, _MIN_VALID = 50, 20


@dataclass(frozen=True)
class Split:
    """Which rows a class is fitted on, and which judge it."""

    train: Bool[np.ndarray, " N"]
    valid: Bool[np.ndarray, " N"]


@dataclass(frozen=True)
class Transitions:
    """Logged steps of a decision process with a finite number of actions.

    observation, next_observation [N, D]; action [N] in 0..num_actions - 1; reward [N]; terminal [N]: the process ended
    there, and nothing follows (a time limit is not an end). stage [N] in 0..H-1 makes it a staged process, in which
    the next observation belongs to the next stage; without it the process is discounted by `discount`. initial [N]
    marks the first steps. group [N]: rows that must not be split, such as those of one episode.
    labels, encoding: what a table called the actions, and how its columns became observations. dropped: rows of the
    table that could not become transitions, in words.
    ConfigError: shapes or values that do not belong together. DataError: numbers that are not finite, with their rows.
    """

    observation: Float[np.ndarray, "N D"]
    action: Int[np.ndarray, " N"]
    reward: Float[np.ndarray, " N"]
    next_observation: Float[np.ndarray, "N D"]
    terminal: Bool[np.ndarray, " N"]
    num_actions: int
    stage: Int[np.ndarray, " N"] | None = None
    discount: float = 1.0
    initial: Bool[np.ndarray, " N"] | None = None
    group: Int[np.ndarray, " N"] | None = None
    labels: tuple[str, ...] = ()
    encoding: Encoding | None = None
    dropped: str = ""

    def __post_init__(self) -> None:
        rows = len(self.reward)
        for name in ("observation", "action", "next_observation", "terminal", "stage", "initial", "group"):
            value = getattr(self, name)
            if value is not None and len(value) != rows:
                raise ConfigError(f"transitions: {name} has {len(value)} rows, reward has {rows}")
        for name in ("observation", "reward", "next_observation"):
            _check_finite(name, getattr(self, name))
        if rows and not (self.action.min() >= 0 and self.action.max() < self.num_actions):
            raise ConfigError(f"transitions: actions must lie in 0..{self.num_actions - 1}")
        if self.num_actions < 2:
            raise ConfigError("transitions: one action only; there is nothing to choose between")
        if self.stage is None and not 0 <= self.discount < 1:
            raise ConfigError(f"transitions: discount {self.discount} without stages; it must be in [0, 1)")
        if self.stage is not None and rows and set(np.unique(self.stage)) != set(range(self.num_stages)):
            raise ConfigError("transitions: stages must be 0, 1, ..., each with rows")

    @classmethod
    def from_table(
        cls,
        table: Any,
        *,
        action: str,
        reward: str,
        observation: Sequence[str] | None = None,
        episode: str | None = None,
        terminal: str | None = None,
        truncated: str | None = None,
        stage: str | None = None,
        group: str | None = None,
        discount: float | None = None,
        missing: Missing = "refuse",
        buckets: int = 0,
        rows: int | None = None,
    ) -> "Transitions":
        """Steps in a table: a path to CSV, JSON lines, Parquet or npz, or a dict or data frame.

        The arguments name columns; `observation` may hold ranges such as s0:s7 and is by default every other column.
        Rows of an `episode` stand in time order, and the next observation is the episode's next row, or next_* columns.
        `terminal` marks real ends; an episode cut off by `truncated`, or by the end of the table, goes on unseen, so
        that its last row is left out where it has no next observation. `stage` 0, 1, ... makes a staged process;
        without it `discount` (default 0.99) is needed. ConfigError: a column that is not there, or no way to the next
        observation. DataError: values that cannot be used, with their rows.
        """
        named = [name for name in (action, reward, episode, terminal, truncated, stage, group) if name]
        columns = table_columns(table, named, observation, rows)
        later = [c for c in columns if c.startswith(NEXT) and c.removeprefix(NEXT) in columns]
        names = context_columns(columns, observation, [*named, *later])
        steps = read_steps(columns, names, reward, episode, terminal, truncated, stage, (missing, buckets))
        labels, index = np.unique(action_labels(columns[action], action), return_inverse=True)
        staged = {} if steps.stage is None else {"stage": steps.stage}
        whole = cls(
            observation=steps.observation,
            action=index.astype(np.int32),
            reward=steps.reward,
            next_observation=steps.next_observation,
            terminal=steps.terminal,
            num_actions=len(labels),
            discount=(1.0 if stage else 0.99) if discount is None else discount,
            initial=steps.initial,
            group=steps.episode if group is None else np.unique(columns[group], return_inverse=True)[1],
            labels=tuple(str(label) for label in labels),
            encoding=steps.encoding,
            dropped=steps.dropped,
            **staged,
        )
        return whole if steps.known.all() else whole.take(np.flatnonzero(steps.known))

    @property
    def num_stages(self) -> int:
        """H, or 1 for a discounted process."""
        return 1 if self.stage is None else int(self.stage.max()) + 1 if len(self.stage) else 1

    @property
    def continues(self) -> Float[np.ndarray, " N"]:
        """Factor of the next observation's value: 0 after the end and after the last stage."""
        going = ~self.terminal
        if self.stage is not None:
            going = going & (self.stage < self.num_stages - 1)
        return going.astype(np.float32) * np.float32(self.discount)

    def at(self, stage: int) -> Int[np.ndarray, " n"]:
        """Row numbers of a stage; all rows of a discounted process."""
        return np.arange(len(self.reward)) if self.stage is None else np.flatnonzero(self.stage == stage)

    def take(self, rows: Int[np.ndarray, " n"]) -> "Transitions":
        """Some of the rows."""
        kept = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v[rows] for k, v in kept.items() if isinstance(v, np.ndarray)})

    def split(self, valid_fraction: float = 0.2, seed: int = 0) -> Split:
        """Random rows, or whole groups, for validation, the same share of every stage where there are no groups.

        ConfigError: a share outside (0, 1), or a single group.
        """
        if not 0 < valid_fraction < 1:
            raise ConfigError(f"valid_fraction {valid_fraction}: must lie between 0 and 1")
        rng = np.random.default_rng(seed)
        valid = np.zeros(len(self.reward), bool)
        if self.group is not None:
            names = rng.permutation(np.unique(self.group))
            if len(names) < 2:
                raise ConfigError("transitions: one group, such as one episode; nothing is left to hold out")
            valid = np.isin(self.group, names[: max(1, round(valid_fraction * len(names)))])
        else:
            for stage in range(self.num_stages):
                rows = rng.permutation(self.at(stage))
                valid[rows[: round(valid_fraction * len(rows))]] = True
        return Split(~valid, valid)

    def too_small(self, split: Split) -> str | None:
        """Why these rows cannot carry a decision, if so: fewer than 50 at a stage, or fewer than 20 for validation."""
        for stage in range(self.num_stages):
            rows = self.at(stage)
            if len(rows) < _MIN_ROWS or split.valid[rows].sum() < _MIN_VALID:
                where = "" if self.stage is None else f" at stage {stage}"
                return (
                    f"{len(rows)} rows{where}, {int(split.valid[rows].sum())} of them for validation; "
                    f"at least {_MIN_ROWS} and {_MIN_VALID} are needed"
                )
        return None


def _check_finite(name: str, values: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(1))
    if bad.size:
        first = ", ".join(map(str, bad[:5]))
        raise DataError(f"{name}: {bad.size} rows are not finite, the first ones {first}; mend or leave them out")
