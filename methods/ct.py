"""CT: transpose every convolution's kernel, then fine-tune."""

from dataclasses import dataclass

import torch
from torch import nn

from datasets.base import ForgetSplit
from datasets.values import check_fields
from methods.base import MethodContext
from methods.training import Recipe


@dataclass(frozen=True)
class CT:
    """Swap height and width of every convolution's kernel, then train on D_r; kernels of 1×1 do not change.

    An entry of the NeurIPS 2023 challenge, as in Cadet et al., arXiv 2410.01276.

    Attributes:
        convolutional: whether the model rests on convolutions; if not, the method does not apply.
    """

    recipe: Recipe
    convolutional: bool

    def __post_init__(self) -> None:
        check_fields(self)

    def skip(self, split: ForgetSplit) -> str | None:
        """Return why there is nothing to transpose."""
        return None if self.convolutional else "CT transposes convolutions, and this model does not rest on them"

    @torch.no_grad()
    def transpose(self, model: nn.Module) -> None:
        """Transpose the kernels in place; twice is the identity."""
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d):
                if module.weight.shape[2] != module.weight.shape[3]:
                    size = tuple(module.weight.shape[2:])
                    raise ValueError(f"Expected square kernels to transpose, but {name} has {size}; leave CT out.")
                module.weight.copy_(module.weight.transpose(2, 3).clone())

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module:
        self.transpose(model)
        return context.train(model, split.retain_train, self.recipe, "finetune")
