"""The report of the study of batch policy selection: figures, what they say, tables."""

from typing import Any

import numpy as np

from gleanings.core.report import Report, Series, figure_bars
from gleanings.core.stats import Interval, bootstrap_ci
from gleanings.core.study import Evidence, Verdict
from gleanings.studies._batch_trials import BEST, RULES

_LABELS = {
    "ccs": "CCS",
    "slope": "SLOPE",
    "hold-out": "hold-out, greedy",
    "hold-out-lcb": "hold-out, pessimistic",
    "largest-lcb": "largest, pessimistic",
    "auto": "Auto",
    "best": "best single class",
}
_PROBLEMS = {
    "a-uniform": "a, nested, uniform log",
    "a-greedy": "a, nested, greedy log",
    "b": "b, cover",
    "c": "c, mixing",
    "e": "e, rare",
}


def thumbnail(evidence: Evidence) -> str:
    """Regret of the rules at the largest n of each problem."""
    return _bars(evidence.values, thumbnail=True)


def render(evidence: Evidence, verdict: Verdict, report: Report) -> None:
    """Add the study's sections to `report`."""
    values = evidence.values
    text = (
        "Each rule fails where the error that it neglects is present; the best single class is known in hindsight only."
    )
    report.section("Regret of the rules", text)
    report.figure(_bars(values), "Largest log of each problem: mean over seeds with its 95 % interval.")
    report.section("Our Auto", _auto(values))
    report.section("Tables")
    names = [*RULES, BEST]
    rows = [[_problem(cell), _rows(cell), *(_mean(found[name]) for name in names)] for cell, found in _by(values)]
    heads = ["problem", "rows", *(_LABELS[name] for name in names)]
    report.table(heads, rows, f"Regret, {values['seeds']} seeds.")
    pair = [
        [int(cell.removeprefix("d-n")), world, *(float(np.mean(found[world][name])) for name in names)]
        for cell, found in values["pair"].items()
        for world in ("A", "B")
    ]
    report.table(["rows", "world", *heads[2:]], pair, "d, the impossible pair: one log, and the regrets sum to 1/2.")
    sweeps = [
        [_problem(cell), _rows(cell), float(scale), *(row[name] for name in names)]
        for cell, found in values["sweeps"].items()
        for scale, row in found.items()
    ]
    if sweeps:
        report.table(["problem", "rows", "scale", *heads[2:]], sweeps, "Mean regret at other scales of the widths.")


def _auto(values: dict[str, Any]) -> str:
    parts = []
    for cell, found in _by(values):
        better = min(np.mean(found["ccs"]), np.mean(found["hold-out"]))
        parts.append(f"- {_problem(cell)}, {_rows(cell)} rows: {np.mean(found['auto']) - better:+.3f}")
    head = "Auto plays hold-out where the log covers its policy and CCS elsewhere. Regret above the better of the two:"
    return "\n\n".join([head, "\n".join(parts), "By the impossible pair it has to fail somewhere; e shows where."])


def _bars(values: dict[str, Any], thumbnail: bool = False) -> str:
    last = {}
    for cell, found in _by(values):
        last[_problem(cell)] = (_rows(cell), found)
    series = []
    for name in ("ccs", "slope", "hold-out", "auto", BEST):
        intervals = [_mean(found[name]) for _, found in last.values()]
        y, low, high = ([getattr(i, k) for i in intervals] for k in ("estimate", "low", "high"))
        labels = [problem if not thumbnail else problem.split(",")[0] for problem in last]
        series.append(Series(_LABELS[name], labels, y, low, high))
    return figure_bars(series, value_label="regret", thumbnail=thumbnail)


def _by(values: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    order = list(_PROBLEMS)
    return sorted(values["cells"].items(), key=lambda item: (order.index(_key(item[0])), _rows(item[0])))


def _key(cell: str) -> str:
    return cell.rpartition("-n")[0]


def _problem(cell: str) -> str:
    return _PROBLEMS[_key(cell)]


def _rows(cell: str) -> int:
    return int(cell.rpartition("-n")[2])


def _mean(x: list[float]) -> Interval:
    return bootstrap_ci(np.asarray(x, float))
