"""Intervals over independent units, tests over independent blocks, variance by source: pure functions.

A *unit* is one (train seed, split, target), method seeds averaged inside it; a *block* is one original model, because
units that share it are not independent.
"""

import math
from functools import cache

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.95
LEAST_UNITS = 3  # for an interval
LEAST_SEEDS = {"train": 5, "split": 3, "seed": 3}  # for variance by source; the last is the method's


def half_width(values: pd.Series) -> float:
    """Return half of the 95 % t-interval of a mean, t·s/√n: 2.48·s for n = 3, 1.24·s for n = 5; NaN for n < 3."""
    n = values.count()
    return quantile(n) * float(values.std()) / math.sqrt(n) if n >= LEAST_UNITS else math.nan


@cache
def quantile(n: int) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, n - 1))


def sign(values: pd.Series) -> int:
    """Return 1 or -1 if the interval lies above or below 0; 0 if it holds 0, or if there is none."""
    mean, half = values.mean(), half_width(values)
    return int(mean - half > 0) - int(mean + half < 0)


def text(values: pd.Series, *, signed: bool = False) -> str:
    """Return `mean ± half of the interval`; the values alone for one or two of them.

    >>> text(pd.Series([1.0, 2.0, 3.0])), text(pd.Series([1.0, 2.5]), signed=True), text(pd.Series([math.nan]))
    ('2.00 ± 2.48', '+1.00; +2.50', '')
    """
    form = "+.2f" if signed else ".2f"
    if values.count() < LEAST_UNITS:
        return "; ".join(format(x, form) for x in values.dropna())
    return f"{values.mean():{form}} ± {half_width(values):.2f}"


def pseudo_values(distances: np.ndarray) -> np.ndarray:
    """Return the jackknife's pseudo-values (n,) of the mean distance of two of n models (Tukey 1958).

    Their mean is that of all pairs, and their spread gives its error although pairs share models: with U the mean over
    all pairs and U_i that without model i, value i is n·U − (n − 1)·U_i. NaN if a pair lacks or n < 3.

    Args:
        distances: (n, n), symmetric; the diagonal does not count.
    """
    n, pairs = len(distances), np.where(np.eye(len(distances), dtype=bool), 0.0, distances)
    if n < LEAST_UNITS:
        return np.full(n, math.nan)
    without = (pairs.sum() - 2 * pairs.sum(axis=1)) / ((n - 1) * (n - 2))
    return np.asarray(pairs.sum() / (n - 1) - (n - 1) * without)


def enough_blocks(n: int, comparisons: int) -> bool:
    """Return whether n blocks can show a difference at all: the least exact p of Wilcoxon's test, 2/2ⁿ, under Holm.

    >>> [next(n for n in range(99) if enough_blocks(n, m)) for m in (4, 7, 9, 14)]
    [8, 9, 9, 10]
    """
    return comparisons > 0 and 2 / 2**n <= (1 - LEVEL) / comparisons


def friedman(values: pd.DataFrame) -> tuple[float, float]:
    """Return F and p of Friedman's test in the form of Iman and Davenport (1980).

    Args:
        values: one row per block, one column per method (three or more), nothing missing.
    """
    n, k = values.shape
    chi2 = float(stats.friedmanchisquare(*values.to_numpy().T).statistic)
    rest = n * (k - 1) - chi2
    f = math.inf if math.isclose(rest, 0, abs_tol=1e-9) else (n - 1) * chi2 / rest
    return f, float(stats.f.sf(f, k - 1, (k - 1) * (n - 1)))


def wilcoxon_holm(values: pd.DataFrame, control: str) -> pd.Series:
    """Return, by method, the p of Wilcoxon's signed-rank test against `control`, corrected by Holm's step-down method.

    Zeros are split, ties get mid-ranks; up to 13 blocks the null is exact, by all changes of sign.
    """
    method = stats.PermutationMethod(n_resamples=9_999) if len(values) <= 13 else "auto"
    differences = values.drop(columns=control).sub(values[control], axis="index")
    p = differences.apply(lambda x: stats.wilcoxon(x, zero_method="zsplit", method=method).pvalue if x.any() else 1.0)
    return (p.sort_values() * np.arange(len(p), 0, -1)).cummax().clip(upper=1.0).reindex(p.index)


def critical_difference(k: int, n: int) -> float:
    """Return Nemenyi's critical difference of mean ranks of k methods over n blocks (Demšar 2006).

    >>> round(critical_difference(5, 10), 1), round(critical_difference(10, 20), 1)
    (1.9, 3.0)
    """
    return float(stats.studentized_range.ppf(LEVEL, k, math.inf)) * math.sqrt(k * (k + 1) / (12 * n))


def variance_by_source(values: pd.DataFrame) -> tuple[dict[str, int], dict[str, float]]:
    """Return the numbers of seeds, and the variance of `gap` due to train seeds, splits inside them and method seeds.

    Nested sums of squares, method of moments; a negative estimate is 0. Splits with too few method seeds go, then train
    seeds with too few splits (`LEAST_SEEDS`); the rest is cut to what all have. If that is not enough, there is no
    variance, and the numbers are the largest that were found.

    Args:
        values: columns train, split, seed and gap.
    """
    inside = {"seed": ["train", "split"], "split": ["train"]}
    sizes = {name: values.groupby(outer)[name].nunique().max() for name, outer in inside.items()}
    sizes["train"] = values["train"].nunique()
    for name, outer in inside.items():
        values = values[values.groupby(outer)[name].transform("nunique") >= LEAST_SEEDS[name]]
        if values.empty:
            return sizes, {}
        groups = values.groupby(outer)[name]
        sizes[name] = groups.nunique().min()
        values = values[groups.rank(method="dense") <= sizes[name]]
    sizes["train"] = values["train"].nunique()
    if sizes["train"] < LEAST_SEEDS["train"]:
        return sizes, {}
    by_split, j, k = values.groupby(["train", "split"])["gap"], sizes["split"], sizes["seed"]
    splits = by_split.mean().groupby("train")
    within_split, within_train = by_split.var().mean(), k * splits.var().mean()
    found = {"train": splits.mean().var() - within_train / (j * k), "split": (within_train - within_split) / k}
    return sizes, {name: max(0.0, float(variance)) for name, variance in (found | {"seed": within_split}).items()}
