"""The report of the study of ModBE: what went against it first, then the claim."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gleanings.core.report import Report, Series, figure_bars, figure_heatmap, figure_line
from gleanings.core.stats import Interval, bootstrap_ci, paired_difference, wilson
from gleanings.core.study import Evidence, Verdict
from gleanings.studies._modbe_judge import cell_name, regret
from gleanings.studies._modbe_networks import STARTS
from gleanings.studies._modbe_trials import CARTPOLE_RULES, DIMS, RULES

_LABELS = {
    "modbe": "ModBE",
    "modbe-paired": "ModBE, paired t",
    "modbe-zero": "ModBE, zero tolerance",
    "modbe-guarded": "ModBE, guarded",
    "modbe-fresh": "ModBE, fresh starts",
    "regressed": "regressed Bellman",
    "hold-out": "hold-out TD",
    "fqe": "FQE",
    "mean-max": "mean max Q",
    "largest": "largest class",
    "smallest": "smallest class",
    "best": "best class",
}
_SHOWN = ("modbe", "modbe-zero", "hold-out", "largest", "best")
_TRAP = (
    "Exact regret of each rule's choice: mean over seeds with its 95 % interval. With endless data hold-out changes "
    "its mind at q = 0.865."
)
_BELLMAN = (
    "Exact squared Bellman error on the log of each rule's choice, summed over stages, times n: mean over seeds. Level "
    "where the error falls as 1/n; in proportion to n where the class cannot hold its target. The error counts z as "
    "often as the log sees it, so that of a constant grows with q, while its regret is 0.9 at every q."
)
_ROWS = (
    "At how many rows a comparison rejects, predicted at 500 rows a stage: share of predictions within a factor 2 of "
    "the first measured size at which half of the seeds reject. Plain: rows x tolerance / difference; corrected: the "
    "difference freed from the variance of both fits. The aim was 80 %."
)
_WRONG_REGRET, _WRONG_STEPS = 0.05, 10
_CONTROLS = {
    "c1": "C1, one stage",
    "c2": "C2, no trap",
    "c3": "C3, signal in column 40",
    "c4": "C4, six signals",
    "c5": "C5, other numbers of classes",
}


def thumbnail(evidence: Evidence) -> str:
    """Regret against q at the largest n."""
    return _against_q(evidence.values, max(evidence.values["n"]), thumbnail=True)


def render(evidence: Evidence, verdict: Verdict, report: Report) -> None:
    """Add the study's sections to `report`."""
    values = evidence.values
    if values["cartpole"]:
        _cartpole(values["cartpole"], report)
    if values.get("networks"):
        _networks(values["networks"], report)
    report.section("The variance trap", _TRAP)
    report.figure([_against_q(values, n) for n in (min(values["n"]), max(values["n"]))])
    if len(values["n"]) > 1:
        report.figure([_against_n(values, q) for q in (min(values["q"]), max(values["q"]))])
        _bellman(values, report)
    _tests(values, report)
    _grid_table(values, report)
    _controls_table(values, report)
    _certificates(values, report)
    _rows_table(values.get("rows", {}), report)


def headline(evidence: Evidence) -> str:
    """What CartPole says, as it falls out."""
    found = evidence.values["cartpole"]
    if not found:
        return ""
    first, last = found["n1000"], found[max(found, key=lambda name: int(name[1:]))]
    gain, end = (_between(x, "modbe-guarded", "modbe") for x in (first, last))
    plain, best, behind = *(_mean(first["steps"][rule]) for rule in ("modbe", "best")), _between(first, "modbe", "best")
    outcome = "the method loses" if behind.high < 0 else "the method does not lose"
    passed = {True: "passed", False: "failed"}
    return (
        f"On CartPole with noisy velocities and 1000 logged steps ModBE's choice survives {plain} of 200 steps, the "
        f"best class {best}: {outcome}.\n\n"
        "The reward is 1 nearly everywhere, so a constant is almost consistent on the log, and too few rows can show "
        "that it is wrong. The guard, which falls back to the largest class where fewer than ten rows carry the error, "
        f"changes this by {gain} steps at 1000 rows and by {end} at the largest log. Its fixed test: lower bound above "
        f"20 at 1000 rows ({passed[gain.low > 20]}), at most 10 either way at the largest "
        f"({passed[abs(end.estimate) <= 10]})."
    )


