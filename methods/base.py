"""The contract of an unlearning method and all that it may use beside itself."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from datasets.base import ForgetSplit, LabelledImages
from datasets.batches import Augmentation, Batches, Preprocessing
from datasets.seeding import derive_seed, generator
from methods.timing import Stopwatch
from methods.training import Compute, Loss, Progress, Recipe, train

Memo = Callable[[str, Mapping[str, object], Callable[[], dict[str, Tensor]]], dict[str, Tensor]]


class ModelBuilder(Protocol):
    """Seed -> a freshly initialised model on the device; without `pretrained`, random in every layer."""

    def __call__(self, seed: int, *, pretrained: bool = True) -> nn.Module: ...


@dataclass(frozen=True)
class MethodContext:
    """What a method needs beside the model and the split.

    Attributes:
        seed: the method seed; derive streams from it by name with `random(...)`.
        build_model: seed -> a fresh model on the device, by default as it was before the original's training.
        recipe: how the original model was trained.
        memo: `memo(phase, options, compute)` returns tensors that depend on the original model, the split and
            `options` alone; it books the seconds under `phase` and may keep the result for later runs.
        progress: names of a training -> what keeps its state while it lasts, for a run that continues a killed one.
        first: in a sequence of forget requests, the call that answered the first one; None in that call itself.
    """

    seed: int
    compute: Compute
    preprocessing: Preprocessing
    recipe: Recipe
    build_model: ModelBuilder
    stopwatch: Stopwatch
    memo: Memo | None = field(default=None)
    progress: Callable[[tuple[object, ...]], Progress] | None = field(default=None)
    first: "Call | None" = None

    @property
    def device(self) -> torch.device:
        return self.compute.device

    def random(self, *names: object) -> torch.Generator:
        """Return a generator on the device for one use of randomness, named by `names`."""
        return generator(self.seed, *names, device=self.device)

    def fresh_model(self, *names: object) -> nn.Module:
        """Return a newly initialised model; `names` separate it from others of the same seed."""
        return self.build_model(derive_seed(self.seed, *names))

    def random_model(self, *names: object) -> nn.Module:
        """Return a model that is random in every layer, also where the original started from pretrained weights."""
        return self.build_model(derive_seed(self.seed, *names), pretrained=False)

    def batches(
        self,
        data: LabelledImages,
        batch_size: int,
        *,
        random: torch.Generator | None = None,
        augmentation: Augmentation | None = None,
    ) -> Batches:
        """Return batches of `data`; shuffled where `random` is given."""
        return Batches(data, batch_size, self.preprocessing, random, augmentation)

    def train(
        self, model: nn.Module, data: LabelledImages, recipe: Recipe, *names: object, loss: Loss | None = None
    ) -> nn.Module:
        """Train `model` in place by `recipe` with this context's seed and device; return it in eval mode.

        `loss` is that of `methods.training.train`.
        """
        return train(
            model, data, recipe, preprocessing=self.preprocessing, random=self.random("train", *names),
            compute=self.compute, loss=loss, progress=None if self.progress is None else self.progress(names),
        )  # fmt: skip

    def remember(
        self, phase: str, options: Mapping[str, object], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return `compute()`, timed as `phase`, or what an earlier run kept of it."""
        if self.memo is not None:
            return self.memo(phase, options, compute)
        with self.phase("memo"), self.phase(phase):  # as a memo books it: apart from the rest of the method
            return compute()

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Measure a part of the method under a name of its own."""
        return self.stopwatch.phase(name)


@dataclass(frozen=True)
class Call:
    """What a method was called with."""

    model: nn.Module
    split: ForgetSplit
    context: MethodContext


class UnlearningMethod(Protocol):
    """A frozen dataclass of hyper-parameters that unlearns when called.

    The call may change `model` in place. It uses `split.forget_train` and `split.retain_train`, never the test
    splits, and returns the unlearned model in eval mode. Optional members complete the contract:

    * `ranked = False`: tables show the method but do not compare it with the others;
    * `skip(split) -> str | None`: the reason why the method does not apply to this task;
    * `cost(split, recipe) -> float`: training passes of one image, for the estimate before a grid starts.
    """

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module: ...


def skip_reason(method: UnlearningMethod, split: ForgetSplit) -> str | None:
    """Return why `method` does not apply to `split`, or None where it does."""
    skip = getattr(method, "skip", None)
    return None if skip is None else skip(split)


def image_passes(method: UnlearningMethod, split: ForgetSplit, recipe: Recipe) -> float:
    """Return the method's cost in training passes of one image; 0 where it states none."""
    cost = getattr(method, "cost", None)
    return 0.0 if cost is None else float(cost(split, recipe))


def get_classifier(model: nn.Module) -> nn.Module:
    """Return the last layer, by timm's convention `model.get_classifier()`."""
    getter = getattr(model, "get_classifier", None)
    if getter is None:
        raise TypeError(
            f"Expected {type(model).__name__} to have get_classifier() for its last layer, as timm's models do."
        )
    head: nn.Module = getter()
    return head
