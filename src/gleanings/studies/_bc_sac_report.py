"""The report of the study of BC-SAC: what went against it first, then figures, then tables."""

import math
from html import escape
from typing import Any

import numpy as np

from gleanings.core.report import Report
from gleanings.core.stats import Interval
from gleanings.core.study import Evidence, Verdict
from gleanings.studies import _bc_sac_plots as plots
from gleanings.studies._bc_sac_judge import LEARNT, gates, hypotheses, negative, reduction, told
from gleanings.studies._bc_sac_outcomes import found_by, mean_of, named, points, rate, spread

ONE_LESS_GAMMA, LARGEST_REWARD = 0.05, 3.0
_PAPER_SIGMA = {"BC-SAC": 0.37, "MGAIL": 0.78, "BC": 1.29}
_VERSUS = {"H1": "H1: BC", "H2": "H2: SAC, failure*", "H3": "H3: BC, hardest less easy", "R2": "R2: SAC, raw failure"}
_RATES = ("failure", "failure_star", "at_fault", "off_road")
_FIGURES = ("progress", "distance", "ade_m", "comfort", "saturated")
_OTHERS = {"log": "from the log", "idm": "by IDM"}
_PARETO = """
Best is the lower right. The hardest tenth, a dot a seed; the controls have learnt nothing, and the expert's replay
knows the log. A slow driver may fail less and get nowhere.
"""
_AUDIT = """
Decisions of the training logs: standing, clipped (|u| above 0.98) and r < 0 are shares of the kept ones; r is the
reward that the log itself would get; 99 % of the labels miss the log by less than the residual.
"""
_SIGMA = """
Standard deviation of failure over slices of difficulty. The slices are not the same: here ten, in points; in the paper
its own, as its text has it.
"""


def thumbnail(evidence: Evidence) -> str:
    """Failure in easy and in the hardest scenes."""
    return plots.failure_bars(evidence.values, thumbnail=True)


def headline(evidence: Evidence) -> str:
    """What speaks against the claim or the run; empty where nothing does, and for size smoke."""
    if evidence.size == "smoke":
        return ""
    values = evidence.values
    lines = [negative(values)]
    lines += [f"A control misses: {check.name}, {told(check)}." for check in gates(values) if not check.holds]
    own = mean_of(values, "bc-sac", "failure")
    simple = {name: mean_of(values, name, "failure") for name in ("IDM on route",) if name in values["controls"]}
    lines += [
        f"{name} learns nothing and fails in {100 * value:.1f} % of the hardest scenes, BC-SAC in {100 * own:.1f} %."
        for name, value in simple.items()
        if value < own
    ]
    return "\n\n".join(filter(None, lines))


def render(evidence: Evidence, verdict: Verdict, report: Report) -> None:
    """Add the study's sections to `report`."""
    values = evidence.values
    _failure(values, report)
    _pareto(values, report)
    _tests(values, report)
    _difficulty(values, report)
    _worlds(values, report)
    _given(values, report)
    _clips(values, report)
    _behaviour(values, report)
    _data(values, report)
    _tables(values, report)


def _failure(values: dict[str, Any], report: Report) -> None:
    size, scenes = values["size"], values["scenes"]
    text = (
        f"Contact or off the road at any step, others as in the log: {size['seeds']} seeds, "
        f"{len(scenes['all']['kind']):,} scenes as they come and {len(scenes['hard']['kind']):,} of the hardest tenth, "
        "with 95 % intervals over seeds and maps."
    )
    report.section("Failure by difficulty", text)
    panels = [plots.failure_bars(values, metric) for metric in ("failure", "failure_star")]
    caption = "Failure*: or less than half of the log's way. Top: the hardest, from a pool of their own."
    report.figure(panels, caption)


def _pareto(values: dict[str, Any], report: Report) -> None:
    report.section("Failure against progress", _PARETO)
    report.figure(plots.pareto(values))
    if not values["tuning"]:
        return
    caption = "Shorter runs of the tuning, with seeds of their own; lines go from the smallest to the largest weight."
    report.figure(plots.validation_pareto(values), f"{caption} {matched(values)}")


def matched(values: dict[str, Any]) -> str:
    """BC-SAC against SAC with a progress reward at the same progress, from the tuning's curves alone."""
    own, other = (plots.tuning_curve(values, arm) for arm in ("bc-sac", "sac-progress"))
    weight = values["frozen"].get("bc-sac", {}).get("imitation_weight")
    row = own[np.isclose(own[:, 0], weight)] if weight is not None else own[:0]
    if not len(row) or not len(other):
        return "At equal progress: not measured."
    _, way, failed = (float(value) for value in row[0])
    other = other[np.argsort(other[:, 1], kind="stable")]
    start = f"At the progress of BC-SAC with the chosen λ = {weight:g}, {way:.2f},"
    if not other[0, 1] <= way <= other[-1, 1]:
        reached = f"{other[0, 1]:.2f} to {other[-1, 1]:.2f}"
        return f"{start} SAC with a progress reward cannot be read off: it reaches {reached}."
    there = float(np.interp(way, other[:, 1], other[:, 2]))
    gap = f"{100 * (failed - there):+.1f}".replace("-", "−")
    return (
        f"{start} SAC with a progress reward fails in {100 * there:.1f} % (interpolated along its curve), BC-SAC in "
        f"{100 * failed:.1f} %: {gap} points, on validation scenes, without an interval."
    )


