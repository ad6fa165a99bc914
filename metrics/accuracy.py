"""Top-1 accuracy."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from metrics.base import EvalOutputs, SplitName

Whole = Annotated[int, "[1, inf)"]
Averaging = Literal["per_sample", "per_batch"]
Order = Literal["data", "by_class"]


def top1_accuracy(logits: Tensor, labels: Tensor, *, averaging: Averaging, batch_size: int) -> float:
    """Return the accuracy as a fraction in [0, 1].

    `per_batch` is the unweighted mean of the accuracies of consecutive batches, as in the released code: a short last
    batch counts as much as a full one. `per_sample` ignores `batch_size`.

    Args:
        logits: (N, K).
        labels: (N,) int64.

    >>> import torch
    >>> logits, labels = torch.eye(2)[[0, 0, 1]], torch.tensor([0, 1, 1])
    >>> top1_accuracy(logits, labels, averaging="per_sample", batch_size=2)  # 2 of 3
    0.6666666666666666
    >>> top1_accuracy(logits, labels, averaging="per_batch", batch_size=2)  # (1/2 + 1/1) / 2
    0.75
    """
    correct = (logits.argmax(dim=1) == labels).double()
    if averaging == "per_sample":
        return float(correct.mean())
    if averaging == "per_batch":
        batches = [float(batch.mean()) for batch in correct.split(batch_size)]
        return sum(batches) / len(batches)
    raise ValueError(f"Expected averaging to be per_sample or per_batch, but got {averaging!r}.")


def accuracy(
    outputs: EvalOutputs, *, split: SplitName, averaging: Averaging, batch_size: Whole, order: Order = "data"
) -> float:
    """Return the top-1 accuracy on one split, a fraction in [0, 1].

    `order` says which samples share a batch: as the data come, or class after class, as in the released code.
    """
    logits, labels = outputs.logits[split], outputs.labels[split]
    if order not in ("data", "by_class"):
        raise ValueError(f"Expected order to be data or by_class, but got {order!r}.")
    if order == "by_class":
        rows = torch.argsort(outputs.groups[split], stable=True)
        logits, labels = logits[rows], labels[rows]
    return top1_accuracy(logits, labels, averaging=averaging, batch_size=batch_size)


def newest_accuracy(outputs: EvalOutputs, *, averaging: Averaging, batch_size: Whole) -> float | None:
    """Return the accuracy on the samples of the newest of several requests, in [0, 1]; None for a single one."""
    n = outputs.newest_test
    if n is None:
        return None
    logits, labels = outputs.logits["forget_test"][-n:], outputs.labels["forget_test"][-n:]
    return top1_accuracy(logits, labels, averaging=averaging, batch_size=batch_size)
