"""Attacks over many seeds, in closed form."""

import math

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from benchmark.report.attacks import auc, bootstrap, gaussians, klom, likelihood_ratios, log_ratio, rmia, tpr, ulira

NAN = math.nan


def normal(seed, *shape, mean=0.0):
    return np.random.default_rng(seed).normal(mean, 1, shape)


def in_halves(margins):
    """Each row forgets a random half of the images; the others are NaN."""
    rows, images = margins.shape
    order = np.argsort(np.random.default_rng(0).random((rows, images)), axis=1)
    return np.where(order < images // 2, margins, NAN)


# U-LiRA


@pytest.mark.parametrize("halved", [False, True])
def test_ulira_of_two_gaussians_has_the_accuracy_of_the_best_rule(halved):
    """Means δ apart, variance 1: the rule φ > δ/2 is right in Φ(δ/2) of all cases."""
    pair = normal(0, 64, 300, mean=1.0), normal(1, 64, 300)
    value, low, high = ulira(*(in_halves(x) if halved else x for x in pair))["accuracy"]
    assert value == pytest.approx(norm.cdf(0.5), abs=0.015)
    assert low < value < high


def test_the_rate_at_one_percent_is_that_of_two_gaussians():
    value, *_ = ulira(normal(0, 64, 300, mean=2.0), normal(1, 64, 300))["tpr"]
    assert value == pytest.approx(norm.sf(norm.isf(0.01) - 2.0), abs=0.03)


def test_identical_models_give_one_half_exactly_and_equal_laws_about_one_half():
    models = in_halves(normal(0, 20, 30))
    assert ulira(models, models)["accuracy"] == (0.5, 0.5, 0.5)
    _, low, high = ulira(in_halves(normal(1, 64, 100)), in_halves(normal(2, 64, 100)))["accuracy"]
    assert low < 0.5 < high


@pytest.mark.parametrize(("unlearned", "accuracy"), [(0.0, 0.5), (1.0, 1.0)])
def test_margins_that_never_change_give_a_number(unlearned, accuracy):
    assert ulira(np.full((16, 4), unlearned), np.zeros((16, 4)))["accuracy"][0] == accuracy


def test_the_target_is_in_neither_gaussian():
    """If it were, a lone outlier would be told by its own distance."""
    unlearned, retrained = np.zeros((16, 1)), np.zeros((16, 1))
    unlearned[0], retrained[0] = 1.0, -1.0
    positive, negative = likelihood_ratios(unlearned, retrained)
    assert positive[0] == negative[0] == 0


def test_margins_are_clamped():
    pair = normal(0, 16, 3) + 31, normal(1, 16, 3) + 35
    infinite = np.where(np.arange(16)[:, None] < 8, np.inf, 40.0) + np.zeros((1, 3))
    assert ulira(np.maximum(pair[0], 30), pair[1] + 9)["accuracy"][0] == 0.5
    assert ulira(infinite, np.full((16, 3), 30.0))["accuracy"][0] == 0.5
    assert ulira(-infinite, np.full((16, 3), -30.0))["accuracy"][0] == 0.5


def test_a_variance_is_drawn_to_that_of_all_images():
    margins = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, NAN]] * 11)[:32]
    mean, variance = gaussians(margins)
    n = np.isfinite(margins).sum(axis=0)
    own = np.nanvar(margins, axis=0, ddof=1)
    pooled = (own * (n - 1)).sum() / (n - 1).sum()
    assert mean == pytest.approx(np.nanmean(margins, axis=0))
    assert variance == pytest.approx(((n - 1) * own + 4 * pooled) / (n + 3))
    few = margins[:16]
    own, n = np.nanvar(few, axis=0, ddof=1), np.isfinite(few).sum(axis=0)
    assert gaussians(few)[1] == pytest.approx([(own * (n - 1)).sum() / (n - 1).sum()] * 2)


def test_too_few_models_have_no_ulira():
    assert ulira(normal(0, 15, 100), normal(1, 15, 100)) == {"accuracy": None, "tpr": None}
    apart = np.full((20, 40), NAN)
    apart[np.arange(20), np.arange(20)] = 0.0  # no image is forgotten twice
    assert ulira(apart, apart)["accuracy"] is None
    assert ulira(normal(0, 16, 62), normal(1, 16, 62))["tpr"] is None  # 992 negatives
    assert ulira(normal(0, 16, 63), normal(1, 16, 63))["tpr"] is not None


