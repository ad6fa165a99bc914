"""Statistics against closed forms, tables of the literature and simulations whose answer is known."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmark.report.statistics import (
    LEAST_SEEDS,
    critical_difference,
    enough_blocks,
    friedman,
    half_width,
    pseudo_values,
    sign,
    text,
    variance_by_source,
    wilcoxon_holm,
)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(("n", "factor"), [(3, 2.48), (5, 1.24), (10, 0.72), (20, 0.47)])
def test_half_an_interval_is_that_many_standard_deviations(n, factor):
    values = pd.Series(rng().normal(size=n))
    assert half_width(values) / values.std() == pytest.approx(factor, abs=0.005)


@pytest.mark.parametrize(("values", "shown"), [((), ""), ((1.5, math.nan), "1.50"), ((1.5, 2.5), "1.50; 2.50")])
def test_fewer_than_three_values_have_no_interval_and_tell_nothing_apart(values, shown):
    series = pd.Series(values, dtype=float)
    assert text(series) == shown
    assert math.isnan(half_width(series))
    assert sign(series) == 0


def test_a_sign_needs_an_interval_beside_0():
    assert [sign(pd.Series(x)) for x in ((5.0, 6.0, 7.0), (-5.0, -6.0, -7.0), (1.0, 2.0, 3.0))] == [1, -1, 0]


def distances(positions: np.ndarray) -> np.ndarray:
    return np.abs(positions[:, None] - positions[None, :])


def test_pseudo_values_average_to_the_mean_distance_of_all_pairs():
    found = pseudo_values(distances(np.array([0.0, 1.0, 5.0])))  # distances 1, 5, 4, so the mean is 10/3
    assert found == pytest.approx([10 - 2 * 4, 10 - 2 * 5, 10 - 2 * 1])
    assert found.mean() == pytest.approx(10 / 3)


def test_two_models_or_a_missing_pair_have_no_pseudo_values():
    assert np.isnan(pseudo_values(distances(np.array([0.0, 1.0])))).all()
    holed = distances(np.arange(4.0))
    holed[0, 1] = holed[1, 0] = math.nan
    assert np.isnan(pseudo_values(holed)).all()


def test_their_interval_holds_the_mean_distance_although_pairs_share_models():
    """Two draws of a normal distribution lie 2/√π apart; mean distances per model, as they are, hold it too rarely."""
    truth, covered, naive = 2 / math.sqrt(math.pi), [], []
    for positions in rng().normal(size=(400, 6)):
        matrix = distances(positions)
        for kept, values in ((covered, pseudo_values(matrix)), (naive, matrix.sum(axis=1) / 5)):
            kept.append(abs(values.mean() - truth) <= half_width(pd.Series(values)))
    assert np.mean(covered) > 0.9
    assert np.mean(naive) < 0.8


def test_three_to_five_blocks_are_never_enough():
    assert not any(enough_blocks(n, m) for n in range(6) for m in range(1, 20))
    assert enough_blocks(6, 1)
    assert not enough_blocks(20, 0)


def test_friedman_is_the_form_of_iman_and_davenport():
    values = pd.DataFrame(rng().normal(size=(12, 4)))
    n, k = values.shape
    ranks = values.rank(axis=1).sum()
    chi2 = 12 / (n * k * (k + 1)) * (ranks**2).sum() - 3 * n * (k + 1)
    f, p = friedman(values)
    assert f == pytest.approx((n - 1) * chi2 / (n * (k - 1) - chi2))
    assert p == pytest.approx(stats.f.sf(f, 3, 33))


def test_blocks_that_all_agree_are_as_far_from_chance_as_can_be():
    assert friedman(pd.DataFrame([[1.0, 2.0, 3.0]] * 9)) == (math.inf, 0.0)


def test_wilcoxon_is_exact_and_corrected_by_holm():
    values = pd.DataFrame(rng().normal(size=(10, 3)), columns=["ssd", "near", "far"])
    values["far"] = values["ssd"] + np.arange(1, 11)
    found = wilcoxon_holm(values, "ssd")
    near = stats.wilcoxon(values["near"] - values["ssd"], method="exact").pvalue
    assert found.to_dict() == pytest.approx({"near": max(near, 2 * 2 / 2**10), "far": 2 * 2 / 2**10})


def test_equal_methods_are_not_told_apart_and_zeros_are_split():
    values = pd.DataFrame({"ssd": np.zeros(9), "same": np.zeros(9), "often": [0.0, 0, 0, 0, 0, 0, 0, 1, 2]})
    found = wilcoxon_holm(values, "ssd")
    assert found["same"] == 1
    assert found["often"] > 0.4


def test_holm_keeps_the_order_and_never_exceeds_bonferroni():
    values = pd.DataFrame(rng().normal(size=(20, 9)) + np.linspace(0, 2, 9)).rename(columns={0: "ssd"})
    plain = {x: stats.wilcoxon(values[x] - values["ssd"], zero_method="zsplit").pvalue for x in range(1, 9)}
    p, corrected = pd.Series(plain), wilcoxon_holm(values, "ssd")
    assert corrected[p.sort_values().index].is_monotonic_increasing
    assert corrected.min() == pytest.approx(8 * p.min())
    assert (corrected >= p - 1e-12).all()
    assert (corrected <= np.minimum(1, 8 * p) + 1e-12).all()


@pytest.mark.parametrize(("k", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (8, 3.031), (10, 3.164)])
def test_the_critical_difference_is_that_of_demsar_2006(k, q):
    assert critical_difference(k, 14) == pytest.approx(q * math.sqrt(k * (k + 1) / (6 * 14)), rel=5e-4)


def nested(i: int, j: int, k: int, *sd: float) -> pd.DataFrame:
    """Return values of i train seeds, j splits and k method seeds, each source with its standard deviation."""
    noise, index = rng(), pd.MultiIndex.from_product([range(i), range(j), range(k)], names=LEAST_SEEDS)
    parts = (
        sd[0] * noise.normal(size=(i, 1, 1)),
        sd[1] * noise.normal(size=(i, j, 1)),
        sd[2] * noise.normal(size=(i, j, k)),
    )
    return pd.DataFrame({"gap": sum(parts).ravel()}, index=index).reset_index()


def test_variance_is_found_again_by_source():
    sizes, found = variance_by_source(nested(3000, 3, 3, 2.0, 1.0, 0.5))
    assert sizes == {"train": 3000, "split": 3, "seed": 3}
    assert found == pytest.approx({"train": 4, "split": 1, "seed": 0.25}, rel=0.1)


def test_a_negative_estimate_is_0():
    values = nested(5, 3, 3, 0.0, 0.0, 0.0)
    values["gap"] = values["seed"].astype(float)  # the means of all splits are equal
    assert variance_by_source(values)[1] == {"train": 0.0, "split": 0.0, "seed": 1.0}


@pytest.mark.parametrize("sizes", [(4, 3, 3), (5, 2, 3), (5, 3, 2)])
def test_too_few_seeds_have_no_variance_by_source_and_say_how_many_there_are(sizes):
    assert variance_by_source(nested(*sizes, 1, 1, 1)) == (dict(zip(LEAST_SEEDS, sizes, strict=True)), {})


def test_uneven_seeds_are_cut_to_those_that_all_have():
    values = nested(6, 4, 5, 1, 1, 1)
    first = (values["train"] == 0) & (values["split"] == 0) & (values["seed"] > 2)  # 3 method seeds are left
    second = (values["train"] == 1) & (values["split"] > 0)  # one split is left
    sizes, found = variance_by_source(values[~first & ~second])
    assert sizes == {"train": 5, "split": 4, "seed": 3}
    assert found == variance_by_source(values[(values["train"] != 1) & (values["seed"] < 3)])[1]
