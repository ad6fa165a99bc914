from dataclasses import replace

import pytest

from metrics.attack import attack_quality
from metrics.membership import entropy, membership_inference


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


def test_an_attack_without_a_slope_calls_nobody_a_member(compared):
    same = replace(compared, logits={name: 0 * x for name, x in compared.logits.items()})
    found = attack_quality(same, c=2)
    assert found["balanced_accuracy"] == 0.5