def _cartpole(found: dict[str, Any], report: Report) -> None:
    report.section("CartPole", "Steps survived by the choice of each rule, of 200.")
    series = []
    for rule in CARTPOLE_RULES:
        intervals = [_mean(cell["steps"][rule]) for cell in found.values()]
        y, low, high = ([getattr(i, k) for i in intervals] for k in ("estimate", "low", "high"))
        series.append(Series(_LABELS[rule], [f"{name[1:]} rows" for name in found], y, low, high))
    report.figure(figure_bars(series, value_label="steps survived, of 200"), "Mean over seeds with its 95 % interval.")
    rows = []
    for name, cell in found.items():
        means = [_mean(cell["steps"][rule]) for rule in CARTPOLE_RULES]
        rows.append([int(name[1:]), *means, float(np.mean(cell["failures"])), f"{np.mean(cell['blind']):.0%}"])
    labels = [_LABELS[rule] for rule in CARTPOLE_RULES]
    report.table(["rows", *labels, "failures in the log", "blind"], rows, "Steps survived; `blind`: share of seeds.")


def _networks(found: dict[str, Any], report: Report) -> None:
    steps = found["cartpole"]["steps"]
    plain, fresh, best = (_mean(steps[rule]) for rule in ("modbe", "modbe-fresh", "best"))
    text = (
        f"With networks and 4000 logged steps ModBE's choice survives {plain} of 200 steps, the best class {best}. A "
        f"larger class goes on from the smaller class's fit; when it starts afresh, the choice survives {fresh}. The "
        "alarm 'optimisation noise' says that a class fitted to its own target once more changes its loss by more than "
        "two standard errors. Where every class is complete, each rejection is false."
    )
    report.section("Networks", text)
    rows = [[_LABELS.get(rule, rule), _mean(values)] for rule, values in steps.items()]
    report.table(["rule or class", "steps survived"], rows, f"CartPole, {len(steps['best'])} seeds, 4000 rows.")
    rows = [
        [problem, {"widened": "the smaller fit", "fresh": "afresh"}[name], *_start_row(found[problem]["tests"][name])]
        for problem in ("cartpole", "complete")
        for name in STARTS
    ]
    heads = ["problem", "larger classes start", "seeds with a rejection", "alarms", "larger is worse", "least gain"]
    caption = (
        "`larger is worse`: share of comparisons in which the larger class loses by more than two standard errors; "
        "`least gain`: the lowest difference of losses in any seed."
    )
    report.table(heads, rows, caption)


def _start_row(tests: dict[str, list]) -> list:
    seeds, least = len(tests["choice"]), min(tests["least"])
    counts = (sum(index > 0 for index in tests["choice"]), sum(tests["noise"]))
    return [*(wilson(count, seeds) for count in counts), _mean(tests["worse"]), least]


def _against_q(values: dict[str, Any], n: int, thumbnail: bool = False) -> str:
    cells = [cell_name(q, n) for q in values["q"]]
    rules = _SHOWN if not thumbnail else ("modbe", "hold-out", "largest")
    return figure_line(
        [_series(values, cells, values["q"], rule) for rule in rules],
        x_label="q, how often the log sees z",
        y_label="regret",
        title="" if thumbnail else f"n = {n}",
        size=(360, 300) if not thumbnail else (300, 180),
        thumbnail=thumbnail,
    )


def _against_n(values: dict[str, Any], q: float) -> str:
    cells = [cell_name(q, n) for n in values["n"]]
    series = [_series(values, cells, values["n"], rule) for rule in _SHOWN]
    title = f"q = {q:g}"
    return figure_line(series, x_label="rows a stage", y_label="regret", title=title, log="x", size=(360, 300))


def _series(values: dict[str, Any], cells: list[str], x: Sequence[float | int], rule: str) -> Series:
    intervals = [_mean(regret(values, cell, rule)) for cell in cells]
    y, low, high = ([getattr(i, k) for i in intervals] for k in ("estimate", "low", "high"))
    return Series(_LABELS[rule], x, y, low, high)


def _bellman(values: dict[str, Any], report: Report) -> None:
    """Bellman error times n against n: flat for a class that is complete, rising with n for one that is not."""
    figures = []
    for q in (min(values["q"]), max(values["q"])):
        cells = [values["cells"][cell_name(q, n)] for n in values["n"]]
        series = [
            Series(
                _LABELS[rule],
                values["n"],
                [cell["bellman"][rule] * n for n, cell in zip(values["n"], cells, strict=True)],
            )
            for rule in _SHOWN
        ]
        title, label = f"q = {q:g}", "Bellman error x n"
        figures.append(
            figure_line(series, x_label="rows a stage", y_label=label, title=title, log="xy", size=(360, 300))
        )
    report.figure(figures, _BELLMAN)


