"""Several requests: the seed of each call, the key of the model after it, and the I_D that SSD uses."""

import copy
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch

from datasets.seeding import derive_seed
from datasets.splits import requests_split, subclass_split
from methods.dampening import Importance, dampen
from methods.requests import answer
from methods.ssd import SSD
from methods.training import Recipe

ALPHA = 1.2
RECIPE = Recipe.constant("sgd", lr=0.05, epochs=1, batch_size=16)
KEPT = SSD(alpha=ALPHA, lam=1.0, reduction="batch_mean", order="class_sorted", batch_size=8, importance="kept")
REFRESHED = replace(KEPT, importance="refreshed")


def split_of(dataset, *targets):
    return requests_split(dataset, partial(subclass_split, target=0), targets)


def state(model):
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])


def after(method, original, dataset, targets, context):
    """The model after all requests, each answered on the model that the previous one left."""
    model = copy.deepcopy(original)
    for n in range(1, len(targets) + 1):
        model = answer(method, model, split_of(dataset, *targets[:n]), context, original)
    return model


@dataclass(frozen=True)
class Spy:
    calls: list

    def __call__(self, model, split, context):
        self.calls.append((split.forget_target, context))
        return model.eval()


def test_later_requests_know_the_first_and_keep_nothing(dataset, cnn, context):
    calls: list = []
    context = replace(context, cache=lambda phase, options, make: make(), training_state=lambda names: None)
    after(Spy(calls), cnn, dataset, ("dog", "ant", "fox"), context)
    assert [target for target, _ in calls] == ["dog", "ant", "fox"]
    first, *later = [own for _, own in calls]
    assert first == context
    assert [own.seed for own in later] == [derive_seed(context.seed, "request", k) for k in (2, 3)]
    for own in later:
        assert own.cache is own.training_state is None
        assert (own.first.model, own.first.split.forget_target, own.first.context) == (cnn, "dog", context)


def test_the_first_request_is_the_single_run(dataset, cnn, context):
    single = subclass_split(dataset, target="dog")
    expected = state(REFRESHED(copy.deepcopy(cnn), single, context))
    for split in (split_of(dataset, "dog"), single):
        assert torch.equal(state(answer(KEPT, copy.deepcopy(cnn), split, context, cnn)), expected)


@pytest.mark.parametrize("method", [KEPT, REFRESHED], ids=["kept", "refreshed"])
def test_ssd_by_hand(dataset, cnn, context, method):
    """I_D of the original and all of D, or of the current model and the rest of D; I_Df of the current model."""
    first, second = split_of(dataset, "dog", "ant").requests

    def importance(model, data):
        return Importance.of(model, context.batches(data, 8), reduction="batch_mean")

    def sorted_with_last(split):
        retain = split.retain_train
        return retain.subset(torch.argsort(retain.fine_labels, stable=True)).join(split.forget_train)

    model = copy.deepcopy(cnn)
    original_importance = importance(model, sorted_with_last(first))
    dampen(model, original_importance, importance(model, first.forget_train), alpha=ALPHA, lam=1.0)
    refreshed = importance(model, sorted_with_last(second))
    full = original_importance if method is KEPT else refreshed
    assert any(not torch.equal(original_importance[name], refreshed[name]) for name in refreshed)
    dampen(model, full, importance(model, second.forget_train), alpha=ALPHA, lam=1.0)
    assert torch.equal(state(after(method, cnn, dataset, ("dog", "ant"), context)), state(model))
