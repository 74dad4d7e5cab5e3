"""The three kinds of figure in reports and docs: lines or points, labelled estimates, and a heat map."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from gleanings.core._axes import finish, label_axis, label_points, log_axes
from gleanings.core._svg import FAINT, MARKERS, PALETTE, TEXT, colour, drawing, to_svg
from gleanings.core.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = Sequence[float | int | None] | np.ndarray


@dataclass(frozen=True)
class Series:
    """Named points (x, y), with optional bounds [low, high] on y. In `figure_bars` x holds the labels.

    `colour` is an index into the palette; None takes the position in the figure. NaN or None in y is a gap.
    """

    name: str
    x: Sequence[Any] | np.ndarray
    y: Values
    low: Values | None = None
    high: Values | None = None
    colour: int | None = None


def figure_line(
    series: Sequence[Series],
    *,
    x_label: str = "",
    y_label: str = "",
    title: str = "",
    style: Literal["line", "points", "labelled"] = "line",
    log: Literal["", "x", "y", "xy"] = "",
    reference: float | None = None,
    size: tuple[int, int] = (740, 350),
    thumbnail: bool = False,
) -> str:
    """SVG of y against x: `line` with a band for the bounds, `points` with error bars, or `labelled` points.

    Names stand beside their points; where several series have more than one point, those of these in the legend.

    `log` names the logarithmic axes; `reference` draws a horizontal line; `size` is in CSS pixels, and two
    figures 360 wide stand side by side; a `thumbnail` drops legend and axis labels.
    ConfigError: the lengths within a series differ.
    """
    with drawing(size, thumbnail) as figure:
        axes = figure.subplots()
        if reference is not None:
            axes.axhline(reference, color=FAINT, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1.5)
        most = 1 if style == "labelled" and sum(len(one.x) > 1 for one in series) > 1 else math.inf
        beside = [one for one in series if style == "labelled" and 0 < len(one.x) <= most]
        for i, one in enumerate(series):
            label = "_" if style == "labelled" and len(one.x) <= most else one.name  # the legend leaves "_" out
            _draw_series(axes, replace(one, name=label), _arrays(one), i if one.colour is None else one.colour, style)
        log_axes(axes, log, () if style == "labelled" else sorted({float(x) for one in series for x in one.x}))
        if style == "labelled":
            axes.margins(x=0.18, y=0.12)
            label_points(figure, axes, [(one.name, float(one.x[-1]), float(one.y[-1] or 0.0)) for one in beside])
        finish(figure, axes, title, x_label, y_label, thumbnail)
        return to_svg(figure, title or f"{y_label} against {x_label}")


def figure_bars(
    series: Sequence[Series],
    *,
    value_label: str = "",
    title: str = "",
    style: Literal["points", "bars"] = "points",
    horizontal: bool = False,
    log: bool = False,
    reference: float | None = None,
    size: tuple[int, int] | None = None,
    thumbnail: bool = False,
) -> str:
    """SVG of one estimate a label and series, as a point or a bar from 0, with its interval.

    Labels keep the order of first appearance; `horizontal` lists them from top to bottom, for many or long
    ones, and by default grows with their number. `reference` draws a line at that value.
    ConfigError: the lengths within a series differ.
    """
    labels = list(dict.fromkeys(label for one in series for label in one.x))
    tall = 90 + len(labels) * max(22, 13 * len(series) + 8)
    with drawing(size or ((740, tall) if horizontal else (740, 350)), thumbnail) as figure:
        axes = figure.subplots()
        if reference is not None:
            line = axes.axvline if horizontal else axes.axhline
            line(reference, color=FAINT, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1.5)
        for i, one in enumerate(series):
            step = min(0.8 / len(series), 0.8 if style == "bars" else 0.22)
            where = np.array([labels.index(label) for label in one.x]) + (i - (len(series) - 1) / 2) * step
            _draw_estimates(axes, one, where, i, style, horizontal, step)
        if log:
            log_axes(axes, "x" if horizontal else "y")
        label_axis(axes.yaxis if horizontal else axes.xaxis, labels)
        if horizontal:
            axes.set_ylim(len(labels) - 0.5, -0.5)
        else:
            axes.set_xlim(-0.5, len(labels) - 0.5)
        finish(figure, axes, title, *((value_label, "") if horizontal else ("", value_label)), thumbnail)
        return to_svg(figure, title or value_label)


def figure_heatmap(
    values: ArrayLike,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    value_label: str = "",
    title: str = "",
    centre: float | None = None,
    size: tuple[int, int] | None = None,
) -> str:
    """SVG of values [rows, columns] as coloured cells with their numbers.

    `centre` makes the scale diverge from that value. Cells that are NaN stay empty.
    ConfigError: the labels do not match the shape.
    """
    cells = np.asarray(values, float)
    if cells.shape != (len(rows), len(columns)):
        raise ConfigError(f"figure_heatmap: values {cells.shape}, labels ({len(rows)}, {len(columns)})")
    with drawing(size or (740, 90 + 30 * len(rows))) as figure:
        axes = figure.subplots()
        mesh = axes.pcolormesh(np.ma.masked_invalid(cells), cmap="cividis" if centre is None else "PuOr")
        if centre is not None:
            reach = float(np.nanmax(np.abs(cells - centre))) or 1.0
            mesh.set_clim(centre - reach, centre + reach)
        mesh.set_rasterized(cells.size > 2500)
        axes.invert_yaxis()
        axes.grid(False)
        axes.spines[:].set_visible(False)
        for axis, labels in ((axes.xaxis, columns), (axes.yaxis, rows)):
            axis.set_ticks(np.arange(len(labels)) + 0.5, labels, rotation=0)
            axis.set_tick_params(length=0)
        for (i, j), value in np.ndenumerate(cells) if cells.size <= 400 else ():
            if np.isfinite(value):
                dark = np.dot(mesh.to_rgba(value)[:3], (0.299, 0.587, 0.114)) < 0.5
                ink = "#ffffff" if dark else "#111111"
                axes.text(
                    j + 0.5, i + 0.5, f"{value:.3g}".replace("-", "−"), ha="center", va="center", color=ink, fontsize=11
                )
        bar = figure.colorbar(mesh, ax=axes, label=value_label, aspect=30, pad=0.02)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        axes.set_title(title)
        return to_svg(figure, title or value_label)


def _arrays(one: Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, low and high as floats of one length; without bounds they equal y."""
    y = np.asarray(one.y, float)
    low, high = (y if bound is None else np.asarray(bound, float) for bound in (one.low, one.high))
    if not len(one.x) == len(y) == len(low) == len(high):
        raise ConfigError(f"series {one.name!r}: x, y, low and high differ in length")
    return y, low, high


