"""Statistics against closed forms, scipy, hand computation, and their own coverage."""

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats as scipy_stats

from gleanings.core import stats
from gleanings.core.errors import ConfigError, NumericsError
from gleanings.core.stats import (
    Interval,
    bootstrap_ci,
    bootstrap_p_value,
    holm,
    iqm,
    paired_difference,
    probability_of_improvement,
    wilson,
)

Z = scipy_stats.norm.ppf(0.975)


def half_width(interval: Interval) -> float:
    return (interval.high - interval.low) / 2


@pytest.mark.parametrize("size", [1, 3, 4, 7, 8, 101])
def test_iqm_is_the_quarter_trimmed_mean(size):
    x = np.random.default_rng(size).normal(size=(5, size))
    np.testing.assert_allclose(iqm(x, axis=1), scipy_stats.trim_mean(x, 0.25, axis=1), rtol=1e-12)


def test_iqm_over_several_axes_and_over_all():
    x = np.random.default_rng(0).normal(size=(3, 4, 5))
    np.testing.assert_allclose(iqm(x, axis=(0, 2)), [iqm(x[:, j].ravel()) for j in range(4)], rtol=1e-12)
    np.testing.assert_allclose(iqm(x), scipy_stats.trim_mean(x.ravel(), 0.25), rtol=1e-12)


def test_one_level_width_is_that_of_the_closed_form():
    x = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    found = bootstrap_ci(x, draws=8000)
    assert found.estimate == pytest.approx(x.mean())
    assert half_width(found) == pytest.approx(Z * x.std() / 20, rel=0.04)
    assert (found.level, found.n) == (0.95, 400)


def test_other_statistics_and_levels():
    x = np.random.default_rng(2).exponential(size=300)
    median = bootstrap_ci(x, np.median, level=0.9, draws=4000)
    reference = scipy_stats.bootstrap(
        (x,), np.median, confidence_level=0.9, n_resamples=4000, method="percentile", rng=0
    ).confidence_interval
    assert (median.low, median.high) == pytest.approx(tuple(reference), abs=0.02)
    assert bootstrap_ci(x, iqm).estimate == pytest.approx(iqm(x))


def two_level_data(rng, seeds=60, items=40, by_seed=1.0, by_item=1.0, noise=1.0):
    of_seed, of_item = rng.normal(size=(seeds, 1)), rng.normal(size=(1, items))
    return by_seed * of_seed + by_item * of_item + noise * rng.normal(size=(seeds, items))


@pytest.mark.parametrize("crossed", [False, True])
def test_two_level_width_is_that_of_the_closed_form(crossed):
    x = two_level_data(np.random.default_rng(3))
    seeds, items = x.shape
    rows, columns = x.mean(1), x.mean(0)
    if crossed:  # rows and columns drawn independently: three components (Owen 2007)
        rest = x - rows[:, None] - columns[None, :] + x.mean()
        variance = rows.var() / seeds + columns.var() / items + rest.var() / (seeds * items)
    else:  # rows drawn, then the items of each drawn row
        variance = rows.var() / seeds + x.var(axis=1).mean() / (seeds * items)
    found = bootstrap_ci(x, levels=2, crossed=crossed, draws=8000)
    assert half_width(found) == pytest.approx(Z * math.sqrt(variance), rel=0.05)
    assert found.n == seeds


def coverage(data, truth=0.0, repeats=300, **options):
    return np.mean([not bootstrap_ci(data(i), draws=600, seed=i, **options).excludes(truth) for i in range(repeats)])


def test_coverage_on_normal_data():
    assert 0.91 <= coverage(lambda i: np.random.default_rng(i).normal(size=40)) <= 0.98


def test_few_units_need_the_small_sample_widening():
    def five(i):
        return np.random.default_rng(i).normal(size=5)

    assert coverage(five) < 0.88
    assert 0.91 <= coverage(five, small_sample=True) <= 0.99


def test_shared_items_need_crossed_resampling():
    def shared(i):
        return two_level_data(np.random.default_rng(i), seeds=15, items=30, by_seed=0.2, noise=0.3)

    assert coverage(shared, repeats=200, levels=2) < 0.8
    assert coverage(shared, repeats=200, levels=2, crossed=True) >= 0.9


