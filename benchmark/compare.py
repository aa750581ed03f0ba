"""The statistics of the report: intervals, differences and aggregates over a handful of seeds.

One task's mean and difference have Student's t intervals. Of five normal values the percentile
bootstrap's "95 %" interval holds the true mean in 84 % of cases, of three in 72 %; t's in 95 %.
The bootstrap serves where there are more numbers, over several tasks (Agarwal et al. 2021): of
five tasks with five seeds its interval holds the truth in 91 % of cases, a difference's in 93 %.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats


class Estimate(NamedTuple):
    """A mean or a difference of means, with its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float


def mean(x: np.ndarray) -> Estimate:
    """The mean of x [seeds]."""
    if len(x) < 2:
        return Estimate(x.mean(), np.nan, np.nan)
    center = x.mean()
    half = stats.sem(x) * stats.t.ppf(0.975, len(x) - 1)
    return Estimate(center, center - half, center + half)


def difference(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Mean of x minus mean of y, of unequal variance (Welch 1947)."""
    value = x.mean() - y.mean()
    fewest = min(len(x), len(y))
    spread = x.std() + y.std()
    if fewest < 2 or spread == 0:
        return Estimate(value, np.nan, np.nan)
    interval = stats.ttest_ind(x, y, equal_var=False).confidence_interval()
    return Estimate(value, interval.low, interval.high)


def sign_flip(x: np.ndarray) -> float:
    """Exact two-sided p of the mean of x [pairs], had each difference either sign alike."""
    if len(x) < 2:
        return np.nan
    test = stats.permutation_test((x,), np.mean, permutation_type="samples", n_resamples=1e5)
    return test.pvalue


def aggregate(samples: list[np.ndarray], less: list[np.ndarray] | None = None) -> Estimate:
    """Mean over tasks of the mean over seeds, from one array [seeds] per task; with `less` of
    another arm, minus the same of that. The bootstrap is stratified: it draws within each task."""
    tasks = len(samples)
    data = [*samples, *(less or [])]

    def statistic(*arrays: np.ndarray, axis: int = -1) -> np.ndarray:
        means = [x.mean(axis) for x in arrays]
        return (sum(means[:tasks]) - sum(means[tasks:])) / tasks

    value = statistic(*data)
    if min(map(len, data)) < 2:
        return Estimate(value, np.nan, np.nan)
    rng = np.random.default_rng(0)
    result = stats.bootstrap(data, statistic, method="percentile", vectorized=True, rng=rng)
    interval = result.confidence_interval
    return Estimate(value, interval.low, interval.high)
