"""The decision rule of the study of batch policy selection: a pure function of its evidence."""

from typing import Any

import numpy as np

from gleanings.core.stats import Interval, paired_difference
from gleanings.core.study import Check, Evidence, Verdict

_TINY = 1e-6


def regret(values: dict[str, Any], cell: str, rule: str) -> np.ndarray:
    """Regret of a rule, one a seed."""
    return np.asarray(values["cells"][cell][rule], float)


def difference(values: dict[str, Any], cell: str, rule: str, other: str) -> Interval:
    """Mean regret of `rule` less that of `other`, paired by seed."""
    return paired_difference(regret(values, cell, rule), regret(values, cell, other))


def judge(evidence: Evidence) -> Verdict:
    """Apply the rule; a part whose cells were not run is undecided."""
    values = evidence.values
    parts = [part(values) for part in (_coverage, _complexity, _approximation, _impossible)]
    i, ii, iii, iv = (check.holds for check in parts)
    if iv is False:
        return Verdict("not attempted", "The two regrets do not sum to 1/2, which is a bug of ours.", tuple(parts))
    kept = sum(bool(x) for x in (i, ii, iii))
    summary = f"{kept} of 3 rules are right where their error source is absent; no rule can be right in both worlds."
    if i and ii and iii and iv:
        return Verdict("reproduced", summary, tuple(parts))
    return Verdict("partly" if kept and iv else "not reproduced", summary, tuple(parts))


def _coverage(values: dict[str, Any]) -> Check:
    claim = "(i) without approximation error CCS is right: c, n = 400, and better than hold-out LCB in b"
    if not {"c-n400", "b-n800"} <= set(values["cells"]):
        return Check("i", claim, "not measured")
    own = float(regret(values, "c-n400", "ccs").mean())
    single = difference(values, "c-n400", "ccs", "best")
    covers = [difference(values, cell, "ccs", "hold-out-lcb") for cell in values["cells"] if cell.startswith("b-")]
    holds = own <= 0.03 and single.high <= -0.1 and all(x.high < 0 for x in covers)
    return Check("i", claim, f"CCS {own:.3f} in c, n = 400; less the best single class", single, holds)


def _complexity(values: dict[str, Any]) -> Check:
    claim = "(ii) where the log covers all policies hold-out is right: a, n >= 200, and better than CCS"
    cells = [cell for cell in values["cells"] if cell.startswith("a-") and int(cell.split("-n")[-1]) >= 200]
    if not cells:
        return Check("ii", claim, "not measured")
    near = {cell: difference(values, cell, "hold-out", "best") for cell in cells}
    ahead = {cell: difference(values, cell, "ccs", "hold-out") for cell in cells}
    worst = max(near.values(), key=lambda x: x.estimate)
    least = min(ahead.values(), key=lambda x: x.low)
    holds = worst.estimate <= 0.02 and least.low >= 0.04
    measured = (
        f"hold-out at most {worst.estimate:.3f} above the best class; CCS less hold-out, the least of {len(cells)}"
    )
    return Check("ii", claim, measured, least, holds)


def _approximation(values: dict[str, Any]) -> Check:
    claim = "(iii) where complexity is low SLOPE is right: better than CCS in a, n = 3200, than hold-out in b, n = 800"
    if not {"a-uniform-n3200", "b-n800"} <= set(values["cells"]):
        return Check("iii", claim, "not measured")
    nested = difference(values, "a-uniform-n3200", "slope", "ccs")
    cover = difference(values, "b-n800", "slope", "hold-out")
    measured = f"SLOPE less hold-out in b {cover}; less CCS in a"
    return Check("iii", claim, measured, nested, nested.high <= -0.04 and cover.high < 0)


def _impossible(values: dict[str, Any]) -> Check:
    claim = "(iv) in the impossible pair the regrets of every rule sum to 1/2, seed by seed"
    if not values["pair"]:
        return Check("iv", claim, "not measured")
    worst = 0.0
    for cell in values["pair"].values():
        for rule in cell["A"]:
            if rule != "best":
                total = np.asarray(cell["A"][rule], float) + np.asarray(cell["B"][rule], float)
                worst = max(worst, float(np.abs(total - 0.5).max()))
    return Check("iv", claim, f"largest deviation {worst:.1e}", None, worst <= _TINY)
