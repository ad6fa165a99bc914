"""Selective synaptic dampening (SSD): Foster, Schoepf and Brintrup, AAAI 2024."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from datasets.base import ForgetSplit, LabelledImages
from methods.base import Call, MethodContext
from methods.importance import Order, Reduction, ordered, parameter_importance
from methods.per_sample import LARGEST_CHUNK
from methods.training import Recipe


@torch.no_grad()
def dampen(
    model: nn.Module, importance: Mapping[str, Tensor], forget_importance: Mapping[str, Tensor], *,
    alpha: float, lam: float,
) -> int:  # fmt: skip
    """Dampen in place the parameters that matter more for the forget set; return how many were selected.

    Selection (Eq. 3): I_Df > α·I_D, strictly. Dampening (Eq. 4): θ ← βθ with β = min(λ·I_D / I_Df, 1). Algorithm 1
    would skip negative weights; as in the released code the clamp is on β. Buffers are not touched.

    Args:
        importance: I_D, the importance of each named parameter over the whole training set.
        forget_importance: I_Df, over the forget set.
        alpha: selection threshold, > 0; a larger one selects a subset.
        lam: dampening constant λ, > 0; with λ ≤ α every selected parameter has β < λ/α and the clamp is inactive.
    """
    check_positive(alpha=alpha, lam=lam)
    selected = 0
    for name, parameter in model.named_parameters():
        full, forget = importance[name], forget_importance[name]
        chosen = forget > alpha * full
        beta = (lam * full / forget).clamp_(max=1)  # 0/0 only where nothing is chosen
        parameter.mul_(torch.where(chosen, beta, 1.0).to(parameter.dtype))
        selected += int(chosen.sum())
    return selected


def check_positive(**values: float) -> None:
    """Raise ValueError unless every value is a finite number above 0."""
    for name, value in values.items():
        if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
            raise ValueError(f"Expected {name} to be a finite number above 0, but got {value!r}.")


Source = Literal["kept", "refreshed"]


@dataclass(frozen=True)
class SSD:
    """Dampen the parameters that the forget set needs much more than the whole training set does.

    Attributes:
        alpha: selection threshold α; its meaning belongs to `reduction` and `order`.
        lam: dampening constant λ.
        reduction: `per_sample` (Eq. 1) or `batch_mean` (released code).
        order: in which D is cut into batches; matters for `batch_mean` only.
        batch_size: of the importance batches.
        importance: in a sequence of forget requests, I_D of the later ones: `kept`, as the first request measured it on
            the original model and all of D, in its order (the first forget set last, the later ones among the
            classes), or `refreshed`, measured on the current model and what is left of D, the newest forget set last.
            I_Df is always measured on the current model. No difference for a single request.
    """

    alpha: float
    lam: float
    reduction: Reduction
    order: Order
    batch_size: int
    importance: Source = "refreshed"  # set by configs/method_requests; a single run has no such option

    def __post_init__(self) -> None:
        check_positive(alpha=self.alpha, lam=self.lam)
        if self.importance not in get_args(Source):
            raise ValueError(f"Expected importance to be kept or refreshed, but got {self.importance!r}.")

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module:
        first = context.first if self.importance == "kept" else None
        importance = self._importance_of_all(first or Call(model, split, context))
        forget_importance = context.remember(
            "importance_forget", self._forget_key(split), lambda: self._importance(model, split.forget_train, context)
        )
        dampen(model, importance, forget_importance, alpha=self.alpha, lam=self.lam)
        return model.eval()

    def _importance(self, model: nn.Module, data: LabelledImages, context: MethodContext) -> dict[str, Tensor]:
        batch_size = self.batch_size
        if self.reduction == "per_sample" and data.device.type == "cuda":  # as many as may share a pass there
            batch_size = max(batch_size, LARGEST_CHUNK)
        return parameter_importance(model, context.batches(data, batch_size), reduction=self.reduction)

    def _importance_of_all(self, call: Call) -> dict[str, Tensor]:
        """Return I_D of the call's model and split."""
        context = call.context

        def compute() -> dict[str, Tensor]:
            data = ordered(call.split, self.order, context.random("importance order"))
            return self._importance(call.model, data, context)

        return context.remember("importance_full", self._importance_key(call.split, context), compute)

    def _importance_key(self, split: ForgetSplit, context: MethodContext) -> dict[str, object]:
        """Return what I_D depends on beside the original model and D; under Eq. 1 nothing else."""
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
        """Return what I_Df depends on beside the original model; under Eq. 1 no batch size."""
        key: dict[str, object] = {"reduction": self.reduction, "forget_set": split.forget_fingerprint}
        return key | ({"batch_size": self.batch_size} if self.reduction == "batch_mean" else {})

    def cost(self, split: ForgetSplit, recipe: Recipe) -> float:
        return split.num_train + len(split.forget_train)
