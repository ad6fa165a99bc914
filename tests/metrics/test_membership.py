import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax
from sklearn.linear_model import LogisticRegression

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


def newton(members, non_members, c):
    """The optimum in float64, by Newton's method with halved steps: slope, threshold, spread of the feature."""
    x, y = np.concatenate([members, non_members]), np.r_[np.ones(len(members)), np.zeros(len(non_members))]
    weight = np.where(y == 1, len(x) / (2 * len(members)), len(x) / (2 * len(non_members)))
    # In standard units the same optimum has the penalty (w / scale)² / 2; the free intercept takes up the shift.
    shift, scale = (members.mean() + non_members.mean()) / 2, x.std()
    design, penalty = np.c_[(x - shift) / scale, np.ones(len(x))], np.array([1 / (c * scale**2), 0])

    def loss(theta):
        return weight @ (np.logaddexp(0, design @ theta) - y * (design @ theta)) + penalty @ theta**2 / 2

    theta = np.zeros(2)
    for _ in range(50):
        p = expit(design @ theta)
        hessian = (design * (weight * p * (1 - p))[:, None]).T @ design + np.diag(penalty)
        step = -np.linalg.solve(hessian, design.T @ (weight * (p - y)) + penalty * theta)
        while loss(theta + step) > loss(theta) * (1 + 1e-13) and np.abs(step).max() > 1e-12:
            step /= 2
        theta += step
        if np.all(np.abs(step) <= 1e-13 * np.abs(theta)):
            break
    return theta[0] / scale, shift - scale * theta[1] / theta[0], scale


def simulated(random, largest):
    """One pair of skewed entropy samples: spreads from 1e-5, mean differences from 0 to 10 spreads, any sizes."""
    sizes = np.exp(random.uniform(np.log(8), np.log(largest), 2)).astype(int)
    spread, base, shape = 10 ** random.uniform(-5, 0), 10 ** random.uniform(-3, 0.3), random.uniform(0.2, 3)
    gap = spread * random.choice([0, 1e-4, 1e-2, 0.1, 0.5, 1, 3, 10]) * random.choice([-1, 1])
    members, non_members = (base + spread * random.gamma(shape, 1 / shape, size) for size in sizes)
    return members, non_members + gap


@pytest.mark.parametrize(("pairs", "largest"), [(40, 300), pytest.param(1000, 2_000, marks=pytest.mark.slow)])
def test_the_attack_is_the_newton_solution_of_simulated_entropies(pairs, largest):
    random = np.random.default_rng(0)
    for _ in range(pairs):
        members, non_members = simulated(random, largest)
        attack = fit_attack(torch.from_numpy(members), torch.from_numpy(non_members), c=2)
        slope, threshold, spread = newton(members, non_members, c=2)
        assert attack.coef_[0, 0] == pytest.approx(slope, rel=1e-6)
        assert -attack.intercept_[0] / attack.coef_[0, 0] == pytest.approx(threshold, abs=1e-3 * spread)


def test_a_solver_that_stops_early_is_an_error(monkeypatch):
    monkeypatch.setattr("metrics.membership.LogisticRegression", partial(LogisticRegression, max_iter=1))
    with pytest.raises(RuntimeError, match=r"to converge .* after 1 steps on 49 members and 17 non-members"):
        threshold(c=2)


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
