"""Rows of episodes as steps: which row comes next, what an end is, what has no next observation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from gleanings.core.errors import ConfigError, DataError
from gleanings.data.tables import Columns, require
from gleanings.selection.encoding import NEXT, Encoding, Missing, fit_encoding, numbers, refuse


class Steps(NamedTuple):
    """Steps in the order of the table; `known` [N]: the next observation is there, or does not matter."""

    observation: Float[np.ndarray, "N D"]
    next_observation: Float[np.ndarray, "N D"]
    reward: Float[np.ndarray, " N"]
    terminal: Bool[np.ndarray, " N"]
    initial: Bool[np.ndarray, " N"] | None
    stage: Int[np.ndarray, " N"] | None
    episode: Int[np.ndarray, " N"] | None
    known: Bool[np.ndarray, " N"]
    encoding: Encoding
    dropped: str


def read_steps(
    columns: Columns,
    names: Sequence[str],
    reward: str,
    episode: str | None,
    terminal: str | None,
    truncated: str | None,
    stage: str | None,
    encoding: tuple[Missing, int],
) -> Steps:
    """The steps of a table; the arguments name its columns. Errors as in `Transitions.from_table`."""
    fitted = fit_encoding(columns, names, *encoding)
    now = fitted.transform(columns).astype(np.float32)
    rows = len(now)
    ends = np.zeros(rows, bool) if terminal is None else _flags(columns[terminal], terminal)
    cut = np.zeros(rows, bool) if truncated is None else _flags(columns[truncated], truncated)
    refuse("terminal and truncated", ends & cut, "both, an end and cut off")
    stages = None if stage is None else _stages(columns[stage], stage)
    ids = None if episode is None else np.unique(columns[episode], return_inverse=True)[1]
    following = None if ids is None else next_rows(ids)
    if any(NEXT + name in columns for name in names):
        require(columns, [NEXT + name for name in names])
        # What follows an end does not matter, and is often left empty.
        following_columns = {name: np.where(ends, columns[name], columns[NEXT + name]) for name in names}
        later = fitted.transform(following_columns).astype(np.float32)
        known = np.ones(rows, bool)
    elif following is None:
        raise ConfigError("no way to the next observation: name the column of the episode, or add next_* columns")
    else:
        later = now[np.where(following < 0, np.arange(rows), following)]
        refuse(f"column {terminal!r}", ends & (following >= 0), "ends in the middle of their episode")
        known = (following >= 0) & ~cut | ends
        if stages is not None:
            _check_order(stages, following)
            known |= stages == stages.max()
    count = int((~known).sum())
    dropped = f"{count} of {rows} rows left out: cut off without a next observation" if count else ""
    if terminal is None and stage is None:
        dropped += "; no column of real ends was named, so every episode is taken to go on" if count else ""
    if count == rows:
        raise DataError(f"no rows left: {dropped.replace('left out', 'are')}")
    first = None if following is None else _first(following) & (stages == 0 if stages is not None else True)
    return Steps(
        now,
        later,
        numbers(columns[reward], reward).astype(np.float32),
        ends,
        first,
        stages,
        ids,
        known,
        fitted,
        dropped,
    )


def next_rows(episode: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """For each row the next one of its episode, -1 for the last; rows of episodes may be mingled."""
    order = np.argsort(episode, kind="stable")
    following = np.full(len(episode), -1)
    same = episode[order[1:]] == episode[order[:-1]]
    following[order[:-1][same]] = order[1:][same]
    return following


def _first(following: Int[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
    first = np.ones(len(following), bool)
    first[following[following >= 0]] = False
    return first


def _flags(column: np.ndarray, name: str) -> Bool[np.ndarray, " N"]:
    values = numbers(column, name)
    refuse(f"column {name!r}", ~np.isin(values, (0, 1)), "neither 0 nor 1")
    return values == 1


def _stages(column: np.ndarray, name: str) -> Int[np.ndarray, " N"]:
    values = numbers(column, name)
    refuse(f"column {name!r}", ~(values >= 0) | (values != np.round(values)), "not a stage 0, 1, ...")
    return values.astype(np.int32)


def _check_order(stages: Int[np.ndarray, " N"], following: Int[np.ndarray, " N"]) -> None:
    rows = np.flatnonzero(following >= 0)
    wrong = np.zeros(len(stages), bool)
    wrong[rows] = stages[following[rows]] != stages[rows] + 1
    refuse("stage", wrong, "not followed by the next stage of their episode")
