"""Importance of parameters: the diagonal of the empirical Fisher information over a set of samples."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .microbatch import microbatch_size
from .per_sample import SquaredGradients, zero_sums

Reduction = Literal["batch_mean", "per_sample"]
Batch = tuple[Tensor, Tensor]


def parameter_importance(
    model: nn.Module, batches: Iterable[Batch], *, reduction: Reduction, chunk_size: int | None = None
) -> dict[str, Tensor]:
    """Return the importance of every named parameter over `batches`, ≥ 0, float32 or more, shaped like the parameter.

    `per_sample` is Eq. 1 of the paper: the mean over samples of the squared gradient of the cross-entropy. No order or
    batch size can change it. `batch_mean` is the released code's: the squared gradient of each batch's *mean*
    loss, averaged over batches; it depends on the batch size and on which samples share a batch.

    The model is used in eval mode and left as it was. Parameters that do not require a gradient, or that the loss does
    not reach, have importance 0.

    Args:
        model: any classifier that maps (B, …) to logits (B, K).
        batches: pairs of inputs (B, …) and labels (B,) int64 on the model's device.
        chunk_size: samples that share a forward and backward pass; None: as many as suit the device and its memory.
            It changes nothing but the rounding.
    """
    if reduction not in ("batch_mean", "per_sample"):
        raise ValueError(f"Expected reduction to be batch_mean or per_sample, but got {reduction!r}.")
    with eval_mode(model):
        if reduction == "batch_mean":
            sums, count = _sum_of_batches(model, batches, chunk_size)
        else:
            sums, count = _sum_of_samples(model, batches, chunk_size)
    if count == 0:
        raise ValueError("Expected at least one batch to take importances over, but got none.")
    return {name: value.div_(count) for name, value in sums.items()}


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put `model` in eval mode for the body, then every module back in its own."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _sum_of_batches(
    model: nn.Module, batches: Iterable[Batch], chunk_size: int | None
) -> tuple[dict[str, Tensor], int]:
    sums, count = zero_sums(model), 0
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    with own_gradients([p for _, p in named]) as parameters:
        for inputs, labels in batches:
            chunk_size = chunk_size or microbatch_size(model, inputs)
            for x, y in zip(inputs.split(chunk_size), labels.split(chunk_size), strict=True):
                share = len(x) / len(inputs)
                (F.cross_entropy(model(x), y) * share).backward(inputs=parameters)  # adds to the other microbatches
            reached = [(sums[name], p.grad) for name, p in named if p.grad is not None]
            totals, gradients = zip(*reached, strict=True)
            torch._foreach_addcmul_(totals, gradients, gradients)  # on a GPU one kernel for all
            for p in parameters:
                p.grad = None
            count += 1
    return sums, count


@contextmanager
def own_gradients(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Give the parameters no gradient at the start of the body, and the ones they had after it."""
    before = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    try:
        yield parameters
    finally:
        for p, gradient in zip(parameters, before, strict=True):
            p.grad = gradient


def _sum_of_samples(
    model: nn.Module, batches: Iterable[Batch], chunk_size: int | None
) -> tuple[dict[str, Tensor], int]:
    def along_gradient(model: nn.Module, batch: Batch) -> Tensor:  # its gradient is that of the cross-entropy
        logits, labels = model(batch[0]), batch[1]
        gradient = torch.softmax(logits.detach(), dim=1) - F.one_hot(labels, logits.shape[1])
        return (logits * gradient).sum(dim=1)

    squares = SquaredGradients(model, along_gradient)
    sums, count = zero_sums(model), 0
    for batch in batches:
        count += squares.add_to(sums, batch, chunk_size)
    return sums, count
