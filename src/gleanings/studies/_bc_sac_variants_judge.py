"""The decision rule of the study bc-sac-variants: a pure function of its evidence. Rates are shares in [0, 1]."""

import math
from dataclasses import dataclass
from typing import Any

from gleanings.core.stats import Difference, holm
from gleanings.core.study import Check, Evidence, Label, Verdict
from gleanings.studies._bc_sac_outcomes import difference, mean_of, named, percent, points, rate

METHODS = ("bc", "sac", "bc-sac")
LEVEL = 0.025
"""One-sided level of the three hypotheses together, and of each reversal alone."""
_EXPERT, _RANDOM, _MDE = 0.01, 0.8, 0.1


@dataclass(frozen=True)
class Tested:
    """A one-sided test that training on the hardest tenth is better. found: failure so trained less failure trained on
    all; p: after Holm's correction; shown: p is within the level; reversed: so is the test of the opposite, by itself.
    """

    found: Difference
    p: float
    shown: bool
    reversed: bool


def methods_of(values: dict[str, Any]) -> list[str]:
    """Methods that were trained on all scenes and on the hardest tenth."""
    return [method for method in METHODS if {f"{method}-all", f"{method}-top10"} <= set(values["arms"])]


def hypotheses(values: dict[str, Any]) -> dict[str, Tested]:
    """By method, corrected over the methods that were run."""
    found = {method: difference(values, f"{method}-top10", f"{method}-all", "failure") for method in methods_of(values)}
    raw = {method: one.p_less if math.isfinite(one.p_less) else 1.0 for method, one in found.items()}
    corrected = dict(zip(raw, holm(list(raw.values())), strict=True))
    return {
        method: Tested(one, corrected[method], corrected[method] <= LEVEL, 1 - one.p_less <= LEVEL)
        for method, one in found.items()
    }


def judge(evidence: Evidence) -> Verdict:
    """Apply the rule: gates, then the hypotheses."""
    values = evidence.values
    tests, gated = hypotheses(values), gates(values)
    checks = [_check(values, method, test) for method, test in tests.items()]
    missing = [
        Check(f"H {named(m)}", f"({named(m)}) {_CLAIM}", "not run", None, None) for m in METHODS if m not in tests
    ]
    label, reason = _label(values, tests, gated)
    return Verdict(label, reason, (*checks, *missing, *gated))


_CLAIM = "trained on the hardest tenth it fails less in the hardest tenth than trained on all"


def _check(values: dict[str, Any], method: str, test: Tested) -> Check:
    opposite = "; the opposite holds" if test.reversed else ""
    measured = (
        f"{told(values, method)}; p = {test.p:.2g}, Holm; MDE80 {100 * test.found.mde80:.1f}{opposite}; difference, "
        "points:"
    )
    claim = f"({named(method)}) {_CLAIM}"
    return Check(f"H {named(method)}", claim, measured, points(test.found.interval), test.shown)


def told(values: dict[str, Any], method: str) -> str:
    """Failure of a method in the hardest tenth, trained on the hardest tenth and on all."""
    few, every = (percent(rate(values, f"{method}-{part}", "failure")) for part in ("top10", "all"))
    return f"{few} against {every}"


def gates(values: dict[str, Any]) -> tuple[Check, ...]:
    """What must hold before anything is concluded; what was not measured does not hold."""
    known = values["controls"]
    expert = {part: mean_of(values, "expert replay", "failure", part) for part in ("all", "hard")} if known else {}
    star = {"failure*": mean_of(values, "random", "failure_star", "all")} if known else {}
    claims = (
        ("expert replay", f"the expert's replay fails in at most {100 * _EXPERT:g} % of both sets of scenes"),
        ("random", f"random actions fail* in at least {100 * _RANDOM:g} % of all scenes"),
    )
    holds = all(value <= _EXPERT for value in expert.values()), all(value >= _RANDOM for value in star.values())
    return tuple(
        _gate(name, claim, rates, good)
        for (name, claim), rates, good in zip(claims, (expert, star), holds, strict=True)
    )


def _gate(name: str, claim: str, rates: dict[str, float], holds: bool) -> Check:
    measured = ", ".join(f"{what} {100 * value:.1f} %" for what, value in rates.items()) or "not measured"
    return Check(name, f"(gate) {claim}", measured, None, holds if rates else None)


def _label(values: dict[str, Any], tests: dict[str, Tested], gated: tuple[Check, ...]) -> tuple[Label, str]:
    if missed := [f"{check.name}: {check.measured}" for check in gated if not check.holds]:
        return "not attempted", f"Nothing is concluded, since a control misses. {'; '.join(missed)}."
    shown, turned = ([m for m, test in tests.items() if getattr(test, what)] for what in ("shown", "reversed"))
    largest = max((test.found.mde80 for test in tests.values()), default=math.nan)
    listed = "; ".join(f"{named(method)} {told(values, method)}" for method in tests)
    text = (
        f"Failure in the hardest tenth, trained on the hardest tenth against on all: {listed}. Shown to be better: "
        f"{_names(shown)}; shown to be worse: {_names(turned)}."
    )
    if len(shown) == len(METHODS):
        return "reproduced", text
    if shown and not turned:
        return "partly", text
    if not shown and not turned and not largest <= _MDE:
        return "underpowered", f"{text} The least difference found 4 times in 5 is up to {100 * largest:.1f} points."
    return "not reproduced", text


def _names(methods: list[str]) -> str:
    return ", ".join(map(named, methods)) or "none"
