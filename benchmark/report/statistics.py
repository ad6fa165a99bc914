"""Estimates over independent units, tests over independent blocks, variance by source: pure functions.

A *unit* is one (train seed, split, target), method seeds averaged inside it; a *block* is one original model, because
units that share it are not independent.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.95
LEAST_UNITS = 3  # for an interval
LEAST_SEEDS = {"train": 5, "split": 3, "method": 3}  # for variance by source


@dataclass(frozen=True)
class Estimate:
    """The mean of independent values, with the half-width of its 95 % t-interval from three values on (else NaN)."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: pd.Series) -> "Estimate":
        """Return the estimate over the values that are there."""
        numbers = values.to_numpy(dtype=float)
        return cls(tuple(numbers[~np.isnan(numbers)].tolist()))

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return float(np.mean(self.values)) if self.values else math.nan

    @property
    def half(self) -> float:
        """t·s/√n, s the sample standard deviation: 2.48·s for n = 3, 1.24·s for n = 5."""
        if self.n < LEAST_UNITS:
            return math.nan
        quantile = float(stats.t.ppf((1 + LEVEL) / 2, self.n - 1))
        return quantile * float(np.std(self.values, ddof=1)) / math.sqrt(self.n)

    @property
    def sign(self) -> int:
        """1 or -1 if the interval lies above or below 0; 0 if it holds 0, or if there is none."""
        return (self.mean - self.half > 0) - (self.mean + self.half < 0)

    def text(self, *, signed: bool = False) -> str:
        """Return `mean ± half`; the values alone for one or two of them.

        >>> Estimate((1.0, 2.0, 3.0)).text(), Estimate((1.0, 2.5)).text(signed=True), Estimate(()).text()
        ('2.00 ± 2.48', '+1.00; +2.50', '')
        """
        form = "+.2f" if signed else ".2f"
        if self.n < LEAST_UNITS:
            return "; ".join(format(x, form) for x in self.values)
        return f"{self.mean:{form}} ± {self.half:.2f}"


def pseudo_values(distances: np.ndarray) -> np.ndarray:
    """Return the jackknife's pseudo-values of the mean distance of two of n models (Tukey 1958).

    Their mean is that of all pairs, and their spread gives its error although pairs share models: with U the mean over
    all pairs and U_i that without model i, value i is n·U − (n − 1)·U_i.

    Args:
        distances: (n, n), symmetric; the diagonal does not count.

    Returns:
        (n,), NaN for fewer than three models or if a pair is not there.
    """
    n = len(distances)
    pairs = np.where(np.eye(n, dtype=bool), 0.0, distances)
    if n < LEAST_UNITS or np.isnan(pairs).any():
        return np.full(n, math.nan)
    without = (pairs.sum() - 2 * pairs.sum(axis=1)) / ((n - 1) * (n - 2))
    result: np.ndarray = n * pairs.sum() / (n * (n - 1)) - (n - 1) * without
    return result


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
    if k < 3:
        raise ValueError(f"Expected three methods or more for Friedman's test, but got {k}; use wilcoxon_holm.")
    chi2 = float(stats.friedmanchisquare(*values.to_numpy().T).statistic)
    rest = n * (k - 1) - chi2
    f = math.inf if math.isclose(rest, 0, abs_tol=1e-9) else (n - 1) * chi2 / rest
    return f, float(stats.f.sf(f, k - 1, (k - 1) * (n - 1)))


def wilcoxon_holm(values: pd.DataFrame, control: str) -> pd.Series:
    """Return, by method, the p of Wilcoxon's signed-rank test against `control`, corrected by Holm.

    Zeros are split, ties get mid-ranks; up to 13 blocks the null is exact, by all changes of sign.
    """
    method = stats.PermutationMethod(n_resamples=9_999) if len(values) <= 13 else "auto"
    p = {}
    for name in values.columns.drop(control):
        difference = values[name] - values[control]
        test = stats.wilcoxon(difference, zero_method="zsplit", method=method)
        p[name] = float(test.pvalue) if difference.any() else 1.0
    return holm(pd.Series(p, dtype=float))


