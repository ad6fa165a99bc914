"""What every unlearning method must do: every file in configs/method, on every task, under both protocols."""

import copy
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark.compose import CONFIGS
from datasets.base import ForgetSplit, LabelledImages
from methods.base import UnlearningMethod, image_passes, skip_reason
from tests.methods.helpers import RECIPE, compose_method, make_context, tiny_net, tiny_split

METHODS = sorted(path.stem for path in (Path(CONFIGS) / "method").glob("*.yaml"))
CASES = [(m, t, p) for m in METHODS for t in ("class", "subclass", "random") for p in ("paper", "strict")]
State = dict[str, Tensor]


class Poisoned(Tensor):
    """A tensor of which only type, shape and place can be asked; a look at its values fails."""

    ALLOWED = frozenset(getattr(Tensor, name).__get__ for name in ("dtype", "ndim", "shape", "device"))

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func not in cls.ALLOWED:
            raise AssertionError("a method read a test split")
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def poison(data: LabelledImages) -> LabelledImages:
    poisoned = copy.copy(data)
    for name in ("storage", "index", "labels", "fine_labels"):
        if (value := getattr(data, name)) is not None:
            object.__setattr__(poisoned, name, value.as_subclass(Poisoned))
    return poisoned


def without_test(split: ForgetSplit) -> ForgetSplit:
    """Return the split with test parts that cannot be read; the random task's D_f is measured on training samples."""
    poisoned = copy.copy(split)
    object.__setattr__(poisoned, "retain_test", poison(split.retain_test))
    if not split.forget_test_is_train:
        object.__setattr__(poisoned, "forget_test", poison(split.forget_test))
    return poisoned


def global_state() -> tuple[bytes, str, object]:
    return torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state()), random.getstate()  # noqa: NPY002


def data_of(split: ForgetSplit) -> list[Tensor]:
    parts = (split.forget_train, split.retain_train)
    return [t.clone() for part in parts for t in (part.storage, part.index, part.labels)]


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@dataclass
class Outcome:
    """What two runs of a method from the same original model left behind."""

    method: UnlearningMethod
    split: ForgetSplit
    original: nn.Module
    original_before: State
    results: list[nn.Module]
    built: list[tuple[nn.Module, State]]  # models that the method asked for, and how they were then
    data_before: list[Tensor]
    states: list[object]  # global random state before and after
    returned_built: bool


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def outcome(request) -> Outcome:
    name, task, protocol = request.param
    method = compose_method(f"method={name}", f"task={task}", f"protocol={protocol}")
    split = without_test(tiny_split(task))
    if skip_reason(method, split) is not None:
        pytest.skip("the method does not apply to this task")
    built: list[tuple[nn.Module, State]] = []

    def build_model(seed: int, *, pretrained: bool = True) -> nn.Module:
        model = tiny_net(seed, split.num_classes)
        built.append((model, copy.deepcopy(model.state_dict())))
        return model

    original = tiny_net(1, split.num_classes)
    before, data, states = copy.deepcopy(original.state_dict()), data_of(split), [global_state()]
    results = [method(copy.deepcopy(original), split, make_context(build_model)) for _ in range(2)]
    states.append(global_state())
    returned = any(result is model for result in results for model, _ in built)
    return Outcome(method, split, original, before, results, built, data, states, returned)


def test_the_model_comes_back_in_eval_mode_and_finite(outcome):
    for model in outcome.results:
        assert not any(module.training for module in model.modules())
        assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_the_original_and_the_data_are_left_alone(outcome):
    assert same(outcome.original.state_dict(), outcome.original_before)
    assert all(torch.equal(a, b) for a, b in zip(data_of(outcome.split), outcome.data_before, strict=True))


def test_parameters_stay_trainable_and_keep_no_gradient_function(outcome):
    for model in outcome.results:
        assert all(p.requires_grad and p.is_leaf for p in model.parameters())


def test_global_random_state_is_untouched(outcome):
    assert outcome.states[0] == outcome.states[1]


def test_the_same_seed_gives_the_same_model(outcome):
    assert same(*(model.state_dict() for model in outcome.results))


def test_teachers_are_frozen(outcome):
    """A model that the method builds is either what it returns or stays as it was born, running statistics too."""
    if not outcome.returned_built:
        assert all(same(model.state_dict(), before) for model, before in outcome.built)


def test_the_cost_is_a_finite_number(outcome):
    cost = image_passes(outcome.method, outcome.split, RECIPE)
    assert 0 <= cost < float("inf")


@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_skips_says_why(name):
    for task in ("class", "subclass", "random"):
        reason = skip_reason(compose_method(f"method={name}", f"task={task}", "protocol=strict"), tiny_split(task))
        assert reason is None or len(reason) > 10


@pytest.mark.parametrize("name", METHODS)
def test_file_class_and_configuration_share_one_name(name):
    method = compose_method(f"method={name}", "task=class", "protocol=strict")
    assert type(method).__module__ == f"methods.{name}"
    assert type(method).__name__.lower() == name.replace("_", "")


def test_a_poisoned_split_notices_a_look():
    split = without_test(tiny_split("class"))
    assert split.retain_test.storage.shape[-1] == 3
    for look in (
        lambda: split.retain_test.storage[0],
        lambda: split.forget_test.labels + 1,
        lambda: split.retain_test.subset(torch.arange(2)),
        lambda: len(split.forget_test),
    ):
        with pytest.raises(AssertionError, match="read a test split"):
            look()
