"""The report of the study bc-sac-variants: what went against it first, then figures, then tables."""

import math
from typing import Any

from gleanings.core.report import Report
from gleanings.core.stats import Interval
from gleanings.core.study import Evidence, Verdict
from gleanings.studies import _bc_sac_variants_plots as plots
from gleanings.studies._bc_sac_outcomes import found_by, mean_of, named, percent, points, rate, spread
from gleanings.studies._bc_sac_plots import kind_name
from gleanings.studies._bc_sac_variants_judge import gates, hypotheses, told

_PARTS = {"hard": "hardest tenth", "all": "as they come"}
_REWARDS = {"clearance": "as usual", "binary": "binary", "no-offsets": "offsets 0"}
_LEFT = """
BC-SAC with one thing changed, less BC-SAC as it is; below 0 is fewer failures, or less way. No verdict, and no
correction for how many there are. The test scenes and what counts as failure are the same for all.

What is left of the reward: with the binary one, -1 in each decision with contact or off the road, whatever the speed
and the distance before. With offsets of 0 the term of the distance to others is min(d, 0) = 0, so that contact costs
nothing at all; only metres beyond the road edge do. An absorbing failure costs 3 in every decision that is left, so
that an early failure costs most.
"""


def thumbnail(evidence: Evidence) -> str:
    """Failure in the hardest tenth by method and training scenes."""
    return plots.failure_bars(evidence.values, "hard", thumbnail=True)


def headline(evidence: Evidence) -> str:
    """What speaks against the claim or the run; empty where nothing does, and for size smoke."""
    if evidence.size == "smoke":
        return ""
    values = evidence.values
    lines = [f"A control misses: {check.name}, {check.measured}." for check in gates(values) if not check.holds]
    for method, test in hypotheses(values).items():
        if not test.shown:
            more = "more" if test.found.estimate > 0 else "less"
            what = f"{more}, by more than chance" if test.reversed else f"{more}, which may be chance"
            start = f"{named(method)} trained on the hardest tenth of the scenes fails there"
            lines.append(f"{start} {what}: {told(values, method)} trained on all.")
        lines += _elsewhere(values, method) if test.shown else []
    return "\n\n".join(lines)


def _elsewhere(values: dict[str, Any], method: str) -> list[str]:
    """Where what is gained in the hardest tenth is lost in scenes as they come."""
    found = plots.paired(values, f"{method}-top10", f"{method}-all", "failure", "all")
    if not found.low > 0:
        return []
    few, every = (percent(rate(values, f"{method}-{part}", "failure", "all")) for part in ("top10", "all"))
    return [f"In scenes as they come {named(method)} trained on the hardest tenth fails more: {few} against {every}."]


def render(evidence: Evidence, verdict: Verdict, report: Report) -> None:
    """Add the study's sections to `report`."""
    values = evidence.values
    _failure(values, report)
    _tests(values, report)
    _variants(values, report)
    _training(values, report)
    _tables(values, report)


def _failure(values: dict[str, Any], report: Report) -> None:
    size, scenes = values["size"], values["scenes"]
    counts = ", ".join(f"{plots.SETS[name]} {one['scenes']:,}" for name, one in values["data"]["sets"].items())
    text = (
        f"Contact or off the road at any step: {size['seeds']} seeds, {len(scenes['hard']['kind']):,} test scenes of "
        f"the hardest tenth and {len(scenes['all']['kind']):,} as they come, with 95 % intervals over seeds and maps. "
        f"Training scenes: {counts}; the number of steps and of episodes is the same."
    )
    report.section("Failure by what was trained on", text)
    report.figure([plots.failure_bars(values, part, f"test scenes, {title}") for part, title in _PARTS.items()])
    caption = "Best is the lower right. The hardest tenth of the test scenes, a dot a seed."
    report.figure(plots.pareto(values), caption)


def _tests(values: dict[str, Any], report: Report) -> None:
    tests = hypotheses(values)
    report.section("Hypotheses", "Trained on the hardest tenth less trained on all; below 0 speaks for the claim.")
    methods = list(tests)
    rows = {
        f"test scenes, {title}": {
            named(m): points(plots.paired(values, f"{m}-top10", f"{m}-all", "failure", part).interval) for m in methods
        }
        for part, title in _PARTS.items()
    }
    caption = "The hypotheses are about the hardest tenth."
    report.figure(plots.forest(rows, "difference of failure, points"), caption)
    table = [
        [
            named(method),
            points(test.found.interval),
            f"{test.p:.2g}",
            100 * test.found.mde80,
            ", ".join(f"{100 * one:+.1f}".replace("-", "−") for one in test.found.per_seed),
            "shown" if test.shown else "reversed" if test.reversed else "not shown",
        ]
        for method, test in tests.items()
    ]
    heads = ["method", "difference, points", "p, Holm", "MDE80", "by seed", "outcome"]
    caption = f"In {len(values['scenes']['hard']['kind']):,} scenes of the hardest tenth; n is the number of seeds."
    report.table(heads, table, caption)


