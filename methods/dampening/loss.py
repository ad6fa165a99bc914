"""The loss of each sample: cross-entropy, unless the user has another."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[nn.Module, Any], Tensor]  # (model, batch) -> the loss of each sample, (B,)

OTHERWISE = "; for another task pass your own loss=(model, batch) -> (B,)"


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """Return the cross-entropy of each sample, (B,), in nats.

    Args:
        model: gives logits (B, K): a tensor, the first element of a tuple, or `logits` of an object or a mapping.
        batch: (inputs, labels), (inputs, …, labels) or, as of Hugging Face, a mapping with `labels` whose other items
            are the model's named inputs. Labels are integers (B,) from 0 to K − 1.
    """
    logits, labels = predicted(model, batch)
    return F.cross_entropy(logits, labels.long(), reduction="none")


def predicted(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """Return logits (B, K) and labels (B,) of a batch as `cross_entropy` takes it.

    Raises:
        TypeError: the batch or the output of the model is of another kind.
        ValueError: logits or labels have another shape or type; see `check_range` for the values.
    """
    inputs, labels = inputs_and_labels(batch)
    output = model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
    if not isinstance(output, Tensor):
        output = getattr(output, "logits", output)
    if isinstance(output, Mapping):
        output = output.get("logits")
    if isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise TypeError(f"Expected the model to return logits, but got {type(output).__name__}{OTHERWISE}.")
    if output.ndim != 2 or output.shape[1] < 2:
        advice = ", e.g. binary cross-entropy" if output.shape[1:] == (1,) else ""
        raise ValueError(
            f"Expected logits (B, K) of at least two classes, but got {tuple(output.shape)}{OTHERWISE}{advice}."
        )
    check_labels(labels, len(output))
    return output, labels


def inputs_and_labels(batch: Any) -> tuple[Mapping[str, Any] | list[Any], Any]:
    """Return the named or unnamed inputs of the model, and the labels."""
    if isinstance(batch, Mapping) and "labels" in batch:
        return {name: part for name, part in batch.items() if name != "labels"}, batch["labels"]
    if isinstance(batch, tuple | list) and len(batch) > 1:
        return list(batch[:-1]), batch[-1]
    found = f"names {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
    raise TypeError(f"Expected a batch (inputs, labels) or a mapping with labels, but got {found}{OTHERWISE}.")


def check_labels(labels: Any, n: int | None) -> None:
    """Raise ValueError unless there are `n` integer labels."""
    if not isinstance(labels, Tensor) or labels.ndim != 1 or n not in (None, len(labels)):
        shape = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"Expected labels ({n or 'B'},), one integer per sample, but got {shape}{OTHERWISE}.")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"Expected labels to be integers, but got {labels.dtype}{OTHERWISE}.")


def check_range(labels: Tensor, classes: int) -> None:
    """Raise ValueError unless the labels lie between 0 and `classes` − 1. It waits for the device."""
    low, high = (int(value) for value in labels.aminmax())
    if low < 0 or high >= classes:
        raise ValueError(
            f"Expected labels from 0 to {classes - 1}, as the model has {classes} logits, but got {low} to {high}; "
            "leave out samples without a label."
        )