def _tests(values: dict[str, Any], report: Report) -> None:
    q, n = min(values["q"]), max(n for n in values["n"] if n <= 1000)
    cell = values["cells"][cell_name(q, n)]
    ratio = np.where(np.triu(np.ones((len(DIMS), len(DIMS))), 1) > 0, np.asarray(cell["ratio"], float), np.nan)
    names = [str(d) for d in DIMS]
    report.section("The tests", f"At q = {q:g} and n = {n}; a class is rejected where an entry exceeds 1.")
    heat = figure_heatmap(ratio[:-1], rows=names[:-1], columns=names, value_label="difference / tolerance", centre=1.0)
    report.figure(heat, "Small class (row) against large class (column), largest over stages, mean over seeds.")
    counts = {rule: np.bincount(cell["choice"][rule], minlength=len(DIMS)) for rule in ("modbe", "hold-out")}
    series = [Series(_LABELS[rule], names, count / count.sum()) for rule, count in counts.items()]
    report.figure(figure_bars(series, value_label="share of seeds", style="bars"), "Columns of the class chosen.")


def _grid_table(values: dict[str, Any], report: Report) -> None:
    rows = []
    for q in values["q"]:
        for n in values["n"]:
            rows.append([q, n, *(_mean(regret(values, cell_name(q, n), rule)) for rule in RULES)])
    caption = f"Regret in the variance trap, {values['seeds']} seeds; 0.9 is that of a constant policy."
    report.section("Tables").table(["q", "n", *(_LABELS[rule] for rule in RULES)], rows, caption)


def _controls_table(values: dict[str, Any], report: Report) -> None:
    rows = [
        [_CONTROLS[name[:2]], name, *(_mean(regret(values, name, rule)) for rule in RULES)]
        for name in values["cells"]
        if name[:2] in _CONTROLS
    ]
    if rows:
        heads = ["control", "cell", *(_LABELS[rule] for rule in RULES)]
        report.table(heads, rows, "Controls; those that ModBE loses are among them.")


def _certificates(values: dict[str, Any], report: Report) -> None:
    """How often a choice that ModBE certified was wrong."""
    groups: dict[str, list[tuple[bool, bool]]] = {}
    for name, cell in values["cells"].items():
        behind = np.asarray(cell["regret"]["modbe"]) - np.asarray(cell["regret"]["best"])
        pairs = zip(cell["certified"], (behind > _WRONG_REGRET).tolist(), strict=True)
        groups.setdefault(_CONTROLS.get(name[:2], "variance trap"), []).extend(pairs)
    for name, cell in values["cartpole"].items():
        behind = np.asarray(cell["steps"]["best"]) - np.asarray(cell["steps"]["modbe"])
        groups[f"CartPole, {name[1:]} rows"] = list(
            zip(cell["certified"], (behind > _WRONG_STEPS).tolist(), strict=True)
        )
    rows = [
        [name, len(pairs), sum(sure for sure, _ in pairs), sum(sure and wrong for sure, wrong in pairs)]
        for name, pairs in groups.items()
    ]
    certified, wrong = (sum(row[i] for row in rows) for i in (2, 3))
    text = (
        f"Wrong: worse than the best class by more than {_WRONG_REGRET:g}, on CartPole by more than {_WRONG_STEPS} "
        f"steps. Of {certified} certified choices {wrong} are wrong, {wrong / max(certified, 1):.1%}; the aim was 5 %."
    )
    report.table(["problem", "choices", "certified", "certified and wrong"], rows, text)


def _rows_table(found: dict[str, Any], report: Report) -> None:
    rows = [
        [_CONTROLS[name[:2]], name.rpartition("-n")[0], method, one["comparisons"], one["share"], one["share_single"]]
        for name, methods in found.items()
        for method, one in methods.items()
    ]
    if rows:
        heads = ["control", "problem", "prediction", "comparisons", "within a factor 2", "from a single log"]
        report.table(heads, rows, _ROWS)


def _mean(x: Any) -> Interval:
    return bootstrap_ci(np.asarray(x, float))


def _between(cell: dict[str, Any], rule: str, other: str) -> Interval:
    return paired_difference(np.asarray(cell["steps"][rule]), np.asarray(cell["steps"][other]))
