"""NegGrad, NegGrad+ and advanced NegGrad: gradient ascent on the forget set, alone or beside the retain set."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from datasets.base import ForgetSplit
from datasets.values import check_fields
from methods.base import MethodContext
from methods.training import Pass, Recipe


@dataclass(frozen=True)
class NegGrad:
    """Minimise (1 − w)·CE(D_r) − w·CE(D_f), with one batch of each per step; an epoch is a pass over D_r.

    w = 1 is NegGrad (Golatkar, Achille and Soatto, CVPR 2020): D_f alone, and an epoch is a pass over it. A small w is
    NegGrad+ (Kurmanji et al., NeurIPS 2023), whose released code has one order of D_f for all passes; here it is drawn
    again. w = 1/2 is advanced NegGrad (Choi and Na, arXiv 2311.02240), whose released code skips a last batch of other
    size. The loss has no lower bound: a training that diverges ends with a FloatingPointError.

    Attributes:
        forget_weight: w.
        forget_batch_size: samples of D_f per step.
        limit: no ascent on samples whose CE is above it, say ln K; null, as in all papers: on all samples.
    """

    recipe: Recipe
    forget_weight: Annotated[float, "[0, 1]"]
    forget_batch_size: Annotated[int, "[1, inf)"]
    limit: Annotated[float, "(0, inf)"] | None

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module:
        forget, retain, weight = split.forget_train, split.retain_train, self.forget_weight
        limit = math.inf if self.limit is None else self.limit

        def descent(student: nn.Module, images: Tensor, positions: Tensor) -> Tensor:
            return (1 - weight) * F.cross_entropy(student(images).float(), retain.labels[positions])

        def ascent(student: nn.Module, images: Tensor, positions: Tensor) -> Tensor:
            errors = F.cross_entropy(student(images).float(), forget.labels[positions], reduction="none")
            return -weight * errors.clamp(max=limit).mean()

        def passes(epoch: int) -> list[Pass]:
            on_forget = Pass(forget, ascent, self.forget_batch_size, context.random("neggrad", epoch))
            return [on_forget if weight == 1 else Pass(retain, descent, beside=on_forget)]

        return context.train(model, passes, self.recipe, "finetune")
