import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from metrics.base import EvalOutputs
from metrics.membership import entropy, fit_attack, membership_inference

# Fixed features whose attack separates at 0.1290, between the published runs' form and today's.
QUANTILES = np.linspace(0.02, 0.98, 49)
MEMBERS = 0.01 + 0.05 * QUANTILES**2
NON_MEMBERS = 0.5827 * (0.02 + QUANTILES[::3] ** 1.5)


def test_entropy_equals_scipys_and_a_probability_of_zero_adds_nothing():
    logits = torch.randn(20, 7, generator=torch.Generator().manual_seed(0)) * 5
    expected = scipy.stats.entropy(softmax(logits.double().numpy(), axis=1), axis=1)
    np.testing.assert_allclose(entropy(logits).numpy(), expected, rtol=1e-10, atol=1e-14)
    zero = float("-inf")
    values = entropy(torch.tensor([[0.0] * 4, [3e38, -3e38, 0.0, 0.0], [0.0, zero, 0.0, zero]]))
    assert values.tolist() == pytest.approx([math.log(4), 0, math.log(2)], abs=1e-12)


def threshold(c):
    attack = fit_attack(torch.from_numpy(MEMBERS), torch.from_numpy(NON_MEMBERS), c=c)
    assert attack.coef_[0, 0] < 0  # members have the lower entropy
    return -attack.intercept_[0] / attack.coef_[0, 0]


def multinomial_threshold(c):
    """The two-class softmax regression, optimised on its own: weights (2,) under L2, free intercepts (2,)."""
    x = np.concatenate([MEMBERS, NON_MEMBERS])
    y = np.r_[np.ones(len(MEMBERS), int), np.zeros(len(NON_MEMBERS), int)]
    balanced = (len(x) / (2 * np.bincount(y)))[y]

    def objective(theta):
        log_p = log_softmax(x[:, None] * theta[:2] + theta[2:], axis=1)
        error = (np.exp(log_p) - np.eye(2)[y]) * (c * balanced)[:, None]
        value = -c * (balanced * log_p[np.arange(len(x)), y]).sum() + 0.5 * (theta[:2] ** 2).sum()
        return value, np.r_[x @ error + theta[:2], error.sum(0)]

    w0, w1, b0, b1 = minimize(objective, np.zeros(4), jac=True, method="BFGS", options={"gtol": 1e-9}).x
    return -(b1 - b0) / (w1 - w0)


def test_the_binary_form_with_c_2_is_the_multinomial_one_with_c_1():
    assert multinomial_threshold(c=1) == pytest.approx(0.1290, abs=5e-5)
    assert threshold(c=2) == pytest.approx(0.1290, abs=5e-5)
    assert abs(threshold(c=1) - 0.1290) > 1e-3


def with_entropies(values):
    """Two-class logits whose predictions have these entropies, in nats."""
    grid = torch.linspace(0, 30, 300_001, dtype=torch.float64)
    known = entropy(torch.stack([grid, torch.zeros_like(grid)], dim=1))
    at = torch.searchsorted(-known, -torch.tensor(values, dtype=torch.float64))
    margin = grid[at.clamp(max=len(grid) - 1)].float()
    return torch.stack([margin, torch.zeros_like(margin)], dim=1)


def outputs(*, forget, members, retain_test, forget_test, random=False):
    parts = {
        "forget_train": forget, "retain_train": members, "forget_test": forget_test, "retain_test": retain_test
    }  # fmt: skip
    logits = {name: with_entropies(values) for name, values in parts.items()}
    return EvalOutputs(logits, {n: torch.zeros(len(x)).long() for n, x in logits.items()}, random)


LOW, HIGH = [0.01, 0.02, 0.03] * 30, [0.5, 0.6, 0.65] * 20


def test_the_score_is_the_share_of_the_forget_set_taken_for_members():
    for forget, share in (([0.01, 0.02, 0.66, 0.6], 0.5), ([0.01, 0.015], 1.0), ([0.6, 0.69, 0.65], 0.0)):
        made = outputs(forget=forget, members=LOW, retain_test=HIGH, forget_test=HIGH[:5])
        assert membership_inference(made, c=2) == share


def test_the_random_task_has_the_test_set_alone_as_non_members():
    # Were the forgotten training samples counted as non-members, the threshold would fall from 0.30 to 0.07.
    many = [0.1] * 400
    made = outputs(forget=many, members=LOW, retain_test=HIGH, forget_test=many, random=True)
    assert len(made.test_logits) == len(HIGH)
    assert membership_inference(made, c=2) == 1
    assert membership_inference(replace(made, forget_test_is_train=False), c=2) == 0


def test_other_tasks_have_the_whole_test_set_as_non_members():
    made = outputs(forget=[0.2], members=LOW, retain_test=HIGH, forget_test=[0.1] * 60)
    assert len(made.test_logits) == len(HIGH) + 60
    assert torch.equal(made.test_logits[len(HIGH) :], made.logits["forget_test"])
    assert membership_inference(made, c=2) == 0
    assert membership_inference(replace(made, forget_test_is_train=True), c=2) == 1