def test_strata_are_resampled_within_themselves():
    rng = np.random.default_rng(4)
    labels = np.repeat(["a", "b"], [200, 100])
    x = rng.normal(size=300) + np.where(labels == "a", 0.0, 100.0)
    variance = sum((np.mean(labels == k) ** 2) * x[labels == k].var() / np.sum(labels == k) for k in "ab")
    assert half_width(bootstrap_ci(x, strata=labels, draws=8000)) == pytest.approx(Z * math.sqrt(variance), rel=0.05)
    assert half_width(bootstrap_ci(x)) > 10 * Z * math.sqrt(variance)


def test_draws_are_vectorised_in_blocks_and_depend_on_the_seed_only(monkeypatch):
    x = np.random.default_rng(5).normal(size=50)
    assert bootstrap_ci(x, seed=1) == bootstrap_ci(list(x), seed=1)
    assert bootstrap_ci(x, seed=1) != bootstrap_ci(x, seed=2)
    sizes = []

    def spy(values, axis=None):
        sizes.append(values.shape)
        return np.mean(values, axis=axis)

    bootstrap_ci(x, spy)
    assert sizes == [(2000, 50), (50,)]
    monkeypatch.setattr(stats, "_BLOCK", 50 * 300)
    sizes.clear()
    small = bootstrap_ci(x, spy)
    assert [shape[0] for shape in sizes] == [300] * 6 + [200, 50]
    assert half_width(small) == pytest.approx(Z * x.std() / math.sqrt(50), rel=0.1)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.2, -0.3])
def test_p_value_is_near_the_closed_form(shift):
    x = np.random.default_rng(6).normal(size=200)
    x = x - x.mean() + shift
    expected = 2 * scipy_stats.norm.sf(abs(shift) / (x.std() / math.sqrt(200)))
    assert bootstrap_p_value(x, draws=20_000) == pytest.approx(expected, abs=0.01)
    assert bootstrap_p_value(x + 7, null=7.0, draws=20_000) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("options", [{}, {"levels": 2}, {"levels": 2, "crossed": True}, {"small_sample": True}])
def test_p_value_agrees_with_the_interval(options):
    rng, decided = np.random.default_rng(7), 0
    for seed in range(60):
        x = rng.normal(0.3, 1.0, size=(8, 5) if "levels" in options else 30)
        p = bootstrap_p_value(x, draws=1000, seed=seed, **options)
        excludes = bootstrap_ci(x, draws=1000, seed=seed, **options).excludes(0.0)
        assert excludes == (p < 0.05) or abs(p - 0.05) < 0.01
        decided += excludes
    assert 5 < decided < 60


def test_p_value_has_a_floor_and_a_ceiling():
    assert bootstrap_p_value(np.linspace(5, 6, 20), draws=999) == pytest.approx(2 / 1000)
    assert bootstrap_p_value([-1.0, 1.0] * 20) <= 1.0


def test_false_positives_on_two_levels_stay_near_the_level():
    found = [
        bootstrap_p_value(two_level_data(np.random.default_rng(i), 25, 8, by_item=0.0), levels=2, draws=400, seed=i)
        for i in range(300)
    ]
    assert 0.01 <= np.mean(np.array(found) < 0.05) <= 0.10


def test_pairing_removes_what_the_pairs_share():
    rng = np.random.default_rng(8)
    shared, gain = rng.normal(0, 10, size=40), rng.normal(0.5, 0.1, size=40)
    found = paired_difference(shared + gain, shared)
    assert found.estimate == pytest.approx(gain.mean())
    assert found.low > 0.4
    assert half_width(found) < 0.1 * half_width(bootstrap_ci(shared))
    with pytest.raises(ConfigError, match=r"shapes \(40,\) and \(39,\)"):
        paired_difference(shared, shared[1:])


def test_probability_of_improvement_is_mann_whitneys_u():
    rng = np.random.default_rng(9)
    a, b = rng.integers(0, 6, size=30).astype(float), rng.integers(0, 5, size=20).astype(float)
    found = probability_of_improvement(a, b)
    assert found.estimate == pytest.approx(scipy_stats.mannwhitneyu(a, b).statistic / 600)
    assert found.low < found.estimate < found.high
    assert found.n == 20


