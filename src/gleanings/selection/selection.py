"""What a rule returns: the class, the certificate for it, and alarms where the data cannot carry the decision."""

import abc
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from gleanings.core.config import to_dict
from gleanings.core.errors import ConfigError
from gleanings.core.report import table
from gleanings.data.tables import read_columns
from gleanings.selection.alarm import Alarm
from gleanings.selection.bandit import BanditLog
from gleanings.selection.candidates import Candidates
from gleanings.selection.classes import AnyArray, Q
from gleanings.selection.encoding import Encoding
from gleanings.selection.fqi import values_of
from gleanings.selection.log import Transitions
from gleanings.selection.ope import Estimate
from gleanings.selection.overlap import Overlap

Label = Literal["certified", "uncertified", "insufficient data"]


@dataclass(frozen=True)
class Cell:
    """One comparison: `delta` is how much less squared error `large` has than `small` on the target of `small`.

    se: its standard error. tolerance: how much is allowed. rows: validation rows. effective_rows: rows that carry the
    error of `small`. rejects: delta > tolerance. rows_needed: rows at which this difference would reject, NaN if it
    never would.
    """

    small: str
    large: str
    stage: int
    delta: float
    se: float
    tolerance: float
    rows: int
    effective_rows: float
    rejects: bool
    rows_needed: float


@dataclass(frozen=True)
class Certificate:
    """The comparisons that a choice stands on."""

    cells: tuple[Cell, ...] = ()

    def table(self) -> dict[str, np.ndarray]:
        """Equal-length columns, one entry a comparison."""
        names = list(Cell.__dataclass_fields__)
        return {name: np.array([getattr(cell, name) for cell in self.cells]) for name in names}

    def html(self) -> str:
        """The same as a table for a report."""
        columns = self.table()
        return table(list(columns), list(zip(*(c.tolist() for c in columns.values()), strict=True)))


