"""Margins of the true label: one number per image, from which attacks and ensembles of runs follow."""

import torch
from torch import Tensor

from metrics.base import EvalOutputs, SplitName

KEPT = 10_000  # retained training images whose margins a run keeps


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the log-odds of the true label, z_y − log Σ_{k≠y} exp z_k, (N,) float64; it does not saturate.

    Args:
        logits: (N, K), K ≥ 2.
        labels: (N,) int64.

    >>> margin(torch.tensor([[2.0, 0.5], [2.0, 0.5]]), torch.tensor([0, 1])).tolist()
    [1.5, -1.5]
    """
    z, index = logits.double(), labels[:, None]
    others = z.scatter(1, index, float("-inf")).logsumexp(dim=1)
    return z.gather(1, index)[:, 0] - others


def margin_shift(outputs: EvalOutputs) -> float | None:
    """Return the mean of (ours − retrained model's) margins on D_f (train), in nats; None without a retrained model.

    Above 0 the model still knows D_f better than one that never saw it, below 0 worse.
    """
    retrained = outputs.others.get("retrained")
    if retrained is None:
        return None
    labels = outputs.labels["forget_train"]
    ours, goal = (margin(x.logits["forget_train"], labels) for x in (outputs, retrained))
    return float((ours - goal).mean())


def kept_margins(outputs: EvalOutputs) -> dict[str, Tensor]:
    """Return the margins that a run keeps, per split (N,) float32; of `retain_train` at most `KEPT`, evenly spaced.

    The rows depend on the number of images alone: runs on the same split keep those of the same images.
    """
    kept: dict[str, Tensor] = {}
    splits: tuple[SplitName, ...] = ("forget_train", "retain_train", "forget_test", "retain_test")
    for name in splits:
        values = margin(outputs.logits[name], outputs.labels[name])
        if name == "retain_train" and len(values) > KEPT:
            values = values[torch.arange(KEPT) * len(values) // KEPT]
        kept[name] = values.float()
    return kept
