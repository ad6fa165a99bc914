"""l1-sparse: fine-tuning on the retain set that pulls all weights towards zero."""

from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from datasets.base import ForgetSplit
from datasets.values import check_fields
from methods.base import MethodContext
from methods.training import Pass, Recipe


@dataclass(frozen=True)
class L1Sparse:
    """Train on D_r with the loss CE + γ_t·Σ|θ| over all parameters; γ_t falls linearly to 0.

    Jia, Liu, Ram, Yao, Liu, Liu, Sharma and Liu, "Model sparsity can simplify machine unlearning", NeurIPS 2023:
    γ_t = γ·(1 − t/(E − E₀)) in epoch t = 0, …, E − E₀ − 1, then 0. Steps along a subgradient make small weights, but no
    exact zeros.

    Attributes:
        gamma: γ; the authors give no value.
        dense_epochs: E₀, the last epochs, without a penalty.
    """

    recipe: Recipe
    gamma: Annotated[float, "[0, inf)"]
    dense_epochs: Annotated[int, "[0, inf)"]

    def __post_init__(self) -> None:
        check_fields(self)

    def weight(self, epoch: int) -> float:
        """Return γ_t of an epoch, which counts from 1."""
        sparse_epochs = self.recipe.epochs - self.dense_epochs
        return self.gamma * (1 - (epoch - 1) / sparse_epochs) if epoch <= sparse_epochs else 0.0

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module:
        retain = split.retain_train

        def passes(epoch: int) -> list[Pass]:
            weight = self.weight(epoch)

            def loss(student: nn.Module, images: Tensor, positions: Tensor) -> Tensor:
                error = F.cross_entropy(student(images), retain.labels[positions])
                return error + weight * sum(p.abs().sum() for p in model.parameters())

            return [Pass(retain, loss)]

        return context.train(model, passes, self.recipe, "finetune")
