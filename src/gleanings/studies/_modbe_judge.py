"""The decision rule of the study of ModBE: a pure function of its evidence."""

from typing import Any

import numpy as np

from gleanings.core.stats import Interval, bootstrap_ci, paired_difference, wilson
from gleanings.core.study import Check, Evidence, Verdict

_NEAR, _NEAR_HIGH, _FAR, _LARGE_LOSS = 0.02, 0.04, 0.5, 0.2
_HOLD_OUT_BEST, _RECOVERY, _NO_TRAP, _WIDE = 0.05, 0.85, 0.05, 0.1


def cell_name(q: float, n: int) -> str:
    """Name of a cell of the grid."""
    return f"q{q:g}-n{n}"


def regret(values: dict[str, Any], cell: str, rule: str) -> np.ndarray:
    """Regret of a rule's choice, one a seed."""
    return np.asarray(values["cells"][cell]["regret"][rule], float)


def difference(values: dict[str, Any], cell: str, rule: str, other: str) -> Interval:
    """Mean regret of `rule` less that of `other`, paired by seed."""
    return paired_difference(regret(values, cell, rule), regret(values, cell, other))


def judge(evidence: Evidence) -> Verdict:
    """Apply the rule; cells that were not run are left out, and a part without any cell is undecided."""
    values = evidence.values
    a, b, c, d, e = (part(values) for part in (_a, _b, _c, _d, _e))
    checks = (a, b, c, d, e)
    widest = max((_half(difference(values, cell, "modbe", "best")) for cell in _grid(values, 500)), default=0.0)
    if widest > _WIDE:
        return Verdict("underpowered", f"An interval of (a) is ±{widest:.2f} wide.", checks)
    summary = (
        "On the variance trap ModBE "
        + ("is as good as the best class" if a.holds else "is not always as good as the best class")
        + (", where hold-out loses" if b.holds else "; hold-out does not lose as predicted")
        + "."
    )
    if all(check.holds for check in checks):
        return Verdict("reproduced", summary, checks)
    return Verdict("partly" if a.holds and b.holds else "not reproduced", summary, checks)


def _grid(values: dict[str, Any], least: int = 0, most: int = 10**9, q_most: float = 1.0) -> list[str]:
    pairs = [(q, n) for q in values["q"] for n in values["n"] if least <= n <= most and q <= q_most]
    return [cell_name(q, n) for q, n in pairs]


def _half(interval: Interval) -> float:
    return (interval.high - interval.low) / 2


def _worst(intervals: dict[str, Interval], highest: bool) -> tuple[str, Interval]:
    """The cell whose interval is the least favourable."""
    return (max if highest else min)(intervals.items(), key=lambda item: item[1].high if highest else item[1].low)


def _a(values: dict[str, Any]) -> Check:
    claim = f"(a) ModBE within {_NEAR} of the best class, upper bound {_NEAR_HIGH}, for n >= 500 at every q"
    intervals = {cell: difference(values, cell, "modbe", "best") for cell in _grid(values, 500)}
    if not intervals:
        return Check("a", claim, "not measured")
    cell, worst = _worst(intervals, True)
    holds = all(i.estimate <= _NEAR and i.high <= _NEAR_HIGH for i in intervals.values())
    return Check(
        "a", claim, f"regret above the best class's, the worst of {len(intervals)} cells ({cell})", worst, holds
    )


def _b(values: dict[str, Any]) -> Check:
    claim = f"(b) hold-out TD loses at least {_FAR} for q <= 0.5, and at most {_HOLD_OUT_BEST} at q = 1, n = 4000"
    intervals = {cell: difference(values, cell, "hold-out", "modbe") for cell in _grid(values, q_most=0.5)}
    last = cell_name(1.0, 4000)
    if not intervals or last not in values["cells"]:
        return Check("b", claim, "not measured")
    cell, worst = _worst(intervals, False)
    ends = float(regret(values, last, "hold-out").mean())
    holds = worst.low >= _FAR and ends <= _HOLD_OUT_BEST
    measured = f"{ends:.3f} at q = 1, n = 4000; regret above ModBE's, the least of {len(intervals)} cells ({cell})"
    return Check("b", claim, measured, worst, holds)


def _c(values: dict[str, Any]) -> Check:
    claim = f"(c) the largest class loses at least {_LARGE_LOSS} to ModBE for n <= 1000"
    intervals = {cell: difference(values, cell, "largest", "modbe") for cell in _grid(values, most=1000)}
    if not intervals:
        return Check("c", claim, "not measured")
    cell, worst = _worst(intervals, False)
    measured = f"regret above ModBE's, the least of {len(intervals)} cells ({cell})"
    return Check("c", claim, measured, worst, worst.low >= _LARGE_LOSS)


def _d(values: dict[str, Any]) -> Check:
    claim = f"(d) ModBE chooses the smallest complete class with probability {_RECOVERY} or more for n >= 1000"
    choices = {cell: np.asarray(values["cells"][cell]["choice"]["modbe"]) for cell in _grid(values, 1000)}
    if not choices:
        return Check("d", claim, "not measured")
    intervals = {cell: wilson(int((index == 1).sum()), len(index)) for cell, index in choices.items()}
    cell, worst = _worst(intervals, False)
    return Check(
        "d", claim, f"share of seeds, the least of {len(intervals)} cells ({cell})", worst, worst.low >= _RECOVERY
    )


def _e(values: dict[str, Any]) -> Check:
    claim = f"(e) with one stage (C1, n = 1000) ModBE and hold-out differ by at most {_NO_TRAP}"
    if "c1-n1000" not in values["cells"]:
        return Check("e", claim, "not measured")
    gap = np.abs(regret(values, "c1-n1000", "modbe") - regret(values, "c1-n1000", "hold-out"))
    interval = bootstrap_ci(gap)
    return Check("e", claim, "mean absolute difference of regret", interval, interval.high <= _NO_TRAP)
