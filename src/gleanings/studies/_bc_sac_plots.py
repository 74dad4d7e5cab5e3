"""The figures of the study of BC-SAC. Rates are drawn in per cent. Source: ours."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from gleanings.core.report import Series, figure_bars, figure_line
from gleanings.core.stats import Interval
from gleanings.studies._bc_sac_outcomes import found_by, named, outcomes, points, rate

MAIN = ("bc", "sac", "bc-sac", "sac-progress")
"""Arms that every figure shows."""
BUCKETS = {"all": "all", "easy": "easy half", "top50": "hard half", "hard": "top 10 %", "top3": "top 3 %"}
_COLOURS = {"bc": 0, "sac": 1, "bc-sac": 2, "sac-progress": 3, "bc-short": 4, "bc-sac-null": 6, "bc-shuffled": 7}
_GREY = 5
_HALF = (360, 300)
_FAILURE = "scenes with a failure, %"
_PROGRESS = "progress, share of the log's"
_ALONG = {"bc-sac": "imitation_weight", "sac-progress": "progress_weight"}
_CURVES = {
    "actor/bc_nll": ("imitation", "−log likelihood"),
    "critic/loss": ("critic", "loss"),
    "collect/failure": ("failure while collecting", "share"),
    "validation/failure": ("failure in validation", "share"),
    "validation/progress": ("progress in validation", _PROGRESS),
}


def shown(values: dict[str, Any], names: Iterable[str] = MAIN) -> list[str]:
    """Those of the arms that were run."""
    return [name for name in names if name in values["arms"]]


def failure_bars(values: dict[str, Any], metric: str = "failure", *, thumbnail: bool = False) -> str:
    """Rate by group of scenes and arm, with intervals."""
    arms = shown(values, MAIN[:3] if thumbnail else MAIN)
    buckets = {"easy": "easy half", "hard": "hardest 10 %"} if thumbnail else BUCKETS
    series = [
        _with_bounds(arm, list(buckets.values()), [points(rate(values, arm, metric, part)) for part in buckets])
        for arm in arms
    ]
    label = {"failure": _FAILURE, "failure_star": "scenes with failure*, %"}[metric]
    size = (300, 180) if thumbnail else _HALF
    return figure_bars(series, value_label=label, reference=0.0, size=size, thumbnail=thumbnail)


def pareto(values: dict[str, Any]) -> str:
    """Failure against progress in the hardest tenth: a dot a seed, controls as points."""
    series = []
    for arm in shown(values):
        failed, way = 100 * outcomes(values, arm, "failure").mean(1), np.asarray(found_by(values, arm)["progress"])
        series.append(Series(named(arm), way, failed, colour=_COLOURS[arm]))
    for name in values["controls"]:
        failed, way = 100 * outcomes(values, name, "failure").mean(), found_by(values, name)["progress"]
        series.append(Series(name, way, [failed], colour=_GREY))
    return figure_line(series, x_label=_PROGRESS, y_label=_FAILURE, style="labelled", size=(740, 420))


def tuning_curve(values: dict[str, Any], arm: str, metric: str = "failure") -> Float[np.ndarray, "K 3"]:
    """Weight, progress and rate of an arm on validation scenes, means over the tuning's seeds, by weight."""
    rows = [
        (one["value"], float(np.mean(one["progress"])), float(np.mean(one[metric])))
        for one in values["tuning"]
        if one["arm"] == arm and one["field"] == _ALONG[arm]
    ]
    return np.asarray(sorted(rows), float).reshape(-1, 3)


def validation_pareto(values: dict[str, Any]) -> str:
    """The curves of BC-SAC over lambda and of SAC over the weight of progress, on validation scenes."""
    series = []
    for arm, name in (("bc-sac", "BC-SAC, λ"), ("sac-progress", "SAC, weight of progress")):
        curve = tuning_curve(values, arm)
        if len(curve):
            along = f"{name} {curve[0, 0]:g} to {curve[-1, 0]:g}"
            series.append(Series(along, curve[:, 1], 100 * curve[:, 2], colour=_COLOURS[arm]))
    return figure_line(series, x_label=_PROGRESS, y_label=_FAILURE, title="validation scenes", size=(740, 320))


def forest(found: Mapping[str, Interval]) -> str:
    """Differences with their intervals, in points."""
    series = [_with_bounds("", list(found), [points(one) for one in found.values()])]
    label = "BC-SAC less the other, points"
    return figure_bars(series, value_label=label, horizontal=True, reference=0.0, size=(420, 210))


def deciles(values: dict[str, Any], arm: str) -> Float[np.ndarray, " 10"]:
    """Failure by tenth of difficulty in `all`, %; NaN where there is no scene."""
    rank = np.asarray(values["scenes"]["all"]["rank"], float)
    tenth = np.minimum((10 * rank).astype(int), 9)
    rates = outcomes(values, arm, "failure", "all").mean(0)
    return np.asarray([100 * rates[tenth == k].mean() if (tenth == k).any() else math.nan for k in range(10)])


