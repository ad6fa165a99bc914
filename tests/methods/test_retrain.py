import copy
from dataclasses import replace

import pytest
import torch

from methods.finetune import Finetune
from methods.retrain import Retrain

TRAINING = {
    "retrain all": lambda recipe: Retrain("all", recipe),
    "retrain head": lambda recipe: Retrain("head", recipe),
    "finetune": Finetune,
}


def test_head_keeps_everything_but_the_head(cnn, context, recipe):
    original = copy.deepcopy(cnn).state_dict()
    start = Retrain("head", recipe).start(cnn, context)
    assert start is cnn
    changed = {name for name, value in start.state_dict().items() if not torch.equal(value, original[name])}
    assert changed == {"fc.weight", "fc.bias"}
    assert (start.fc.weight != original["fc.weight"]).all()
    assert torch.equal(start.fc.weight, context.fresh_model("retrain").fc.weight)


def test_all_differs_in_every_weight_and_ignores_the_original(cnn, make_cnn, context, split, recipe):
    original = copy.deepcopy(cnn)
    one, other = (Retrain("all", recipe)(model, split, context) for model in (cnn, make_cnn(7)))
    assert torch.equal(one.fc.weight, other.fc.weight)
    start = Retrain("all", recipe).start(cnn, context)
    for (name, new), old in zip(start.named_parameters(), original.parameters(), strict=True):
        assert (new != old).all(), name
    assert start.norm.running_mean.tolist() == [0] * 4
    assert torch.equal(cnn.fc.weight, original.fc.weight)  # the original is not touched


def test_an_unknown_reset_is_refused(recipe):
    with pytest.raises(ValueError, match="all or head, but got 'body'"):
        Retrain("body", recipe)


@pytest.mark.parametrize("make", TRAINING.values(), ids=TRAINING)
@pytest.mark.usefixtures("global_rng_untouched")
def test_only_the_retain_set_and_the_method_seed_count(make, cnn, split, context, recipe):
    def result(split=split, seed=0):
        model = make(recipe)(copy.deepcopy(cnn), split, replace(context, seed=seed))
        assert not model.training
        return model.fc.weight

    wrong = split.forget_train.relabelled((split.forget_train.labels + 1) % 3)
    other = replace(split, forget_train=wrong, forget_test=split.retain_test, retain_test=split.forget_test)
    assert torch.equal(result(), result(other))
    assert not torch.equal(result(), result(seed=1))
    fewer = split.retain_train.subset(torch.arange(30))
    assert not torch.equal(result(), result(replace(split, retain_train=fewer)))
