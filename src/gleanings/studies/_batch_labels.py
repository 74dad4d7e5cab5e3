"""How the study of batch policy selection calls its rules, problems and cells."""

from typing import Any

from gleanings.studies._batch_trials import VALUED

RULE_LABELS = {
    "ccs": "CCS",
    "slope": "SLOPE",
    "hold-out": "hold-out, greedy",
    "hold-out-lcb": "hold-out, pessimistic",
    "largest": "largest, greedy",
    "largest-lcb": "largest, pessimistic",
    "policy-value": "choice by DR",
    "auto": "Auto",
    "best": "best single class",
    VALUED: "select_policy with Auto",
}
PROBLEMS = {
    "a-uniform": "a, uniform log",
    "a-greedy": "a, greedy log",
    "b": "b, cover",
    "c": "c, mixing",
    "d": "d, impossible pair",
    "e": "e, rare",
    "p3": "P3, digits",
}


def ordered(cells: dict[str, Any]) -> list[tuple[str, Any]]:
    """Cells by problem, then by rows."""
    order = list(PROBLEMS)
    return sorted(cells.items(), key=lambda item: (order.index(problem_key(item[0])), rows_of(item[0])))


def problem_key(cell: str) -> str:
    """The problem of a cell, as in PROBLEMS."""
    return cell.rpartition("-n")[0]


def problem_of(cell: str) -> str:
    """The same in words."""
    return PROBLEMS[problem_key(cell)]


def rows_of(cell: str) -> int:
    """Rows of the log of a cell."""
    return int(cell.rpartition("-n")[2])
