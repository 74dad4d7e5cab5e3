"""The report of the study of driving agents: what went against it first, then figures, then tables."""

import math
from typing import Any

import numpy as np

from gleanings.core.report import Report
from gleanings.core.stats import Interval
from gleanings.core.study import Evidence, Verdict
from gleanings.studies import _agents_plots as plots
from gleanings.studies._agents_arms import TRAINED
from gleanings.studies._agents_judge import (
    CLAIMS,
    gates,
    hypotheses,
    mean_of,
    named,
    owed_to_training,
    rate_of,
    shifted,
    times,
)
from gleanings.studies._bc_sac_outcomes import found_by, points

_WORLDS = """
Collisions and failures of the two DQNs in both worlds. A policy that drives among others that behave otherwise than in
its training is in a shifted world: what it does there says nothing of how well it was trained, only of how far it
carries.
"""
_RATES = ("failure", "failure_star", "collision", "at_fault", "off_road", "off_route")
_HEADS = ("failure", "failure*", "collision", "at fault", "off road", "off route")
_VERSUS = {
    "R1": "R1: route less none, off the route",
    "R2": "R2: route less none, failure",
    "W": "W: IDM less log, collision",
    "D1": "D1: discrete less normal, failure",
    "D2": "D2: discrete less mixture, failure",
}
_TESTS = """
Below 0 speaks for the claim. p: one-sided, after Holm's correction over the five, limit .025. MDE80: the difference
that is found 4 times in 5.
"""


def thumbnail(evidence: Evidence) -> str:
    """Collisions by the world of training and the one driven in."""
    return plots.world_bars(evidence.values, "collision", thumbnail=True)


def headline(evidence: Evidence) -> str:
    """What speaks against the claims or the run; empty where nothing does, and for size smoke."""
    if evidence.size == "smoke":
        return ""
    values = evidence.values
    lines = [f"A control misses: {check.name}, {check.measured}." for check in gates(values) if not check.holds]
    for name, test in hypotheses(values).items():
        if not test.shown:
            interval = points(test.found.interval)
            lines.append(f"Not shown ({name}): {CLAIMS[name]}. Difference {interval} points, p = {test.p:.2g}.")
    lines += [text] if (text := _training(values)) else []
    ways = {arm: _mean(found_by(values, arm, "all")["progress"]) for arm in plots.shown(values, TRAINED)}
    lines += [
        f"{named(arm)} stands more than it drives: it makes {100 * way:.0f} % of the log's progress."
        for arm, way in ways.items()
        if way is not None and way < 0.5
    ]
    return "\n\n".join(lines)


def render(evidence: Evidence, verdict: Verdict, report: Report) -> None:
    """Add the study's sections to `report`."""
    values = evidence.values
    _worlds(values, report)
    _tests(values, report)
    _agents(values, report)
    _learning(values, report)
    _data(values, report)
    _tables(values, report)


def _worlds(values: dict[str, Any], report: Report) -> None:
    report.section("Trained in one world, driven in another", f"{_WORLDS}\n{_training(values)}")
    panels = [plots.world_bars(values, metric) for metric in ("collision", "failure")]
    caption = (
        f"95 % intervals over {values['size']['seeds']} seeds and maps, {values['size']['test']:,} scenes. The DQN "
        f"trained among others by IDM collides {times(values)} times as often among others from the log; the paper "
        "says over 4 times."
    )
    report.figure(panels, caption)
    rows = [
        [named(arm), plots.WORLDS[world], "shifted" if shifted(arm, world) else "as trained"]
        + [_cell(rate_of(values, arm, metric, world)) for metric in _RATES[:4]]
        for arm in plots.shown(values, TRAINED)
        for world in plots.WORLDS
    ]
    report.table(["trained", "driven", "world", *_HEADS[:4]], rows, "In %, with 95 % intervals.")


def _training(values: dict[str, Any]) -> str:
    """How much of W is owed to the training; empty without the DQN trained with the log."""
    found = owed_to_training(values)
    if found is None:
        return ""
    log, idm = (100 * mean_of(values, "dqn-log", "collision", world) for world in ("log", "idm"))
    return (
        f"Part of W is the worlds themselves: the DQN trained with the log collides in {log:.1f} % among others from "
        f"the log and in {idm:.1f} % among those by IDM, which react. What the one trained by IDM loses beyond that is "
        f"{points(found.interval)} points."
    )


