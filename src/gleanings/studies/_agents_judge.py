"""The decision rule of the study of driving agents: a pure function of its evidence.

Rates are shares in [0, 1]; checks show them in per cent and points.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import special

from gleanings.core.stats import Difference, Interval, holm
from gleanings.core.study import Check, Evidence, Label, Verdict
from gleanings.studies._bc_sac_outcomes import compared, difference, maps_of, outcomes, points, rate

NAMES = {
    "bc-discrete": "BC, discrete",
    "bc-discrete-blind": "BC, discrete, no route",
    "bc-gaussian": "BC, normal",
    "bc-mixture": "BC, mixture",
    "dqn-log": "DQN, log",
    "dqn-idm": "DQN, IDM",
}
"""The arms as the report calls them; of a DQN with the others of its training."""
LEVEL, RATIO = 0.025, 2.0
"""One-sided level of the family; ratio of collisions from which W counts for `reproduced`."""
_EXPERT, _RANDOM, _MDE = 0.01, 0.8, 0.1
_VERSUS = {
    "R1": ("bc-discrete", "bc-discrete-blind", "off_route"),
    "R2": ("bc-discrete", "bc-discrete-blind", "failure"),
    "D1": ("bc-discrete", "bc-gaussian", "failure"),
    "D2": ("bc-discrete", "bc-mixture", "failure"),
}
HYPOTHESES = ("R1", "R2", "W", "D1", "D2")
CLAIMS = {
    "R1": "with its route discrete cloning leaves the route less often than without",
    "R2": "with its route discrete cloning fails less often than without",
    "W": "the DQN trained among others by IDM collides less often there than among others from the log",
    "D1": "discrete cloning fails less often than cloning with a normal distribution",
    "D2": "discrete cloning fails less often than cloning with a mixture",
}
_PARTS = {"discrete does best": ("D1", "D2"), "the route helps": ("R1", "R2"), "the world matters": ("W",)}


@dataclass(frozen=True)
class Tested:
    """A one-sided test that a difference is below 0. p: after Holm's correction; shown: p is within the level."""

    found: Difference
    p: float
    shown: bool


def hypotheses(values: dict[str, Any]) -> dict[str, Tested]:
    """All five, with p corrected by Holm; what was not run is not shown."""
    found = {name: _found(values, name) for name in HYPOTHESES}
    raw = [one.p_less if math.isfinite(one.p_less) else 1.0 for one in found.values()]
    return {name: Tested(one, p, p <= LEVEL) for (name, one), p in zip(found.items(), holm(raw), strict=True)}


def _found(values: dict[str, Any], name: str) -> Difference:
    if name == "W":
        return compared(*_collisions(values), *maps_of(values, "all"))
    a, b, metric = _VERSUS[name]
    return difference(values, a, b, metric, "all")


def _collisions(
    values: dict[str, Any], arm: str = "dqn-idm"
) -> tuple[Float[np.ndarray, "S C"], Float[np.ndarray, "S C"]]:
    """Of a DQN: among others by IDM, and among others from the log."""
    own, other = (outcomes(values, arm, "collision", "all", world) for world in ("idm", "log"))
    return own, other


def owed_to_training(values: dict[str, Any]) -> Difference | None:
    """Collisions that the DQN trained among others by IDM has more among others from the log than by IDM, less those
    that the one trained with the log has: what of W is not the worlds themselves. None: that one was not run."""
    if "dqn-log" not in values["arms"]:
        return None
    more = [other - own for own, other in (_collisions(values, arm) for arm in ("dqn-idm", "dqn-log"))]
    seeds = min(map(len, more))
    return compared(more[0][:seeds], more[1][:seeds], *maps_of(values, "all"))


def ratio(values: dict[str, Any]) -> Interval:
    """Collisions of the DQN trained among others by IDM: among others from the log over those there.

    The interval is that of the difference of both rates over their means, which is the logarithm of the ratio to first
    order. NaN bounds where either has none.
    """
    own, other = _collisions(values)
    if not own.any() or not other.any():
        known = other.mean() / own.mean() if own.any() else math.inf if other.any() else math.nan
        return Interval(float(known), math.nan, math.nan, 0.95, len(own))
    found = compared(other / other.mean(), own / own.mean(), *maps_of(values, "all"))
    middle = math.log(other.mean() / own.mean())
    half = found.se * (_t(len(own)) if math.isfinite(found.se) else math.nan)
    return Interval(math.exp(middle), math.exp(middle - half), math.exp(middle + half), 0.95, len(own))


def times(values: dict[str, Any]) -> str:
    """The ratio with its interval, three digits each: its lower bound may be far below the estimate."""
    found = ratio(values)
    bounds = f" [{found.low:.3g}, {found.high:.3g}]" if math.isfinite(found.low) else ""
    return f"{found.estimate:.3g}{bounds}"


