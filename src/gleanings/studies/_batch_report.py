"""The report of the study of batch policy selection: figures, what they say, tables."""

from typing import Any

import numpy as np

from gleanings.core.report import Report, Series, figure_bars
from gleanings.core.stats import Interval, bootstrap_ci
from gleanings.core.study import Evidence, Verdict
from gleanings.studies._batch_beyond import add_auto, add_certificates, add_clicks
from gleanings.studies._batch_labels import RULE_LABELS, ordered, problem_of, rows_of
from gleanings.studies._batch_trials import BEST, RULES


def thumbnail(evidence: Evidence) -> str:
    """Regret of the rules at the largest n of each problem; of a with the uniform log."""
    return _bars(evidence.values, thumbnail=True)


def render(evidence: Evidence, verdict: Verdict, report: Report) -> None:
    """Add the study's sections to `report`."""
    values = evidence.values
    text = (
        "Each rule fails where the error that it neglects is present; the best single class is known in hindsight only."
    )
    report.section("Regret of the rules", text)
    report.figure(_bars(values), "Largest log of each problem: mean over seeds with its 95 % interval.")
    add_auto(values, report)
    add_certificates(values, report)
    add_clicks(values, report)
    report.section("Tables")
    names = [*RULES, BEST]
    rows = [
        [problem_of(cell), rows_of(cell), *(_mean(found[name]) for name in names)]
        for cell, found in ordered(values["cells"])
    ]
    heads = ["problem", "rows", *(RULE_LABELS[name] for name in names)]
    report.table(heads, rows, f"Regret, {values['seeds']} seeds; fewer in P3, where no win is claimed.")
    pair = [
        [int(cell.removeprefix("d-n")), world, *(float(np.mean(found[world][name])) for name in names)]
        for cell, found in values["pair"].items()
        for world in ("A", "B")
    ]
    report.table(["rows", "world", *heads[2:]], pair, "d, the impossible pair: one log, and the regrets sum to 1/2.")
    sweeps = [
        [problem_of(cell), rows_of(cell), float(scale), *(row[name] for name in names)]
        for cell, found in values["sweeps"].items()
        for scale, row in found.items()
    ]
    if sweeps:
        report.table(["problem", "rows", "scale", *heads[2:]], sweeps, "Mean regret at other scales of the widths.")


def _bars(values: dict[str, Any], thumbnail: bool = False) -> str:
    last = {problem_of(cell): found for cell, found in ordered(values["cells"])}
    if thumbnail:  # the letter alone has room, and the second log of a would take the place of the first
        last = {problem.split(",")[0]: found for problem, found in reversed(last.items())}
        last = dict(reversed(last.items()))
    series = []
    for name in ("ccs", "slope", "hold-out", "auto", BEST):
        intervals = [_mean(found[name]) for found in last.values()]
        y, low, high = ([getattr(i, k) for i in intervals] for k in ("estimate", "low", "high"))
        series.append(Series(RULE_LABELS[name], list(last), y, low, high))
    return figure_bars(series, value_label="regret", thumbnail=thumbnail)


def _mean(x: list[float]) -> Interval:
    return bootstrap_ci(np.asarray(x, float))