def decile_lines(values: dict[str, Any]) -> str:
    """Failure by tenth of difficulty."""
    series = [Series(named(arm), 10.0 * np.arange(10) + 5, deciles(values, arm), colour=_COLOURS[arm])
              for arm in shown(values)]  # fmt: skip
    return figure_line(series, x_label="difficulty, % of the calibration scenes that are easier", y_label=_FAILURE)


def world_bars(values: dict[str, Any]) -> str:
    """Failure in the hardest tenth among replayed and among reacting others."""
    arms = shown(values, (*MAIN, "bc-short"))
    series = []
    for world, name in (("log", "others from the log"), ("idm", "others by IDM")):
        known = [arm for arm in arms if "hard" in values["arms"][arm]["worlds"].get(world, {})]
        rates = [points(rate(values, arm, "failure", world=world)) for arm in known]
        series.append(_with_bounds(name, [named(arm) for arm in known], rates, len(series)))
    return figure_bars(series, value_label=_FAILURE, reference=0.0, size=(740, 320))


def star_lines(values: dict[str, Any]) -> str:
    """Failure* in the hardest tenth against its threshold."""
    series = []
    for who in (*shown(values), *(name for name in ("brake to stop", "IDM on route") if name in values["controls"])):
        rows = {float(key): 100 * float(np.mean(row)) for key, row in found_by(values, who)["star_at"].items()}
        at = sorted(rows)
        series.append(Series(named(who), at, [rows[key] for key in at], colour=_COLOURS.get(who, 5 + len(series) % 3)))
    label = "share of the log's way below which a scene counts as failed"
    return figure_line(series, x_label=label, y_label="scenes with failure*, %")


def split_bars(values: dict[str, Any]) -> str:
    """Who or what ends the drives in the hardest tenth."""
    arms = shown(values, (*MAIN, "bc-short"))
    kinds: dict[str, Callable[[dict[str, Float[np.ndarray, "S C"]]], Float[np.ndarray, "S C"]]] = {
        "at fault": lambda one: one["at_fault"],
        "off the road": lambda one: one["off_road"],
        "struck": lambda one: one["failure"] * (1 - one["at_fault"]) * (1 - one["off_road"]),
    }
    grids = [{key: outcomes(values, arm, key) for key in ("failure", "at_fault", "off_road")} for arm in arms]
    series = [
        Series(name, [named(arm) for arm in arms], [100 * float(share(one).mean()) for one in grids])
        for name, share in kinds.items()
    ]
    return figure_bars(series, value_label="scenes, %", style="bars", size=(740, 320))


def action_bars(values: dict[str, Any]) -> list[str]:
    """Median and 5 to 95 % of the two actions in the hardest tenth."""
    known = [*shown(values), *(name for name in ("expert replay",) if name in values["controls"])]
    known = [who for who in known if found_by(values, who).get("actions")]
    panels = []
    for k, title in enumerate(("acceleration", "steering")):
        rows = [found_by(values, who)["actions"][k] for who in known]
        y, low, high = ([row[i] for row in rows] for i in (2, 0, 4))
        series = [Series("", [named(who) for who in known], y, low, high)]
        panels.append(figure_bars(series, value_label="u", title=title, horizontal=True, reference=0.0, size=_HALF))
    return panels


def learning_curves(values: dict[str, Any]) -> list[str]:
    """A panel for each measure, a line an arm, mean over seeds."""
    arms = shown(values)
    names = dict.fromkeys(key for arm in arms for key in values["arms"][arm].get("curve", {}) if key != "step")
    panels = []
    for name in names:
        curves = {arm: values["arms"][arm]["curve"] for arm in arms if name in values["arms"][arm].get("curve", {})}
        series = [Series(named(arm), one["step"], one[name], colour=_COLOURS[arm]) for arm, one in curves.items()]
        title, label = _CURVES.get(name, (name, ""))
        panels.append(figure_line(series, x_label="iteration", y_label=label, title=title, size=_HALF))
    return panels


def kind_name(kind: str) -> str:
    """Of a hazard, as read."""
    return kind.removeprefix("hazard-").replace("_", " ")


def discard_bars(values: dict[str, Any]) -> str:
    """Share of the drawn scenes of each kind that the expert fails."""
    drawn, failed = values["data"]["drawn"], values["data"]["failed"]
    share = {kind_name(kind): 100 * failed.get(kind, 0) / n for kind, n in drawn.items() if n}
    order = sorted(share, key=lambda kind: -share[kind])
    series = [Series("", order, [share[kind] for kind in order])]
    return figure_bars(series, value_label="discarded, %", style="bars", horizontal=True)


def _with_bounds(arm: str, labels: list[str], found: list[Interval], colour: int | None = None) -> Series:
    """Estimates with their intervals; without one the bounds are the estimate."""
    y, low, high = ([getattr(one, key) for one in found] for key in ("estimate", "low", "high"))
    low, high = ([b if math.isfinite(b) else v for b, v in zip(side, y, strict=True)] for side in (low, high))
    return Series(named(arm), labels, y, low, high, _COLOURS.get(arm) if colour is None else colour)
