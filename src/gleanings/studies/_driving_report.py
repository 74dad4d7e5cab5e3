"""The report of the study of the simulator: what went against it first, then speed, playback and reactivity."""

from html import escape
from typing import Any

import numpy as np

from gleanings.core.report import Report, Series, figure_bars, figure_line
from gleanings.core.stats import Interval, bootstrap_ci, wilson
from gleanings.core.study import Evidence, Verdict
from gleanings.studies._driving_ego import BRAKING, EGOS
from gleanings.studies._driving_judge import (
    MUST_MS,
    ade,
    arms_of,
    contacts,
    dense_ratios,
    difference,
    first_times,
    judge,
    pooled,
)
from gleanings.studies._driving_playback import DYNAMICS
from gleanings.studies._driving_reactivity import AGENTS

REPLAYS = "replays"
"""Folder of the replay pages, beside the report."""
_ROWS = {
    "bare": "step without metrics",
    "step": "step with log divergence, contact and off-road",
    "rollout": "80 steps with these",
    "idm": "IDM, all agents",
    "observe": "observation of all objects, 200 road points",
}
_EGOS = {
    "expert": "as logged",
    "brake-1": "brakes at 1 m/s²",
    "brake-3": "brakes at 3 m/s²",
    "slow-0.6": "0.6 of its speed",
}
_AGENTS = {"log": "others as logged", "idm": "others by IDM"}


def thumbnail(evidence: Evidence) -> str:
    """Contacts by ego and agents."""
    return _contact_bars(evidence.values, thumbnail=True)


def headline(evidence: Evidence) -> str:
    """Where the simulator or the claim loses; empty where it does not."""
    values = evidence.values
    lines = [
        f"{check.name} fails: {check.measured} {check.interval or ''}".strip() + "."
        for check in judge(evidence).checks
        if check.holds is False
    ]
    still = float(np.mean([contacts(values, "idm", ego) for ego in BRAKING]))
    if still > 0:
        lines.append(f"Reacting agents still hit the ego in {still:.1%} of the runs in which it slows down.")
    worse = [name for name, found in values["reactivity"].items() if _by_family(found).estimate < 0]
    if worse:
        lines.append(f"In {', '.join(worse)} reacting agents cause more such contacts than replayed ones.")
    return "\n\n".join(lines)


def render(evidence: Evidence, verdict: Verdict, report: Report) -> None:
    """Add the study's sections to `report`."""
    _speed(evidence.values["speed"], evidence.machine.get("processor", "this machine"), report)
    _playback(evidence.values, report)
    _reactivity(evidence.values, report)


def _speed(found: dict[str, Any], processor: str, report: Report) -> None:
    scene, clock = found["scene"], found["clock"]
    text = (
        f"One generated scene of {scene['objects']} objects, {scene['segments']:,} segments of road edge after merging "
        f"and {scene['unmerged']:,} before, which the dense twin looks at. {clock} time on {processor}, the least "
        "of several calls."
    )
    report.section("Speed", text)
    series = [
        Series(label, [int(b) for b in found[kind]], [ms / int(b) for b, ms in found[kind].items()])
        for kind, label in (("step", "grid of candidates"), ("dense", "dense twin"))
        if found[kind]
    ]
    figure = figure_line(series, x_label="scenes in a batch", y_label="ms a step and scene", log="xy")
    report.figure(figure, "Step with log divergence, contact and off-road.")
    ratios = dense_ratios(found)
    rows = [[_ROWS[name], value, MUST_MS[name], ratios.get(name)] for name, value in first_times(found).items()]
    report.table(["operation, batch 1", "ms", "limit, ms", "dense twin, times as long"], rows)