def _tests(values: dict[str, Any], report: Report) -> None:
    tests = hypotheses(values)
    report.section("Hypotheses", "Below 0 speaks for BC-SAC.")
    report.figure(plots.forest({_VERSUS[name]: test.found.interval for name, test in tests.items()}))
    rows = []
    for name, test in tests.items():
        found, outcome = test.found, "shown" if test.shown else "not shown"
        numbers = [
            points(found.interval),
            f"{100 * found.iqm:.1f}".replace("-", "−"),
            f"{test.p:.2g}",
            f"{100 * found.mde80:.1f}",
        ]
        rows.append([_VERSUS[name], *numbers, outcome if test.counted else f"{outcome}, not counted"])
    text = (
        "p: one-sided, limit .025; of H1 to H3 after Holm's correction. R2 counts only where they hold. MDE80: the "
        f"difference found 4 times in 5. BC-SAC saves {100 * reduction(values):.0f} % of BC's failures."
    )
    report.table(["BC-SAC less", "points", "IQM", "p", "MDE80", "outcome"], rows, text)
    rows = [
        [_VERSUS[name], *(f"{100 * value:.1f}".replace("-", "−") for value in test.found.per_seed)]
        for name, test in tests.items()
    ]
    report.table(["BC-SAC less", *(f"seed {k}" for k in range(len(rows[0]) - 1))], rows, "Points, seed by seed.")


def _difficulty(values: dict[str, Any], report: Report) -> None:
    text = "Scenes as they come, by tenth of difficulty; the line of a good driver is low and level."
    report.section("Failure along difficulty", text).figure(plots.decile_lines(values))
    rows = []
    for arm in plots.shown(values, LEARNT):
        rates = plots.deciles(values, arm)
        known = rates[np.isfinite(rates)]
        sigma = float(known.std()) if len(known) else math.nan
        rows.append([named(arm), sigma, _PAPER_SIGMA.get(named(arm))])
    rows.append(["MGAIL", None, _PAPER_SIGMA["MGAIL"]])
    report.table(["arm", "here", "in the paper"], rows, _SIGMA)


def _worlds(values: dict[str, Any], report: Report) -> None:
    text = "The hardest tenth once more with others that react. All arms are trained among replayed others."
    report.section("Others that react", text).figure(plots.world_bars(values))


def _given(values: dict[str, Any], report: Report) -> None:
    """Logs that the user gave."""
    if "given" not in values["scenes"]:
        return
    scenes = values["scenes"]["given"]
    logs = len(set(scenes["site"]))
    text = (
        f"{len(scenes['names'])} windows of {logs} {'log' if logs == 1 else 'logs'} of --data, every vehicle that "
        "travels 30 m as the ego. Described only: nothing is trained, tuned or judged on them, the arms have never "
        "seen such a scene, and windows of one log share its map, so that intervals over few logs are wide."
    )
    report.section("Given logs", text)
    rows = []
    for arm, one in values["arms"].items():
        worlds = [world for world in one["worlds"] if "given" in one["worlds"][world]]
        for world in worlds:
            rates = [_cell(rate(values, arm, metric, "given", world)) for metric in _RATES]
            way = _mean(one["worlds"][world]["given"]["progress"])
            rows.append([_line(named(arm)), _OTHERS[world], *rates, way])
    for name in values["controls"]:
        rates = [f"{100 * mean_of(values, name, metric, 'given'):.1f}" for metric in _RATES]
        rows.append([_line(name), _OTHERS["log"], *rates, _mean(found_by(values, name, "given")["progress"])])
    heads = ["failure", "failure*", "at fault", "off road", "progress"]
    report.table(["who", "others", *heads], rows, "In %, with 95 % intervals over seeds and logs.")


def _clips(values: dict[str, Any], report: Report) -> None:
    if not values["clips"]:
        return
    text = "Chosen by a fixed rule, by difficulty, not by how they look."
    report.section("Drives", text)
    for one in values["clips"]:
        if "html" in one:
            report.fragment(one["html"], f"`{one['scene']}`: {one['why']}")
    links = [_link(one) for one in values["clips"] if "html" not in one]
    if links:
        report.figure(f"<ul>{''.join(links)}</ul>", "BC, SAC, BC-SAC and the log in step; beside this report.")


def _link(clip: dict[str, str]) -> str:
    """A figure is the part of a report that takes markup."""
    return f'<li><a href="{escape(clip["file"])}">{escape(clip["scene"])}</a>: {escape(clip["why"])}</li>'


