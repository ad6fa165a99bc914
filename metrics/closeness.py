"""Closeness to the retrained model on the training parts and on the test set; its own values are the ideal."""

from collections.abc import Sequence
from typing import Literal

import torch

from metrics.accuracy import top1_accuracy
from metrics.base import EvalOutputs, Metric


def unlearning_accuracy(outputs: EvalOutputs) -> float:
    """Return UA: the share of D_f (train) that the model gets wrong, in [0, 1] (Jia et al., NeurIPS 2023)."""
    logits, labels = outputs.logits["forget_train"], outputs.labels["forget_train"]
    return 1 - top1_accuracy(logits, labels, averaging="per_sample", batch_size=len(labels))


def tug_of_war(outputs: EvalOutputs, *, metrics: Sequence[Metric]) -> float | None:
    """Return ToW: the product of 1 − |ours − retrained model's| over `metrics`, in [0, 1]; 1 for the retrained model.

    With the accuracies on D_f and D_r (train) and on the retained test images it is Eq. 1 of Zhao et al., NeurIPS 2024
    (RUM). None without a retrained model.
    """
    retrained = outputs.others.get("retrained")
    if retrained is None:
        return None
    product = 1.0
    for metric in metrics:
        ours, goal = metric(outputs), metric(retrained)
        if ours is None or goal is None:
            return None
        product *= 1 - abs(ours - goal)
    return product


def agreement(outputs: EvalOutputs, *, part: Literal["forget_train", "test"]) -> float | None:
    """Return the share of images to which the retrained model gives the same class, in [0, 1]; None without one.

    Args:
        part: D_f (train), or the whole test set.
    """
    if part not in ("forget_train", "test"):
        raise ValueError(f"Expected part of agreement to be forget_train or test, but got {part!r}.")
    retrained = outputs.others.get("retrained")
    if retrained is None:
        return None
    ours, goal = (x.test_logits if part == "test" else x.logits["forget_train"] for x in (outputs, retrained))
    return float(torch.eq(ours.argmax(dim=1), goal.argmax(dim=1)).double().mean())
