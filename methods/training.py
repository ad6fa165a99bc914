"""The one training loop: originals, retrained models and every method that trains use it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.base import LabelledImages
from datasets.batches import Augmentation, Batches, Preprocessing
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
    (so a ramp shorter than the warm-up overshoots), then is `lr`, multiplied by `decay` from each milestone on;
    epochs count from 1.

    Attributes:
        momentum: of SGD; Adam and AdamW ignore it.
        augmentation: None trains on the images as they are.
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
        return self.lr * self.decay ** sum(epoch + 1 >= milestone for milestone in self.milestones)

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


class TrainingState(Protocol):
    """Keeps the state of a training between epochs, so that another process can continue it."""

    def resume(self, model: nn.Module, optimizer: torch.optim.Optimizer, random: torch.Generator) -> int:
        """Put all three into the state that was kept, if any; return how many epochs are finished."""
        ...

    def keep(self, epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer, random: torch.Generator) -> None:
        """Keep the state after `epoch` epochs, or leave it at an older one."""
        ...


def train(
    model: nn.Module,
    data: LabelledImages,
    recipe: Recipe,
    *,
    preprocessing: Preprocessing,
    random: torch.Generator,
    compute: Compute,
    loss: Loss | None = None,
    after_epoch: Callable[[int], None] | None = None,
    training_state: TrainingState | None = None,
    stale_gradient: bool = False,
) -> nn.Module:
    """Train `model` in place and return it in eval mode.

    Args:
        random: orders and augments the batches; on the device of `data`.
        loss: (model, images (B, C, H, W), positions (B,) in `data`) -> a mean over the samples, so that a large batch
            can be taken in parts, see `microbatch_size`; the default is the cross-entropy.
        after_epoch: called with the number of finished epochs, the model in eval mode.
        training_state: continues the training of an earlier process and keeps its state for a later one; the result
            is the same.
        stale_gradient: the first step adds the gradients with which the model comes; else they are cleared.

    Raises:
        FloatingPointError: the loss became infinite or NaN.
    """

    def cross_entropy(model: nn.Module, images: Tensor, positions: Tensor) -> Tensor:
        return F.cross_entropy(model(images), data.labels[positions])

    loss = loss or cross_entropy
    batches = Batches(data, recipe.batch_size, preprocessing, random, recipe.augmentation)
    optimizer = recipe.build_optimizer(model)
    done = 0 if training_state is None else training_state.resume(model, optimizer, random)
    step, network = done * len(batches), compute.compiled(model)
    size: int | None = None
    for epoch in range(done + 1, recipe.epochs + 1):
        model.train()
        total = torch.zeros((), device=data.device)
        for positions, channels_last_images in batches.with_positions():
            images = compute.arrange(channels_last_images)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate(step, len(batches))
            if step > 0 or not stale_gradient:
                optimizer.zero_grad(set_to_none=True)
            if size is None:
                with compute.autocast():
                    size = microbatch_size(model, images)
            for x, at in zip(images.split(size), positions.split(size), strict=True):
                # A compiled pass may not add to gradients (CUDA graphs own them), and one shape is worth compiling.
                whole = len(x) == recipe.batch_size or not compute.compile
                with compute.autocast():
                    value = loss(network if whole else model, x, at) * (len(x) / len(images))
                value.backward()
                total += value.detach()  # stays on the device: one synchronisation per epoch
            optimizer.step()
            step += 1
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
