"""Estimates with their uncertainty: bootstrap intervals and tests, Wilson's interval, Holm's correction.

A bootstrap here is vectorised over its draws and is a pure function of (data, seed). It resamples the first
axis (seeds, runs, problems); an interval says nothing about what was not resampled.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from gleanings.core.errors import ConfigError, NumericsError

Statistic = Callable[..., Any]
_BLOCK = 8_000_000  # numbers resampled at once, which bounds the memory of a bootstrap to about 64 MB


@dataclass(frozen=True)
class Interval:
    """An estimate, its `level` confidence interval [low, high], and `n`, the number of units behind it."""

    estimate: float
    low: float
    high: float
    level: float
    n: int

    def excludes(self, value: float) -> bool:
        """Whether `value` lies outside [low, high]; False when a bound is NaN."""
        return value < self.low or value > self.high

    def __str__(self) -> str:
        """`estimate [low, high]`, rounded so that the width keeps two significant digits."""
        width = self.high - self.low
        if not math.isfinite(width) or width <= 0:
            return f"{self.estimate:.3g} [{self.low:.3g}, {self.high:.3g}]"
        decimals = 1 - math.floor(math.log10(width))
        if decimals > 6:
            return f"{self.estimate:.3e} [{self.low:.3e}, {self.high:.3e}]"
        d = max(decimals, 0)
        return f"{self.estimate:.{d}f} [{self.low:.{d}f}, {self.high:.{d}f}]"


def iqm(x: ArrayLike, axis: int | tuple[int, ...] | None = None) -> Any:
    """Interquartile mean over `axis`: the mean after dropping floor(n/4) values at either end.

    Source: Agarwal et al. 2021, arXiv 2108.13264, section 4.3.
    """
    values = np.asarray(x, float)
    axes = tuple(range(values.ndim)) if axis is None else np.atleast_1d(axis)
    values = np.moveaxis(values, tuple(axes), tuple(range(-len(axes), 0)))
    values = np.sort(values.reshape(*values.shape[: values.ndim - len(axes)], -1), axis=-1)
    cut = values.shape[-1] // 4
    return values[..., cut : values.shape[-1] - cut].mean(-1)


def bootstrap_ci(
    x: ArrayLike,
    statistic: Statistic = np.mean,
    *,
    levels: Literal[1, 2] = 1,
    crossed: bool = False,
    strata: ArrayLike | None = None,
    draws: int = 2000,
    level: float = 0.95,
    small_sample: bool = False,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of `statistic(x, axis=...)`; its `n` is the length of x.

    levels=1: x is [n]; the n values are resampled. levels=2: x is [seeds, items]; seeds are resampled, then
    items: anew within every drawn seed, or, with `crossed`, once for all seeds, which is right when column j
    is the same item in every seed. `strata` [n] labels the first axis, resampled within each label.
    Percentile intervals are too narrow for few units (5 normal values: 83 % coverage, not 95 %);
    `small_sample` widens them about the estimate by sqrt(n/(n-1)) t/z, which restores coverage, and is
    conservative where the items cause most of the variation.
    ConfigError: a wrong shape, or fewer than 2 units to resample. NumericsError: NaN or infinity in x.
    Source: Davison & Hinkley 1997, sections 2.4, 3.2, 3.8; `crossed`: Owen 2007, arXiv 0706.4005;
    `small_sample`: ours, after Hesterberg 2015, arXiv 1411.5279.
    """
    values, labels = _checked(x, levels, strata, draws, level)
    estimate, samples = _distribution(values, labels, statistic, crossed, draws, level, small_sample, seed)
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), level, len(values))


def bootstrap_p_value(
    x: ArrayLike,
    statistic: Statistic = np.mean,
    *,
    null: float = 0.0,
    levels: Literal[1, 2] = 1,
    crossed: bool = False,
    strata: ArrayLike | None = None,
    draws: int = 2000,
    level: float = 0.95,
    small_sample: bool = False,
    seed: int = 0,
) -> float:
    """Two-sided p-value of 'the statistic equals `null`', by inversion of the interval of `bootstrap_ci`.

    With equal arguments it is below 1 - level when the interval excludes `null`, up to one draw in `draws`.
    It is at least 2 / (draws + 1): pass more draws before correcting many values with `holm`. `level` matters
    only to `small_sample`. Errors as in `bootstrap_ci`.
    Source: Davison & Hinkley 1997, section 4.2.5, equation 4.11.
    """
    values, labels = _checked(x, levels, strata, draws, level)
    _, samples = _distribution(values, labels, statistic, crossed, draws, level, small_sample, seed)
    tail = min(np.count_nonzero(samples <= null), np.count_nonzero(samples >= null))
    return min(1.0, 2 * (1 + tail) / (draws + 1))


