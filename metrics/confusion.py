"""Interclass confusion: does the model still take one of two classes for the other? Goel et al., arXiv 2201.06640."""

import torch
from torch import Tensor

from metrics.base import EvalOutputs


def confused_classes(outputs: EvalOutputs) -> Tensor | None:
    """Return the labels of the two classes whose images were swapped, (2,); None for a D_f of another kind."""
    labels, counts = outputs.labels["forget_train"].unique(return_counts=True)
    return labels if len(labels) == 2 and counts[0] == counts[1] and outputs.forget_test_is_train else None


def interclass_error(outputs: EvalOutputs) -> float | None:
    """Return the share of the test images of the two classes that are taken for the other one, in [0, 1].

    It is (C[a, b] + C[b, a]) / n with the confusion matrix C of the test set. None if there is no such image, or for
    another task.
    """
    pair = confused_classes(outputs)
    labels = outputs.labels["retain_test"]
    if pair is None or not (asked := torch.isin(labels, pair)).any():
        return None
    predicted, other = outputs.logits["retain_test"][asked].argmax(dim=1), pair.sum() - labels[asked]
    return float(torch.eq(predicted, other).double().mean())


def true_label_error(outputs: EvalOutputs) -> float | None:
    """Return the share of D_f (train) that does not get its true label, in [0, 1]; None for another task.

    The labels in D_f are swapped, so the true one of an image is the other one of the two.
    """
    pair = confused_classes(outputs)
    if pair is None:
        return None
    true = pair.sum() - outputs.labels["forget_train"]
    return float(torch.ne(outputs.logits["forget_train"].argmax(dim=1), true).double().mean())
