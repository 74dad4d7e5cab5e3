"""`gleanings select`: from a table of logged decisions or episodes to a choice that says what it stands on."""

import csv
import datetime
import io
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from gleanings.core.config import load
from gleanings.core.errors import GleaningsError
from gleanings.core.rundir import RunDirectory
from gleanings.selection.encoding import Missing
from gleanings.selection.log import Transitions
from gleanings.selection.question import Asked, Question, ask
from gleanings.selection.saved import DECISION, policy_arrays
from gleanings.selection.selection import Selection

RuleName = Literal[
    "auto",
    "hold-out",
    "ccs",
    "slope",
    "policy-value",
    "modbe",
    "regressed-bellman",
    "bvft",
    "fqe",
    "mean-max",
    "largest",
    "smallest",
]


class NotCertified(GleaningsError):
    """The verdict is not 'certified' although that was required."""


def select(
    table: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")],
    action: str = "action",
    reward: str = "reward",
    propensity: str | None = None,
    context: tuple[str, ...] = (),
    group: str | None = None,
    episode: str | None = None,
    terminal: str | None = None,
    truncated: str | None = None,
    stage: str | None = None,
    discount: float | None = None,
    classes: tuple[str, ...] = ("constant", "linear:all"),
    rule: RuleName = "auto",
    missing: Missing = "refuse",
    buckets: Annotated[int, tyro.conf.arg(name="hash")] = 0,
    report_fraction: float = 0.2,
    rows: int | None = None,
    out: Path | None = None,
    require_certified: bool = False,
    seed: int = 0,
) -> None:
    """Choose a model class, and the policy that goes with it, from a table of logged decisions or episodes.

    Prints the choice, for decisions with its value on rows that were not used to choose it, and every alarm; writes a
    report. `gleanings resume FOLDER` finishes a run that was interrupted.

    Raises: ConfigError for a column, class or option that cannot be used; DataError for unusable data.

    Args:
        table: A .csv, .jsonl, .parquet or .npz file, or demo:trap, demo:nested, demo:mixing, demo:digits.
        action: Column of the action taken: text or whole numbers.
        reward: Column of its reward.
        propensity: Column with the probability with which the logged action was taken.
        context: Columns of the context, such as age x0:x9; every other column if none is given.
        group: Column that keeps rows together, such as a user.
        episode: Column of the episode; its rows stand in time order.
        terminal: Column that is 1 where the process really ended.
        truncated: Column that is 1 where an episode was cut off and would have gone on.
        stage: Column of the stage 0, 1, ... of a process with a fixed number of steps.
        discount: Discount of a process without stages, 0.99 if not given.
        classes: Nested classes: constant; linear:5,all on leading columns; rff:128 random features; mlp:16,64 networks.
        rule: How to choose: auto is hold-out with a check of coverage for decisions, and modbe for episodes.
        missing: refuse empty numbers, or replace them by the mean with an indicator column.
        buckets: Columns into which text with more than 50 levels is hashed.
        report_fraction: Share of the rows kept for the value of the choice.
        rows: Read at most so many rows.
        out: Folder of the run, runs/select-DATE if not given.
        require_certified: Fail unless the verdict is 'certified'.
        seed: Seed of the splits.
    """
    given = {name: value for name, value in locals().items() if name in Question.__dataclass_fields__}
    asked = ask(Question(**given))
    folder = out or Path("runs") / f"select-{datetime.datetime.now():%Y-%m-%d-%H%M%S}"
    found = _run(asked, folder, resume=False)
    if require_certified and found.verdict != "certified":
        raise NotCertified(f"the verdict is {found.verdict!r}; see above")


def resume(folder: Path) -> None:
    """Finish the interrupted run in `folder`; the decision is the one that it would have made."""
    _run(ask(load(Question, folder / "config.json")), folder, resume=True)


def _run(asked: Asked, folder: Path, resume: bool) -> Selection:
    try:
        with RunDirectory.create(folder, asked.question, resume=resume) as run:
            found = asked.answer()
            path = _write(run, asked, found)
    except (KeyboardInterrupt, SystemExit):
        print(f"stopped; continue with: gleanings resume {folder}", file=sys.stderr)
        raise
    print(found)
    if isinstance(asked.log, Transitions) and asked.log.dropped:
        print(f"  rows: {asked.log.dropped}")
    if asked.truth is not None:
        print(f"truth: regret {asked.truth.regret(found.act(asked.truth.context)):.4f}")
    print(f"report: {path}")
    return found


def _write(run: RunDirectory, asked: Asked, found: Selection) -> Path:
    if policy_arrays(found) is None:
        run.save_artifact(DECISION, json.dumps(found.to_json(), indent=1) + "\n")
    else:
        found.save(run.artifacts)
    columns: dict[str, Any] = found.certificate.table() if found.certificate.cells else {}
    if columns:
        run.save_artifact("certificate.csv", _csv(list(columns), zip(*columns.values(), strict=True)))
    if found.overlap:
        run.save_artifact("overlap.csv", _csv(list(found.overlap._fields), [found.overlap]))
    from gleanings.selection.report import selection_report  # imported late: matplotlib

    return selection_report(found, Path(asked.question.table).name).save(run.path / "report.html")


def _csv(heads: list[str], rows: Any) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows([[value.item() if isinstance(value, np.generic) else value for value in row] for row in rows])
    return text.getvalue()