def _behaviour(values: dict[str, Any], report: Report) -> None:
    report.section("How they drive and fail")
    caption = "In the hardest tenth. Struck: in contact, neither at fault nor off the road; the other two may coincide."
    report.figure(plots.split_bars(values), caption)
    report.figure(plots.star_lines(values), "In the hardest tenth. The rule takes 0.5.")
    caption = "Median, and 5 to 95 % of all decisions. Acceleration: −1 brakes at 8 m/s², 1 speeds up at 4 m/s²."
    report.figure(plots.action_bars(values), caption)
    panels = plots.learning_curves(values)
    if panels:
        report.section("Learning", "Means over seeds.")
        for start in range(0, len(panels), 2):
            report.figure(panels[start : start + 2])


def _data(values: dict[str, Any], report: Report) -> None:
    found, frozen = values["data"], values["frozen"]
    weight = frozen.get("bc-sac", {}).get("imitation_weight")
    scaled = ""
    if weight is not None:
        scale = weight * ONE_LESS_GAMMA / LARGEST_REWARD
        scaled = (
            f"λ means nothing without the scale of the reward and the discount: λ (1 − γ) / |r|max = {weight:g} x "
            f"{ONE_LESS_GAMMA} / {LARGEST_REWARD:g} = {scale:.2g}."
        )
    report.section("Data, reward and settings", f"Scenes that the expert fails are discarded. {scaled}")
    report.figure(plots.discard_bars(values), "Of the hazards drawn, all splits together.")
    audit = found["audit"]
    shares = [f"{100 * audit[key]:.2g} %" for key in ("standing", "clipped", "negative")]
    row = [audit["decisions"], audit["kept"], *shares, audit["reward"], 1000 * audit["residual_m"][2]]
    heads = ["decisions", "kept", "standing", "clipped", "r < 0", "mean r", "residual, 99 %, mm"]
    report.table(heads, [row], _AUDIT)
    rows = [[plots.kind_name(kind), n, found["failed"].get(kind, 0)] for kind, n in found["drawn"].items()]
    report.table(["hazard", "drawn", "discarded"], rows)
    rows = [[named(arm), field, value] for arm, fields in frozen.items() for field, value in fields.items()]
    report.table(["arm", "setting", "value"], rows, "Chosen on validation scenes, before the test scenes were driven.")
    measures = ("failure", "failure_star", "progress")
    rows = [
        [named(one["arm"]), one["field"], one["value"], *(_mean(one[key]) for key in measures)]
        for one in values["tuning"]
    ]
    if rows:
        caption = "Tuning, validation scenes, means over its seeds; chosen is the least failure*."
        report.table(["arm", "setting", "value", "failure", "failure*", "progress"], rows, caption)


def _tables(values: dict[str, Any], report: Report) -> None:
    report.section("All figures")
    arms = list(values["arms"])
    rows = [
        [_line(label), _line(named(arm)), *(_cell(rate(values, arm, metric, part)) for metric in _RATES)]
        for part, label in plots.BUCKETS.items()
        for arm in arms
    ]
    heads = ["failure", "failure*", "at fault", "off road"]
    report.table(["scenes", "arm", *heads], rows, "In %, others as in the log, with 95 % intervals.")
    rows = [[*_who_cells(values, who), 100 * spread(values, who)] for who in arms]
    style = ["progress", "way", "ADE m", "comfort", "|u| > .95"]
    caption = (
        "In the hardest tenth, means over seeds. Progress: mean over scenes of the ratio to the log; way: share of the "
        "log's distance that is covered; sd: of failure over seeds, points."
    )
    report.table(["arm", *style, "sd"], rows, caption)
    rows = []
    for name in values["controls"]:
        rates = [100 * mean_of(values, name, metric, part) for part in ("all", "hard") for metric in _RATES[:2]]
        rows.append([_line(name), *rates, *_who_cells(values, name)[1:3]])
    parts = [f"{what}, {part}" for part in ("all", "hardest") for what in ("failure", "failure*")]
    report.table(["control", *parts, *style[:2]], rows, "Rates in %; progress and way in the hardest tenth.")
    rows = [[named(arm), one["updates"], one["decisions"]] for arm, one in values["arms"].items()]
    report.table(["arm", "gradient steps a seed", "decisions driven"], rows)


def _line(text: str) -> str:
    """Text that is not broken."""
    return text.replace(" ", "\u00a0").replace("-", "\u2011")


def _cell(interval: Interval) -> str:
    y, low, high = (100 * value for value in (interval.estimate, interval.low, interval.high))
    return _line(f"{y:.1f} [{low:.0f}, {high:.0f}]") if math.isfinite(low) else f"{y:.1f}"


def _who_cells(values: dict[str, Any], who: str) -> list[Any]:
    return [_line(named(who)), *(_mean(found_by(values, who)[key]) for key in _FIGURES)]


def _mean(x: Any) -> float | None:
    known = [value for value in x if value is not None]
    return float(np.mean(known)) if known else None
