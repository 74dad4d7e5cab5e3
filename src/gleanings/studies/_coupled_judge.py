"""The decision rule of the study of coupled gradients: a pure function of its evidence."""

import math
from typing import Any

import numpy as np

from gleanings.core.stats import Interval, bootstrap_ci, bootstrap_p_value, holm, paired_difference
from gleanings.core.study import Check, Evidence, Verdict
from gleanings.studies._coupled_setup import NEW, PAPER, RIVALS, label

SEEDS_FOR_C4 = 10
_NULL_HALF_WIDTH = 0.05
_LEVEL = 0.05


def log_ratios(values: dict[str, Any], name: str, checkpoint: int = -1, arm: str = "basket") -> np.ndarray:
    """log (variance / variance of RLOO at equal evaluations), [seed, image], at a checkpoint counted from the last."""
    cells = values[arm]
    base = f"rloo-{cells[name]['evaluations']}"
    pair = (np.asarray(cells[key]["log_variance"], float)[checkpoint] for key in (name, base))
    first, second = pair
    return first - second


def interval_of(ratios: np.ndarray, widened: bool = False) -> Interval:
    """Two-level bootstrap over seeds and images, which are the same in every seed; one seed: over images.

    `widened` adds the correction for few seeds.
    """
    if len(ratios) == 1:
        return bootstrap_ci(ratios[0])
    return bootstrap_ci(ratios, levels=2, crossed=True, small_sample=widened)


def ratios_by_checkpoint(values: dict[str, Any], name: str) -> list[Interval | None]:
    """Ratio of variances at each checkpoint; None where an expensive estimator was not measured."""
    measured, count = len(values["basket"][name]["log_variance"]), len(values["checkpoints"])
    return [as_ratio(interval_of(log_ratios(values, name, c))) if -c <= measured else None for c in range(-count, 0)]


def as_ratio(interval: Interval) -> Interval:
    """The interval of a ratio from that of its logarithm."""
    estimate, low, high = (math.exp(x) for x in (interval.estimate, interval.low, interval.high))
    return Interval(estimate, low, high, interval.level, interval.n)


def shown(interval: Interval) -> str:
    """The interval with about three significant digits and typographic minus signs."""
    size = abs(interval.estimate)
    digits = ".2f" if size < 9.995 else ".1f" if size < 99.95 else ".0f"
    return f"{interval.estimate:{digits}} [{interval.low:{digits}}, {interval.high:{digits}}]".replace("-", "−")


def bound_differences(values: dict[str, Any], names: tuple[str, ...] = PAPER) -> np.ndarray | None:
    """Final test ELBO, mean of the trained among `names` less that of RLOO-2, one a seed; None if none was trained."""
    trained = [values["training"][name]["test_elbo"] for name in names if name in values["training"]]
    if not trained:
        return None
    return np.mean(np.asarray(trained, float), 0) - np.asarray(values["training"]["rloo-2"]["test_elbo"], float)


def judge(evidence: Evidence) -> Verdict:
    """Apply the rule; what was not measured is undecided."""
    values = evidence.values
    c1, c2, c3, c4, n1 = (rule(values) for rule in (_c1, _c2, _c3, _c4, _n1))
    null = _null(values)
    checks = (c2, c1, c3, c4, n1, null)
    if c1.holds is False:
        return Verdict("not attempted", "C1 fails, which is a bug of ours: no verdict.", checks)
    if null.holds is not True:
        return Verdict("underpowered", "The null arm is not narrow enough to tell small differences.", checks)
    if c2.holds and c3.holds and c4.holds is not False:
        return Verdict("reproduced", _summary(c2, c3, c4), checks)
    return Verdict("partly" if c2.holds or c3.holds else "not reproduced", _summary(c2, c3, c4), checks)


def _summary(c2: Check, c3: Check, c4: Check) -> str:
    less = {True: "have", False: "do not reliably have", None: "were not all measured for"}
    lose = {True: "have a higher one", False: "do not all have a higher one", None: "were not all measured"}
    bound = {True: "does not contradict it", False: "contradicts it", None: "rests on too few seeds to judge"}
    return (
        f"IW, SB and Tree {less[c2.holds]} a lower gradient variance than RLOO-2; ARS, ARS+ and ARSM {lose[c3.holds]} "
        f"than RLOO at equal evaluations; the final bound {bound[c4.holds]}."
    )


