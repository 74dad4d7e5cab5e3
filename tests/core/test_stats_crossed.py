"""The crossed two-level bootstrap against all its resamples, closed forms, and its own coverage."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from gleanings.core.errors import ConfigError, NumericsError
from gleanings.core.stats import crossed_difference

ZERO = np.zeros((2, 3))


def enumerated(grid, groups, weights):
    """Standard deviation of theta over all equally likely resamples of seeds and of items within groups."""
    seeds = list(itertools.product(range(len(grid)), repeat=len(grid)))
    of_groups = [list(itertools.product(group, repeat=len(group))) for group in groups]
    found = []
    for rows in seeds:
        for drawn in itertools.product(*of_groups):
            pairs = [item for items in drawn for item in items]
            # Items of a group share their weight.
            shares = [weights[item] for group in groups for item in group]
            found.append(np.mean([sum(w * grid[s, c] for w, c in zip(shares, pairs, strict=True)) for s in rows]))
    return np.std(found), len(found)


@pytest.mark.parametrize(
    ("groups", "weights", "count"),
    [([[0, 1, 2]], [1 / 3] * 3, 4 * 27), ([[0, 2], [1, 3]], [0.5, -0.5, 0.5, -0.5], 4 * 16)],
)
def test_every_resample_enumerated(groups, weights, count):
    grid = np.random.default_rng(0).normal(size=(2, len(weights)))
    labels = np.zeros(len(weights), int)
    for label, group in enumerate(groups):
        labels[group] = label
    spread, number = enumerated(grid, groups, weights)
    found = crossed_difference(grid, 0 * grid, labels, weights=weights, draws=200_000)
    assert number == count
    assert found.se == pytest.approx(spread * math.sqrt(2), rel=0.01)
    assert found.estimate == pytest.approx((grid * weights).sum(1).mean())
    t = scipy_stats.t(1)
    assert found.low == pytest.approx(found.estimate - t.ppf(0.975) * found.se)
    assert found.high == pytest.approx(found.estimate + t.ppf(0.975) * found.se)
    assert found.p_less == pytest.approx(t.cdf(found.estimate / found.se))
    assert found.mde80 == pytest.approx((t.ppf(0.975) + t.ppf(0.8)) * found.se)


@pytest.mark.parametrize("seeds", [3, 8])
def test_without_item_noise_it_is_the_t_test_of_the_seeds(seeds):
    of_seed = np.random.default_rng(seeds).normal(-0.5, size=(seeds, 1))
    found = crossed_difference(of_seed + np.zeros(40), np.zeros((seeds, 40)), draws=40_000)
    assert found.se == pytest.approx(of_seed.std(ddof=1) / math.sqrt(seeds), rel=0.02)
    reference = scipy_stats.ttest_1samp(of_seed[:, 0], 0, alternative="less").pvalue
    assert found.p_less == pytest.approx(reference, rel=0.06)
    assert found.per_seed == pytest.approx(tuple(of_seed[:, 0]))


def test_width_is_that_of_the_components():
    rng = np.random.default_rng(1)
    grid = rng.normal(size=(40, 1)) + rng.normal(size=(1, 60)) + rng.normal(size=(40, 60))
    rows, columns = grid.mean(1), grid.mean(0)
    rest = grid - rows[:, None] - columns + grid.mean()
    variance = rows.var() / 40 + columns.var() / 60 + rest.var() / 2400
    found = crossed_difference(grid, np.zeros_like(grid), draws=20_000)
    assert found.se == pytest.approx(math.sqrt(variance * 40 / 39), rel=0.03)


def test_pairs_cancel_and_equal_sides_are_even():
    shared = np.random.default_rng(2).normal(size=(3, 20))
    same = crossed_difference(shared, shared)
    assert (same.estimate, same.se, same.p_less) == (0.0, 0.0, 0.5)
    less = crossed_difference(shared - 1, shared)
    assert less.p_less < 1e-6
    assert crossed_difference(shared, shared - 1).p_less > 1 - 1e-6
    assert less.iqm == pytest.approx(-1)


def test_one_seed_says_what_it_leaves_out():
    grid = np.random.default_rng(3).normal(size=(1, 200))
    found = crossed_difference(grid, 0 * grid)
    assert found.se == pytest.approx(grid.std() / math.sqrt(200), rel=0.05)
    assert found.high - found.estimate == pytest.approx(1.96 * found.se, rel=1e-3)
    assert "one seed" in str(found)
    assert "one seed" not in str(crossed_difference(np.ones((2, 3)), ZERO))


def test_strata_keep_what_lies_between_them_out_of_the_error():
    rng = np.random.default_rng(4)
    labels = np.repeat(["a", "b", "alone"], [31, 29, 1])
    grid = rng.normal(size=(5, 61)) + np.where(labels == "a", 0.0, 100.0)
    assert crossed_difference(grid, 0 * grid, labels).se < 1.5
    assert crossed_difference(grid, 0 * grid).se > 4


def test_draws_come_in_blocks_and_depend_on_the_seed_only(monkeypatch):
    grid = np.random.default_rng(5).normal(size=(4, 50))
    whole = crossed_difference(grid, 0 * grid, seed=1)
    assert whole == crossed_difference(grid, 0 * grid, seed=1)
    monkeypatch.setattr("gleanings.core.stats._BLOCK", 50 * 300)
    assert crossed_difference(grid, 0 * grid, seed=1).se == pytest.approx(whole.se, rel=0.05)


def test_clusters_of_one_item_are_items():
    rng = np.random.default_rng(6)
    grid, labels = rng.normal(size=(5, 90)), np.repeat(["a", "b"], 45)
    weights = np.where(labels == "a", 2 / 90, -2 / 90)
    for share in (None, weights):
        plain = crossed_difference(grid, 0 * grid, labels, weights=share, draws=20_000)
        found = crossed_difference(grid, 0 * grid, labels, weights=share, clusters=np.arange(90), draws=20_000)
        assert found.estimate == pytest.approx(plain.estimate)
        assert found.per_seed == pytest.approx(plain.per_seed)
        assert found.se == pytest.approx(plain.se, rel=0.05)


def test_clusters_of_unequal_size_are_drawn_as_a_ratio():
    """Against the ratio of sums of each resample, and its standard error in closed form."""
    rng = np.random.default_rng(7)
    sizes = rng.integers(1, 12, 400)
    index = np.repeat(np.arange(400), sizes)
    grid = np.repeat(100 + rng.normal(size=(1, 400)), sizes, axis=1) + np.zeros((200, 1))
    found = crossed_difference(grid, 0 * grid, clusters=index)
    sums = np.bincount(index, grid[0])
    residual = sums - grid[0].mean() * sizes
    closed = math.sqrt(400 / 399 * (residual**2).sum()) / len(index)
    drawn = rng.integers(400, size=(4000, 400))
    ratios = sums[drawn].sum(1) / sizes[drawn].sum(1)
    assert found.estimate == pytest.approx(grid.mean())
    assert found.se == pytest.approx(closed, rel=0.05)
    assert found.se == pytest.approx(ratios.std(), rel=0.08)


def test_two_clusters_a_stratum_have_the_variance_of_their_difference():
    labels = np.repeat(np.arange(50), 2)
    row = np.random.default_rng(8).normal(size=100)
    grid = row + np.zeros((200, 1))
    found = crossed_difference(grid, 0 * grid, labels, clusters=np.arange(100))
    # Var of the mean of two, estimated by (x - y)^2 / 4 a stratum.
    centred = row - row.mean()
    closed = math.sqrt(((centred[::2] - centred[1::2]) ** 2 / 4).sum()) / 50
    assert found.se == pytest.approx(closed, rel=0.05)


def test_a_cluster_shared_by_both_sides_of_a_contrast_cancels():
    effect = np.random.default_rng(9).normal(size=60)
    grid = np.tile(effect, (4, 2))
    weights = np.repeat([1 / 60, -1 / 60], 60)
    shared, apart = np.tile(np.arange(60), 2), np.arange(120)
    assert crossed_difference(grid, 0 * grid, weights=weights, clusters=shared).se < 1e-6
    assert crossed_difference(grid, 0 * grid, weights=weights, clusters=apart).se > 0.1


@pytest.mark.parametrize(
    ("a", "options", "message"),
    [
        (np.zeros((2, 4)), {}, "shapes"),
        (ZERO[0], {}, "shapes"),
        (ZERO, {"strata": [0, 1]}, "strata have shape"),
        (ZERO, {"weights": [1.0]}, "weights have shape"),
        (ZERO, {"level": 2.0}, "level"),
        (ZERO, {"clusters": [0, 1]}, "clusters have shape"),
        (ZERO, {"clusters": [0, 0, 0]}, "at least 2"),
        (ZERO, {"clusters": [0, 1, 1], "strata": [0, 0, 1]}, "several strata"),
    ],
)
def test_unusable_grids_are_refused(a, options, message):
    with pytest.raises(ConfigError, match=message):
        crossed_difference(a, ZERO, **options)


def test_what_is_not_finite_is_refused():
    with pytest.raises(NumericsError, match="1 of 6"):
        crossed_difference([[0, 1, math.nan], [0, 0, 0]], ZERO)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(("by_seed", "by_item", "noise"), [(1, 0, 0.1), (1, 1, 1), (0.2, 1, 1), (0.3, 0.3, 2)])
def test_coverage_with_few_seeds(seeds, by_seed, by_item, noise):
    hits = []
    for repeat in range(400):
        rng = np.random.default_rng(repeat)
        grid = by_seed * rng.normal(size=(seeds, 1)) + by_item * rng.normal(size=(1, 60))
        grid = grid + noise * rng.normal(size=(seeds, 60))
        hits.append(not crossed_difference(grid, 0 * grid, draws=1000, seed=repeat).interval.excludes(0.0))
    assert np.mean(hits) >= 0.92


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 8])
@pytest.mark.parametrize("by_seed", [0.02, 0.3])
def test_coverage_with_clusters_of_unequal_size(seeds, by_seed):
    hits = np.zeros(2)
    for repeat in range(400):
        rng = np.random.default_rng(repeat)
        index = np.repeat(np.arange(60), rng.integers(1, 15, 60))
        strata, effect = index % 3, rng.normal(size=60)
        grid = by_seed * rng.normal(size=(seeds, 1)) + effect[index] + rng.normal(size=(seeds, len(index)))
        for row, labels in enumerate((None, index)):
            found = crossed_difference(grid, 0 * grid, strata, clusters=labels, draws=1000, seed=repeat)
            hits[row] += not found.interval.excludes(0.0)
    plain, clustered = hits / 400
    assert clustered >= 0.92
    if (seeds, by_seed) == (8, 0.02):  # elsewhere the seeds decide the width
        assert plain < 0.8
