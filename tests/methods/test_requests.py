"""A sequence of requests: what each call sees, what is remembered, and which I_D SSD uses."""

import copy
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch

from datasets.splits import class_split, requests_split, subclass_split
from methods.amnesiac import Amnesiac
from methods.dampening.dampen import dampen
from methods.dampening.importance import parameter_importance
from methods.finetune import Finetune
from methods.requests import Sequential
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


def answer(method, cnn, split, context):
    return Sequential(method)(copy.deepcopy(cnn), split, context)


@dataclass(frozen=True)
class Spy:
    calls: list

    def __call__(self, model, split, context):
        self.calls.append((split, context.seed, context.first))
        with torch.no_grad():
            next(model.parameters()).add_(1)
        return model.eval()


def test_every_request_is_a_call_on_what_the_last_one_left(dataset, cnn, context):
    calls: list = []
    split = split_of(dataset, "dog", "ant", "fox")
    model = Sequential(Spy(calls))(copy.deepcopy(cnn), split, context)
    assert torch.equal(next(model.parameters()), next(cnn.parameters()) + 1 + 1 + 1)
    assert [call[0] for call in calls] == list(split.requests)
    seeds = [call[1] for call in calls]
    assert seeds[0] == context.seed
    assert len(set(seeds)) == 3
    assert calls[0][2] is None
    for _, _, first in calls[1:]:
        assert first.split is split.requests[0]
        assert torch.equal(state(first.model), state(cnn))


@pytest.mark.parametrize("method", [KEPT, REFRESHED, Finetune(RECIPE), Amnesiac(RECIPE)])
def test_the_first_request_is_the_single_run(dataset, cnn, context, method):
    sequence = answer(method, cnn, split_of(dataset, "dog"), context)
    single = method(copy.deepcopy(cnn), subclass_split(dataset, target="dog"), context)
    assert torch.equal(state(sequence), state(single))
    assert not torch.equal(state(single), state(cnn))


def test_kept_and_refreshed_differ_from_the_second_request_on(dataset, cnn, context):
    split = split_of(dataset, "dog", "ant")
    assert not torch.equal(state(answer(KEPT, cnn, split, context)), state(answer(REFRESHED, cnn, split, context)))


@pytest.mark.parametrize("method", [KEPT, REFRESHED])
def test_ssd_by_hand(dataset, cnn, context, method):
    """I_D of the original and all of D, or of the current model and what is left; I_Df of the current model."""
    first, second = split_of(dataset, "dog", "ant").requests

    def importance(model, data):
        return parameter_importance(model, context.batches(data, 8), reduction="batch_mean")

    def sorted_with_last(split):
        retain = split.retain_train
        return retain.subset(torch.argsort(retain.fine_labels, stable=True)).join(split.forget_train)

    model = copy.deepcopy(cnn)
    original_importance = importance(model, sorted_with_last(first))
    dampen(model, original_importance, importance(model, first.forget_train), alpha=ALPHA, lam=1.0)
    full = original_importance if method.importance == "kept" else importance(model, sorted_with_last(second))
    dampen(model, full, importance(model, second.forget_train), alpha=ALPHA, lam=1.0)
    ours = answer(method, cnn, split_of(dataset, "dog", "ant"), context)
    assert torch.equal(state(ours), state(model))


@pytest.mark.parametrize("method", [KEPT, REFRESHED, Finetune(RECIPE), Amnesiac(RECIPE)])
def test_a_remembered_prefix_gives_the_same_model_with_one_call(dataset, cnn, context, method):
    store: dict = {}
    asked = []

    def memo(phase, options, compute):
        key = repr((phase, sorted(options.items())))
        asked.append((phase, key in store))
        if key not in store:
            store[key] = compute()
        return store[key]

    targets = ("dog", "ant", "fox")
    remembering = replace(context, memo=memo)
    for n in (1, 2, 3):
        asked.clear()
        ours = answer(method, cnn, split_of(dataset, *targets[:n]), remembering)
        requests = [found for phase, found in asked if phase == "requests"]
        assert requests == [True] * (n > 1) + [False]  # the prefix is there, the new state is not
    assert torch.equal(state(ours), state(answer(method, cnn, split_of(dataset, *targets), context)))


def test_another_method_or_order_is_another_state(dataset, cnn, context):
    def key(method, *targets, seed=0):
        split = split_of(dataset, *targets)
        return repr(Sequential(method)._key(split.requests, replace(context, seed=seed)))

    keys = {
        key(KEPT, "dog", "ant"), key(KEPT, "ant", "dog"), key(KEPT, "dog"), key(REFRESHED, "dog", "ant"),
        key(Finetune(RECIPE), "dog", "ant"), key(Amnesiac(RECIPE), "dog", "ant"), key(KEPT, "dog", "ant", seed=1),
    }  # fmt: skip
    assert len(keys) == 7


def test_seconds_are_those_of_the_newest_request(dataset, cnn, context):
    answer(Finetune(RECIPE), cnn, split_of(dataset, "dog", "ant"), context)
    assert set(context.stopwatch.seconds) == {"memo", "requests"}
    answer(REFRESHED, cnn, split_of(dataset, "dog", "ant"), context)
    assert context.stopwatch.seconds["memo"] >= context.stopwatch.seconds["importance_full"] > 0


def test_class_split_works_too(dataset, cnn, context):
    split = requests_split(dataset, partial(class_split, target=0), ["pet", "wild"])
    assert not torch.equal(state(answer(KEPT, cnn, split, context)), state(cnn))
