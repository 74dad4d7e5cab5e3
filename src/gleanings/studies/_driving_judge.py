"""The decision rule of the study of the simulator: a pure function of its evidence."""

from typing import Any

import numpy as np

from gleanings.core.stats import Interval, bootstrap_ci, wilson
from gleanings.core.study import Check, Evidence, Label, Verdict
from gleanings.studies._driving_ego import BRAKING
from gleanings.studies._driving_playback import ARMS, LOG

MUST_MS = {"bare": 0.1, "step": 1.79, "rollout": 257.0, "idm": 0.82, "observe": 8.0}
"""Largest CPU times in ms, batch 1, on `JUDGED_CPU`."""
JUDGED_CPU = "AMD EPYC"
DENSE_TIMES = 50.0
_RATE = 0.8
GIVEN = "given"
"""What the user's scenes are called beside the families."""
_CONTACTS, _OFF_ROADS = 0.01, 0.02
ADE_M = {"bicycle": 0.05, "discrete": 0.15, "delta-local": 0.001}
_GAIN, _NULL, _WIDE, _DRAWS = 0.05, 0.02, 0.05, 10_000
_WORST_FIRST: tuple[Label, ...] = ("not attempted", "not reproduced", "underpowered", "partly", "reproduced")


def judge(evidence: Evidence) -> Verdict:
    """Apply the rule: the verdict is that of the worst part."""
    values = evidence.values
    parts = (speed_part(values, evidence.machine.get("processor", "")), playback_part(values), reactivity_part(values))
    label = _WORST_FIRST[min(_WORST_FIRST.index(found) for found, _ in parts)]
    checks = tuple(check for _, found in parts for check in found)
    failed = [check.name for check in checks if check.holds is False]
    rest = f"; against it: {', '.join(failed)}" if failed else ""
    return Verdict(label, f"Speed {parts[0][0]}, playback {parts[1][0]}, reactivity {parts[2][0]}{rest}.", checks)


def _label(checks: tuple[Check, ...]) -> Label:
    if any(check.holds is False for check in checks):
        return "not reproduced"
    return "reproduced" if all(check.holds for check in checks) else "partly"


def speed_part(values: dict[str, Any], processor: str) -> tuple[Label, tuple[Check, ...]]:
    """A: the times and the scaling with the batch."""
    checks = (_times(values["speed"], processor), _scaling(values["speed"]))
    return _label(checks), checks


def first_times(found: dict[str, Any]) -> dict[str, float | None]:
    """Milliseconds at batch 1 by operation, None: not measured."""
    return {name: found["step"].get("1") if name == "step" else found.get(name) for name in MUST_MS}


def dense_ratios(found: dict[str, Any]) -> dict[str, float | None]:
    """How many times as long the dense twin takes, at batch 1; None: not measured."""
    pairs = {"step": (found["dense"].get("1"), found["step"].get("1"))}
    pairs["rollout"] = (found.get("dense rollout"), found.get("rollout"))
    return {name: dense / own if dense and own else None for name, (dense, own) in pairs.items()}


def _times(found: dict[str, Any], processor: str) -> Check:
    if found["clock"] == "CPU" and JUDGED_CPU in processor:
        times = first_times(found)
        claim = "(A) each operation within its limit: " + ", ".join(f"{k} {v:g} ms" for k, v in MUST_MS.items())
        measured = ", ".join(f"{name} {value:.3g} ms" for name, value in times.items() if value is not None)
        met = [None if value is None else value <= MUST_MS[name] for name, value in times.items()]
    else:
        claim = f"(A) step and rollout at least {DENSE_TIMES:g} times as fast as the dense twin"
        ratios = dense_ratios(found)
        measured = ", ".join(f"{name} {value:.1f} times" for name, value in ratios.items() if value is not None)
        met = [None if value is None else value >= DENSE_TIMES for value in ratios.values()]
    return Check("A times", claim, measured or "not measured", None, _all(met))


def _scaling(found: dict[str, Any]) -> Check:
    times = {int(batch): value for batch, value in found["step"].items()}
    largest = max(times)
    share = largest / times[largest] * times[1]
    claim = f"(A) scenes a second in the largest batch at least {_RATE:g} times those at batch 1"
    holds = share >= _RATE if largest > 1 else None
    return Check("A scaling", claim, f"{share:.2f} times at batch {largest}", None, holds)