def _variants(values: dict[str, Any], report: Report) -> None:
    names = plots.variants(values)
    if not names:
        return
    report.section("Part F: parts of BC-SAC", _LEFT)
    for part, title in _PARTS.items():
        found = {
            label: {
                plots.VARIANTS[name]: points(plots.paired(values, name, plots.BASE, metric, part).interval)
                for name in names
            }
            for metric, label in (("failure", "failure"), ("failure_star", "failure*"), ("progress", "progress"))
        }
        report.figure(plots.forest(found, "changed less unchanged, points", f"test scenes, {title}"))
    rows = [
        [
            _line(plots.VARIANTS[name]),
            *(
                _signed(plots.paired(values, name, plots.BASE, metric, part).interval)
                for part in _PARTS
                for metric in plots.METRICS
            ),
        ]
        for name in names
    ]
    rows.insert(
        0, ["BC-SAC itself", *(_value(values, plots.BASE, metric, p) for p in _PARTS for metric in plots.METRICS)]
    )
    heads = ["", *(f"{what}, {part}" for part in ("hardest", "all") for what in ("failure", "failure*", "progress"))]
    caption = (
        "The first row in %, over all its seeds; the others changed less unchanged in points, with 95 % intervals: "
        f"{len(values['arms'][names[0]]['seeds'])} seeds, {len(values['scenes']['hard']['kind']):,} and "
        f"{len(values['scenes']['all']['kind']):,} scenes. Progress is the share of the log's, clipped to at most 2."
    )
    report.table(heads, rows, caption)
    audits = values["data"]["audits"]["rewards"]
    if audits:
        rows = [[_REWARDS[name], 100 * one["negative"], one["reward"]] for name, one in audits.items()]
        report.table(["reward", "decisions with r < 0, %", "mean r"], rows, "What each reward makes of the experts.")


def _training(values: dict[str, Any], report: Report) -> None:
    panels = plots.curves(values)
    if panels:
        text = "Failures of sampled actions while experience is collected, means over seeds."
        report.section("Training", text)
        for start in range(0, len(panels), 2):
            report.figure(panels[start : start + 2])


def _tables(values: dict[str, Any], report: Report) -> None:
    report.section("All figures")
    rows = [
        [
            _line(_title(arm)),
            *(_cell(rate(values, arm, metric, part)) for part in _PARTS for metric in plots.METRICS[:2]),
            *(_mean(found_by(values, arm, part)["progress"]) for part in _PARTS),
            100 * spread(values, arm),
        ]
        for arm in values["arms"]
    ]
    rates = [f"{what}, {part}" for part in ("hardest", "all") for what in ("failure", "failure*")]
    heads = ["arm", *rates, "progress, hardest", "progress, all", "sd"]
    report.table(heads, rows, "Rates in %, with 95 % intervals. sd: of failure over seeds, hardest tenth, points.")
    rows = [
        [
            _line(name),
            *(100 * mean_of(values, name, metric, part) for part in _PARTS for metric in plots.METRICS[:2]),
            *(_mean(found_by(values, name, part)["progress"]) for part in _PARTS),
        ]
        for name in values["controls"]
    ]
    report.table(["control", *heads[1:-1]], rows, "Rates in %.")
    sets = values["data"]["sets"]
    kinds = sorted({kind for one in sets.values() for kind in one["kinds"]})
    rows = [[kind_name(kind), *(one["kinds"].get(kind, 0) for one in sets.values())] for kind in kinds]
    rows.append(["sum", *(one["scenes"] for one in sets.values())])
    report.table(["hazard", *(plots.SETS[name] for name in sets)], rows, "Training scenes.")
    drawn, failed = values["data"]["drawn"], values["data"]["failed"]
    rows = [[_line(_title(arm)), one["updates"], one["decisions"]] for arm, one in values["arms"].items()]
    caption = f"Of {drawn:,} hazards drawn {failed:,} were discarded, since the expert fails them."
    report.table(["arm", "gradient steps a seed", "decisions driven"], rows, caption)


def _title(arm: str) -> str:
    """Of an arm, as read."""
    if arm in plots.VARIANTS:
        return f"BC-SAC, {plots.VARIANTS[arm]}"
    method, _, part = arm.rpartition("-")
    return f"{named(method)}, {plots.SETS[part]}"


def _value(values: dict[str, Any], who: str, metric: str, part: str) -> str:
    if metric == "progress":
        return f"{100 * (_mean(found_by(values, who, part)['progress']) or math.nan):.1f}"
    return _cell(rate(values, who, metric, part))


def _line(text: str) -> str:
    """Text that is not broken."""
    return text.replace(" ", "\u00a0").replace("-", "\u2011")


def _cell(interval: Interval) -> str:
    y, low, high = (100 * value for value in (interval.estimate, interval.low, interval.high))
    return _line(f"{y:.1f} [{low:.0f}, {high:.0f}]") if math.isfinite(low) else f"{y:.1f}"


def _signed(interval: Interval) -> str:
    y, low, high = (100 * value for value in (interval.estimate, interval.low, interval.high))
    text = f"{y:+.1f} [{low:.0f}, {high:.0f}]" if math.isfinite(low) else f"{y:+.1f}"
    return text.replace(" ", "\u00a0").replace("-", "−")


def _mean(x: Any) -> float | None:
    known = [value for value in x if value is not None]
    return sum(known) / len(known) if known else None