def _tests(values: dict[str, Any], report: Report) -> None:
    tests = hypotheses(values)
    report.section("Hypotheses", _TESTS)
    report.figure(plots.forest({_VERSUS[name]: test.found.interval for name, test in tests.items()}))
    rows = [
        [
            _VERSUS[name],
            points(test.found.interval),
            f"{test.p:.2g}",
            f"{100 * test.found.mde80:.1f}",
            "shown" if test.shown else "not shown",
        ]
        for name, test in tests.items()
    ]
    report.table(["difference", "points", "p", "MDE80", "outcome"], rows)
    seeds = max(len(test.found.per_seed) for test in tests.values())
    rows = [
        [_VERSUS[name], *(f"{100 * value:.1f}".replace("-", "−") for value in test.found.per_seed)]
        for name, test in tests.items()
    ]
    report.table(["difference", *(f"seed {k}" for k in range(seeds))], rows, "Points, seed by seed.")


def _agents(values: dict[str, Any], report: Report) -> None:
    report.section("With the route and without", "Discrete cloning, others as in the log.")
    caption = "Failure: contact or off the road; failure*: or less than half of the log's way. With 95 % intervals."
    report.figure(plots.route_bars(values), caption)
    report.section("Heads and agents", "Others as in the log, a shifted world for the DQN trained among IDM.")
    report.figure(plots.arm_bars(values, list(values["arms"]), ("failure", "failure_star", "collision")))
    report.figure(plots.both_worlds(values), "Failure in both worlds. What imitates learnt from the log.")


def _learning(values: dict[str, Any], report: Report) -> None:
    panels = plots.learning_curves(values)
    if panels:
        report.section("Learning", "Means over seeds. Likelihoods of bins and of densities are not comparable.")
        report.figure(panels)


def _data(values: dict[str, Any], report: Report) -> None:
    found, audit = values["data"], values["data"]["audit"]
    report.section("Data and settings", "Scenes that the expert fails are discarded.")
    rows = [[kind.replace("_", " "), n, found["failed"].get(kind, 0)] for kind, n in found["drawn"].items()]
    report.table(["hazard", "drawn", "discarded"], rows)
    row = [audit["decisions"], audit["kept"], f"{100 * audit['clipped']:.2g} %", audit["reward"]]
    report.table(["decisions", "kept", "clipped", "mean r"], [row], "Labels that are imitated, and the log's reward.")
    rows = [
        [named(arm), one["rate"], one["updates"], one["decisions"], len(one["seeds"])]
        for arm, one in values["arms"].items()
    ]
    caption = "Set before the run, not tuned here; of the heads the normal distribution was tuned in the study bc-sac."
    report.table(["arm", "learning rate", "gradient steps a seed", "decisions driven", "seeds"], rows, caption)


def _tables(values: dict[str, Any], report: Report) -> None:
    report.section("All figures")
    for world, label in plots.WORLDS.items():
        rows = [[_line(named(arm)), *(_cell(rate_of(values, arm, metric, world)) for metric in _RATES)]
                for arm in values["arms"]]  # fmt: skip
        rows += [
            [_line(name), *(f"{100 * mean_of(values, name, metric, world):.1f}" for metric in _RATES)]
            for name in values["controls"]
        ]
        report.table(["arm", *_HEADS], rows, f"In %, {label}, with 95 % intervals.")
    rows = []
    for who in (*values["arms"], *values["controls"]):
        one = found_by(values, who, "all")
        rows.append([_line(named(who)), *(_mean(one[key]) for key in ("progress", "ade_m", "comfort", "saturated"))])
    caption = "Others as in the log, means over seeds. Progress: mean over scenes of the ratio to the log."
    report.table(["arm", "progress", "ADE m", "comfort", "|u| > .95"], rows, caption)


def _line(text: str) -> str:
    """Text that is not broken."""
    return text.replace(" ", "\u00a0").replace("-", "\u2011")


def _cell(interval: Interval) -> str:
    y, low, high = (100 * value for value in (interval.estimate, interval.low, interval.high))
    return _line(f"{y:.1f} [{low:.0f}, {high:.0f}]") if math.isfinite(low) else f"{y:.1f}"


def _mean(x: Any) -> float | None:
    known = [value for value in x if value is not None]
    return float(np.mean(known)) if known else None
