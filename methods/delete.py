"""DELETE: distil the original's prediction without the true class into the model, on the forget set alone."""

import math
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from datasets.base import ForgetSplit
from datasets.values import check_fields
from methods.base import MethodContext
from methods.training import Recipe


def without_label(logits: Tensor, labels: Tensor) -> Tensor:
    """Return softmax of the logits (N, K) over all classes but each sample's own label (N,), which gets 0."""
    return logits.scatter(1, labels.unsqueeze(1), -math.inf).softmax(dim=1)


@dataclass(frozen=True)
class Delete:
    """Minimise KL(q ‖ softmax f) on D_f, with q the original's prediction without the true class; D_r is not used.

    Zhou et al., "Decoupled distillation to erase", CVPR 2025. The other classes keep their relative odds. A retrained
    model still knows most samples of the random task, so there this forgets too much.

    Attributes:
        norms: `train`: batch normalisation uses D_f's statistics and its running ones follow; `eval`: it keeps the
            original's, the released option `disable_bn`.
    """

    recipe: Recipe
    norms: Literal["train", "eval"]

    def __post_init__(self) -> None:
        check_fields(self)
        if self.recipe.augmentation is not None:
            raise ValueError("Expected a recipe without augmentation: the original sees every image once, as it is.")

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module:
        forget = split.forget_train
        targets = without_label(context.predict(model, forget, self.recipe.batch_size), forget.labels)
        fixed = [module for module in model.modules() if isinstance(module, _BatchNorm) and self.norms == "eval"]

        def loss(student: nn.Module, images: Tensor, positions: Tensor) -> Tensor:
            for norm in fixed:
                norm.eval()
            return F.kl_div(student(images).float().log_softmax(dim=1), targets[positions], reduction="batchmean")

        return context.train(model, forget, self.recipe, "delete", loss=loss)
