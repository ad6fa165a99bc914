import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from metrics.base import EvalOutputs
from metrics.separation import auc, auc_interval, compared_margins, placements, placements_error, tpr_at_fpr


def with_margins(forget, unseen, *, random=False, retrained=None):
    """Two-class outputs with these margins."""
    parts = {"forget_train": forget, "retain_test" if random else "forget_test": unseen}
    logits = {name: torch.tensor([[float(x), 0.0] for x in values]) for name, values in parts.items()}
    others = {} if retrained is None else {"retrained": retrained}
    return EvalOutputs(logits, {n: torch.zeros(len(x)).long() for n, x in logits.items()}, random, others=others)


def test_the_auc_equals_scikit_learns_with_ties():
    random = np.random.default_rng(0)
    forget, unseen = random.integers(0, 6, 40), random.integers(0, 5, 70)
    expected = roc_auc_score([1] * 40 + [0] * 70, [*forget, *unseen])
    assert auc(with_margins(forget, unseen)) == pytest.approx(expected)
    for part in placements(forget.astype(float), unseen.astype(float)):
        assert part.mean() == pytest.approx(expected)


def test_constant_scores_have_one_half_and_no_error():
    made = with_margins([3] * 5, [3] * 9)
    assert auc(made) == 0.5
    assert auc_interval(made)["se"] is None
    assert auc(with_margins([3], [2])) == 1


def test_the_unseen_images_are_those_of_the_forgotten_class_or_the_whole_test_set():
    for random in (False, True):
        forget, unseen = compared_margins(with_margins([1, 2], [3, 4, 5], random=random))
        assert (forget.tolist(), unseen.tolist()) == ([1, 2], [3, 4, 5])


def test_test_images_that_were_trained_on_have_no_auc():
    made = with_margins([1, 2, 3], [1, 2, 3])
    assert auc(made) is tpr_at_fpr(made, fpr=0.01) is None
    assert set(auc_interval(made).values()) == {None}


def test_the_error_is_delongs_by_definition():
    random = np.random.default_rng(1)
    a, b = random.normal(1, 1, 12), random.normal(0, 1, 9)
    pairs = (a[:, None] > b).astype(float)
    expected = math.sqrt(pairs.mean(1).var(ddof=1) / 12 + pairs.mean(0).var(ddof=1) / 9)
    found = auc_interval(with_margins(a, b))
    assert found["se"] == pytest.approx(expected)
    assert found["null_se"] == pytest.approx(math.sqrt(22 / (12 * 12 * 9)))
    assert (found["low"], found["high"]) == pytest.approx(
        (pairs.mean() - 1.959964 * expected, min(pairs.mean() + 1.959964 * expected, 1))
    )


def test_the_published_errors_of_a_model_that_never_saw_the_forget_set():
    for n, m, points in ((500, 100, 6.2), (83, 10_000, 6.2), (20, 10, 22)):
        assert 196 * math.sqrt((n + m + 1) / (12 * n * m)) == pytest.approx(points, abs=0.5)


def test_the_difference_is_signed_and_paired():
    random = np.random.default_rng(2)
    goal = random.normal(0, 1, 60), random.normal(0, 1, 50)
    retrained = with_margins(*goal)
    made = with_margins(goal[0] + 1, goal[1], retrained=retrained)
    found = auc_interval(made)
    assert found["difference"] == pytest.approx(auc(made) - auc(retrained))
    assert 0 < found["difference_low"] < found["difference"] < found["difference_high"]
    alone = math.hypot(found["se"], auc_interval(retrained)["se"])
    assert found["difference_se"] < alone  # the same images: less than of two independent ones
    itself = auc_interval(replace(retrained, others={"retrained": retrained}))
    assert (itself["difference"], itself["difference_se"]) == (0, None)


@pytest.mark.parametrize("repetitions", [200, pytest.param(20_000, marks=pytest.mark.slow)])
def test_the_error_is_the_spread_of_simulated_aucs(repetitions):
    """Normal scores of D_f and unseen images; the pairs of a model and the retrained one correlate."""
    random = np.random.default_rng(3)
    values, errors, covered = [], [], 0
    for _ in range(repetitions):
        base = random.normal(0, 1, 80), random.normal(0, 1, 60)
        ours, goal = (
            placements(base[0] + random.normal(shift, 0.5, 80), base[1] + random.normal(0, 0.5, 60))
            for shift in (0.7, 0)
        )
        values.append((ours[0].mean(), ours[0].mean() - goal[0].mean()))
        errors.append((placements_error(*ours), placements_error(ours[0] - goal[0], ours[1] - goal[1])))
        covered += abs(goal[0].mean() - 0.5) < 1.96 * math.sqrt(141 / (12 * 80 * 60))
    spread, stated = np.std(values, axis=0), np.sqrt(np.mean(np.square(errors), axis=0))
    np.testing.assert_allclose(stated, spread, rtol=4 / math.sqrt(2 * repetitions) + 0.01)
    assert covered / repetitions == pytest.approx(0.95, abs=4 * math.sqrt(0.05 * 0.95 / repetitions) + 0.005)


def test_the_true_positive_rate_is_the_empirical_rocs_and_needs_enough_images():
    random = np.random.default_rng(4)
    forget, unseen = random.normal(1, 1, 83).round(1), random.normal(0, 1, 1000).round(1)
    made = with_margins(forget, unseen, random=True)
    fpr, tpr, _ = roc_curve([1] * 83 + [0] * 1000, [*forget, *unseen], drop_intermediate=False)
    assert tpr_at_fpr(made, fpr=0.01) == pytest.approx(tpr[fpr <= 0.01].max())
    assert tpr_at_fpr(made, fpr=0.001) is None
    assert tpr_at_fpr(with_margins(forget, unseen[:999], random=True), fpr=0.01) is None
    assert tpr_at_fpr(with_margins([3] * 5, [3] * 2000, random=True), fpr=0.01) == 0