def paired_difference(a: ArrayLike, b: ArrayLike, statistic: Statistic = np.mean, **options: Any) -> Interval:
    """Interval of statistic(a - b), where a and b have one shape and equal positions share seed and item.

    `options` are those of `bootstrap_ci`. ConfigError when the shapes differ. Source: ours.
    """
    first, second = np.asarray(a, float), np.asarray(b, float)
    if first.shape != second.shape:
        raise ConfigError(f"paired_difference: shapes {first.shape} and {second.shape} differ; pair the runs")
    return bootstrap_ci(first - second, statistic, **options)


@dataclass(frozen=True)
class Difference:
    """A - B over seeds and items that both share, from `crossed_difference`.

    estimate: the (weighted) mean. se: its standard error; low, high: the interval at `level`. p_less: one-sided p-value
    of 'A < B'. mde80: the difference that a test at this level finds in 80 % of repetitions. per_seed: mean of each
    seed; iqm: interquartile mean of these. seeds, items: how many. note: what the interval does not cover, or "".
    """

    estimate: float
    se: float
    low: float
    high: float
    level: float
    p_less: float
    mde80: float
    per_seed: tuple[float, ...]
    iqm: float
    seeds: int
    items: int
    note: str = ""

    @property
    def interval(self) -> Interval:
        """Estimate and interval; its n is the number of seeds."""
        return Interval(self.estimate, self.low, self.high, self.level, self.seeds)

    def __str__(self) -> str:
        """`estimate [low, high], p(A < B), MDE80, seeds x items` and the note."""
        text = f"{self.interval}, p(A < B) = {self.p_less:.2g}, MDE80 {self.mde80:.2g}, {self.seeds} x {self.items}"
        return f"{text} ({self.note})" if self.note else text


