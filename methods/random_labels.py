"""Random labels and SalUn: learn random labels for the forget set, with all weights or the most salient ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from datasets.base import ForgetSplit, LabelledImages
from datasets.values import check_fields
from methods.amnesiac import wrong_labels
from methods.base import MethodContext
from methods.gradients import summed_gradients
from methods.training import Pass, Recipe


@dataclass(frozen=True)
class RandomLabels:
    """Train on D_f under random labels and on D_r; only weights that matter for D_f change.

    Fan, Liu, Zhang, Wong, Wei and Liu, "SalUn", ICLR 2024. The saliency of a weight is |Σ_b ∂CE_b(D_f)/∂θ| of the
    original model in eval mode. The other weights keep their values, whatever momentum and weight decay say (in the
    released code since February 2026). `amnesiac` is saliency 1, redraw once, joint, own_label false, bit for bit.

    Attributes:
        saliency: share of all parameters that are trained, ⌊share·n⌋ of them, ranked together; ties by their order.
        own_label: draw among all classes, as the released code does; false: among the others, as the text says.
        redraw: the random labels, once or for each epoch. A label per batch is one per epoch: no sample comes twice.
        order: `joint` shuffles both sets together; `forget_first` is an own pass over each, in every epoch.
    """

    recipe: Recipe
    saliency: Annotated[float, "[0, 1]"]
    own_label: bool
    redraw: Literal["once", "epoch"]
    order: Literal["joint", "forget_first"]

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module:
        def passes(epoch: int) -> list[Pass]:
            forget = self.relabelled(split, context, epoch)
            if self.order == "joint":
                return [Pass(forget.join(split.retain_train))]
            return [Pass(forget), Pass(split.retain_train)]

        hold = None if self.saliency == 1 else holding(model, self.salient(model, split, context))
        return context.train(model, passes, self.recipe, "amnesiac", after_step=hold)

    def relabelled(self, split: ForgetSplit, context: MethodContext, epoch: int) -> LabelledImages:
        """Return D_f under the labels of an epoch."""
        forget, classes = split.forget_train, split.num_classes
        random = context.random("amnesiac labels", *([] if self.redraw == "once" else [epoch]))
        if self.own_label:
            labels = torch.randint(classes, forget.labels.shape, generator=random, device=forget.device)
        else:
            labels = wrong_labels(forget.labels, classes, random)
        return forget.relabelled(labels)

    def salient(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> list[Tensor]:
        """Return the mask of each parameter: True for the weights that are trained."""
        batches = context.batches(split.forget_train, self.recipe.batch_size)
        gradients = list(summed_gradients(model, batches).values())
        size = torch.cat([gradient.flatten().abs() for gradient in gradients])
        chosen = torch.zeros_like(size, dtype=torch.bool)
        chosen[size.argsort(descending=True, stable=True)[: int(self.saliency * len(size))]] = True
        parts = chosen.split([gradient.numel() for gradient in gradients])
        return [part.view(gradient.shape) for part, gradient in zip(parts, gradients, strict=True)]


def holding(model: nn.Module, masks: Sequence[Tensor]) -> Callable[[torch.optim.Optimizer], None]:
    """Return what to do after a step so that weights outside the masks keep today's values and have no moments."""
    held = [(p, p.detach().clone(), ~mask) for p, mask in zip(model.parameters(), masks, strict=True)]

    @torch.no_grad()
    def put_back(optimizer: torch.optim.Optimizer) -> None:
        for parameter, before, fixed in held:
            parameter.copy_(torch.where(fixed, before, parameter))
            for name, moment in optimizer.state.get(parameter, {}).items():
                if name != "step" and moment is not None:
                    moment.masked_fill_(fixed, 0)

    return put_back
