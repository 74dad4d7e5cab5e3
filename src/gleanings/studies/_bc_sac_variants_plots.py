"""The figures of the study bc-sac-variants, and differences of progress. Rates are drawn in per cent. Source: ours."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from gleanings.core.errors import ConfigError
from gleanings.core.report import Series, figure_bars, figure_line
from gleanings.core.stats import Difference, Interval
from gleanings.studies._bc_sac_outcomes import compared, difference, found_by, maps_of, named, outcomes, points, rate
from gleanings.studies._bc_sac_variants_judge import METHODS

SETS = {"all": "all", "top50": "hardest half", "top10": "hardest tenth"}
"""Training scenes, as read."""
BASE = "bc-sac-all"
VARIANTS = {
    "binary": "binary reward",
    "no-offsets": "offsets 0",
    "absorb": "failure absorbs",
    "no-followers": "no followers",
    "few-demos": "10 % of demos",
    "warm-start": "start as BC",
}
METRICS = ("failure", "failure_star", "progress")
_COLOURS = {"all": 0, "top50": 3, "top10": 1}
_UNDEFINED = 255
_HALF = (360, 300)


def ways(values: dict[str, Any], who: str, part: str = "hard") -> Float[np.ndarray, "S C"]:
    """Progress of each seed and scene, over the log's, at most 2; NaN where undefined. ConfigError: other scenes."""
    rows = [np.frombuffer(bytes.fromhex(row), np.uint8) for row in found_by(values, who, part)["ways"]]
    count = len(values["scenes"][part]["kind"])
    if any(len(row) != count for row in rows):
        raise ConfigError(f"evidence: progress of {[len(row) for row in rows]} scenes, there are {count}")
    grid = np.stack(rows).astype(float)
    return np.where(grid == _UNDEFINED, math.nan, grid / 100)


def paired(values: dict[str, Any], a: str, b: str, metric: str, part: str = "hard") -> Difference:
    """A - B of two arms in a metric of `METRICS`, paired by scene and by the first seeds of both; of progress where it
    is defined."""
    if metric != "progress":
        return difference(values, a, b, metric, part)
    first, second = ways(values, a, part), ways(values, b, part)
    seeds = min(len(first), len(second))
    first, second = first[:seeds], second[:seeds]
    known = np.isfinite(first).all(0) & np.isfinite(second).all(0)
    kinds, maps = maps_of(values, part)
    return compared(first[:, known], second[:, known], kinds[known], maps[known])


def trained_on(values: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Methods and sets of training scenes that were run."""
    arms = values["arms"]
    methods = [method for method in METHODS if f"{method}-all" in arms]
    return methods, [name for name in SETS if any(f"{method}-{name}" in arms for method in methods)]


def variants(values: dict[str, Any]) -> list[str]:
    """Variants that were run."""
    return [name for name in VARIANTS if name in values["arms"]]


def failure_bars(values: dict[str, Any], part: str, title: str = "", *, thumbnail: bool = False) -> str:
    """Failure by method and training scenes in a set of test scenes."""
    methods, sets = trained_on(values)
    series = [
        _bounded(
            f"trained on {SETS[name]}",
            [named(m) for m in methods],
            [points(rate(values, f"{m}-{name}", "failure", part)) for m in methods],
            _COLOURS[name],
        )
        for name in sets
    ]
    size = (300, 180) if thumbnail else _HALF
    label = "scenes with a failure, %"
    return figure_bars(series, value_label=label, title=title, reference=0.0, size=size, thumbnail=thumbnail)


def pareto(values: dict[str, Any]) -> str:
    """Failure against progress in the hardest tenth, a dot a seed."""
    methods, sets = trained_on(values)
    series = []
    for k, method in enumerate(methods):
        for name in sets:
            arm = f"{method}-{name}"
            failed, way = 100 * outcomes(values, arm, "failure").mean(1), found_by(values, arm)["progress"]
            series.append(
                Series(f"{named(method)}, {SETS[name]}", way, failed, colour=len(SETS) * k + list(SETS).index(name))
            )
    label = "progress, share of the log's"
    return figure_line(series, x_label=label, y_label="scenes with a failure, %", style="labelled", size=(740, 420))


def forest(found: Mapping[str, Mapping[str, Interval]], label: str, title: str = "") -> str:
    """Differences with their intervals; by series, then by row."""
    series = [_bounded(name, list(rows), list(rows.values()), k) for k, (name, rows) in enumerate(found.items())]
    tall = 110 + max(map(len, found.values())) * (26 + 12 * len(found))
    return figure_bars(series, value_label=label, title=title, horizontal=True, reference=0.0, size=(740, tall))


def curves(values: dict[str, Any], name: str = "collect/failure") -> list[str]:
    """Failure while collecting, in the scenes of the training itself, a panel a method."""
    methods, sets = trained_on(values)
    panels = []
    for method in methods:
        known = {part: values["arms"][f"{method}-{part}"]["curve"] for part in sets}
        series = [
            Series(f"on {SETS[part]}", one["step"], 100 * np.asarray(one[name], float), colour=_COLOURS[part])
            for part, one in known.items()
            if name in one
        ]
        if series:
            title = f"{named(method)}, in its training scenes"
            panels.append(figure_line(series, x_label="iteration", y_label="failures, %", title=title, size=_HALF))
    return panels


def _bounded(name: str, labels: Sequence[str], found: Sequence[Interval], colour: int) -> Series:
    """Estimates with their intervals; without one the bounds are the estimate."""
    y, low, high = ([getattr(one, key) for one in found] for key in ("estimate", "low", "high"))
    low, high = ([b if math.isfinite(b) else v for b, v in zip(side, y, strict=True)] for side in (low, high))
    return Series(name, list(labels), y, low, high, colour)
