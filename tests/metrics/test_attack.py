from dataclasses import replace

import pytest
import torch

from metrics.attack import attack_quality
from metrics.membership import entropy, fit_attack, membership_inference


def test_the_attack_is_a_threshold_on_the_entropy(compared):
    found = attack_quality(compared, c=2)
    below = {
        name: float((entropy(logits) < found["threshold"]).double().mean())
        for name, logits in {**compared.logits, "test": compared.test_logits}.items()
    }
    assert found["inverted"] == 0
    assert membership_inference(compared, c=2) == pytest.approx(below["forget_train"])
    assert (found["members"], found["non_members"]) == pytest.approx((below["retain_train"], below["test"]))
    assert found["balanced_accuracy"] == pytest.approx((below["retain_train"] + 1 - below["test"]) / 2)
    assert found["balanced_accuracy"] > 0.55


def test_members_with_the_higher_entropy_are_named(compared):
    logits = compared.logits
    parts = {"retain_train": logits["retain_test"], "retain_test": logits["retain_train"]}
    found = attack_quality(replace(compared, logits=logits | parts), c=2)
    assert found["inverted"] == 1
    assert found["balanced_accuracy"] > 0.55


@pytest.mark.parametrize("members", [3, 50, 997, 1371, 45000])
@pytest.mark.parametrize("spread", [0, 1e-16, 1e-12, 1e-10])
def test_equal_entropies_make_nobody_a_member(members, spread):
    values = torch.rand(members + 360, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    attack = fit_attack(*(1.5 + spread * values).split([members, 360]), c=2)
    assert (attack.coef_.item(), attack.intercept_.item()) == (0, 0)
    assert not attack.predict([[0.0], [1.5], [9.0]]).any()


def test_entropies_that_differ_a_little_are_told_apart():
    attack = fit_attack(torch.full((1000,), 1.5), torch.full((400,), 1.5 + 1e-5, dtype=torch.float64), c=2)
    assert attack.predict([[1.5], [1.5 + 1e-5]]).tolist() == [1, 0]


def test_an_attack_without_a_slope_has_no_threshold(compared):
    same = replace(compared, logits={name: 0 * x for name, x in compared.logits.items()})
    found = attack_quality(same, c=2)
    assert (found["members"], found["non_members"], found["balanced_accuracy"]) == (0, 0, 0.5)
    assert (found["threshold"], found["inverted"]) == (None, 0)
    assert membership_inference(same, c=2) == 0