def test_the_interval_is_over_models_not_over_images():
    """Models that are all right or all wrong: copies of their images add nothing."""
    rows = np.random.default_rng(0).random(40) < 0.7

    def width(copies):
        hits = np.repeat(rows[:, None], copies, axis=1)
        value, low, high = bootstrap(lambda drawn: float(hits[drawn].mean()), 40)
        assert value == rows.mean()
        return high - low

    assert width(1) == pytest.approx(width(50))
    assert width(1) == pytest.approx(2 * 1.96 * math.sqrt(0.7 * 0.3 / 40), rel=0.15)


# RMIA


def test_the_ratio_with_one_reference_is_that_of_the_definition():
    ours, other = np.array([1.0, -2.0, 9.0]), np.array([[0.5, 3.0, -9.0]])
    for a in (0.0, 0.3, 1.0):
        expected = np.log(expit(ours) / (((1 + a) * expit(other[0]) + 1 - a) / 2))
        assert log_ratio(ours, other, a) == pytest.approx(expected)


def test_the_ratio_takes_the_mean_of_the_references_that_lack_the_image_and_stays_finite():
    references = np.array([[0.0, NAN, -800.0], [1.0, 2.0, -900.0], [NAN, NAN, NAN]])
    found = log_ratio(np.array([0.0, 0.0, -1000.0]), references, 1.0)
    assert found[0] == pytest.approx(math.log(0.5 / ((0.5 + expit(1.0)) / 2)))
    assert found[1] == pytest.approx(math.log(0.5 / expit(2.0)))
    assert found[2] == pytest.approx(-200 + math.log(2))
    assert np.isnan(log_ratio(np.zeros(1), np.array([[NAN]]), 0.3)).all()


def test_a_hard_image_counts_by_its_difficulty():
    """D_f is harder than the unseen images: its margins lie below, its ratios above."""
    references, unseen = np.array([[-3.0, -2.0]]), np.array([[2.0, 1.0, 3.0]])
    (found,) = rmia(np.array([[-1.0, 0.0]]), unseen + 0.1, references, unseen, a=1.0)
    assert auc(np.array([-1.0, 0.0]), unseen[0]) == 0
    assert found == (1.0, None)


def test_a_retrained_model_is_no_reference_of_its_own():
    forget, unseen = normal(0, 3, 20), normal(1, 3, 30)
    own = rmia(forget, unseen, forget, unseen, a=0.3)
    others = rmia(forget[:1], unseen[:1], forget[1:], unseen[1:], a=0.3)
    assert own[0] == others[0]
    assert rmia(forget[:1], unseen[:1], forget[:1], unseen[:1], a=0.3) == []


def test_ties_count_one_half_and_a_rate_needs_a_thousand_images():
    assert auc(np.ones(5), np.ones(7)) == 0.5
    others = np.arange(1000.0)
    assert tpr(np.array([989.0, 989.5, 2000.0]), others) == pytest.approx(2 / 3)  # ten of the others pass
    assert tpr(np.ones(5), np.ones(2000)) == 0
    assert tpr(np.ones(5), others[:999]) is None


# KLOM


def test_equal_ensembles_have_no_distance():
    models = normal(0, 50, 7)
    assert klom(models, models).tolist() == [0.0] * 7
    assert klom(np.ones((50, 1)), np.ones((60, 1))).tolist() == [0.0]


def test_disjoint_ensembles_have_the_distance_of_an_empty_bin():
    assert klom(np.zeros((50, 1)), np.ones((50, 1))) == pytest.approx([math.log(1e5)])
    halves = np.repeat([0.0, 0.5], 25)[:, None]
    assert klom(halves, np.ones((50, 1))) == pytest.approx([math.log(1e5) - math.log(2)])


def test_a_distance_by_hand():
    """Two bins hold everything: 40 and 10 models against 25 and 25."""
    unlearned, retrained = np.repeat([0.0, 1.0], [40, 10])[:, None], np.repeat([0.0, 1.0], 25)[:, None]
    assert klom(unlearned, retrained) == pytest.approx([0.8 * math.log(1.6) + 0.2 * math.log(0.4)])
    assert klom(unlearned * 1e6, retrained * 1e6) == pytest.approx(klom(unlearned, retrained))  # clipped to 100


def test_an_image_with_fewer_than_fifty_models_has_no_distance():
    models = normal(0, 50, 3)
    models[0, 1] = NAN
    assert len(klom(models, normal(1, 50, 3))) == 2
    assert len(klom(normal(1, 50, 3), models)) == 2
    assert len(klom(models[:49], models)) == 0