def _draw_series(
    axes: "Axes", one: Series, data: tuple[np.ndarray, np.ndarray, np.ndarray], index: int, style: str
) -> None:
    y, low, high = data
    x, ink, marker = np.asarray(one.x, float), colour(index), MARKERS[index % len(MARKERS)]
    bounded = one.low is not None or one.high is not None
    if style == "line":
        few = marker if len(x) <= 12 else ""
        axes.plot(x, y, color=ink, marker=few, label=one.name, linestyle=_dash(index))
        if bounded:
            axes.fill_between(x, low, high, color=ink, alpha=0.16, linewidth=0)
        return
    axes.plot(x, y, color=ink, marker=marker, linestyle="", label=one.name, markersize=6.5)
    if bounded:
        axes.vlines(x, low, high, color=ink, linewidth=1.6)


def _draw_estimates(
    axes: "Axes", one: Series, where: np.ndarray, position: int, style: str, horizontal: bool, width: float
) -> None:
    y, low, high = _arrays(one)
    index = one.colour if one.colour is not None else position
    ink = colour(index)
    if style == "bars":
        draw = axes.barh if horizontal else axes.bar
        draw(where, y, width, color=ink, alpha=0.85, label=one.name)
    else:
        points = (y, where) if horizontal else (where, y)
        axes.plot(*points, color=ink, marker=MARKERS[index % 8], linestyle="", label=one.name, zorder=3, markersize=6)
    if one.low is not None or one.high is not None:
        lines = axes.hlines if horizontal else axes.vlines
        lines(where, low, high, color=TEXT if style == "bars" else ink, linewidth=1.8)


def _dash(index: int) -> Any:
    """Solid for the first colours; dashed once the palette starts again."""
    return "-" if index < len(PALETTE) else (0, (5, 2))
