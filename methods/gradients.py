"""Gradients of the cross-entropy over a set of samples, for the methods that choose weights by them."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.dampening.microbatch import microbatch_size


def summed_gradients(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return Σ_b ∂CE_b/∂θ of every named parameter θ, with CE_b the mean over batch b; the model in eval mode."""
    model.eval().zero_grad(set_to_none=True)
    for images, labels in batches:
        size = microbatch_size(model, images)
        for x, y in zip(images.split(size), labels.split(size), strict=True):
            (F.cross_entropy(model(x), y) * (len(x) / len(images))).backward()
    sums = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return {name: value.detach() for name, value in sums.items()}