def test_probability_of_improvement_of_shifted_normals():
    rng = np.random.default_rng(10)
    found = probability_of_improvement(rng.normal(1.0, 1.0, size=400), rng.normal(size=400))
    assert not found.excludes(float(scipy_stats.norm.cdf(1 / math.sqrt(2))))
    assert half_width(found) < 0.05


def test_probability_of_improvement_averages_tasks_and_saturates():
    rng = np.random.default_rng(11)
    a, b = rng.normal(size=(12, 3)), rng.normal(size=(9, 3))
    tasks = [probability_of_improvement(a[:, t], b[:, t]) for t in range(3)]
    both = probability_of_improvement(a, b)
    assert both.estimate == pytest.approx(np.mean([task.estimate for task in tasks]))
    assert half_width(both) == pytest.approx(np.sqrt(sum(half_width(t) ** 2 for t in tasks)) / 3, rel=0.1)
    sure = probability_of_improvement([2.0, 3.0], [0.0, 1.0])
    assert (sure.estimate, sure.low, sure.high) == (1.0, 1.0, 1.0)
    with pytest.raises(ConfigError, match="3 tasks in a, 2 in b"):
        probability_of_improvement(a, b[:, :2])


def test_holm_by_hand():
    # Sorted .005 .01 .03 .04 times 4 3 2 1 is .02 .03 .06 .04; the running maximum lifts the last to .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("bad", [[-0.1], [1.1, 0.5], [float("nan")]])
def test_holm_refuses_what_is_no_probability(bad):
    with pytest.raises(ConfigError, match="must lie in"):
        holm(bad)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("successes", "n"), [(0, 5), (5, 5), (3, 17), (500, 1000), (0, 1)])
def test_wilson_is_scipys(successes, n, level):
    reference = scipy_stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    found = wilson(successes, n, level)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=1e-12)
    assert (found.estimate, found.level, found.n) == (successes / n, level, n)


@pytest.mark.parametrize(("successes", "n", "level"), [(1, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)])
def test_wilson_refuses_nonsense(successes, n, level):
    with pytest.raises(ConfigError):
        wilson(successes, n, level)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        ([1.0], {}, "one unit"),
        ([[1.0, 2.0]], {"levels": 2}, "one unit"),
        ([1.0, 2.0, 3.0], {"strata": [0, 0, 1]}, "every stratum"),
        ([1.0, 2.0], {"strata": [0, 0, 1]}, "strata have shape"),
        ([1.0, 2.0], {"levels": 2}, "as many axes"),
        ([[1.0], [2.0]], {}, "as many axes"),
        (np.zeros((3, 0)), {"levels": 2}, "none empty"),
        ([1.0, 2.0], {"draws": 0}, "draws=0"),
        ([1.0, 2.0], {"level": 95.0}, "level=95"),
    ],
)
@pytest.mark.parametrize("function", [bootstrap_ci, bootstrap_p_value])
def test_unusable_data_are_refused(function, x, options, message):
    with pytest.raises(ConfigError, match=message):
        function(x, **options)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_data_are_refused_with_their_number(bad):
    with pytest.raises(NumericsError, match="1 of 3"):
        bootstrap_ci([1.0, bad, 2.0])


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.9234, 0.8912, 0.9534), "0.923 [0.891, 0.953]"),
        ((123.4, 101.0, 158.0), "123 [101, 158]"),
        ((-24.77, -25.01, -24.5), "-24.77 [-25.01, -24.50]"),
        ((0.5, 0.5, 0.5), "0.5 [0.5, 0.5]"),
        ((2e-9, 1e-9, 3e-9), "2.000e-09 [1.000e-09, 3.000e-09]"),
    ],
)
def test_intervals_print_two_digits_of_their_width(values, text):
    assert str(Interval(*values, level=0.95, n=3)) == text


def test_excludes_only_what_lies_outside():
    found = Interval(1.0, 0.5, 2.0, 0.95, 4)
    assert [found.excludes(value) for value in (0.4, 0.5, 2.0, 2.1)] == [True, False, False, True]


def test_stats_report_and_study_load_neither_jax_nor_matplotlib():
    code = (
        "import sys, gleanings.core.stats, gleanings.core.report, gleanings.core.study, gleanings.studies;"
        "print([name for name in ('jax', 'matplotlib', 'jinja2', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
