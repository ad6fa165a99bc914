"""What every unlearning method must do: every file in configs/method, on every task."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from datasets.base import ForgetSplit
from datasets.splits import random_split
from methods.base import skip_reason
from tests.methods.helpers import (
    METHODS,
    compose_methods,
    make_context,
    poison,
    tiny_data,
    tiny_net,
    tiny_split,
    tiny_vit,
)

TASKS = {"class": "paper", "subclass": "strict", "random": "paper", "confusion": "strict"}  # with a protocol for each
UNCHANGED = {*(("baseline", task) for task in TASKS), ("lfssd", "confusion")}  # LFSSD selects nothing here


def without_test(split: ForgetSplit) -> ForgetSplit:
    """Return the split with test parts that cannot be read; the random task's D_f is measured on training samples."""
    poisoned = copy.copy(split)
    object.__setattr__(poisoned, "retain_test", poison(split.retain_test))
    if not split.forget_test_is_train:
        object.__setattr__(poisoned, "forget_test", poison(split.forget_test))
    return poisoned


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def data_of(split: ForgetSplit) -> list[Tensor]:
    parts = (split.forget_train, split.retain_train)
    return [t.clone() for part in parts for t in (part.storage, part.index, part.labels)]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.usefixtures("global_rng_untouched")
def test_a_method_keeps_its_contract(name):
    for task in TASKS:
        check(name, task)


def check(name: str, task: str) -> None:
    """It runs twice on copies of one original, on a split whose test parts cannot be read, or says why it does not."""
    method = compose_methods(f"task={task}", f"protocol={TASKS[task]}")[name]
    split = without_test(tiny_split(task))
    if (reason := skip_reason(method, split)) is not None:
        assert len(reason) > 10
        return
    built: list[tuple[nn.Module, dict[str, Tensor]]] = []  # models that the method asked for, and how they were then

    def build_model(seed: int, *, pretrained: bool = True) -> nn.Module:
        model = tiny_net(seed, split.num_classes)
        built.append((model, copy.deepcopy(model.state_dict())))
        return model

    original, data = tiny_net(1, split.num_classes), data_of(split)
    before = copy.deepcopy(original.state_dict())
    first, second = (method(copy.deepcopy(original), split, make_context(build_model)) for _ in range(2))
    state = first.state_dict()
    assert same(state, second.state_dict()), "the same seed gave another model"
    assert not any(module.training for module in first.modules()), "not in eval mode"
    assert all(torch.isfinite(value).all() for value in state.values())
    assert all(p.requires_grad and p.is_leaf for p in first.parameters()), "parameters must stay trainable"
    assert same(original.state_dict(), before)
    assert same(state, before) == ((name, task) in UNCHANGED), "a method that changes nothing, or a baseline that does"
    assert all(torch.equal(a, b) for a, b in zip(data_of(split), data, strict=True)), "the data changed"
    if not any(result is model for result in (first, second) for model, _ in built):  # else they are what it returns
        assert all(same(model.state_dict(), born) for model, born in built), "a teacher changed"


def test_class_and_module_share_one_name():
    kinds = [type(method) for method in compose_methods("task=class", "protocol=paper").values()]
    assert all(kind.__name__.lower() == kind.__module__.rpartition(".")[2].replace("_", "") for kind in kinds)


def test_a_value_that_an_option_cannot_have_is_refused():
    methods = compose_methods("task=class", "protocol=paper")
    for name, option, value, expected in (
        ("bad_teacher", "incompetent", "body", "head or all"),
        ("bad_teacher", "retain_fraction", 1.5, r"in \[0, 1\]"),
        ("bad_teacher", "temperature", 0.0, "above 0"),
        ("fisher", "tolerance", -1.0, "from 0 on"),
        ("retrain", "reset", "body", "all or head"),
        *(("ssd", name, value, "above 0") for name in ("alpha", "lam") for value in (0.0, -1.0, math.nan, math.inf)),
        ("ssd", "order", "sorted", "class_sorted, retain_shuffled or shuffled"),
        ("unsir", "noise_mode", "test", "train or eval"),
        ("unsir", "noise_images", 33, r"in 1 … noise_batch \(32\)"),
        ("unsir", "noise_images", 0, "from 1 on"),
        ("unsir", "repetitions", 0, "from 1 on"),
    ):
        with pytest.raises(ValueError, match=f"Expected {option} to .*{expected}, but got {value!r}"):
            replace(methods[name], **{option: value})


def test_a_poisoned_split_notices_a_look():
    split = without_test(tiny_split("class"))
    assert split.retain_test.storage.shape[-1] == 3
    for look in (
        lambda: split.retain_test.storage[0],
        lambda: split.forget_test.labels + 1,
        lambda: split.retain_test.subset(torch.arange(2)),
        lambda: len(split.forget_test),
    ):
        with pytest.raises(AssertionError, match="read what it may not see"):
            look()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_a_forget_set_of_one_image_and_one_larger_than_the_rest(name):
    """65 of 120: in batches of 64 there is a last one of one image."""
    method = compose_methods("task=random", "protocol=strict")[name]
    for forgotten in (1, 65):
        data = random_split(tiny_data("class"), n=forgotten, seed=0)
        if skip_reason(method, data) is None:
            state = method(tiny_net(1, data.num_classes), data, make_context(tiny_net)).state_dict()
            assert all(torch.isfinite(value).all() for value in state.values())


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_a_vision_transformer_or_says_why_not(name):
    method, split = compose_methods("model=vit", "task=class", "protocol=strict")[name], tiny_split("class")
    if (reason := skip_reason(method, split)) is not None:
        assert name in ("ct", "scrub_r"), reason
        return
    context = make_context(lambda seed, *, pretrained=True: tiny_vit(seed, split.num_classes))
    context = replace(context, preprocessing=replace(context.preprocessing, size=8))
    state = method(tiny_vit(1, split.num_classes), split, context).state_dict()
    assert all(torch.isfinite(value).all() for value in state.values())
