"""Statistics over seeds agree with SciPy and NumPy, at any scale."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy import stats

from genbench.report.intervals import (
    Sample,
    half_width,
    p_value,
    quantile,
    ranks,
    welch,
    welch_half_width,
)


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_half_width_is_that_of_students_t_interval(n):
    x = np.random.default_rng(n).normal(3, 2, n)
    low, high = stats.t.interval(0.95, n - 1, x.mean(), stats.sem(x))
    assert half_width(x.std(ddof=1), n) == pytest.approx((high - low) / 2, rel=1e-12)


def test_one_seed_has_no_interval():
    assert math.isnan(half_width(np.array(0.0), np.array(1)))


def sample(*groups) -> Sample:
    parts = np.array([(np.mean(g), np.std(g, ddof=1) if len(g) > 1 else np.nan, len(g)) for g in groups]).T
    return Sample(*(parts if len(groups) > 1 else parts[:, 0]))


@pytest.mark.parametrize("seed", range(5))
def test_welch_agrees_with_scipy(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 1, 2 + seed), rng.normal(1, 3, 4)
    difference, stderr, freedom = welch(sample(a), sample(b))
    theirs = stats.ttest_ind(b, a, equal_var=False)
    low, high = theirs.confidence_interval(0.95)
    assert freedom == pytest.approx(theirs.df, rel=1e-12)
    assert p_value(difference, stderr, freedom) == pytest.approx(theirs.pvalue, rel=1e-9)
    half = welch_half_width(stderr, freedom)
    assert (difference - half, difference + half) == pytest.approx((low, high), rel=1e-9)


def test_without_spread_p_is_1_for_equal_means_and_0_for_different_ones():
    same, other = Sample(*np.array([2.0, 0.0, 3])), Sample(*np.array([2.1, 0.0, 3]))
    assert p_value(*welch(same, same)) == 1
    assert p_value(*welch(same, other)) == 0


@pytest.mark.parametrize("better", ["lower", "higher"])
@pytest.mark.parametrize("seed", range(4))
def test_rank_is_one_plus_the_number_of_significantly_better_rows_and_monotone_in_the_mean(better, seed):
    rng = np.random.default_rng(seed)
    groups = [
        rng.normal(mean, 0.3, n) for mean, n in zip(rng.normal(0, 1, 9), [2, 3, 3, 3, 4, 5, 3, 3, 8], strict=True)
    ]
    sign = 1 if better == "lower" else -1

    def beats(a, b) -> bool:
        return sign * (b.mean() - a.mean()) > 0 and stats.ttest_ind(a, b, equal_var=False).pvalue < 0.05

    beaten = [1 + sum(beats(other, group) for other in groups) for group in groups]
    expected = [
        max(b for b, a in zip(beaten, groups, strict=True) if sign * (x.mean() - a.mean()) >= 0) for x in groups
    ]
    assert ranks(sample(*groups), better).tolist() == expected
    assert max(expected) > 1


def test_rows_without_a_significant_difference_share_a_rank():
    tied = sample([1.0, 1.1, 1.2], [1.05, 1.1, 1.16], [9.0, 9.1, 9.2])
    assert ranks(tied, "lower").tolist() == [1, 1, 3]


@pytest.mark.parametrize(("better", "sign"), [("lower", 1.0), ("higher", -1.0)])
def test_scattered_seeds_do_not_lift_a_row_above_a_better_mean(better, sign):
    rows = np.array([[1.0, 1.001, 1.002], [1.1, 1.101, 1.102], [0.9, 1.2, 2.1]])
    assert ranks(sample(*(sign * rows)), better).tolist() == [1, 2, 2]


@pytest.mark.parametrize("q", [0, 0.2, 0.5, 0.8, 1])
def test_quantile_agrees_with_numpy(q):
    x = tuple(np.random.default_rng(0).normal(size=7))
    assert quantile(x, q) == pytest.approx(np.quantile(x, q), rel=1e-12)
    assert quantile((2.0,), q) == 2.0


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1.0, 1e200, 1e307])
def test_ranks_and_tests_do_not_depend_on_the_scale_of_values(scale):
    rng = np.random.default_rng(0)
    groups = [rng.normal(mean, 0.1, 4) for mean in (1.0, 1.05, 2.0, 3.0)]

    def sample(by: float) -> Sample:
        return Sample(*np.array([(np.mean(g) * by, np.std(g, ddof=1) * by, len(g)) for g in groups]).T)

    with warnings.catch_warnings(action="error"):
        assert ranks(sample(scale), "lower").tolist() == ranks(sample(1.0), "lower").tolist()
        first, last = (Sample(*(part[i] for part in sample(scale))) for i in (0, 1))
        p = p_value(*welch(first, last))
    if scale > 1e-300:  # smaller numbers have few digits
        assert p == pytest.approx(stats.ttest_ind(groups[0], groups[1], equal_var=False).pvalue, rel=1e-6)


def test_ranks_do_not_depend_on_the_block_size(monkeypatch):
    rng = np.random.default_rng(1)
    many = Sample(rng.normal(0, 3, 700), rng.uniform(0.1, 1, 700), np.full(700, 3.0))
    blocks = ranks(many, "higher")
    monkeypatch.setattr("genbench.report.intervals.BLOCK", 1000)
    assert ranks(many, "higher").tolist() == blocks.tolist()
    assert len(set(blocks)) > 10
