"""The contract of an unlearning method and all that it may use beside itself."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from datasets.base import ForgetSplit, LabelledImages
from datasets.batches import Batches, Preprocessing
from datasets.seeding import derive_seed, generator
from methods.timing import Stopwatch
from methods.training import Compute, Epochs, Loss, Recipe, TrainingState, train

Cache = Callable[[str, Mapping[str, object], Callable[[], dict[str, Tensor]]], dict[str, Tensor]]


Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


class ModelBuilder(Protocol):
    """Seed -> a freshly initialised model on the device; without `pretrained`, random in every layer."""

    def __call__(self, seed: int, *, pretrained: bool = True) -> nn.Module: ...


@dataclass(frozen=True, eq=False, kw_only=True)
class ReportedBatches(Batches):
    """Batches that say how far a pass over them is."""

    progress: Progress

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        with self.progress(f"a pass over {len(self.data)} images, batch", len(self)) as report:
            for n, batch in enumerate(super().__iter__(), start=1):
                yield batch
                report(n)


@dataclass(frozen=True)
class MethodContext:
    """All that a method needs beside the model and the split.

    Attributes:
        seed: the method seed; derive streams from it by name with `random(...)`.
        build_model: seed -> a fresh model on the device, by default as it was before the original's training.
        recipe: how the original model was trained.
        cache: `cache(phase, options, make)` returns `make()`, or its tensors as an earlier run kept them. They depend
            on the original model, the split and `options` alone; their seconds are booked under `phase`.
        training_state: names of a training, and values to keep beside it -> the keeper of its state, so that another
            process can continue it.
        progress: (name of a long step, parts) -> a context whose value takes how many parts are done.
        first: the call that answered the first of several forget requests; None in that call itself.
    """

    seed: int
    compute: Compute
    preprocessing: Preprocessing
    recipe: Recipe
    build_model: ModelBuilder
    stopwatch: Stopwatch
    cache: Cache | None = None
    training_state: Callable[..., TrainingState] | None = None
    progress: Progress = lambda step, total: nullcontext(lambda done: None)
    first: "Call | None" = None

    @property
    def device(self) -> torch.device:
        return self.compute.device

    def random(self, *names: object) -> torch.Generator:
        """Return a generator on the device for one use of randomness, named by `names`."""
        return generator(self.seed, *names, device=self.device)

    def fresh_model(self, *names: object, pretrained: bool = True) -> nn.Module:
        """Return a newly initialised model on the device; `names` separate it from others of the same seed.

        Without `pretrained` it is random in every layer, even if the original started from pretrained weights.
        """
        return self.build_model(derive_seed(self.seed, *names), pretrained=pretrained)

    def batches(self, data: LabelledImages, batch_size: int) -> Batches:
        """Return batches of `data` in its order; pairs of images (B, C, H, W) float32 and labels (B,) int64."""
        return ReportedBatches(data, batch_size, self.preprocessing, progress=self.progress)

    @torch.no_grad()
    def predict(self, model: nn.Module, data: LabelledImages, batch_size: int) -> Tensor:
        """Return the logits of `model`, which is put into eval mode, on `data` in its order, (N, K) float32."""
        model.eval()
        with self.compute.autocast():
            return torch.cat([model(images).float() for images, _ in self.batches(data, batch_size)])

    def train(
        self, model: nn.Module, data: LabelledImages | Epochs, recipe: Recipe, *names: object,
        loss: Loss | None = None, before_step: Callable[[], None] | None = None,
        after_step: Callable[[torch.optim.Optimizer], None] | None = None, stale_gradient: bool = False,
        after_epoch: Callable[[int], None] | None = None, extra: dict[str, Any] | None = None,
    ) -> nn.Module:  # fmt: skip
        """Train `model` in place by `recipe` with this context's seed and device; return it in eval mode.

        `data` and the options are those of `methods.training.train`. `extra` are values that the method gathers over
        the epochs: tensors, numbers and text, which a continued training finds as they were.
        """
        more = () if extra is None else (extra,)
        with self.progress(f"epochs of {' '.join(map(str, names))}", recipe.epochs) as report:

            def end_epoch(epoch: int) -> None:
                report(epoch)
                if after_epoch is not None:
                    after_epoch(epoch)

            return train(
                model, data, recipe, preprocessing=self.preprocessing, random=self.random("train", *names),
                compute=self.compute, loss=loss, before_step=before_step, after_step=after_step,
                stale_gradient=stale_gradient, after_epoch=end_epoch,
                training_state=None if self.training_state is None else self.training_state(names, *more),
            )  # fmt: skip

    def remember(
        self, phase: str, options: Mapping[str, object], make: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return `make()`, timed as `phase`, or its tensors as an earlier run kept them."""
        if self.cache is not None:
            return self.cache(phase, options, make)
        with self.stopwatch.phase("cache"), self.stopwatch.phase(phase):  # apart from the rest of the method
            return make()


@dataclass(frozen=True)
class Call:
    """The arguments of one call of a method."""

    model: nn.Module
    split: ForgetSplit
    context: MethodContext


class UnlearningMethod(Protocol):
    """A frozen dataclass of hyper-parameters that unlearns when called.

    The call may change `model` in place. It uses `split.forget_train` and `split.retain_train`, never the test
    splits, and returns the unlearned model in eval mode. One member is optional: `skip(split) -> str | None`, the
    reason why the method does not apply to a split.
    """

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module: ...


def skip_reason(method: UnlearningMethod, split: ForgetSplit) -> str | None:
    """Return why `method` does not apply to `split` or to one of its requests; None if it does."""
    skip = getattr(method, "skip", lambda split: None)
    return next((reason for request in split.requests or (split,) if (reason := skip(request))), None)


def get_classifier(model: nn.Module) -> nn.Module:
    """Return the last layer, by timm's convention `model.get_classifier()`."""
    getter = getattr(model, "get_classifier", None)
    if getter is None:
        raise TypeError(
            f"Expected {type(model).__name__} to have get_classifier() for its last layer, as timm's models do."
        )
    head: nn.Module = getter()
    return head