@dataclass(frozen=True)
class Selection:
    """The choice of a rule. index counts from 0, None for a mixture of classes; `q` is one value function a stage.

    value: estimates on rows that were not used to choose, by estimator, the first one the best. lift:
    that one less the mean reward of the same rows, paired by row. uncovered: share of
    contexts in which the policy leaves what the log covers. losses: held-out squared error of each class above the
    least one, and its standard error. labels, encoding, columns: what a table called the actions, how its
    columns became observations, and how many there are. log: the data.
    """

    index: int | None
    name: str
    rule: str
    verdict: Label
    num_classes: int
    num_actions: int
    alarms: tuple[Alarm, ...] = ()
    certificate: Certificate = field(default_factory=Certificate)
    q: tuple[Q, ...] = field(default=(), repr=False)
    value: Mapping[str, Estimate] = field(default_factory=dict, repr=False)
    lift: Estimate | None = field(default=None, repr=False)
    overlap: Overlap | None = None
    uncovered: float | None = None
    losses: Mapping[str, tuple[float, float]] = field(default_factory=dict, repr=False)
    labels: tuple[str, ...] = ()
    encoding: Encoding | None = field(default=None, repr=False)
    columns: int | None = None
    log: BanditLog | Transitions | None = field(default=None, repr=False)

    def act(self, observation: Any, stage: int = 0) -> Float[np.ndarray, "B A"]:
        """Probability of each action: 1 for the greedy one, the first of equals.

        observation: an array [B, D], or a table with the columns that the log was read from. ConfigError: a table where
        the log was not read from one, a column is missing, or an array of another shape.
        """
        if not isinstance(observation, np.ndarray | jax.Array):
            if self.encoding is None:
                raise ConfigError("this choice was made from arrays; pass an array [B, D]")
            observation = self.encoding.transform(read_columns(observation))
        observation = np.asarray(observation)
        if observation.ndim != 2 or observation.shape[1] != (self.columns or observation.shape[1]):
            expected = "?" if self.columns is None else self.columns
            raise ConfigError(f"observations of shape {observation.shape}; expected [B, {expected}]")
        values = values_of(self.q[stage], observation, self.num_actions)
        return np.eye(self.num_actions, dtype=np.float32)[values.argmax(-1)]

    def made_from(self, log: BanditLog | Transitions) -> "Selection":
        """The same with the log that it was made from, which a report and new rows need."""
        columns = (log.context if isinstance(log, BanditLog) else log.observation).shape[1]
        return replace(self, log=log, labels=log.labels, encoding=log.encoding, columns=columns)

    def save(self, folder: str | Path) -> None:
        """Write decision.json and policy.npz into `folder`, for `load_selection`.

        ConfigError: the value functions are not of this room, or the log is not known.
        """
        from gleanings.selection.saved import save_selection  # imported late: it needs this class

        save_selection(self, folder)

    def report(self, path: str | Path) -> Path:
        """Write the choice, what it stands on and what the log cannot carry as one HTML page."""
        from gleanings.selection.report import selection_report  # imported late: it needs this class

        return selection_report(self).save(Path(path))

    def to_json(self) -> dict[str, Any]:
        """All but the value functions; NaN and infinity are None."""
        names = ("index", "name", "rule", "verdict", "num_classes", "num_actions")
        facts: dict[str, Any] = {name: getattr(self, name) for name in names}
        facts["alarms"] = [{"name": alarm.name, "message": alarm.message} for alarm in self.alarms]
        columns = self.certificate.table() if self.certificate.cells else {}
        facts["value"] = {name: e._asdict() | {"terms": None} for name, e in self.value.items()}
        facts["lift"] = self.lift and self.lift._asdict() | {"terms": None}
        facts["losses"] = {name: list(pair) for name, pair in self.losses.items()}
        facts["uncovered"], facts["labels"] = self.uncovered, list(self.labels)
        facts["encoding"] = self.encoding and to_dict(self.encoding)
        facts["overlap"] = self.overlap and self.overlap._asdict()
        return _finite(facts | {"certificate": {name: column.tolist() for name, column in columns.items()}})

    def __str__(self) -> str:
        place = f"{self.name}, class {(self.index or 0) + 1} of {self.num_classes}"
        parts = [f"mixture of {self.num_classes} classes" if self.index is None else place, self.verdict]
        if self.value:
            name, best = next(iter(self.value.items()))
            numbers = f"{best.value:.3g} [{best.low:.3g}, {best.high:.3g}]"
            parts.append(f"value {numbers} by {name} on {best.n} unseen rows")
        parts.append(f"{len(self.alarms)} alarm" + "s" * (len(self.alarms) != 1))
        lines = [" | ".join(parts), *(f"  {alarm.name}: {alarm.message}" for alarm in self.alarms)]
        if self.lift is not None:
            numbers = f"{self.lift.value:.3g} [{self.lift.low:.3g}, {self.lift.high:.3g}]"
            lines.insert(1, f"  above the logger on the same rows: {numbers}")
        if self.verdict == "uncertified" and not self.alarms:
            lines.append("  this rule gives no certificate")
        return "\n".join(lines)


class Rule(eqx.Module):
    """Chooses one of the candidates."""

    @abc.abstractmethod
    def select(self, candidates: Candidates) -> Selection:
        """The choice, with its certificate and alarms; the smallest class where rows are too few."""


def selection_of(
    candidates: Candidates,
    rule: str,
    index: int,
    verdict: Label,
    alarms: tuple[Alarm, ...] = (),
    certificate: Certificate | None = None,
) -> Selection:
    """The selection of class `index`, or the smallest one where the rows cannot carry a decision."""
    problem = candidates.data.too_small(candidates.split)
    if problem is None and not np.ptp(candidates.data.reward):
        problem = "the reward is the same in every row"
    if problem:
        alarms, index, verdict = (Alarm("rows", problem), *alarms), 0, "insufficient data"
    name, certificate = candidates.classes[index].name, certificate or Certificate()
    sizes = (len(candidates.classes), candidates.data.num_actions)
    chosen = Selection(index, name, rule, verdict, *sizes, alarms, certificate, tuple(candidates.fits(index)))
    return chosen.made_from(candidates.data)


def greedy(q: Q) -> Any:
    """x [B, D] -> the action [B] with the highest value."""

    def policy(observation: AnyArray) -> np.ndarray:
        return np.asarray(q(observation)).argmax(-1)

    return policy


def _finite(value: Any) -> Any:
    """The same without NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
