import copy
from dataclasses import replace

import torch

from methods.finetune import Finetune
from methods.retrain import Retrain


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


def test_the_retain_set_and_the_method_seed_count(cnn, split, context, recipe):
    fewer = replace(split, retain_train=split.retain_train.subset(torch.arange(30)))
    for method in (Retrain("all", recipe), Retrain("head", recipe), Finetune(recipe)):
        own, of_fewer, of_other_seed = (
            method(copy.deepcopy(cnn), data, replace(context, seed=seed)).fc.weight
            for data, seed in ((split, 0), (fewer, 0), (split, 1))
        )
        assert not torch.equal(own, of_fewer)
        assert not torch.equal(own, of_other_seed)
