from dataclasses import replace
from functools import partial

import pytest

from metrics.accuracy import accuracy
from metrics.closeness import agreement, tug_of_war, unlearning_accuracy
from metrics.divergence import jensen_shannon_distance, mean_absolute_gap, zero_retrain_forgetting
from metrics.margins import margin_shift

RA = partial(accuracy, split="retain_train", averaging="per_sample", batch_size=1)


def test_unlearning_accuracy_is_the_share_of_forgotten_training_images_that_are_wrong(compared):
    wrong = compared.logits["forget_train"].argmax(1) != compared.labels["forget_train"]
    assert unlearning_accuracy(compared) == pytest.approx(float(wrong.double().mean()))
    assert 0 < float(wrong.double().mean()) < 1


def test_tug_of_war_multiplies_what_is_left_of_one(compared, metric):
    assert tug_of_war(compared, metrics=[metric(0.9, 0.7), metric(0.5, 0.75)]) == pytest.approx(0.8 * 0.75)
    assert tug_of_war(compared, metrics=[metric(1.0, 1.0), metric(None, 1.0)]) is None


def test_the_retrained_model_has_the_ideal_of_every_number(compared):
    same = replace(compared, others={"retrained": replace(compared, others={})})
    assert tug_of_war(same, metrics=[unlearning_accuracy, RA]) == 1
    assert agreement(same, part="forget_train") == agreement(same, part="test") == 1
    assert tug_of_war(compared, metrics=[unlearning_accuracy, RA]) < 1


def test_agreement_counts_equal_classes_right_or_wrong(compared):
    ours, goal = compared, compared.others["retrained"]
    for part, logits in (("forget_train", lambda x: x.logits["forget_train"]), ("test", lambda x: x.test_logits)):
        equal = [int(a) == int(b) for a, b in zip(logits(ours).argmax(1), logits(goal).argmax(1), strict=True)]
        assert agreement(ours, part=part) == pytest.approx(sum(equal) / len(equal))
    assert len(ours.test_logits) == 130
    with pytest.raises(ValueError, match="forget_train or test, but got 'retain_train'"):
        agreement(ours, part="retain_train")


def test_without_another_model_there_is_nothing_to_compare(compared):
    alone = replace(compared, others={})
    for found in (
        tug_of_war(alone, metrics=[RA]), mean_absolute_gap(alone, metrics=[RA]), agreement(alone, part="test"),
        jensen_shannon_distance(alone, split="retain_test"), margin_shift(alone), zero_retrain_forgetting(alone),
    ):  # fmt: skip
        assert found is None
