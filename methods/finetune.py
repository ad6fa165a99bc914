"""Fine-tuning on the retain set: forgetting by neglect."""

from dataclasses import dataclass

from torch import nn

from datasets.base import ForgetSplit
from methods.base import MethodContext
from methods.training import Recipe


@dataclass(frozen=True)
class Finetune:
    """Train the original model on D_r for a few epochs by `recipe`."""

    recipe: Recipe

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module:
        return context.train(model, split.retain_train, self.recipe, "finetune")
