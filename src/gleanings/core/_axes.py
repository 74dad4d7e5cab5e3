"""Axes of the house figures: logarithmic scales, labels, title and legend."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gleanings.core._svg import TEXT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def label_axis(axis: Any, labels: Sequence[str]) -> None:
    """Names instead of numbers on an axis, without ticks or grid."""
    axis.set_ticks(range(len(labels)), labels)
    axis.set_tick_params(length=0)
    axis.grid(False)


def log_axes(axes: "Axes", log: str, x_values: Sequence[float] = ()) -> None:
    """Logarithmic scales with plain numbers, at the x values themselves where these are few."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

    for name in log:
        axis = axes.xaxis if name == "x" else axes.yaxis
        (axes.set_xscale if name == "x" else axes.set_yscale)("log")
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
        if name == "x" and 1 < len(x_values) <= 8:
            axis.set_major_locator(FixedLocator(list(x_values)))
            axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(_power))
        axis.set_minor_formatter(NullFormatter())


def _power(value: float, _position: Any = None) -> str:
    """0.001 to 9999 as they are, other values as a power of ten in plain characters, not mathtext."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:g}"
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    factor = f"{value / 10**exponent:.2g}"
    return ("" if factor == "1" else f"{factor}·") + "10" + str(exponent).translate(_SUPERSCRIPT)


def label_points(figure: "Figure", axes: "Axes", points: Sequence[tuple[str, float, float]]) -> None:
    """Names beside their points (x, y), moved down where they would cover one another."""
    figure.canvas.draw()
    on_canvas = axes.transData.transform(np.array([(x, y) for _, x, y in points]).reshape(-1, 2))
    taken: list[tuple[float, float]] = []
    for i in np.argsort(-on_canvas[:, 1], kind="stable"):
        (x, y), shift = on_canvas[i], 0.0
        while any(abs(x - a) < 90 and abs(y + shift - b) < 13 for a, b in taken):
            shift -= 3
        taken.append((x, y + shift))
        name, *_ = points[i]
        axes.annotate(name, points[i][1:], (8, shift), textcoords="offset points", va="center", fontsize=11, color=TEXT)


def finish(
    figure: "Figure", axes: "Axes", title: str, x_label: str, y_label: str, thumbnail: bool, legend: bool = True
) -> None:
    """Title, legend in rows above the axes, and axis labels; a thumbnail has the title only."""
    handles, labels = axes.get_legend_handles_labels()
    rows = 0
    if legend and len(labels) > 1 and not thumbnail:
        columns = max(1, int(figure.get_size_inches()[0] * 72 - 80) // (7 * max(map(len, labels)) + 46))
        rows = math.ceil(len(labels) / columns)
        axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns)
    axes.set_title(title, pad=8 + 19 * rows)
    if thumbnail:
        return
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
