"""What the report of batch policy selection says beyond the paper, none of it judged: Auto, certificates, real logs."""

from typing import Any

import numpy as np

from gleanings.core.report import Report
from gleanings.core.stats import Interval
from gleanings.studies._batch_clicks import requirements
from gleanings.studies._batch_labels import PROBLEMS, RULE_LABELS, ordered, problem_key, problem_of, rows_of
from gleanings.studies._batch_trials import MARGIN, RULES, VALUED

_COMPARED = ("a-uniform", "a-greedy", "b", "c", "p3")
_COUNTED = {"hold-out": "hold-out", "auto": "Auto", VALUED: "select_policy"}
_WRONG_SHARE = 0.05


def worst(values: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """Largest mean regret of each rule over the cells of a, b, c and P3, and the cell."""
    cells = {cell: found for cell, found in values["cells"].items() if problem_key(cell) in _COMPARED}
    return {rule: max((float(np.mean(found[rule])), cell) for cell, found in cells.items()) for rule in RULES}


def totals(values: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Trials, certified choices and wrong ones, by rule over all cells."""
    counts = values["certificates"].values()
    return {
        rule: {what: sum(count[rule][what] for count in counts) for what in ("trials", "certified", "wrong")}
        for rule in _COUNTED
    }


def add_auto(values: dict[str, Any], report: Report) -> None:
    """Auto against the better of its two parts, and its worst regret beside that of every single rule."""
    parts = []
    for cell, found in ordered(values["cells"]):
        better = min(np.mean(found["ccs"]), np.mean(found["hold-out"]))
        parts.append(f"- {problem_of(cell)}, {rows_of(cell)} rows: {np.mean(found['auto']) - better:+.3f}")
    head = "Auto plays hold-out where the log covers its policy and CCS elsewhere. Regret above the better of the two:"
    tail = "By the impossible pair it has to fail somewhere; e shows where."
    report.section("Our Auto", "\n\n".join([head, "\n".join(parts), tail, _aim(values), *_no_digits(values)]))
    rare = [found for cell, found in ordered(values["cells"]) if problem_key(cell) == "e"]
    rows = [
        [RULE_LABELS[rule], regret, f"{problem_of(cell)}, {rows_of(cell)} rows"]
        + [float(np.mean(found[rule])) for found in rare]
        for rule, (regret, cell) in worst(values).items()
    ]
    heads = ["rule", "worst mean regret", "where", *(["in e"] * bool(rare))]
    report.table(heads, rows, f"Worst mean regret over {_over(values)}; e is not among them.")


def _aim(values: dict[str, Any]) -> str:
    found = worst(values)
    own = found.pop("auto")[0]
    rival = min(found, key=lambda rule: found[rule])
    reached = "reached" if own < found[rival][0] else "not reached"
    return (
        f"Aim: a worst mean regret over {_over(values)} below that of every single rule. "
        f"Auto {own:.3f}, the best of the others {found[rival][0]:.3f} ({RULE_LABELS[rival]}): {reached}."
    )


def _over(values: dict[str, Any]) -> str:
    return "a, b and c" if values["absent"]["digits"] else "a, b, c and P3"


def _no_digits(values: dict[str, Any]) -> list[str]:
    return [f"P3 was not attempted: {reason}."] if (reason := values["absent"]["digits"]) else []


def add_certificates(values: dict[str, Any], report: Report) -> None:
    """How often a certified choice was wrong, over all and by problem."""
    lines = []
    for rule, count in totals(values).items():
        share = count["wrong"] / max(count["certified"], 1)
        reached = "reached" if share <= _WRONG_SHARE else "not reached"
        lines.append(
            f"- {RULE_LABELS[rule]}: {count['certified']} of {count['trials']} choices certified, {count['wrong']} of "
            f"them wrong, {share:.1%} ({count['wrong'] / count['trials']:.1%} of all choices): {reached}"
        )
    text = (
        f"Wrong means a regret more than {MARGIN:g} above that of the best single class. Aim: at most "
        f"{_WRONG_SHARE:.0%} of the certified choices, over all problems, every trial counted once. The rules judge by "
        "the log they chose from; `select_policy` also asks whether rows kept from choosing can carry a value of the "
        "choice."
    )
    report.section("Certificates", "\n\n".join([text, "\n".join(lines)]))
    heads = ["problem", "trials", *(f"{name} {what}" for name in _COUNTED.values() for what in ("certified", "wrong"))]
    rows = [
        [name, *_summed(values, key)]
        for key, name in PROBLEMS.items()
        if any(problem_key(cell) == key for cell in values["certificates"])
    ]
    report.table(heads, rows, "Certified choices and wrong ones among them, all sizes of log together.")


def _summed(values: dict[str, Any], key: str) -> list[int]:
    counts = [count for cell, count in values["certificates"].items() if problem_key(cell) == key]
    trials = sum(count[VALUED]["trials"] for count in counts)
    return [trials, *(sum(c[rule][what] for c in counts) for rule in _COUNTED for what in ("certified", "wrong"))]


def add_clicks(values: dict[str, Any], report: Report) -> None:
    """The real logs, and which of the required figures hold."""
    if reason := values["absent"]["clicks"]:
        report.section("Real logs", f"Not attempted: {reason}.")
        return
    required = requirements(values["clicks"])
    failing = [f"- {log}: {what}; measured {found}" for log, what, found, holds in required if not holds]
    text = (
        f"Null on the Open Bandit Dataset: {len(required) - len(failing)} of {len(required)} requirements hold. "
        "They do not count for the verdict; their figures are those of our pilot as it printed them."
    )
    report.section("Real logs", "\n\n".join([text, *(["Failing:", "\n".join(failing)] if failing else [])]))
    rows = [[name, *_log_row(log)] for name, log in values["clicks"].items()]
    heads = ["log", "clicks", "hold-out chooses", "logged mean", "Auto's choice by DR", "verdict", "alarms"]
    report.table(heads, rows, "10,000 recommendations each; value and alarms on a fifth that was kept for them.")
    report.table(["log", "required", "measured", "holds"], [[*row[:3], "yes" if row[3] else "NO"] for row in required])


def _log_row(log: dict[str, Any]) -> list[Any]:
    interval = None  # where no weight is positive
    if log["value"]:
        value, low, high, n = log["value"]
        interval = Interval(value, low, high, 0.95, n)
    verdicts, alarms = ", ".join(sorted(set(log["verdicts"].values()))), ", ".join(log["alarms"]) or "none"
    facts = [log[key] for key in ("clicks", "choice", "logged")]
    return [*facts, interval, verdicts, alarms]
