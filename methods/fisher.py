"""Fisher forgetting: noise on every parameter, the stronger the less the retain set depends on it."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from datasets.base import ForgetSplit
from datasets.seeding import generator
from datasets.values import check_fields
from methods.base import MethodContext
from methods.fisher_information import fisher_diagonal

NotNegative = Annotated[float, "[0, inf)"]
EPSILON = 1e-8  # keeps the inverse of the information finite
MARGIN = 2.0  # the wanted error over the one that is predicted from the logits; 1.6 is missed on CIFAR-100


def sample_error(tolerance: float, n: int) -> float:
    """Return the relative error that one of `n` samples may have, so that their mean has `tolerance`."""
    return tolerance * math.sqrt(n) / MARGIN


@dataclass(frozen=True)
class Fisher:
    """Draw θ = mean + sqrt(variance)·N(0, 1), the variance from the true Fisher information I of D_r; keep buffers.

    variance = scale·min(1 / (I + 1e-8), max_inverse), averaged over the second dimension if there is one. The
    released code finds the last layer as the tensors whose first dimension is the number of classes; so does this.

    Attributes:
        scale: of the variance.
        max_inverse: bound of 1/I.
        max_inverse_head: the bound in the last layer.
        boost: factor on the variance of one-dimensional tensors (biases, normalisation).
        forget_rows: in the last layer, give the rows of the forgotten classes mean 0 and `forgotten_variance`, and then
            boost the whole layer too, as the released code does if a class is forgotten.
        forgotten_variance: before the boost.
        tolerance: relative error of the information (in the Euclidean norm), about; 0 is exact. The random signs of
            `fisher_diagonal` are the same for every method seed.
        batch_size: of the predictions on D_r.
    """

    scale: NotNegative
    max_inverse: NotNegative
    max_inverse_head: NotNegative
    boost: NotNegative
    forget_rows: bool
    forgotten_variance: NotNegative
    tolerance: NotNegative
    batch_size: Annotated[int, "[1, inf)"]

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module:
        key = {
            "information": "true Fisher",
            "forget_set": split.forget_fingerprint,
            "tolerance": self.tolerance,
            "batch_size": self.batch_size,
        }
        information = context.remember("importance_full", key, lambda: self.information(model, split, context))
        self.draw(model, information, split, context.random("fisher noise"))
        return model.eval()

    def information(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> dict[str, Tensor]:
        """Return the diagonal of the true Fisher information of D_r."""
        return fisher_diagonal(
            model,
            context.batches(split.retain_train, self.batch_size),
            error=sample_error(self.tolerance, len(split.retain_train)),
            random=generator("fisher information", device=context.device),
        )

    @torch.no_grad()
    def draw(
        self, model: nn.Module, information: dict[str, Tensor], split: ForgetSplit, random: torch.Generator
    ) -> None:
        """Replace every parameter of `model` by a draw from its distribution."""
        forgotten = split.forget_train.labels.unique() if self.forget_rows else None
        for name, parameter in model.named_parameters():
            mean, variance = self.distribution(parameter, information[name], split.num_classes, forgotten)
            noise = torch.randn(parameter.shape, generator=random, device=parameter.device)
            parameter.copy_(mean + variance.sqrt() * noise)

    def distribution(
        self, parameter: Tensor, information: Tensor, num_classes: int, forgotten: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return mean and variance of a parameter, both of its shape; `forgotten`: classes whose rows are reset."""
        in_head = parameter.shape[:1] == (num_classes,)
        bound = self.max_inverse_head if in_head else self.max_inverse
        mean = parameter.detach().clone()
        variance = self.scale * (information + EPSILON).reciprocal().clamp_(max=bound)
        if parameter.ndim > 1:
            variance = variance.mean(dim=1, keepdim=True).expand_as(parameter).clone()
        resets = in_head and forgotten is not None
        if resets:
            mean[forgotten] = 0
            variance[forgotten] = self.forgotten_variance
        if resets or parameter.ndim == 1:
            variance *= self.boost
        return mean, variance
