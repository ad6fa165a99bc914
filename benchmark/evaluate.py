"""One forward pass per split: the only place where a model is run to be measured."""

from typing import get_args

import torch
from torch import Tensor, nn

from datasets.base import ForgetSplit, LabelledImages
from datasets.batches import Batches, Preprocessing
from metrics.base import EvalOutputs, SplitName

SPLITS: tuple[SplitName, ...] = get_args(SplitName)


@torch.inference_mode()
def predict(model: nn.Module, data: LabelledImages, preprocessing: Preprocessing, batch_size: int) -> Tensor:
    """Return logits (N, K) float32 on the CPU, in the order of `data`; the model must be in eval mode."""
    batches = Batches(data, batch_size, preprocessing)
    logits = torch.cat([model(images).float() for images, _ in batches]).cpu()
    if not torch.isfinite(logits).all():
        raise FloatingPointError("Expected finite logits, but got infinite or NaN ones; lower the learning rate.")
    return logits


def evaluate(
    model: nn.Module,
    split: ForgetSplit,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    changed_fraction: float,
) -> EvalOutputs:
    """Return the model's outputs on every split; a split that appears twice is looked at once."""
    model.eval()
    logits: dict[SplitName, Tensor] = {}
    labels: dict[SplitName, Tensor] = {}
    for name in SPLITS:
        data: LabelledImages = getattr(split, name)
        labels[name] = data.labels.cpu()
        if name == "forget_test" and split.forget_test_is_train:
            logits[name] = logits["forget_train"]
        else:
            logits[name] = predict(model, data, preprocessing, batch_size)
    return EvalOutputs(logits, labels, split.forget_test_is_train, changed_fraction, newest_of(split))


def to_tensors(outputs: EvalOutputs) -> dict[str, Tensor]:
    """Return logits and labels under flat names, for the artefact store."""
    return {f"logits.{name}": outputs.logits[name].clone() for name in SPLITS} | {
        f"labels.{name}": outputs.labels[name].clone() for name in SPLITS
    }


def from_tensors(tensors: dict[str, Tensor], outputs_like: ForgetSplit, changed_fraction: float) -> EvalOutputs:
    """Return what `to_tensors` took apart."""
    return EvalOutputs(
        {name: tensors[f"logits.{name}"] for name in SPLITS},
        {name: tensors[f"labels.{name}"] for name in SPLITS},
        outputs_like.forget_test_is_train,
        changed_fraction,
        newest_of(outputs_like),
    )


def newest_of(split: ForgetSplit) -> int | None:
    return len(split.requests[-1].forget_test) if split.requests else None
