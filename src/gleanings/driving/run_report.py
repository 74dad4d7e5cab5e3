"""The report of `gleanings drive run`: rates first, then distances and times, scene by scene, and the replays."""

import math

from gleanings.core.report import Report, Series, figure_bars
from gleanings.core.stats import Interval
from gleanings.driving.run import Drive, Driven

_RATES = ("collision", "at_fault", "off_road", "wrong_way", "off_route", "red_light", "ttc_low", "infeasible")
_GOOD = ("goal_reached", "comfort", "score", "progress_ratio")
_SHOWN = 200  # scenes in the table
_COLUMNS = ("collision", "at_fault", "off_road", "progress_ratio", "ade_m", "score")


def drive_report(drive: Drive, driven: Driven) -> Report:
    """Rates with their intervals, all metrics, the scenes, the replays, and what is not available."""
    found = driven.evaluation
    setting = f"{drive.controlled} by {drive.policy}, others by {drive.agents}, {drive.dynamics} dynamics"
    report = Report(f"Driving: {drive.source}", f"{len(found.rows)} scenes · {setting} · seed {drive.seed}")
    for title, names, label in (
        ("What went wrong", _RATES, "share of controlled objects, by scene"),
        ("What went well", _GOOD, "mean over scenes"),
    ):
        _bars(report, title, {name: found.means[name] for name in names if name in found.means}, label)
    report.section("All metrics").table(
        ["metric", "mean", "scenes", "objects"],
        [[name, mean, mean.n, _objects(driven, name)] for name, mean in found.means.items()],
        "Means over scenes with 95 % bootstrap intervals; an object counts for a rate if it happened at any step.",
    )
    missing = sorted(
        {name.removesuffix("_n") for row in found.rows for name in row if name.endswith("_n")} - set(found.means)
    )
    if missing:
        report.section(
            "Not available", ", ".join(missing) + ": no scene has what these need, such as lights or limits."
        )
    if driven.skipped:
        report.section("Not read", "\n".join(f"- {error}" for error in driven.skipped))
    _scenes(report, driven)
    return report


def _bars(report: Report, title: str, means: dict[str, Interval], label: str) -> None:
    if not means:
        return
    y, low, high = ([getattr(mean, key) for mean in means.values()] for key in ("estimate", "low", "high"))
    low, high = ([v if math.isfinite(v) else e for v, e in zip(side, y, strict=True)] for side in (low, high))
    report.section(title).figure(
        figure_bars([Series("mean", list(means), y, low, high)], value_label=label, horizontal=True)
    )


def _objects(driven: Driven, name: str) -> int:
    return int(sum(row.get(f"{name}_n", 0.0) for row in driven.evaluation.rows))


def _scenes(report: Report, driven: Driven) -> None:
    found = driven.evaluation
    pages = {index: path.name for index, path in driven.replays}
    columns = [name for name in _COLUMNS if name in found.means]
    order = [*pages, *(index for index in range(len(found.rows)) if index not in pages)][:_SHOWN]
    rows = [
        [index, found.names[index], *(_value(found.rows[index], name) for name in columns), pages.get(index, "")]
        for index in order
    ]
    more = len(found.rows) - len(order)
    note = (
        "The scenes with replays come first: those with most events, then those farthest from their log. Replays stand "
        "in the folder artifacts of the run." + (f" {more} more scenes are in metrics.jsonl." if more else "")
    )
    report.section("Scenes").table(["number", "scene", *columns, "replay"], rows, note)


def _value(row: dict[str, float], name: str) -> float | None:
    value = row.get(name, math.nan)
    return value if math.isfinite(value) else None