def _playback(values: dict[str, Any], report: Report) -> None:
    text = "The expert takes the actions that lead to the log; the limits of each dynamics decide how close it comes."
    report.section("Playback", text)
    arms = [arm for arm in arms_of(values) if arm in DYNAMICS]
    means = [ade(values, arm) for arm in arms]
    series = [
        Series("moving vehicles", arms, [m.estimate for m in means], [m.low for m in means], [m.high for m in means])
    ]
    if means and all(mean.low > 0 for mean in means):
        report.figure(figure_bars(series, value_label="ADE, m", log=True), "Mean over scenes with its 95 % interval.")
    rows = []
    for arm in arms_of(values):
        found = pooled(values, arm)
        shares = [wilson(sum(found[what]), sum(found["moving"])) for what in ("contact", "off_road")]
        rows.append([arm, sum(found["sdc_contact"]), sum(found["sdc_off_road"]), *shares, ade(values, arm)])
    heads = ["arm", "ego: contacts", "ego: off-road", "moving: contact", "moving: off-road", "ADE, m"]
    report.table(heads, rows, "Contacts and off-road count once an object, if they happen at any step.")
    rows = [
        [
            name,
            arm,
            len(found[arm]["moving"]),
            sum(found[arm]["moving"]),
            sum(found[arm]["contact"]),
            sum(found[arm]["off_road"]),
            _present(found[arm]["ade_m"]),
        ]
        for name, found in values["playback"].items()
        for arm in found
    ]
    report.table(["scenes of", "arm", "scenes", "moving vehicles", "in contact", "off-road", "ADE, m"], rows)


def _reactivity(values: dict[str, Any], report: Report) -> None:
    text = (
        "The ego does not do what it did in the log. Replayed vehicles cannot know; those by IDM can brake. Counted is "
        "whether the ego's first contact in a run is not its own fault."
    )
    report.section("Reactivity", text)
    report.figure(_contact_bars(values), "Share of runs, mean over scenes with its 95 % interval.")
    rows = [
        [
            _EGOS[ego],
            *(_mean(contacts(values, agents, ego)) for agents in AGENTS),
            difference(values, (ego,)),
            *(float(contacts(values, agents, ego, "contact").mean()) for agents in AGENTS),
        ]
        for ego in EGOS
    ]
    heads = ["ego", "log", "IDM", "log less IDM", "any contact, log", "any contact, IDM"]
    report.table(heads, rows, "Contacts a run that are not the ego's fault; the last two columns count all.")
    rows = [[name, _by_family(found), found["replay"]["scene"]] for name, found in values["reactivity"].items()]
    report.table(["scenes of", "log less IDM", "scene of the replay"], rows, "Mean over the slower egos.")
    links = [_link(found["replay"]) for found in values["reactivity"].values()]
    caption = (
        "Replays: of each family the scene in which log and IDM differ most, with all egos and agents to choose from."
    )
    report.figure(f"<p>{' · '.join(links)}</p>", caption)


def _link(replay: dict[str, str]) -> str:
    """A link to a replay page; a figure is the part of a report that takes markup."""
    return f'<a href="{REPLAYS}/{escape(replay["page"])}">{escape(replay["scene"])}</a>'


def _contact_bars(values: dict[str, Any], thumbnail: bool = False) -> str:
    series = []
    for agents in AGENTS:
        means = [_mean(contacts(values, agents, ego)) for ego in EGOS]
        y, low, high = ([getattr(mean, key) for mean in means] for key in ("estimate", "low", "high"))
        series.append(Series(_AGENTS[agents], [_EGOS[ego] for ego in EGOS], y, low, high))
    label = "runs with a contact not the ego's fault"
    return figure_bars(series, value_label=label, style="bars", thumbnail=thumbnail)


def _by_family(found: dict[str, Any]) -> Interval:
    runs = found["runs"]
    by_ego = [np.subtract(runs["log"][ego]["not_at_fault"], runs["idm"][ego]["not_at_fault"]) for ego in BRAKING]
    return _mean(np.mean(by_ego, axis=0))


def _present(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _mean(x: Any) -> Interval:
    values = np.asarray(x, float)
    if len(values) < 2:
        return Interval(float(values.mean()), float(values.mean()), float(values.mean()), 0.95, len(values))
    return bootstrap_ci(values)
