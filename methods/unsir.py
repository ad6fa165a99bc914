"""UNSIR: impair the model with noise that maximises the error on the forgotten class, then repair it."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.base import ForgetSplit, LabelledImages
from datasets.values import check_fields
from methods.base import MethodContext
from methods.dampening.microbatch import microbatch_size
from methods.training import Recipe

Whole = Annotated[int, "[1, inf)"]


def learn_noise(
    model: nn.Module, noise: Tensor, label: int, *, steps: int, lr: float, penalty: float, keep_gradient: bool = False
) -> Tensor:
    """Return `noise` (B, C, H, W) after `steps` of Adam that raise the model's error on `label`.

    The loss is −CE(model(noise), label) + penalty·mean_i Σ pixels². The model is used in the mode it is in; its
    parameters do not change, but in train mode its running statistics follow the noise. With `keep_gradient` their
    gradients hold the sum over all steps.
    """
    noise = noise.clone().requires_grad_()
    labels = torch.full((len(noise),), label, device=noise.device)
    optimizer = torch.optim.Adam([noise], lr=lr)
    size = microbatch_size(model, noise)
    for _ in range(steps):
        optimizer.zero_grad()
        for part in noise.split(size):
            error = F.cross_entropy(model(part), labels[: len(part)])
            loss = penalty * part.square().sum(dim=(1, 2, 3)).mean() - error
            (loss * (len(part) / len(noise))).backward(inputs=None if keep_gradient else [noise])
        optimizer.step()
    return noise.detach()


def first_of_each(groups: Tensor, n: int) -> Tensor:
    """Return the positions, in ascending order, of the first `n` members of every group in `groups` (N,) int64."""
    order = torch.argsort(groups, stable=True)
    counts = torch.bincount(groups)
    rank = torch.arange(len(groups), device=groups.device) - (counts.cumsum(0) - counts)[groups[order]]
    return order[rank < n].sort().values


@dataclass(frozen=True)
class Unsir:
    """Learn error-maximising noise for the forgotten class, train on it and on retained samples, then on those alone.

    The forget label of a subclass is its superclass.

    Attributes:
        noise_batch: noise images that are learnt together.
        noise_images: how many of them are used; the released code takes the number of channels for it.
        noise_mode: of the model while the noise is learnt; in `train` its running statistics follow the noise.
        noise_steps: of Adam at `noise_lr`.
        noise_penalty: weight of the noise's squared norm.
        repetitions: how often each noise image is shown while impairing.
        samples_per_class: retained samples of each (fine) class, the first ones in the data set's order.
        impair: recipe of the epoch on noise and retained samples.
        repair: recipe of the epoch on the retained samples.
        stale_gradient: the first impair step adds the model's gradients of all noise steps, which the released code
            never clears; so Adam's moments start with them.
    """

    noise_batch: Whole
    noise_images: Whole
    noise_mode: Literal["train", "eval"]
    noise_steps: Annotated[int, "[0, inf)"]
    noise_lr: Annotated[float, "(0, inf)"]
    noise_penalty: Annotated[float, "[0, inf)"]
    repetitions: Whole
    samples_per_class: Whole
    impair: Recipe
    repair: Recipe
    stale_gradient: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.noise_images > self.noise_batch:
            raise ValueError(
                f"Expected noise_images to lie in 1 … noise_batch ({self.noise_batch}), but got {self.noise_images}."
            )

    def skip(self, split: ForgetSplit) -> str | None:
        """Return why there is no noise to learn if the forget set is not a class."""
        if split.forget_test_is_train:
            return "UNSIR learns noise for one class, and this forget set is not a class"
        if len(split.forget_train.labels.unique()) > 1:
            return "UNSIR learns noise for one class, and this forget set holds several"
        return None

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module:
        label = int(split.forget_train.labels[0])
        noise = self.noise(model, split, label, context)
        retained = self.retained(split)
        self.impair_with(noise, label, model, retained, context)
        return context.train(model, retained, self.repair, "unsir repair")

    def noise(self, model: nn.Module, split: ForgetSplit, label: int, context: MethodContext) -> Tensor:
        """Return the learnt noise images that are used, (noise_images, C, H, W), as the model sees images."""
        example, _ = next(iter(context.batches(split.forget_train, 1)))
        start = torch.randn(
            (self.noise_batch, *example.shape[1:]), generator=context.random("unsir noise"), device=context.device
        )
        model.train(self.noise_mode == "train")
        noise = learn_noise(
            model, start, label, steps=self.noise_steps, lr=self.noise_lr, penalty=self.noise_penalty,
            keep_gradient=self.stale_gradient,
        )  # fmt: skip
        return noise[: self.noise_images]

    def retained(self, split: ForgetSplit) -> LabelledImages:
        """Return the first samples of every retained class, of every retained fine class if one is forgotten."""
        retain = split.retain_train
        return retain.subset(first_of_each(split.groups(retain), self.samples_per_class))

    def impair_with(
        self, noise: Tensor, label: int, model: nn.Module, retained: LabelledImages, context: MethodContext
    ) -> None:
        """Train `model` in place on the repeated noise under the forget label, mixed with the retained samples."""
        n_noise = self.repetitions * len(noise)
        rows = torch.zeros(n_noise, dtype=torch.int64, device=retained.device)
        stand_ins = retained.subset(rows)  # noise is no uint8 image: these rows are replaced below
        data = stand_ins.relabelled(torch.full_like(rows, label)).join(retained)

        def loss(model: nn.Module, images: Tensor, positions: Tensor) -> Tensor:
            is_noise = (positions < n_noise).view(-1, 1, 1, 1)
            inputs = torch.where(is_noise, noise[positions % len(noise)], images)
            return F.cross_entropy(model(inputs), data.labels[positions])

        context.train(model, data, self.impair, "unsir impair", loss=loss, stale_gradient=self.stale_gradient)
