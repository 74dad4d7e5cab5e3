"""The decision rule of the study of BC-SAC: a pure function of its evidence.

Rates are shares in [0, 1]; checks show them in per cent and points.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gleanings.core.stats import Difference, holm
from gleanings.core.study import Check, Evidence, Label, Verdict
from gleanings.studies._bc_sac_outcomes import (
    compared,
    difference,
    found_by,
    maps_of,
    mean_of,
    named,
    outcomes,
    percent,
    points,
    rate,
    spread,
)

LEARNT = ("bc", "bc-short", "sac", "bc-sac", "sac-progress")
"""Arms that ought to drive; the others are controls."""
LEVEL = 0.025
"""One-sided level of the family H1 to H3, and of R2 after it."""
REDUCTION = 0.19
_EXPERT, _BRAKE_STAR, _BRAKE, _RANDOM_STAR = 0.005, 0.9, 0.45, 0.8
_SHUFFLED, _SAME, _EASY, _MDE, _UNSTABLE = 0.1, 0.05, 0.15, 0.1, 0.05
_HYPOTHESES: dict[str, tuple[str, str, str | None]] = {
    "H1": ("bc", "failure", None),
    "H2": ("sac", "failure_star", None),
    "H3": ("bc", "failure", "easy"),
    "R2": ("sac", "failure", None),
}
_CLAIMS = {
    "H1": "in the hardest tenth BC-SAC fails less than BC",
    "H2": "in the hardest tenth BC-SAC fails* (failure, or less than half of the log's way) less than SAC",
    "H3": "BC-SAC gains more over BC in the hardest tenth than in the easy half",
    "R2": "in the hardest tenth BC-SAC fails less than SAC, whatever the way covered",
}


@dataclass(frozen=True)
class Tested:
    """A one-sided test that BC-SAC is lower. found: BC-SAC less the other arm; p: after Holm's correction in the family
    H1 to H3; shown: p is within the level; counted: whether the rule lets it count."""

    found: Difference
    p: float
    shown: bool
    counted: bool = True


def hypotheses(values: dict[str, Any]) -> dict[str, Tested]:
    """H1 to H3 with p corrected by Holm, and R2, which counts only where they hold."""
    found = {
        name: difference(values, "bc-sac", other, metric, against=against or "")
        for name, (other, metric, against) in _HYPOTHESES.items()
    }
    raw = {name: one.p_less if math.isfinite(one.p_less) else 1.0 for name, one in found.items()}
    family = dict(zip(("H1", "H2", "H3"), holm([raw["H1"], raw["H2"], raw["H3"]]), strict=True))
    tests = {name: Tested(found[name], p, p <= LEVEL) for name, p in family.items()}
    together = all(test.shown for test in tests.values())
    return tests | {"R2": Tested(found["R2"], raw["R2"], raw["R2"] <= LEVEL, together)}


def reduction(values: dict[str, Any]) -> float:
    """Failure that BC-SAC saves, as a share of BC's, in the hardest tenth."""
    before = mean_of(values, "bc", "failure")
    return 1 - mean_of(values, "bc-sac", "failure") / before if before else 0.0


def negative(values: dict[str, Any], test: Tested | None = None) -> str:
    """What stands first wherever R2 fails; empty where it does not."""
    if (test or hypotheses(values)["R2"]).shown:
        return ""
    sac, both = (percent(rate(values, who, "failure")) for who in ("sac", "bc-sac"))
    far, way = (100 * float(np.mean(found_by(values, who)["distance"])) for who in ("sac", "bc-sac"))
    return (
        f"On raw failure SAC fails in {sac} and BC-SAC in {both} of the hardest scenes, covering {far:.0f} % and "
        f"{way:.0f} % of the log's distance; the paper's claim against RL alone is not reproduced here."
    )


