"""What every unlearning method must do: every file in configs/method, on every task."""

import copy
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark.compose import CONFIGS
from datasets.base import ForgetSplit
from datasets.splits import random_split
from methods.base import skip_reason
from tests.methods.helpers import compose_method, make_context, poison, tiny_data, tiny_net, tiny_split, tiny_vit

METHODS = sorted(path.stem for path in Path(CONFIGS, "method").glob("*.yaml"))
TASKS = {"class": "paper", "subclass": "strict", "random": "paper", "confusion": "strict"}  # with a protocol for each


def without_test(split: ForgetSplit) -> ForgetSplit:
    """Return the split with test parts that cannot be read; the random task's D_f is measured on training samples."""
    poisoned = copy.copy(split)
    object.__setattr__(poisoned, "retain_test", poison(split.retain_test))
    if not split.forget_test_is_train:
        object.__setattr__(poisoned, "forget_test", poison(split.forget_test))
    return poisoned


def global_state() -> tuple[bytes, str, object]:
    return torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state()), random.getstate()  # noqa: NPY002


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def data_of(split: ForgetSplit) -> list[Tensor]:
    parts = (split.forget_train, split.retain_train)
    return [t.clone() for part in parts for t in (part.storage, part.index, part.labels)]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_keeps_its_contract(name):
    for task in TASKS:
        check(name, task)


def check(name: str, task: str) -> None:
    """It runs twice on copies of one original, on a split whose test parts cannot be read, or says why it does not."""
    method = compose_method(f"method={name}", f"task={task}", f"protocol={TASKS[task]}")
    split = without_test(tiny_split(task))
    if (reason := skip_reason(method, split)) is not None:
        assert len(reason) > 10
        return
    built: list[tuple[nn.Module, dict[str, Tensor]]] = []  # models that the method asked for, and how they were then

    def build_model(seed: int, *, pretrained: bool = True) -> nn.Module:
        model = tiny_net(seed, split.num_classes)
        built.append((model, copy.deepcopy(model.state_dict())))
        return model

    original, data, random_state = tiny_net(1, split.num_classes), data_of(split), global_state()
    before = copy.deepcopy(original.state_dict())
    first, second = (method(copy.deepcopy(original), split, make_context(build_model)) for _ in range(2))
    state = first.state_dict()
    assert same(state, second.state_dict()), "the same seed gave another model"
    assert not any(module.training for module in first.modules()), "not in eval mode"
    assert all(torch.isfinite(value).all() for value in state.values())
    assert all(p.requires_grad and p.is_leaf for p in first.parameters()), "parameters must stay trainable"
    assert same(original.state_dict(), before)
    assert all(torch.equal(a, b) for a, b in zip(data_of(split), data, strict=True)), "the data changed"
    assert global_state() == random_state, "the global random state was used"
    if not any(result is model for result in (first, second) for model, _ in built):  # else they are what it returns
        assert all(same(model.state_dict(), born) for model, born in built), "a teacher changed"


def test_class_and_module_share_one_name():
    kinds = [type(compose_method(f"method={name}", "task=class", "protocol=paper")) for name in METHODS]
    assert all(kind.__name__.lower() == kind.__module__.rpartition(".")[2].replace("_", "") for kind in kinds)


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
    method = compose_method(f"method={name}", "task=random", "protocol=strict")
    for forgotten in (1, 65):
        data = random_split(tiny_data("class"), n=forgotten, seed=0)
        if skip_reason(method, data) is None:
            state = method(tiny_net(1, data.num_classes), data, make_context(tiny_net)).state_dict()
            assert all(torch.isfinite(value).all() for value in state.values())


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_a_vision_transformer_or_says_why_not(name):
    method, split = compose_method(f"method={name}", "model=vit", "task=class", "protocol=strict"), tiny_split("class")
    if (reason := skip_reason(method, split)) is not None:
        assert name in ("ct", "scrub_r"), reason
        return
    context = make_context(lambda seed, *, pretrained=True: tiny_vit(seed, split.num_classes))
    context = replace(context, preprocessing=replace(context.preprocessing, size=8))
    state = method(tiny_vit(1, split.num_classes), split, context).state_dict()
    assert all(torch.isfinite(value).all() for value in state.values())
