"""CF-k and EU-k: train the last k layers on the retain set, from the original's weights or from new ones."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from datasets.base import ForgetSplit
from datasets.values import check_fields
from methods.base import MethodContext
from methods.training import Recipe


@dataclass(frozen=True)
class LastLayers:
    """Train the last `k` layers on D_r; parameters before them do not change.

    Goel, Prabhu, Sanyal, Lim, Torr and Kumaraguru, arXiv 2201.06640. Layers are the modules `Conv2d` and `Linear`,
    counted from the output; norms that come after the first of the k are trained too. Running statistics of all norms
    follow D_r. The released code clips gradients to the norm 10, which is left out here.

    Attributes:
        k: number of layers; all or more: every parameter of the model is trained.
        reset: start these layers from Kaiming's normal initialisation and bias 0 (EU-k), not from the original (CF-k).
    """

    recipe: Recipe
    k: Annotated[int, "[1, inf)"]
    reset: bool

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module:
        layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        modules = list(model.modules())
        before = modules[: modules.index(layers[-self.k])] if self.k < len(layers) else []
        if self.reset:
            initialise(layers[-self.k :], context.random("initialisation"))
        with frozen(p for module in before for p in module.parameters(recurse=False)):
            return context.train(model, split.retain_train, self.recipe, "finetune")


@torch.no_grad()
def initialise(layers: Iterable[nn.Conv2d | nn.Linear], random: torch.Generator) -> None:
    """Give the layers new weights."""
    for layer in layers:
        fresh = torch.empty(layer.weight.shape, device=layer.weight.device)  # whatever the memory layout
        layer.weight.copy_(nn.init.kaiming_normal_(fresh, generator=random))
        if layer.bias is not None:
            layer.bias.zero_()


@contextmanager
def frozen(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Have parameters that take no gradient."""
    held = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)
