"""Selective synaptic dampening (SSD): Foster, Schoepf and Brintrup, AAAI 2024."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from datasets.base import ForgetSplit, LabelledImages
from datasets.batches import Batches
from datasets.values import check_fields
from methods.base import Call, MethodContext
from methods.dampening.dampen import dampen
from methods.dampening.importance import Importance, Reduction
from methods.dampening.per_sample import LARGEST_CHUNK

Order = Literal["class_sorted", "retain_shuffled", "shuffled"]
Source = Literal["kept", "refreshed"]


@dataclass(frozen=True)
class SSD:
    """Dampen the parameters that the forget set needs much more than the whole training set does.

    Attributes:
        alpha: selection threshold α; its meaning belongs to `reduction` and `order`.
        lam: dampening constant λ.
        reduction: `per_sample` (Eq. 1) or `batch_mean` (released code).
        order: in which D is cut into batches; matters for `batch_mean` only.
        batch_size: of the importance batches; matters for `batch_mean` only.
        importance: of several forget requests, I_D of the later ones: `kept`, as the first request measured it on
            the original model and all of D, in its order (the first forget set last, the later ones among the
            classes), or `refreshed`, measured on the current model and the rest of D, the newest forget set last.
            I_Df is always measured on the current model. No difference for a single request.
    """

    alpha: Annotated[float, "(0, inf)"]
    lam: Annotated[float, "(0, inf)"]
    reduction: Reduction
    order: Order
    batch_size: Annotated[int, "[1, inf)"]
    importance: Source = "refreshed"  # kept: that of the first request; a single run has no such option

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module:
        first = context.first if self.importance == "kept" else None
        importance = self._importance_of_all(first or Call(model, split, context))
        forget_importance = context.remember(
            "importance_forget", self._forget_key(split), lambda: self._importance(model, split.forget_train, context)
        )
        dampen(model, importance, forget_importance, alpha=self.alpha, lam=self.lam)
        return model.eval()

    def _importance(self, model: nn.Module, data: LabelledImages, context: MethodContext) -> dict[str, Tensor]:
        return dict(Importance.of(model, self._batches(data, context), reduction=self.reduction))

    def _batches(self, data: LabelledImages, context: MethodContext) -> Batches:
        """Return the batches of `data`; under Eq. 1 by row, so that I_D is the same to the last bit for all targets."""
        if self.reduction == "batch_mean":
            return context.batches(data, self.batch_size)
        return context.batches(data.subset(torch.argsort(data.index)), LARGEST_CHUNK)

    def _importance_of_all(self, call: Call) -> dict[str, Tensor]:
        """Return I_D of the call's model and split."""
        context = call.context

        def make() -> dict[str, Tensor]:
            data = ordered(call.split, self.order, context.random("importance order"))
            return self._importance(call.model, data, context)

        return context.remember("importance_full", self._importance_key(call.split, context), make)

    def _importance_key(self, split: ForgetSplit, context: MethodContext) -> dict[str, object]:
        """Return all that decides I_D beside the original model and D; under Eq. 1 nothing else."""
        key: dict[str, object] = {"reduction": self.reduction}
        if self.reduction == "batch_mean":
            key |= {
                "order": self.order,
                "batch_size": self.batch_size,
                "forget_set": split.forget_fingerprint,
            }
            if self.order != "class_sorted":
                key["seed"] = context.seed
        return key

    def _forget_key(self, split: ForgetSplit) -> dict[str, object]:
        """Return all that decides I_Df beside the original model; under Eq. 1 no batch size."""
        key: dict[str, object] = {"reduction": self.reduction, "forget_set": split.forget_fingerprint}
        return key | ({"batch_size": self.batch_size} if self.reduction == "batch_mean" else {})


def ordered(split: ForgetSplit, order: Order, random: torch.Generator) -> LabelledImages:
    """Return D = D_r ∪ D_f in the order in which `batch_mean` takes its batches.

    `class_sorted` sorts the retain set by class (by fine class if the task forgets one) and puts the forget set
    last, as the released code does for the class and subclass tasks; `retain_shuffled` draws the order of the retain
    set from `random` and puts the forget set last, as it does for the random task; `shuffled` draws the order of both.
    """
    if order == "shuffled":
        return permuted(split.retain_train.join(split.forget_train), random)
    if order == "retain_shuffled":
        return permuted(split.retain_train, random).join(split.forget_train)
    by_class = torch.argsort(split.groups(split.retain_train), stable=True)
    return split.retain_train.subset(by_class).join(split.forget_train)


def permuted(data: LabelledImages, random: torch.Generator) -> LabelledImages:
    return data.subset(torch.randperm(len(data), generator=random, device=random.device))
