"""Amnesiac unlearning: learn wrong labels for the forget set beside the right ones for the rest."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from datasets.base import ForgetSplit
from methods.base import MethodContext
from methods.training import Recipe


def wrong_labels(labels: Tensor, num_classes: int, random: torch.Generator) -> Tensor:
    """Return a label for each of `labels` (N,) int64, drawn uniformly among the other `num_classes` − 1."""
    if num_classes < 2:
        raise ValueError(f"Expected at least 2 classes to draw a wrong label from, but got {num_classes}.")
    shift = torch.randint(1, num_classes, labels.shape, generator=random, device=labels.device)
    return (labels + shift) % num_classes


@dataclass(frozen=True)
class Amnesiac:
    """Relabel every sample of D_f once, then train the original model on it and all of D_r by `recipe`.

    With superclasses as labels, the wrong ones are the other superclasses.
    """

    recipe: Recipe

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module:
        forget = split.forget_train
        relabelled = forget.relabelled(
            wrong_labels(forget.labels, split.num_classes, context.random("amnesiac labels"))
        )
        return context.train(model, relabelled.join(split.retain_train), self.recipe, "amnesiac")
