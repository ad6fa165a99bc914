from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax

from metrics.divergence import jensen_shannon, jensen_shannon_distance, mean_absolute_gap, zero_retrain_forgetting


def test_jensen_shannon_equals_scipys():
    random = torch.Generator().manual_seed(0)
    p, q = (3 * torch.randn(25, 6, generator=random) for _ in range(2))
    expected = [
        jensenshannon(softmax(a), softmax(b), base=2)
        for a, b in zip(p.double().numpy(), q.double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(jensen_shannon(p, q).sqrt().numpy(), expected, rtol=1e-9)


def test_distance_is_the_mean_over_the_named_split(compared):
    goal, found = compared.others["retrained"], {x: jensen_shannon_distance(compared, split=x) for x in compared.logits}
    for name, logits in compared.logits.items():
        assert found[name] == pytest.approx(float(jensen_shannon(logits, goal.logits[name]).sqrt().mean()))
    assert len({*found.values()}) == 4


def test_zrf_is_1_for_a_model_that_predicts_as_an_untrained_one_and_0_for_disjoint_predictions(compared):
    made = compared

    def zrf(logits, untrained):
        others = {"untrained": replace(made, logits={"forget_train": untrained})}
        return zero_retrain_forgetting(replace(made, logits={"forget_train": logits}, others=others))

    logits = made.logits["forget_train"]
    assert zrf(logits, logits + 3) == pytest.approx(1)
    certain = 1e4 * torch.eye(5)[made.labels["forget_train"]]
    assert zrf(certain, certain.roll(1, dims=1)) == pytest.approx(0, abs=1e-7)
    other = made.others["retrained"].logits["forget_train"]
    assert zrf(logits, other) == pytest.approx(1 - float(jensen_shannon(logits, other).mean()))


def test_gap_is_the_mean_of_absolute_differences(compared, metric):
    metrics = [metric(0.5, 0.75), metric(0.5, 0.0), metric(0.3, 0.3)]
    assert mean_absolute_gap(compared, metrics=metrics) == pytest.approx((0.25 + 0.5 + 0) / 3)
    for undefined in (metric(None, 1.0), metric(1.0, None)):
        assert mean_absolute_gap(compared, metrics=[metric(1, 1), undefined]) is None