def judge(evidence: Evidence) -> Verdict:
    """Apply the rule: gates, power, then H1 to H3 and R2."""
    values = evidence.values
    tests, gated = hypotheses(values), gates(values)
    first = negative(values, tests["R2"])
    shown = [_test_check(name, test) for name, test in tests.items()]
    if first:  # the scoreboard and the README quote the first check
        shown.insert(0, replace(shown.pop(), measured=f"{first} BC-SAC less SAC, points:"))
    checks = (*shown, *_short(values), *gated, _easy(values))
    label, reason = _label(values, tests, gated)
    return Verdict(label, f"{first} {reason}".strip(), checks)


def _label(values: dict[str, Any], tests: dict[str, Tested], gated: tuple[Check, ...]) -> tuple[Label, str]:
    missed = [f"{check.name}: {told(check)}" for check in gated if not check.holds]
    if missed:
        return "not attempted", f"Nothing is concluded, since a control misses. {'; '.join(missed)}."
    first, saved = tests["H1"], reduction(values)
    if not first.shown and not first.found.mde80 <= _MDE:
        points = 100 * first.found.mde80
        return "underpowered", f"H1 is not shown, and the least difference found 4 times in 5 is {points:.1f} points."
    swings = {who: spread(values, who) for who in ("bc", "sac", "bc-sac")}
    wild = [f"{named(who)} {100 * sd:.1f}" for who, sd in swings.items() if sd > _UNSTABLE]
    rates = [f"{named(who)} {100 * mean_of(values, who, 'failure'):.1f} %" for who in ("bc", "sac", "bc-sac")]
    held = ", ".join(f"{name} {'holds' if test.shown else 'fails'}" for name, test in tests.items())
    text = (
        f"Failure in the hardest tenth: {', '.join(rates)}. {held}. BC-SAC saves {100 * saved:.0f} % of BC's failures, "
        f"limit {100 * REDUCTION:.0f} %. BC may be the easier opponent: the paper's closed-loop imitation, MGAIL, is "
        "not here."
    )
    if wild:
        text += f" Unstable: points of sd over seeds, limit {100 * _UNSTABLE:g}: {', '.join(wild)}."
    if all(test.shown for test in tests.values()) and saved >= REDUCTION and not wild:
        return "reproduced", text
    return "partly" if first.shown and (tests["H2"].shown or tests["H3"].shown) else "not reproduced", text


def _test_check(name: str, test: Tested) -> Check:
    found = test.found
    beside = "" if name == "R2" else ", Holm"
    what = "difference of the differences" if name == "H3" else "difference"
    rest = "" if test.counted else "; not counted, since H1 to H3 do not all hold"
    measured = f"p = {test.p:.2g}{beside}; MDE80 {100 * found.mde80:.1f}{rest}; {what}, points:"
    holds = test.shown if test.counted or not test.shown else None
    return Check(name, f"({name}) {_CLAIMS[name]}", measured, points(found.interval), holds)


def _short(values: dict[str, Any]) -> tuple[Check, ...]:
    """H1 against BC with as many gradient steps as BC-SAC makes, where that was run."""
    if "bc-short" not in values["arms"]:
        return ()
    found = difference(values, "bc-sac", "bc-short", "failure")
    claim = "(no hypothesis) in the hardest tenth BC-SAC fails less than BC with as many gradient steps as BC-SAC, too"
    measured = f"p = {found.p_less:.2g}; difference, points:"
    return (Check("H1, as many steps", claim, measured, points(found.interval), found.p_less <= LEVEL),)


def _easy(values: dict[str, Any]) -> Check:
    found = rate(values, "bc", "failure", "easy")
    claim = f"(no gate) imitation can drive: in the easy half BC fails in at most {100 * _EASY:.0f} %"
    return Check("BC, easy half", claim, "failure of BC, %", points(found), found.estimate <= _EASY)


def told(check: Check) -> str:
    """What was measured, with its interval."""
    return f"{check.measured} {check.interval or ''}".strip()