def playback_part(values: dict[str, Any]) -> tuple[Label, tuple[Check, ...]]:
    """B: contacts, off-road and distance to the log of what is played back."""
    found = {arm: pooled(values, arm) for arm in arms_of(values)}
    sdc = {arm: (sum(rows["sdc_contact"]), sum(rows["sdc_off_road"])) for arm, rows in found.items()}
    scenes = len(next(iter(found.values()))["moving"])
    measured = "; ".join(f"{arm}: {contact} and {off}" for arm, (contact, off) in sdc.items())
    checks = [
        Check(
            "B ego",
            "(B) no contact and no off-road of the ego in any scene, arm by arm",
            f"{measured}, of {scenes} scenes",
            None,
            not any(contact or off for contact, off in sdc.values()),
        )
    ]
    for what, limit in (("contact", _CONTACTS), ("off_road", _OFF_ROADS)):
        shares = {arm: wilson(sum(rows[what]), sum(rows["moving"])) for arm, rows in found.items()}
        arm, worst = max(shares.items(), key=lambda item: item[1].estimate)
        name = what.replace("_", "-")
        claim = f"(B) {name} of at most {limit:.0%} of the moving vehicles"
        checks.append(Check(f"B {name}", claim, f"share in the worst arm ({arm})", worst, worst.estimate <= limit))
    for arm, limit in ADE_M.items():
        claim = f"(B) mean distance to the log through {arm} at most {limit:g} m"
        if arm not in found:
            checks.append(Check(f"B {arm}", claim, "not measured"))
            continue
        means = {group: ade(values, arm, given) for group, given in _groups(values).items()}
        group, worst = max(means.items(), key=lambda item: item[1].estimate)
        checks.append(Check(f"B {arm}", claim, f"ADE in m, mean over {group} scenes", worst, worst.estimate <= limit))
    return _label(tuple(checks)), tuple(checks)


def reactivity_part(values: dict[str, Any]) -> tuple[Label, tuple[Check, ...]]:
    """C: contacts that are not the ego's fault, among replayed less among reacting others."""
    gain, null = difference(values, BRAKING), difference(values, ("expert",))
    oracle = sum(pooled(values, LOG)["sdc_contact"]) if LOG in arms_of(values) else None
    wide = (gain.high - gain.low) / 2
    claim = f"(C) a slower ego is hit more often by replayed than by reacting others: by at least {_GAIN}, interval > 0"
    holds = gain.low > 0 and gain.estimate >= _GAIN
    checks = (
        Check("C", claim, "contacts not its fault a run, log less IDM", gain, None if wide > _WIDE else holds),
        Check(
            "C null",
            f"(C) with an ego that does what it did the two differ by at most {_NULL}",
            "contacts not its fault a run, log less IDM",
            null,
            abs(null.estimate) <= _NULL,
        ),
        Check(
            "C oracle",
            "(C) with everything replayed the ego has no contact",
            "not measured" if oracle is None else f"{oracle} contacts",
            None,
            None if oracle is None else oracle == 0,
        ),
    )
    if checks[2].holds is False:
        return "not attempted", checks
    if wide > _WIDE:
        return "underpowered", checks
    if not holds:
        return "not reproduced", checks
    return "reproduced" if checks[1].holds and checks[2].holds else "partly", checks


def arms_of(values: dict[str, Any]) -> list[str]:
    """Arms of part B that were run, in their order."""
    return [arm for arm in ARMS if all(arm in rows for rows in values["playback"].values())]


def pooled(values: dict[str, Any], arm: str, given: bool | None = None) -> dict[str, list[Any]]:
    """What part B found in an arm: in all scenes, or only in the user's (`given`), or only in the others."""
    rows = [found[arm] for name, found in values["playback"].items() if given is None or given == (name == GIVEN)]
    return {name: [value for row in rows for value in row[name]] for name in rows[0]}


def ade(values: dict[str, Any], arm: str, given: bool | None = None) -> Interval:
    """Mean over scenes, as in `pooled`, of the ADE of the moving vehicles, m."""
    return _mean([value for value in pooled(values, arm, given)["ade_m"] if value is not None])


def _groups(values: dict[str, Any]) -> dict[str, bool]:
    """Groups of scenes that must each stay near their logs: many generated ones must not hide the user's."""
    return {"generated": False} | ({"given": True} if GIVEN in values["playback"] else {})


def contacts(values: dict[str, Any], agents: str, ego: str, what: str = "not_at_fault") -> np.ndarray:
    """0 or 1 a scene, all families after another."""
    return np.concatenate(
        [np.asarray(found["runs"][agents][ego][what], float) for found in values["reactivity"].values()]
    )


def difference(values: dict[str, Any], egos: tuple[str, ...]) -> Interval:
    """Contacts a run that are not the ego's fault, log less IDM, paired by scene, mean over `egos`."""
    by_ego = [contacts(values, "log", ego) - contacts(values, "idm", ego) for ego in egos]
    return _mean(np.mean(by_ego, axis=0))


def _mean(x: Any) -> Interval:
    values = np.asarray(x, float)
    return (
        bootstrap_ci(values, draws=_DRAWS)
        if len(values) > 1
        else Interval(float(values.mean()), -np.inf, np.inf, 0.95, len(values))
    )


def _all(met: list[bool | None]) -> bool | None:
    if False in met:
        return False
    return None if None in met else True
