"""Distances between the unlearned and the retrained model."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from metrics.base import EvalOutputs, Metric, SplitName


def jensen_shannon(logits: Tensor, reference_logits: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence (base 2, in [0, 1]) of each pair of predictions, (N,) float64.

    Its square root is the Jensen-Shannon distance.

    Args:
        logits: (N, K).
        reference_logits: (N, K).

    >>> certain = torch.tensor([[1e4, 0.0], [0.0, 1e4]])
    >>> jensen_shannon(certain, torch.tensor([[1e4, 0.0], [1e4, 0.0]])).tolist()  # equal, and disjoint
    [0.0, 1.0]
    """
    log_p = torch.log_softmax(logits.double(), dim=1)
    log_q = torch.log_softmax(reference_logits.double(), dim=1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    divergence = ((log_p.exp() * (log_p - log_m)) + (log_q.exp() * (log_q - log_m))).sum(dim=1) / 2
    return (divergence / math.log(2)).clamp_(min=0, max=1)


def jensen_shannon_distance(outputs: EvalOutputs, *, split: SplitName) -> float | None:
    """Return the mean Jensen-Shannon distance to the retrained model on one split, in [0, 1]; None without one."""
    retrained = outputs.others.get("retrained")
    if retrained is None:
        return None
    return float(jensen_shannon(outputs.logits[split], retrained.logits[split]).sqrt().mean())


def zero_retrain_forgetting(outputs: EvalOutputs) -> float | None:
    """Return ZRF: 1 − mean Jensen-Shannon divergence to an untrained model on the forget set (train), in [0, 1].

    1 means that the model predicts on D_f as if it had never been trained; it needs no retrained model (Chundawat et
    al., AAAI 2023). None without an untrained model.
    """
    untrained = outputs.others.get("untrained")
    if untrained is None:
        return None
    return 1 - float(jensen_shannon(outputs.logits["forget_train"], untrained.logits["forget_train"]).mean())


def mean_absolute_gap(outputs: EvalOutputs, *, metrics: Sequence[Metric]) -> float | None:
    """Return the mean of |ours − retrained model's| over `metrics`, in their unit; None without a retrained model."""
    retrained = outputs.others.get("retrained")
    if retrained is None:
        return None
    gaps = []
    for metric in metrics:
        ours, reference = metric(outputs), metric(retrained)
        if ours is None or reference is None:
            return None
        gaps.append(abs(ours - reference))
    return sum(gaps) / len(gaps)
