"""The figures of the study of driving agents. Rates are drawn in per cent. Source: ours."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gleanings.core.report import Series, figure_bars, figure_line
from gleanings.core.stats import Interval
from gleanings.studies._agents_arms import TRAINED
from gleanings.studies._agents_judge import named, rate_of
from gleanings.studies._bc_sac_outcomes import points

WORLDS = {"log": "others from the log", "idm": "others by IDM"}
METRICS = {
    "off_route": "off the route",
    "failure": "failure",
    "collision": "collision",
    "off_road": "off the road",
    "failure_star": "failure*",
}
_CURVES = {
    "actor/bc_nll": ("imitation", "−log likelihood"),
    "actor/error": ("imitation", "mean |u − label|"),
    "critic/q": ("value", "mean Q"),
    "collect/failure": ("failure while collecting", "share"),
    "collect/reward": ("reward while collecting", "a decision"),
    "collect/progress": ("progress while collecting", "m"),
}
_SCENES, _HALF, _WIDE = "scenes, %", (360, 300), (740, 320)


def shown(values: dict[str, Any], names: Iterable[str]) -> list[str]:
    """Those of the arms that were run."""
    return [name for name in names if name in values["arms"]]


def world_bars(values: dict[str, Any], metric: str, *, thumbnail: bool = False) -> str:
    """The DQNs by the world they were trained in and the one they drive in."""
    known = shown(values, TRAINED)
    names = {arm: f"trained: {'log' if TRAINED[arm] == 'log' else 'IDM'}" for arm in known}
    series = [
        _bounded(label, list(names.values()), [rate_of(values, arm, metric, world) for arm in names], k)
        for k, (world, label) in enumerate(WORLDS.items())
    ]
    size = (300, 180) if thumbnail else _HALF
    label = f"{METRICS[metric]}, % of scenes"
    return figure_bars(series, value_label=label, style="bars", size=size, thumbnail=thumbnail)


def forest(found: Mapping[str, Interval]) -> str:
    """Differences with their intervals, in points."""
    series = [_bounded("", list(found), list(found.values()))]
    label = "difference, points; below 0 speaks for the claim"
    return figure_bars(series, value_label=label, horizontal=True, reference=0.0, size=(740, 270))


def route_bars(values: dict[str, Any]) -> str:
    """Discrete cloning with its route and without, by metric."""
    series = [
        _bounded(label, list(METRICS.values()), [rate_of(values, arm, metric) for metric in METRICS], k)
        for k, (arm, label) in enumerate((("bc-discrete", "with the route"), ("bc-discrete-blind", "without")))
    ]
    return figure_bars(series, value_label=_SCENES, style="bars", size=_WIDE)


def arm_bars(values: dict[str, Any], arms: Sequence[str], metrics: Sequence[str]) -> str:
    """Rates of arms among others from the log."""
    labels = [named(arm) for arm in arms]
    series = [
        _bounded(METRICS[metric], labels, [rate_of(values, arm, metric) for arm in arms], k)
        for k, metric in enumerate(metrics)
    ]
    return figure_bars(series, value_label=_SCENES, reference=0.0, size=_WIDE)


def both_worlds(values: dict[str, Any]) -> str:
    """Failure of every arm in both worlds."""
    arms = list(values["arms"])
    series = [
        _bounded(label, [named(arm) for arm in arms], [rate_of(values, arm, "failure", world) for arm in arms], k)
        for k, (world, label) in enumerate(WORLDS.items())
    ]
    return figure_bars(series, value_label=_SCENES, reference=0.0, size=_WIDE)


def learning_curves(values: dict[str, Any]) -> list[str]:
    """A panel for each measure, a line an arm, mean over seeds; with many lines it has the width of the page."""
    curves = {arm: one["curve"] for arm, one in values["arms"].items()}
    panels = []
    for name, (title, label) in _CURVES.items():
        series = [
            Series(named(arm), one["step"], one[name], colour=k)
            for k, (arm, one) in enumerate(curves.items())
            if name in one
        ]
        if series:
            panels.append(
                figure_line(
                    series, x_label="iteration", y_label=label, title=title, size=_HALF if len(series) < 3 else _WIDE
                )
            )
    return panels


def _bounded(name: str, labels: list[str], found: list[Interval], colour: int = 0) -> Series:
    """Estimates with their intervals in per cent; without one the bounds are the estimate."""
    scaled = [points(one) for one in found]
    y, low, high = ([getattr(one, key) for one in scaled] for key in ("estimate", "low", "high"))
    low, high = ([b if math.isfinite(b) else v for b, v in zip(side, y, strict=True)] for side in (low, high))
    return Series(name, labels, y, low, high, colour)