def _c1(values: dict[str, Any]) -> Check:
    rows, control = values["unbiased"], values["control"]
    failed = [label(row["member"]) for row in rows if not row["passed"]]
    worst = max(row["max_abs_z"] for row in rows)
    caught = f"control {'passed, but must fail' if control['passed'] else 'caught'} (|z| {control['max_abs_z']:.0f})"
    measured = f"{len(rows) - len(failed)} of {len(rows)} pass, largest |z| {worst:.1f}; {caught}"
    if failed:
        measured += f"; biased: {', '.join(failed)}"
    return Check("C1", "the unbiased estimators are unbiased", measured, None, not failed and not control["passed"])


def _c2(values: dict[str, Any]) -> Check:
    claim = "IW, SB, Tree: lower variance than RLOO-2 at 2 evaluations"
    if not all(name in values["basket"] for name in PAPER):
        return Check("C2", claim, "not measured")
    ratios = {name: log_ratios(values, name) for name in PAPER}
    intervals = {name: interval_of(x) for name, x in ratios.items()}
    adjusted = holm([p_value(x) for x in ratios.values()])
    wins = [name for name, p in zip(PAPER, adjusted, strict=True) if intervals[name].high < 0 and p < _LEVEL]
    parts = [f"{label(name)} {shown(as_ratio(interval))}" for name, interval in intervals.items()]
    pooled = as_ratio(interval_of(np.mean(list(ratios.values()), 0)))
    return Check("C2", claim, f"{', '.join(parts)}; all three", pooled, len(wins) >= 2)


def p_value(ratios: np.ndarray) -> float:
    """Two-sided p-value of no difference, by the bootstrap of `interval_of`."""
    if len(ratios) == 1:
        return bootstrap_p_value(ratios[0])
    return bootstrap_p_value(ratios, levels=2, crossed=True)


def _c3(values: dict[str, Any]) -> Check:
    claim = "ARS, ARS+, ARSM: higher variance than RLOO at equal evaluations"
    if not all(name in values["basket"] for name in RIVALS):
        return Check("C3", claim, "not measured")
    intervals = {name: interval_of(log_ratios(values, name)) for name in RIVALS}
    parts = [
        f"{label(name)} {shown(as_ratio(interval))} at {values['basket'][name]['evaluations']}"
        for name, interval in intervals.items()
    ]
    holds = all(interval.low > 0 for interval in intervals.values())
    return Check("C3", claim, f"ratio {', '.join(parts)} evaluations", None, holds)


def _c4(values: dict[str, Any]) -> Check:
    claim = "final bound of coupled estimators at least that of RLOO-2"
    differences = bound_differences(values)
    if differences is None or len(differences) < 2:
        return Check("C4", claim, "not measured")
    interval = paired_difference(differences, np.zeros_like(differences), small_sample=True)
    names = ", ".join(label(name) for name in PAPER if name in values["training"])
    measured = f"test ELBO, mean of {names}, less RLOO-2, nats"
    if len(differences) < SEEDS_FOR_C4:
        return Check(
            "C4", claim, f"{measured} ({len(differences)} seeds, {SEEDS_FOR_C4} are needed to judge)", interval, None
        )
    return Check("C4", claim, measured, interval, not interval.high < 0)


def _n1(values: dict[str, Any]) -> Check:
    claim = "ours: CoupledLOO-n has a lower variance than RLOO-n, n = 4 and 8"
    if not all(name in values["basket"] for name in NEW):
        return Check("N1", claim, "not measured")
    intervals = {name: interval_of(log_ratios(values, name)) for name in NEW}
    parts = [f"{label(name)} {shown(as_ratio(interval))}" for name, interval in intervals.items()]
    below, above = (
        [i.high < 0 for i in intervals.values()],
        [i.low > 0 for i in intervals.values()],
    )
    pooled = as_ratio(interval_of(np.mean([log_ratios(values, name) for name in NEW], 0)))
    return Check(
        "N1", claim, f"{', '.join(parts)}; all four", pooled, True if all(below) else False if any(above) else None
    )


def _null(values: dict[str, Any]) -> Check:
    claim = f"a second RLOO-2 with other keys: interval of the log ratio within ±{_NULL_HALF_WIDTH}"
    if "null" not in values["basket"]:
        return Check("null arm", claim, "not measured")
    interval = interval_of(log_ratios(values, "null"))
    half = (interval.high - interval.low) / 2
    return Check("null arm", claim, f"half width {half:.3f}", interval, half <= _NULL_HALF_WIDTH)