def gates(values: dict[str, Any]) -> tuple[Check, ...]:
    """What must hold before anything is concluded; what was not measured does not hold."""
    checks = [_expert(values), _brake(values), _random(values), _shuffled(values), _halves(values)]
    if "bc-sac-null" in values["arms"]:
        found = difference(values, "bc-sac-null", "bc-short", "failure")
        claim = "BC-SAC with neither reward nor entropy to gain is BC with as many steps"
        checks.append(_same("A/A without gain", claim, found))
    return tuple(checks)


def _gate(name: str, claim: str, rates: dict[str, float], holds: bool) -> Check:
    measured = ", ".join(f"{named(what)} {100 * value:.1f} %" for what, value in rates.items())
    return Check(name, f"(gate) {claim}", measured or "not measured", None, holds if rates else None)


def _expert(values: dict[str, Any]) -> Check:
    known = "expert replay" in values["controls"]
    rates = {part: mean_of(values, "expert replay", "failure", part) for part in ("all", "hard") if known}
    claim = f"the expert's replay fails in at most {100 * _EXPERT:g} % of both sets of scenes"
    return _gate("expert replay", claim, rates, all(value <= _EXPERT for value in rates.values()))


def _brake(values: dict[str, Any]) -> Check:
    name = "brake to stop"
    claim = (
        f"of all scenes braking to a stop fails* in at least {100 * _BRAKE_STAR:.0f} %, more than any learnt arm or "
        f"other control but `random`, and fails in at least {100 * _BRAKE:.0f} %"
    )
    if name not in values["controls"]:
        return _gate(name, claim, {}, False)
    others = [who for who in values["controls"] if who not in (name, "random")]
    others += [who for who in LEARNT if who in values["arms"]]
    stars = {who: mean_of(values, who, "failure_star", "all") for who in others}
    next_one = max(stars, key=lambda who: stars[who])
    rates = {metric: mean_of(values, name, metric, "all") for metric in ("failure_star", "failure")}
    star, plain = rates.values()
    holds = star >= _BRAKE_STAR and plain >= _BRAKE and star > stars[next_one]
    return _gate(
        name, claim, {"failure*": star, "failure": plain, f"failure* of {named(next_one)}": stars[next_one]}, holds
    )


def _random(values: dict[str, Any]) -> Check:
    known = "random" in values["controls"]
    rates = {"failure*": mean_of(values, "random", "failure_star", "all")} if known else {}
    claim = f"random actions fail* in at least {100 * _RANDOM_STAR:.0f} % of all scenes"
    return _gate("random", claim, rates, all(value >= _RANDOM_STAR for value in rates.values()))


def _shuffled(values: dict[str, Any]) -> Check:
    known = "bc-shuffled" in values["arms"]
    rates = {who: mean_of(values, who, "failure", "all") for who in ("bc-shuffled", "bc") if known}
    claim = f"BC on shuffled labels fails in at least {100 * _SHUFFLED:.0f} points more of all scenes than BC"
    holds = known and rates["bc-shuffled"] - rates["bc"] >= _SHUFFLED
    return _gate("shuffled labels", claim, rates, holds)


def _halves(values: dict[str, Any]) -> Check:
    """The first half of BC's seeds against the second; the last of an odd number is left out."""
    grid = outcomes(values, "bc", "failure")
    half = len(grid) // 2
    claim = "one half of BC's seeds is as good as the other"
    if not half:
        return _gate("A/A of seeds", claim, {}, False)
    return _same("A/A of seeds", claim, compared(grid[:half], grid[half : 2 * half], *maps_of(values, "hard")))


def _same(name: str, claim: str, found: Difference) -> Check:
    holds = not found.interval.excludes(0.0) or abs(found.estimate) <= _SAME
    limit = f"the interval holds 0, or the two differ by at most {100 * _SAME:.0f} points"
    return Check(
        name, f"(gate) {claim}: in the hardest tenth {limit}", "difference, points:", points(found.interval), holds
    )
