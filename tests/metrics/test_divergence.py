from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax

from metrics.base import EvalOutputs
from metrics.divergence import jensen_shannon, jensen_shannon_distance, mean_absolute_gap, zero_retrain_forgetting

SPLITS = ("forget_train", "retain_train", "forget_test", "retain_test")


def outputs(seed):
    random = torch.Generator().manual_seed(seed)
    logits = {name: torch.randn(8, 3, generator=random) for name in SPLITS}
    return EvalOutputs(logits, {name: torch.arange(8) % 3 for name in SPLITS}, False)


def compared():
    return replace(outputs(0), others={"retrained": outputs(1)})


def test_jensen_shannon_equals_scipys():
    random = torch.Generator().manual_seed(0)
    p, q = (3 * torch.randn(25, 6, generator=random) for _ in range(2))
    expected = [
        jensenshannon(softmax(a), softmax(b), base=2)
        for a, b in zip(p.double().numpy(), q.double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(jensen_shannon(p, q).sqrt().numpy(), expected, rtol=1e-9)


def test_distance_is_the_mean_over_the_named_split():
    made = compared()
    for name in SPLITS:
        expected = jensen_shannon(made.logits[name], made.others["retrained"].logits[name]).sqrt().mean()
        assert jensen_shannon_distance(made, split=name) == pytest.approx(float(expected))
    assert len({jensen_shannon_distance(made, split=name) for name in SPLITS}) == 4


def test_zrf_is_1_for_a_model_that_predicts_as_an_untrained_one_and_0_for_disjoint_predictions():
    made = outputs(0)

    def zrf(logits, untrained):
        others = {"untrained": replace(made, logits={"forget_train": untrained})}
        return zero_retrain_forgetting(replace(made, logits={"forget_train": logits}, others=others))

    logits = made.logits["forget_train"]
    assert zrf(logits, logits + 3) == pytest.approx(1)
    certain = 1e4 * torch.eye(3)[made.labels["forget_train"]]
    assert zrf(certain, certain.roll(1, dims=1)) == pytest.approx(0, abs=1e-7)
    other = outputs(1).logits["forget_train"]
    assert zrf(logits, other) == pytest.approx(1 - float(jensen_shannon(logits, other).mean()))


def value(first, second):
    """A metric with one value on our outputs and another on the retrained model's."""
    return lambda outputs: first if outputs.others else second


def test_gap_is_the_mean_of_absolute_differences():
    metrics = [value(0.5, 0.75), value(0.5, 0.0), value(0.3, 0.3)]
    assert mean_absolute_gap(compared(), metrics=metrics) == pytest.approx((0.25 + 0.5 + 0) / 3)


def test_nothing_to_compare_with_is_none():
    assert jensen_shannon_distance(outputs(0), split="retain_test") is None
    assert mean_absolute_gap(outputs(0), metrics=[value(1, 1)]) is None
    assert zero_retrain_forgetting(outputs(0)) is None
    for undefined in (value(None, 1.0), value(1.0, None)):
        assert mean_absolute_gap(compared(), metrics=[value(1, 1), undefined]) is None
