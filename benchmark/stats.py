"""The statistics of the report, over a handful of seeds."""

import numpy as np
from scipy import stats


def difference(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Mean of x minus mean of y, and its 95 % interval, of unequal variance (Welch 1947).

    The interval is NaN where nothing varies, and of fewer than three numbers, of which Student's t
    says nothing but by luck.
    """
    value = x.mean() - y.mean()
    if min(len(x), len(y)) < 3 or np.ptp(x) + np.ptp(y) == 0:
        return value, np.nan, np.nan
    return value, *stats.ttest_ind(x, y, equal_var=False).confidence_interval()


def permutation_p(x: np.ndarray, y: np.ndarray) -> float:
    """Two-sided p of mean(x) - mean(y), were the labels of the numbers drawn at random: exact up to
    ten against ten (184,756 ways), of more from 200,000 draws, always the same ones."""

    def statistic(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return a.mean(axis) - b.mean(axis)

    return stats.permutation_test((x, y), statistic, n_resamples=200_000, rng=0).pvalue


def holm(p: np.ndarray) -> np.ndarray:
    """The p's [K], corrected for there being K of them (Holm 1979), in the same order."""
    order = np.argsort(p)
    steps = p[order] * np.arange(len(p), 0, -1)
    corrected = np.empty_like(steps)
    corrected[order] = np.maximum.accumulate(steps).clip(max=1)
    return corrected
