"""`gleanings select`: from a table of logged decisions to a choice that says what it stands on."""

import csv
import datetime
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from gleanings.core.errors import GleaningsError
from gleanings.core.rundir import RunDirectory
from gleanings.selection.bandit import BanditLog
from gleanings.selection.bandit_rules import (
    Auto,
    BanditRule,
    ComplexityCoverage,
    HoldOut,
    Largest,
    PolicyValue,
    Slope,
    Smallest,
)
from gleanings.selection.candidates import fit_candidates
from gleanings.selection.classes import Identity, prefix_linear
from gleanings.selection.encoding import Missing
from gleanings.selection.log import Transitions
from gleanings.selection.mdp_rules import ModBE
from gleanings.selection.policy import parse_classes, select_policy
from gleanings.selection.report import selection_report
from gleanings.selection.selection import Selection

RuleName = Literal["auto", "hold-out", "ccs", "slope", "policy-value", "largest", "smallest", "modbe"]
RULES: dict[str, BanditRule] = {
    "auto": Auto(),
    "hold-out": HoldOut(),
    "ccs": ComplexityCoverage(),
    "slope": Slope(),
    "policy-value": PolicyValue(),
    "largest": Largest(),
    "smallest": Smallest(),
}


@dataclass(frozen=True)
class Question:
    """What `gleanings select` was asked; config.json of its run directory."""

    table: str
    action: str
    reward: str
    propensity: str | None
    context: tuple[str, ...]
    group: str | None
    classes: tuple[str, ...]
    rule: str
    missing: Missing
    report_fraction: float
    rows: int | None
    seed: int


class NotCertified(GleaningsError):
    """The verdict is not 'certified' although that was required."""


def select(
    table: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")],
    action: str = "action",
    reward: str = "reward",
    propensity: str | None = None,
    context: tuple[str, ...] = (),
    group: str | None = None,
    classes: tuple[str, ...] = ("constant", "linear:all"),
    rule: RuleName = "auto",
    missing: Missing = "refuse",
    report_fraction: float = 0.2,
    rows: int | None = None,
    out: Path | None = None,
    require_certified: bool = False,
    seed: int = 0,
) -> None:
    """Choose a model class, and the policy that goes with it, from a table of logged decisions.

    Prints the choice with its value on rows that were not used to choose it, and every alarm; writes a report.

    Raises: ConfigError for a column, class or option that cannot be used; DataError for unusable data.

    Args:
        table: A .csv, .jsonl or .parquet file.
        action: Column of the action taken: text or whole numbers.
        reward: Column of its reward.
        propensity: Column with the probability with which the logged action was taken.
        context: Columns of the context, such as age x0:x9; every other column if none is given.
        group: Column that keeps rows together, such as a user.
        classes: Nested classes: constant, and linear: with numbers of context columns, such as linear:5,all.
        rule: How to choose.
        missing: refuse empty numbers, or replace them by the mean with an indicator column.
        report_fraction: Share of the rows kept for the value of the choice.
        rows: Read at most so many rows.
        out: Folder of the run, runs/select-DATE if not given.
        require_certified: Fail unless the verdict is 'certified'.
        seed: Seed of the splits.
    """
    named = (table, action, reward, propensity, context, group, classes, rule, missing, report_fraction, rows, seed)
    question = Question(*named)
    log = BanditLog.from_table(
        table,
        action=action,
        reward=reward,
        propensity=propensity,
        context=context,
        group=group,
        missing=missing,
        rows=rows,
    )
    found = _decide(question, log)
    folder = out or Path("runs") / f"select-{datetime.datetime.now():%Y-%m-%d-%H%M%S}"
    with RunDirectory.create(folder, question) as run:
        path = _write(run, question, log, found)
    print(found)
    print(f"report: {path}")
    if require_certified and found.verdict != "certified":
        raise NotCertified(f"the verdict is {found.verdict!r}; see the alarms")


def _decide(question: Question, log: BanditLog) -> Selection:
    classes = parse_classes(question.classes, log)
    if question.rule != "modbe":
        fraction, seed = question.report_fraction, question.seed
        return select_policy(log, classes, RULES[question.rule], report_fraction=fraction, seed=seed)
    data: Transitions = log.as_transitions()
    linear = prefix_linear(Identity(), [c.dim for c in classes])
    return ModBE().select(fit_candidates(linear, None, data, seed=question.seed))


def _write(run: RunDirectory, question: Question, log: BanditLog, found: Selection) -> Path:
    run.save_artifact("decision.json", json.dumps(found.to_json(), indent=1) + "\n")
    columns: dict[str, Any] = found.certificate.table() if found.certificate.cells else {}
    if columns:
        run.save_artifact("certificate.csv", _csv(list(columns), zip(*columns.values(), strict=True)))
    if found.overlap:
        run.save_artifact("overlap.csv", _csv(list(found.overlap._fields), [found.overlap]))
    return selection_report(found, log, question.table).save(run.path / "report.html")


def _csv(heads: list[str], rows: Any) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows([[value.item() if isinstance(value, np.generic) else value for value in row] for row in rows])
    return text.getvalue()