def crossed_difference(
    a: ArrayLike,
    b: ArrayLike,
    strata: ArrayLike | None = None,
    *,
    weights: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    draws: int = 5000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """A - B of two grids [S, C], where equal positions share seed and item, by a crossed two-level bootstrap.

    A draw resamples the seeds, and the items within each of the `strata` [C] (one of a single item joins the smallest
    other). theta: mean of the grid, or the sum over items of `weights` [C] times the mean over seeds, as for a contrast
    of two groups. SE = sd(theta*) sqrt(S / (S - 1)), interval theta +- t SE, p = T(theta / SE), mde80 = (t + t_.8) SE
    with S - 1 degrees of freedom: percentile intervals are too narrow for few seeds. One seed: items alone are
    resampled, with normal quantiles, and the note says so. `clusters` [C] label items that are drawn together, such as
    scenes of one map, each within a stratum: whole clusters are resampled, each group of equal sign of weight as a
    ratio to first order, so that unequal sizes add no variance; few clusters in a stratum are corrected for.
    ConfigError: shapes that differ or are empty, one item or cluster in all, a cluster in two strata. NumericsError:
    NaN or infinity.
    Source: ours; crossed resampling: Owen 2007, arXiv 0706.4005; t quantiles: Hesterberg 2015, arXiv 1411.5279;
    clusters: Rao & Wu 1988, JASA 83, 231-241.
    """
    first, second = np.asarray(a, float), np.asarray(b, float)
    if first.shape != second.shape or first.ndim != 2:
        raise ConfigError(f"crossed_difference: shapes {first.shape} and {second.shape}; need two equal [seeds, items]")
    grid = (first - second).T
    _, labels = _checked(grid, 2, None if strata is None else _pooled(strata), draws, level)
    items, seeds = grid.shape
    share = np.full(items, 1 / items) if weights is None else np.asarray(weights, float)
    if share.shape != (items,):
        raise ConfigError(f"crossed_difference: weights have shape {share.shape}, there are {items} items")
    weighted = grid * share[:, None]
    per_seed = weighted.sum(0)
    if clusters is not None:
        weighted, labels = _cluster_sums(weighted, share, labels if strata is None else strata, clusters)
        _checked(weighted, 2, labels, draws, level)
    rng = np.random.default_rng(seed)
    samples = np.concatenate(list(_crossed_means(weighted, labels, draws, rng, corrected=clusters is not None)))
    theta, spread = float(per_seed.mean()), float(samples.std())
    if seeds == 1:
        se, note = spread, "one seed: the interval says nothing about other seeds"
        t, t80, tail = (float(f) for f in (*special.ndtri([(1 + level) / 2, 0.8]), special.ndtr(_ratio(theta, se))))
    else:
        se, note = spread * math.sqrt(seeds / (seeds - 1)), ""
        t, t80 = (float(f) for f in special.stdtrit(seeds - 1, [(1 + level) / 2, 0.8]))
        tail = float(special.stdtr(seeds - 1, _ratio(theta, se)))
    values = tuple(per_seed.tolist())
    return Difference(
        theta,
        se,
        theta - t * se,
        theta + t * se,
        level,
        tail,
        (t + t80) * se,
        values,
        float(iqm(per_seed)),
        seeds,
        items,
        note,
    )


def probability_of_improvement(
    a: ArrayLike, b: ArrayLike, *, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """P(A > B) + P(A = B) / 2 for independent runs a [n] and b [m], which is Mann-Whitney's U / nm.

    Given [n, tasks] and [m, tasks] it is the average over tasks; runs are resampled within task and side.
    `n` of the result is min(n, m). Errors as in `bootstrap_ci`.
    Source: Agarwal et al. 2021, arXiv 2108.13264, section 4.3.
    """
    first, _ = _checked(_columns(a), 2, None, draws, level)
    second, _ = _checked(_columns(b), 2, None, draws, level)
    if first.shape[1] != second.shape[1]:
        raise ConfigError(f"probability_of_improvement: {first.shape[1]} tasks in a, {second.shape[1]} in b")
    rng = np.random.default_rng(seed)
    n, m, tasks = len(first), len(second), first.shape[1]
    estimate, samples = 0.0, np.zeros(draws)
    for x, y in zip(first.T, second.T, strict=True):
        wins = (np.sign(x[:, None] - y[None, :]) + 1) / 2
        estimate += wins.mean() / tasks
        # How often a resample holds each run is multinomial, which makes one draw a bilinear form in `wins`.
        of_a, of_b = (rng.multinomial(k, np.full(k, 1 / k), draws) / k for k in (n, m))
        samples += np.einsum("rn,nm,rm->r", of_a, wins, of_b, optimize=True) / tasks
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(estimate), float(low), float(high), level, min(n, m))


def holm(p_values: ArrayLike) -> list[float]:
    """Holm's step-down adjusted p-values in the order given; compare them with the family-wise level.

    ConfigError when a value is not in [0, 1]. Source: Holm 1979, Scand. J. Statist. 6, 65-70.
    """
    p = np.asarray(p_values, float)
    if not np.all((p >= 0) & (p <= 1)):
        raise ConfigError(f"holm: p-values must lie in [0, 1], got {p_values}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted.tolist()


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion of `successes` in `n` trials.

    ConfigError unless 0 <= successes <= n and n >= 1. Source: Wilson 1927, JASA 22, 209-212.
    """
    if not (n >= 1 and 0 <= successes <= n):
        raise ConfigError(f"wilson: need 0 <= successes <= n and n >= 1, got {successes} of {n}")
    _check_level(level)
    z, p = float(special.ndtri((1 + level) / 2)), successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half), level, n)


def _checked(
    x: ArrayLike, levels: int, strata: ArrayLike | None, draws: int, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Data as float64 and one integer stratum a unit, or the error that says what is wrong with them."""
    values = np.asarray(x, float)
    labels = np.zeros(len(values) if values.ndim else 0, int)
    if levels not in (1, 2) or values.ndim != levels or values.size == 0:
        raise ConfigError(f"bootstrap: levels={levels} needs as many axes, none empty, got shape {values.shape}")
    if strata is not None:
        labels = np.unique(np.asarray(strata), return_inverse=True)[1]
    if labels.shape != values.shape[:1]:
        raise ConfigError(f"bootstrap: strata have shape {labels.shape}, the data have {len(values)} units")
    if np.bincount(labels).min() < 2:
        raise ConfigError("bootstrap: one unit shows no variation; need at least 2 (in every stratum)")
    if draws < 1:
        raise ConfigError(f"bootstrap: draws={draws}; need at least 1, usually 2000")
    _check_level(level)
    if not np.isfinite(values).all():
        raise NumericsError(f"bootstrap: {np.count_nonzero(~np.isfinite(values))} of {values.size} values")
    return values, labels


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"level={level}; a confidence level lies between 0 and 1, such as 0.95")


def _columns(x: ArrayLike) -> np.ndarray:
    values = np.asarray(x, float)
    return values[:, None] if values.ndim == 1 else values


def _distribution(
    values: np.ndarray,
    labels: np.ndarray,
    statistic: Statistic,
    crossed: bool,
    draws: int,
    level: float,
    small_sample: bool,
    seed: int,
) -> tuple[float, np.ndarray]:
    """The estimate, and `draws` bootstrap values of the statistic around it."""
    axes = tuple(range(1, values.ndim + 1))
    resamples = _resamples(values, labels, crossed, draws, np.random.default_rng(seed))
    samples = np.concatenate([np.asarray(statistic(block, axis=axes), float) for block in resamples])
    estimate, n, tail = float(statistic(values)), len(values), (1 + level) / 2
    if small_sample:
        student, normal = special.stdtrit(n - 1, tail), special.ndtri(tail)
        samples = estimate + (samples - estimate) * math.sqrt(n / (n - 1)) * student / normal
    return estimate, samples


def _resamples(
    values: np.ndarray, labels: np.ndarray, crossed: bool, draws: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Blocks [r, *values.shape] of resampled data whose r add up to `draws`."""
    block = max(1, _BLOCK // values.size)
    for start in range(0, draws, block):
        r = min(block, draws - start)
        rows = np.empty((r, len(values)), int)
        for members in (np.flatnonzero(labels == label) for label in np.unique(labels)):
            rows[:, members] = members[rng.integers(len(members), size=(r, len(members)))]
        if values.ndim == 1:
            yield values[rows]
            continue
        shape = (r, 1 if crossed else len(values), values.shape[1])
        yield values[rows[:, :, None], rng.integers(values.shape[1], size=shape)]


def _ratio(value: float, scale: float) -> float:
    return value / scale if scale > 0 else math.copysign(math.inf, value) if value else 0.0


def _pooled(strata: ArrayLike) -> np.ndarray:
    """Labels in which no stratum has a single unit, unless it is the only one: it joins the smallest other."""
    labels = np.unique(np.asarray(strata), return_inverse=True)[1].copy()
    while True:
        names, sizes = np.unique(labels, return_counts=True)
        if len(names) < 2 or sizes.min() > 1:
            return labels
        smallest, next_one = names[np.argsort(sizes, kind="stable")[:2]]
        labels[labels == smallest] = next_one


def _cluster_sums(
    weighted: np.ndarray, share: np.ndarray, strata: ArrayLike, clusters: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Sums [clusters, seeds] over items of what resampling adds to a ratio to first order, and strata of clusters.

    A seed's whole sum is spread evenly over the clusters: the number of clusters drawn never changes.
    """
    of_item = np.unique(np.asarray(strata), return_inverse=True)[1]
    names, first, index = np.unique(np.asarray(clusters), return_index=True, return_inverse=True)
    if index.shape != share.shape:
        raise ConfigError(f"crossed_difference: clusters have shape {index.shape}, there are {len(share)} items")
    if np.any(of_item[first][index] != of_item):
        raise ConfigError("crossed_difference: a cluster has items of several strata; put the stratum into its label")
    centred = weighted.copy()
    for group in (share > 0, share < 0):
        centred[group] -= np.outer(share[group], weighted[group].sum(0) / (share[group].sum() or 1.0))
    sums = np.zeros((len(names), weighted.shape[1]))
    np.add.at(sums, index, centred)
    return sums + weighted.sum(0) / len(names), _pooled(of_item[first])


def _crossed_means(
    weighted: np.ndarray, labels: np.ndarray, draws: int, rng: np.random.Generator, *, corrected: bool
) -> Iterator[np.ndarray]:
    """Blocks of the sum over items of the mean over seeds of weighted values [items, seeds], both resampled.

    How often a resample holds each unit is all that counts, so that a draw is a bilinear form in the values.
    `corrected`: the k units of a stratum vary by sqrt(k / (k - 1)) more, which makes the variance unbiased.
    """
    items, seeds = weighted.shape
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    block = max(1, _BLOCK // items)
    for start in range(0, draws, block):
        r = min(block, draws - start)
        of_items = np.empty((r, items), np.float32)
        for rows in members:
            more = math.sqrt(len(rows) / (len(rows) - 1)) if corrected else 1.0
            of_items[:, rows] = 1 + more * (_counts(len(rows), r, rng) - 1)
        of_seeds = _counts(seeds, r, rng) / seeds
        yield np.einsum("rs,rs->r", of_items @ weighted, of_seeds)


def _counts(units: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of `units` is held by `draws` resamples of as many: [draws, units]."""
    cells = rng.integers(units, size=(draws, units)) + units * np.arange(draws)[:, None]
    return np.bincount(cells.ravel(), minlength=draws * units).reshape(draws, units)