def _t(seeds: int) -> float:
    """Quantile of a 95 % interval; of a single seed that of the normal distribution, as in `crossed_difference`."""
    return float(special.stdtrit(seeds - 1, 0.975) if seeds > 1 else special.ndtri(0.975))


def shown(values: dict[str, Any], tests: dict[str, Tested]) -> dict[str, bool]:
    """Which of the three claims are wholly shown."""
    found = {claim: all(tests[name].shown for name in names) for claim, names in _PARTS.items()}
    return found | {"the world matters": tests["W"].shown and ratio(values).low > 1}


def judge(evidence: Evidence) -> Verdict:
    """Apply the rule: gates, then the hypotheses and the ratio."""
    values = evidence.values
    tests, gated = hypotheses(values), gates(values)
    checks = [_check(name, test) for name, test in tests.items()]
    checks.sort(key=lambda check: check.holds is not False)  # the scoreboard and the README quote the first one
    found = ratio(values)
    claim = f"(W) it collides at least {RATIO:g} times as often among others from the log"
    checks.append(
        Check(
            "W, ratio",
            claim,
            "ratio of the rates:",
            found,
            found.estimate >= RATIO if math.isfinite(found.low) else None,
        )
    )
    label, reason = _label(values, tests, gated)
    return Verdict(label, reason, (*checks, *gated))


def _check(name: str, test: Tested) -> Check:
    measured = f"p = {test.p:.2g}, Holm; MDE80 {100 * test.found.mde80:.1f}; difference, points:"
    return Check(name, f"({name}) {CLAIMS[name]}", measured, points(test.found.interval), test.shown)


def _label(values: dict[str, Any], tests: dict[str, Tested], gated: tuple[Check, ...]) -> tuple[Label, str]:
    missed = [f"{check.name}: {check.measured}" for check in gated if not check.holds]
    if missed:
        return "not attempted", f"Nothing is concluded, since a control misses. {'; '.join(missed)}."
    parts = shown(values, tests)
    held = ", ".join(f"{name} {'holds' if test.shown else 'fails'}" for name, test in tests.items())
    words = [f"{claim}: {'shown' if found else 'not shown'}" for claim, found in parts.items()]
    text = (
        f"{'; '.join(words)}. {held}. Moved from IDM to the log the DQN collides {times(values)} times as often; the "
        f"paper says over 4, the limit is {RATIO:g}."
    )
    text = text[0].upper() + text[1:]
    if all(test.shown for test in tests.values()) and ratio(values).estimate >= RATIO:
        return "reproduced", text
    if any(parts.values()):
        return "partly", text
    wide = {name: 100 * tests[name].found.mde80 for name in ("R2", "W") if not tests[name].found.mde80 <= _MDE}
    if wide:
        least = ", ".join(f"{name} {value:.1f} points" for name, value in wide.items())
        return "underpowered", f"No claim is shown. The least difference that is found 4 times in 5: {least}. {text}"
    return "not reproduced", text


def gates(values: dict[str, Any]) -> tuple[Check, ...]:
    """What must hold before anything is concluded; what was not measured does not hold."""
    return _expert(values), _random(values), _better(values)


def mean_of(values: dict[str, Any], who: str, metric: str, world: str = "log") -> float:
    """Rate over seeds and all scenes."""
    return float(outcomes(values, who, metric, "all", world).mean())


def rate_of(values: dict[str, Any], who: str, metric: str, world: str = "log") -> Interval:
    """The same with its interval."""
    return rate(values, who, metric, "all", world)


def shifted(arm: str, world: str) -> bool:
    """Whether an arm is driven in another world than that it was trained in; what imitates learnt from the log."""
    return world != ("idm" if arm == "dqn-idm" else "log")


def named(who: str) -> str:
    """An arm as the report calls it; controls keep their names."""
    return NAMES.get(who, who)


def _expert(values: dict[str, Any]) -> Check:
    found = mean_of(values, "expert replay", "failure")
    claim = f"(gate) the expert's replay fails in at most {100 * _EXPERT:g} % of the scenes"
    return Check("expert replay", claim, f"failure {100 * found:.1f} %", None, found <= _EXPERT)


def _random(values: dict[str, Any]) -> Check:
    found = mean_of(values, "random", "failure_star")
    claim = f"(gate) random actions fail* in at least {100 * _RANDOM:g} % of the scenes"
    return Check("random", claim, f"failure* {100 * found:.1f} %", None, found >= _RANDOM)


def _better(values: dict[str, Any]) -> Check:
    limit = mean_of(values, "random", "failure_star")
    stars = {arm: mean_of(values, arm, "failure_star") for arm in values["arms"]}
    worst = max(stars, key=lambda arm: stars[arm])
    claim = "(gate) every learnt arm fails* less often than random actions"
    measured = f"the worst, {named(worst)}: failure* {100 * stars[worst]:.1f} %, random {100 * limit:.1f} %"
    return Check("better than random", claim, measured, None, stars[worst] < limit)