def holm(p: pd.Series) -> pd.Series:
    """Return p-values corrected for their number by Holm's step-down method.

    >>> holm(pd.Series([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    ordered = p.sort_values()
    factors = np.arange(len(p), 0, -1)
    return (ordered * factors).cummax().clip(upper=1.0).reindex(p.index)


def critical_difference(k: int, n: int) -> float:
    """Return Nemenyi's critical difference of mean ranks of k methods over n blocks (Demšar 2006).

    >>> round(critical_difference(5, 10), 1), round(critical_difference(10, 20), 1)
    (1.9, 3.0)
    """
    return float(stats.studentized_range.ppf(LEVEL, k, math.inf)) * math.sqrt(k * (k + 1) / (12 * n))


def variance_by_source(values: pd.DataFrame) -> dict[str, float]:
    """Return the variance due to `train`, `split` (within train) and `method` (within split) seeds.

    Nested sums of squares, method of moments; a negative estimate is 0. The last one holds what is left, too.

    Args:
        values: columns train, split, method and value; every train seed with the same number J of splits, every split
            with the same number K of method seeds. See `balanced`.

    Raises:
        ValueError: with fewer seeds than `LEAST_SEEDS`, or another number of them in some places.
    """
    by_split = values.groupby(["train", "split"])["value"]
    splits = by_split.mean().groupby("train")
    counts = {"train": {splits.ngroups}, "split": set(splits.size()), "method": set(by_split.size())}
    sizes = {name: min(found, default=0) for name, found in counts.items()}
    if any(len(found) != 1 or sizes[name] < LEAST_SEEDS[name] for name, found in counts.items()):
        raise ValueError(f"Expected {seeds_text(LEAST_SEEDS)} in each or more, but got {seeds_text(sizes)}; run more.")
    j, k = sizes["split"], sizes["method"]
    within_split = by_split.var(ddof=1).mean()
    within_train = k * splits.var(ddof=1).mean()
    between = j * k * splits.mean().var(ddof=1)
    found = {
        "train": (between - within_train) / (j * k),
        "split": (within_train - within_split) / k,
        "method": within_split,
    }
    return {name: max(0.0, float(value)) for name, value in found.items()}


def balanced(values: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the part of `values` that is enough for `variance_by_source`, and its numbers of seeds.

    Splits with too few method seeds go, then train seeds with too few splits; the rest is cut to the smallest number.
    If nothing is left, the numbers are the largest that were found.
    """
    inner = (("method", ["train", "split"]), ("split", ["train"]))
    most = {name: int(values.groupby(outer)[name].nunique().max()) for name, outer in inner if len(values)}
    sizes = {"train": int(values["train"].nunique()), "split": 0, "method": 0} | most
    for name, outer in inner:
        groups = values.groupby(outer)[name]
        values = values[groups.transform("nunique") >= LEAST_SEEDS[name]]
        if values.empty:
            return values, sizes
        groups = values.groupby(outer)[name]
        sizes[name] = int(groups.nunique().min())
        values = values[groups.rank(method="dense") <= sizes[name]]
    return values, sizes | {"train": int(values["train"].nunique())}


def seeds_text(sizes: Mapping[str, int]) -> str:
    """Return the numbers of seeds in words.

    >>> seeds_text(LEAST_SEEDS)
    '5 train seeds, 3 splits and 3 method seeds'
    """
    return f"{sizes['train']} train seeds, {sizes['split']} splits and {sizes['method']} method seeds"


def cliques(ranks: pd.Series, difference: float) -> list[tuple[float, float]]:
    """Return first and last rank of each largest group of methods whose ranks differ by less than `difference`."""
    ordered: Sequence[float] = sorted(ranks)
    groups = [(low, max(x for x in ordered if x - low < difference)) for low in ordered]
    return [(low, high) for low, high in groups if low < high and not any(a < low and high <= b for a, b in groups)]
