"""The one training loop: originals, retrained models and every method that trains use it."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import count, islice
from typing import Annotated, Literal, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.base import LabelledImages
from datasets.batches import Augmentation, Batches, Preprocessing
from datasets.seeding import derive_seed
from datasets.values import check_fields
from methods.dampening.microbatch import microbatch_size
from methods.fused import fused

Precision = Literal["float32", "bfloat16"]
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (model, images, positions in the data) -> scalar


@dataclass(frozen=True)
class Compute:
    """Where and how to compute; none of it is part of a run's name.

    Attributes:
        precision: of the forward pass in training (autocast); metrics and importances always use float32.
        channels_last: memory layout of convolutional weights and, in training, of the images.
        compile: train through `torch.compile`, on a GPU with CUDA graphs; pays if a training is long.
        fused: train through own kernels in bfloat16 on a CPU, see `methods.fused`.
    """

    device: torch.device
    precision: Precision
    channels_last: bool
    compile: bool = False
    fused: bool = False

    def autocast(self) -> AbstractContextManager[None]:
        enabled = self.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def place(self, model: nn.Module) -> nn.Module:
        """Move the model to the device and into the memory layout."""
        layout = torch.channels_last if self.channels_last else torch.preserve_format
        return model.to(device=self.device, memory_format=layout)  # type: ignore[call-overload, no-any-return]

    def compiled(self, model: nn.Module) -> nn.Module:
        """Return the compiled or fused form of `model`, on the same parameters; `model` itself if neither is asked."""
        if not self.compile:
            return fused(model) if self.fused else model
        torch.compiler.reset()  # else, after a few shapes of one architecture, new ones would not be compiled
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        return torch.compile(model, mode=mode, dynamic=False)  # type: ignore[return-value]

    def arrange(self, images: Tensor) -> Tensor:
        """Return images (B, C, H, W), which come channels-last, in the memory layout."""
        return images if self.channels_last else images.contiguous()


@dataclass(frozen=True)
class Recipe:
    """How to train: optimiser, schedule, batches.

    The learning rate rises linearly from 0 by `lr` every `warmup_ramp` epochs while the first `warmup_epochs` last
    (so a ramp shorter than the warm-up overshoots), then follows the schedule; epochs count from 1.

    Attributes:
        momentum: of SGD; Adam and AdamW ignore it.
        augmentation: None trains on the images as they are.
        schedule: `step` is `lr`, multiplied by `decay` from each milestone on; the others have one rate per epoch e of
            E: `cosine` lr·(1 + cos(π(e − 1)/E))/2, `triangle` linearly up to `lr` in the middle, then down.
    """

    optimizer: Literal["sgd", "adam", "adamw"]
    lr: Annotated[float, "(0, inf)"]
    momentum: Annotated[float, "[0, 1)"]
    weight_decay: Annotated[float, "[0, inf)"]
    batch_size: Annotated[int, "[1, inf)"]
    epochs: Annotated[int, "[1, inf)"]
    milestones: tuple[Annotated[int, "[1, inf)"], ...]
    decay: Annotated[float, "(0, inf)"]
    warmup_epochs: Annotated[int, "[0, inf)"]
    warmup_ramp: Annotated[int, "[1, inf)"]
    augmentation: Augmentation | None
    schedule: Literal["step", "cosine", "triangle"] = "step"

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
        check_fields(self)

    @classmethod
    def constant(
        cls, optimizer: Literal["sgd", "adam"], *, lr: float, epochs: int, batch_size: int,
        momentum: float = 0.0, weight_decay: float = 0.0,
    ) -> Self:  # fmt: skip
        """Return a recipe with a constant learning rate and no augmentation."""
        return cls(optimizer, lr, momentum, weight_decay, batch_size, epochs, (), 1.0, 0, 1, None)

    def learning_rate(self, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate of a step; both count from 0."""
        epoch = step // steps_per_epoch
        if epoch < self.warmup_epochs:
            return self.lr * step / (self.warmup_ramp * steps_per_epoch)
        match self.schedule:
            case "step":
                return self.lr * self.decay ** sum(epoch + 1 >= milestone for milestone in self.milestones)
            case "cosine":
                return self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
            case "triangle":
                top = (self.epochs + 1) // 2
                return self.lr * min((epoch + 1) / top, (self.epochs - epoch) / (self.epochs + 1 - top))

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        parameters = [p for p in model.parameters() if p.requires_grad]
        fused = all(p.device.type in ("cuda", "cpu") for p in parameters)  # one kernel, no temporary copies
        match self.optimizer:
            case "sgd":
                return torch.optim.SGD(
                    parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, fused=fused
                )
            case "adam":
                return torch.optim.Adam(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=fused)
            case "adamw":
                return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=fused)


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass over a data set, in batches.

    Attributes:
        loss: (model, images (B, C, H, W), positions (B,) in `data`) -> a mean over the samples, so that a large batch
            can be taken in parts, see `microbatch_size`; None: the cross-entropy.
        batch_size: None: the recipe's.
        random: orders and augments the batches; None: the training's generator.
        beside: each step adds the loss on a batch of this one, which starts again when it ends.
    """

    data: LabelledImages
    loss: Loss | None = None
    batch_size: int | None = None
    random: torch.Generator | None = None
    beside: "Pass | None" = None

    def value(self, model: nn.Module, images: Tensor, positions: Tensor) -> Tensor:
        """Return the loss on a part of a batch."""
        if self.loss is not None:
            return self.loss(model, images, positions)
        return F.cross_entropy(model(images), self.data.labels[positions])


Epochs = Callable[[int], Sequence[Pass]]  # an epoch, counted from 1 -> its passes, one after the other
Batch = tuple[Pass, Tensor, Tensor]  # with positions (B,) and images (B, C, H, W)


def steps_of(one: Pass, batches: Callable[[Pass], Batches]) -> Iterator[list[Batch]]:
    """Yield the batches of each step of a pass: its own and, if there is a pass beside it, one of that."""
    beside = one.beside
    others = ((beside, *batch) for _ in count() for batch in batches(beside).with_positions()) if beside else ()
    for batch in batches(one).with_positions():
        yield [(one, *batch), *islice(others, 1)]


class TrainingState(Protocol):
    """Keeps the state of a training between epochs, so that another process can continue it."""

    def resume(self, model: nn.Module, optimizer: torch.optim.Optimizer, random: torch.Generator) -> int:
        """Put all three into the state that was kept, if any; return how many epochs are finished."""
        ...

    def keep(self, epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer, random: torch.Generator) -> None:
        """Keep the state after `epoch` epochs, or leave it at an older one."""
        ...


@contextmanager
def drawing_from(seed: int, device: torch.device) -> Iterator[None]:
    """Let torch's own generator of `device` draw by `seed` in the body; after it, it goes on as if nothing had been.

    Layers that draw (dropout, stochastic depth) and new weights take their random numbers from it.
    """
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpus):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed all GPUs
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield


def train(
    model: nn.Module,
    data: LabelledImages | Epochs,
    recipe: Recipe,
    *,
    preprocessing: Preprocessing,
    random: torch.Generator,
    compute: Compute,
    loss: Loss | None = None,
    before_step: Callable[[], None] | None = None,
    after_step: Callable[[torch.optim.Optimizer], None] | None = None,
    after_epoch: Callable[[int], None] | None = None,
    training_state: TrainingState | None = None,
    stale_gradient: bool = False,
) -> nn.Module:
    """Train `model` in place and return it in eval mode.

    Args:
        data: one pass over it is an epoch; or the passes of each epoch, which share the optimiser. They depend on the
            number of the epoch and on nothing else that changes, so that a training can be continued.
        random: orders and augments the batches; on the device of `data`. Layers that draw, such as dropout, do so by
            its seed and the epoch.
        loss: of the only pass, see `Pass`.
        before_step: called when the gradients of a step are there.
        after_step: called with the optimiser after each of its steps.
        after_epoch: called with the number of finished epochs, the model in eval mode.
        training_state: continues the training of an earlier process and keeps its state for a later one; the result
            is the same.
        stale_gradient: the first step adds the gradients with which the model comes; else they are cleared.

    Raises:
        FloatingPointError: the loss became infinite or NaN.
    """

    def passes_of(epoch: int) -> Sequence[Pass]:
        return [Pass(data, loss)] if isinstance(data, LabelledImages) else data(epoch)

    def batches(one: Pass) -> Batches:
        size = one.batch_size or recipe.batch_size
        return Batches(one.data, size, preprocessing, one.random or random, recipe.augmentation)

    optimizer = recipe.build_optimizer(model)
    done = 0 if training_state is None else training_state.resume(model, optimizer, random)
    network = compute.compiled(model)
    size: int | None = None

    def run(epoch: int) -> Tensor:
        """Return the sum of the epoch's losses, on the device: one synchronisation per epoch."""
        nonlocal size
        total = torch.zeros((), device=compute.device)
        passes = passes_of(epoch)
        n_steps = sum(len(batches(one)) for one in passes)
        for k, step in enumerate(step for one in passes for step in steps_of(one, batches)):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate((epoch - 1) * n_steps + k, n_steps)
            if (epoch, k) > (1, 0) or not stale_gradient:
                optimizer.zero_grad(set_to_none=True)
            for one, positions, channels_last_images in step:
                images = compute.arrange(channels_last_images)
                if size is None:
                    with compute.autocast(), drawing_from(0, compute.device):
                        size = microbatch_size(model, images)
                for x, at in zip(images.split(size), positions.split(size), strict=True):
                    # A compiled pass may not add to gradients (CUDA graphs own them), and one shape is worth compiling.
                    whole = (len(x) == recipe.batch_size and one is step[0][0]) or not compute.compile
                    with compute.autocast():
                        value = one.value(network if whole else model, x, at) * (len(x) / len(images))
                    value.backward()
                    total += value.detach()
            if before_step is not None:
                before_step()
            optimizer.step()
            if after_step is not None:
                after_step(optimizer)
        return total

    for epoch in range(done + 1, recipe.epochs + 1):
        model.train()
        with drawing_from(derive_seed("layers", random.initial_seed(), epoch), compute.device):
            total = run(epoch)
        if not torch.isfinite(total):
            raise FloatingPointError(
                f"Expected a finite training loss, but got {float(total)} in epoch {epoch}; lower lr (now {recipe.lr})."
            )
        model.eval()
        if after_epoch is not None:
            after_epoch(epoch)
        if training_state is not None:
            training_state.keep(epoch, model, optimizer, random)
    optimizer.zero_grad(set_to_none=True)
    return model.eval()
