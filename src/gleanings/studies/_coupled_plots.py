"""The figures of the study of coupled gradients."""

from typing import Any

import numpy as np

from gleanings.core.report import Series, figure_bars, figure_line
from gleanings.core.stats import Interval, bootstrap_ci
from gleanings.studies._coupled_judge import as_ratio, interval_of, log_ratios, ratios_by_checkpoint
from gleanings.studies._coupled_setup import NEW, PAPER, RIVALS, label

_HALF = (365, 340)
_COLOURS = {"rloo-2": 5, "null": 5, "iw": 0, "sb": 1, "tree": 2, "rloo-4": 4, "reinmax": 3, "local": 6}
_COLOURS |= {"coupled-4": 0, "coupled-4-stick": 1, "pairs-4": 4, "coupled-8": 0, "coupled-8-stick": 1, "pairs-8": 2}
_COLOURS |= {"ars": 3, "ars+": 6, "arsm": 7, "gumbel": 4, "straight-through": 7}


def ratio_panels(values: dict[str, Any]) -> list[str]:
    """Variance over that of RLOO by checkpoint, one panel for each number of evaluations; what is far above 1 apart."""
    panels = {
        "2 evaluations": (*PAPER, "null"),
        "4 evaluations": NEW[:2],
        "8 evaluations": NEW[2:],
        "Averaged pairs and rivals": ("pairs-4", "pairs-8", *RIVALS),
    }
    drawn = []
    for title, names in panels.items():
        series = [ratio_series(values, name) for name in names if name in values["basket"]]
        if series:
            log = title.startswith("Averaged")
            options: dict[str, Any] = {"title": title, "reference": 1.0, "size": _HALF, "log": log}
            drawn.append(figure_bars(series, value_label="variance / RLOO", **options))
    return drawn


def ratio_series(values: dict[str, Any], name: str) -> Series:
    """The ratio of one estimator at every checkpoint, with its interval."""
    steps = values["checkpoints"]
    pairs = zip(steps, ratios_by_checkpoint(values, name), strict=True)
    measured = {f"step {step:,}": interval for step, interval in pairs if interval}
    return _series(short(name), list(measured), list(measured.values()), _COLOURS.get(name))


def variance_against_evaluations(values: dict[str, Any]) -> str:
    """Variance at the last checkpoint against the number of evaluations, both logarithmic."""
    points = {name: cell for name, cell in values["basket"].items() if name != "null"}
    points |= {name: cell for name, cell in values["context"].items() if name == "local"}
    groups = {"RLOO": "rloo", "paper's coupled pairs": PAPER, "CoupledLOO": NEW, "averaged pairs": "pairs"}
    groups |= {"ARS, ARS+, ARSM": RIVALS, "LocalExpectation (oracle)": ("local",)}
    series = []
    for i, (name, members) in enumerate(groups.items()):
        chosen = [key for key in points if (key.startswith(members) if isinstance(members, str) else key in members)]
        chosen.sort(key=lambda key: points[key]["evaluations"])
        if chosen:
            x = [points[key]["evaluations"] for key in chosen]
            series.append(
                Series(name, x, [geometric_mean(points[key]) for key in chosen], colour=(5, 0, 2, 4, 7, 6)[i])
            )
    return figure_line(
        series, x_label="evaluations of f", y_label="variance, nats²", title="", style="points", log="xy"
    )


def bias_against_variance(values: dict[str, Any]) -> str:
    """Relative bias against variance at the last checkpoint; unbiased estimators lie at 0 by C1."""
    cells = values["context"] | {name: values["basket"][name] for name in ("rloo-2", "tree", "coupled-8", "ars")}
    series = []
    for name, cell in cells.items():
        bias = float(np.mean(cell.get("relative_bias", 0.0)))
        series.append(Series(short(name), [geometric_mean(cell)], [bias], colour=_COLOURS.get(name)))
    return figure_line(series, x_label="variance, nats²", y_label="relative bias", style="labelled", log="x")


def training_curves(values: dict[str, Any]) -> list[str]:
    """Training ELBO against steps and against seconds, mean over seeds with its interval."""
    by_steps, by_seconds = [], []
    for name, curve in values["training"].items():
        elbo, steps = np.asarray(curve["elbo"], float), np.asarray(curve["steps"], float)
        later = steps > steps[-1] / 10  # the first tenth would set the scale
        intervals = [_mean(column) for column in elbo[:, later].T]
        colour = _COLOURS.get(name)
        by_steps.append(_series(short(name), steps[later].tolist(), intervals, colour))
        seconds = steps[later] * curve["milliseconds_per_step"] / 1e3
        by_seconds.append(_series(short(name), seconds.tolist(), intervals, colour))
    options: dict[str, Any] = {"y_label": "training ELBO, nats", "size": _HALF}
    return [
        figure_line(by_steps, x_label="steps", **options),
        figure_line(by_seconds, x_label="seconds of training, one seed", **options),
    ]


def overview(values: dict[str, Any]) -> str:
    """The ratios of the coupled estimators at the last checkpoint, small."""
    names = [name for name in (*PAPER, *NEW) if name in values["basket"]]
    intervals = [as_ratio(interval_of(log_ratios(values, name))) for name in names]
    series = _series("variance / RLOO", [short(name) for name in names], intervals, 0)
    return figure_bars(
        [series], value_label="variance / RLOO", horizontal=True, reference=1.0, size=(300, 190), thumbnail=True
    )


def short(name: str) -> str:
    """The name of an estimator without the paper's prefix, for legends."""
    return (
        label(name)
        .removeprefix("DisARM-")
        .replace("CoupledLOO", "Coupled")
        .replace("Tree pairs, averaged", "Tree pairs")
    )


def geometric_mean(cell: dict[str, Any]) -> float:
    """Variance at the last checkpoint, geometric mean over seeds and images, in nats squared."""
    log_variance = np.asarray(cell["log_variance"], float)
    return float(np.exp((log_variance[-1] if log_variance.ndim == 3 else log_variance).mean()))


def _mean(x: np.ndarray) -> Interval:
    if len(x) == 1:
        return Interval(float(x[0]), float("nan"), float("nan"), 0.95, 1)
    return bootstrap_ci(x, small_sample=True)


def _series(name: str, x: list[Any], intervals: list[Interval], colour: int | None) -> Series:
    bounds = ([getattr(i, field) for i in intervals] for field in ("estimate", "low", "high"))
    return Series(name, x, *bounds, colour=colour)
