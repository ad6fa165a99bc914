"""MSG: re-initialise the weights on which retain and forget set agree, then fine-tune."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from datasets.base import ForgetSplit
from datasets.values import check_fields
from methods.base import MethodContext
from methods.gradients import summed_gradients
from methods.training import Recipe

KINDS: Mapping[str, tuple[type[nn.Conv2d | nn.Linear], ...]] = {
    "conv": (nn.Conv2d,),
    "conv_linear": (nn.Conv2d, nn.Linear),
}


@dataclass(frozen=True)
class MSG:
    """Re-initialise in each layer the weights with the least |G|, then fine-tune on D_r, the others more slowly.

    Second place of the NeurIPS 2023 challenge, as in Cadet et al., arXiv 2410.01276. G is the gradient on a random part
    of D_r, as large as D_f, less the gradient on D_f, of the original in eval mode.

    Attributes:
        share: of each layer's weights that get new values, from Kaiming's normal initialisation (fan_out, ReLU).
        factor: on the gradients of the layers' other weights in the fine-tuning, before momentum.
        layers: a vision transformer has one convolution, the embedding of its patches.
    """

    recipe: Recipe
    share: Annotated[float, "[0, 1]"]
    factor: Annotated[float, "[0, inf)"]
    layers: Literal["conv", "conv_linear"]

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module:
        weights = {
            name: module.weight for name, module in model.named_modules() if isinstance(module, KINDS[self.layers])
        }
        new = self.renew(weights, self.difference(model, split, context), context.random("initialisation"))
        factors = {name: torch.where(mask, 1.0, self.factor) for name, mask in new.items()}

        def slow_down() -> None:
            for name, weight in weights.items():
                if weight.grad is not None:
                    weight.grad.mul_(factors[name])

        return context.train(model, split.retain_train, self.recipe, "finetune", before_step=slow_down)

    def difference(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> dict[str, Tensor]:
        """Return G of every parameter."""
        forget, retain = split.forget_train, split.retain_train
        order = torch.randperm(len(retain), generator=context.random("retain subset"), device=retain.device)
        of_retain, of_forget = (
            summed_gradients(model, context.batches(data, self.recipe.batch_size))
            for data in (retain.subset(order[: len(forget)]), forget)
        )
        return {name: value - of_forget[name] for name, value in of_retain.items()}

    @torch.no_grad()
    def renew(
        self, weights: Mapping[str, Tensor], difference: Mapping[str, Tensor], random: torch.Generator
    ) -> dict[str, Tensor]:
        """Give weights new values, in place; return the mask of those that got one. Ties go by their order."""
        masks = {}
        for name, weight in weights.items():
            least = difference[f"{name}.weight"].abs().flatten().argsort(stable=True)
            mask = torch.zeros_like(least, dtype=torch.bool)
            mask[least[: round(self.share * len(least))]] = True
            masks[name] = mask.view(weight.shape)
            fresh = torch.empty(weight.shape, device=weight.device)  # not `empty_like`: whatever the memory layout
            nn.init.kaiming_normal_(fresh, mode="fan_out", nonlinearity="relu", generator=random)
            weight.copy_(torch.where(masks[name], fresh, weight))
        return masks
