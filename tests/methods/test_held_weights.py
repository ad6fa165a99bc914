"""Weights that a method leaves alone keep every bit: under momentum, moments and weight decay."""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from benchmark.models import ResNet18
from methods.last_layers import LastLayers, initialise
from methods.msg import MSG
from methods.random_labels import RandomLabels
from methods.training import Recipe
from tests.methods.helpers import left_alone, make_context, seeded, tiny_net, tiny_split

OPTIMIZERS = ("sgd", "adam", "adamw")


def recipe_of(optimizer):
    adaptive = {} if optimizer == "sgd" else {"momentum": 0.0}
    sgd = Recipe.constant("sgd", lr=0.05, epochs=2, batch_size=16, momentum=0.9, weight_decay=0.1)
    return replace(sgd, optimizer=optimizer, **adaptive)


def random_labels(recipe, **changes):
    options = {"saliency": 0.5, "own_label": False, "redraw": "epoch", "order": "joint"}
    return RandomLabels(recipe, **options | changes)


def parameters_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weights_that_are_not_salient_keep_every_bit(optimizer, cnn, split, context):
    before, method = parameters_of(cnn), random_labels(recipe_of(optimizer))
    with left_alone(cnn):
        masks = method.salient(cnn, split, context)
    after = method(cnn, split, context)
    for mask, was, now in zip(masks, before.values(), parameters_of(after).values(), strict=True):
        assert torch.equal(now[~mask], was[~mask])
        assert not torch.equal(now[mask], was[mask])


def test_masks_have_their_size_and_are_nested(cnn, split, context, recipe):
    n = sum(p.numel() for p in cnn.parameters())
    masks = [
        torch.cat([mask.flatten() for mask in random_labels(recipe, saliency=share).salient(cnn, split, context)])
        for share in (0.0, 0.1, 0.5, 0.77, 1.0)
    ]
    assert [int(mask.sum()) for mask in masks] == [0, int(0.1 * n), n // 2, int(0.77 * n), n]
    assert all((larger | ~smaller).all() for smaller, larger in pairwise(masks))


def test_among_equally_salient_weights_the_first_are_chosen(cnn, split, context, recipe, monkeypatch):
    zeros = {name: torch.zeros_like(p) for name, p in cnn.named_parameters()}
    monkeypatch.setattr("methods.random_labels.summed_gradients", lambda model, batches: zeros)
    masks = random_labels(recipe, saliency=0.5).salient(cnn, split, context)
    flat = torch.cat([mask.flatten() for mask in masks])
    assert flat.tolist() == sorted(flat.tolist(), reverse=True)


def test_random_labels_are_new_in_each_epoch_and_their_own_only_on_demand(split, context, recipe):
    forget = split.forget_train.subset(torch.arange(2000) % len(split.forget_train))
    several = copy.copy(split)
    object.__setattr__(several, "forget_train", forget)

    def labels(epoch, **changes):
        return random_labels(recipe, **changes).relabelled(several, context, epoch).labels

    assert torch.equal(labels(1), labels(1))
    assert not torch.equal(labels(1), labels(2))
    assert torch.equal(labels(1, redraw="once"), labels(2, redraw="once"))
    assert not (labels(1) == forget.labels).any()
    assert float((labels(1, own_label=True) == forget.labels).float().mean()) == pytest.approx(1 / 3, abs=0.05)
    two = replace(several, num_classes=2, forget_train=forget.relabelled(forget.labels % 2))
    flipped = random_labels(recipe).relabelled(two, context, 1).labels
    assert torch.equal(flipped, 1 - two.forget_train.labels)


def test_forget_first_is_a_pass_of_its_own(cnn, split, context, recipe, monkeypatch):
    monkeypatch.setattr("methods.base.train", lambda model, passes, recipe, **options: passes)
    first, second = random_labels(recipe, saliency=1.0, order="forget_first")(cnn, split, context)(1)
    assert torch.equal(first.data.index, split.forget_train.index)
    assert second.data is split.retain_train


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("reset", [False, True])
def test_layers_before_the_last_keep_every_bit(optimizer, reset, cnn, split, context):
    before = parameters_of(cnn)
    after = LastLayers(recipe_of(optimizer), k=1, reset=reset)(cnn, split, context)
    differ = {name for name, p in after.named_parameters() if not torch.equal(p, before[name])}
    assert differ == {"fc.weight", "fc.bias"}
    assert all(p.requires_grad for p in after.parameters())


def test_layers_are_counted_from_the_output(monkeypatch):
    trained = []
    monkeypatch.setattr(
        "methods.base.train",
        lambda model, *rest, **options: trained.append({n for n, p in model.named_parameters() if p.requires_grad}),
    )
    model, context = ResNet18(20, width=4), make_context(tiny_net)
    recipe = recipe_of("sgd")
    for k in (1, 6, 10**6):
        LastLayers(recipe, k=k, reset=False)(model, tiny_split("class"), context)
    names = {name for name, _ in model.named_parameters()}
    head, stage, everything = trained
    assert head == {name for name in names if name.startswith("fc.")}
    assert stage == {name for name in names if name.startswith(("fc.", "layer4."))}
    assert everything == names


def test_reset_layers_are_new_and_repeatable(cnn, split, context, recipe):
    def reset(seed):
        model = copy.deepcopy(cnn)
        LastLayers(replace(recipe, lr=1e-30), k=1, reset=True)(model, split, replace(context, seed=seed))
        return model.fc

    one, same, other = reset(0), reset(0), reset(1)
    assert torch.equal(one.weight, same.weight)
    assert not torch.equal(one.weight, other.weight)
    assert not torch.isclose(one.weight, cnn.fc.weight, atol=1e-4).all()
    assert float(one.bias.detach().abs().max()) < 1e-20
    expected = torch.nn.init.kaiming_normal_(torch.empty(3, 16), generator=seeded())
    assert float(one.weight.detach().std()) == pytest.approx(float(expected.std()), rel=0.5)


def test_new_weights_do_not_depend_on_the_memory_layout(cnn, recipe):
    plain, other = cnn.conv, copy.deepcopy(cnn.conv).to(memory_format=torch.channels_last)
    assert not other.weight.is_contiguous()
    for layer in (plain, other):
        initialise([layer], seeded())
    assert torch.equal(plain.weight, other.weight)
    gradient = torch.arange(plain.weight.numel()).view(plain.weight.shape).float()
    for layer in (plain, other):
        MSG(recipe, share=0.5, factor=0.1, layers="conv").renew({"0": layer.weight}, {"0.weight": gradient}, seeded(1))
    assert torch.equal(plain.weight, other.weight)
