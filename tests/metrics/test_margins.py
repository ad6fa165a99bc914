from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from metrics.margins import KEPT, kept_margins, margin, margin_shift


def test_the_margin_is_the_log_odds_of_the_true_label():
    logits, labels = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 4
    p = logits.double().softmax(1)[torch.arange(30), labels]
    np.testing.assert_allclose(margin(logits, labels), (p / (1 - p)).log(), rtol=1e-9)
    certain = torch.tensor([[300.0, 0.0, -5.0]])  # the probability is 1, the margin is not lost
    assert float(margin(certain, torch.tensor([0]))) == pytest.approx(300 - logsumexp([0, -5]))
    assert float(margin(certain, torch.tensor([1]))) == pytest.approx(-300)


def test_the_shift_has_the_sign_of_what_is_left(compared):
    goal = compared.others["retrained"]
    y = compared.labels["forget_train"]
    expected = margin(compared.logits["forget_train"], y).mean() - margin(goal.logits["forget_train"], y).mean()
    assert margin_shift(compared) == pytest.approx(float(expected))
    assert expected > 0
    assert margin_shift(replace(goal, others={"retrained": compared})) == pytest.approx(-float(expected))


def test_kept_margins_are_those_of_the_same_retained_images_in_every_run(simulated):
    small, large = simulated(0, sizes=(7, 50, 3, 9)), simulated(0, sizes=(7, KEPT * 3 + 1, 3, 9))
    kept = kept_margins(small)
    assert {name: (len(x), x.dtype) for name, x in kept.items()} == {
        "forget_train": (7, torch.float32), "retain_train": (50, torch.float32),
        "forget_test": (3, torch.float32), "retain_test": (9, torch.float32),
    }  # fmt: skip
    every = margin(large.logits["retain_train"], large.labels["retain_train"]).float()
    rows = [i * len(every) // KEPT for i in range(KEPT)]
    assert torch.equal(kept_margins(large)["retain_train"], every[rows])
