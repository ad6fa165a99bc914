"""One forward pass per split: the only place where a model is run to be measured."""

from collections.abc import Mapping, Sequence
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
    facts: Mapping[str, float],
    splits: Sequence[SplitName] = SPLITS,
) -> EvalOutputs:
    """Return the model's outputs on `splits`; a split that appears twice is looked at once."""
    model.eval()
    logits: dict[SplitName, Tensor] = {}
    for name in splits:
        if name == "forget_test" and split.forget_test_is_train and "forget_train" in logits:
            logits[name] = logits["forget_train"]
        else:
            logits[name] = predict(model, getattr(split, name), preprocessing, batch_size)
    return as_outputs(logits, {name: getattr(split, name).labels.cpu() for name in splits}, split, facts)


def to_tensors(outputs: EvalOutputs) -> dict[str, Tensor]:
    """Return logits and labels under flat names, for the artefact store."""
    return {f"logits.{name}": logits.clone() for name, logits in outputs.logits.items()} | {
        f"labels.{name}": labels.clone() for name, labels in outputs.labels.items()
    }


def from_tensors(tensors: Mapping[str, Tensor], split: ForgetSplit, facts: Mapping[str, float]) -> EvalOutputs:
    """Return the outputs that `to_tensors` took apart."""
    logits: dict[SplitName, Tensor] = {name: tensors[f"logits.{name}"] for name in SPLITS}
    return as_outputs(logits, {name: tensors[f"labels.{name}"] for name in SPLITS}, split, facts)


def as_outputs(
    logits: Mapping[SplitName, Tensor],
    labels: Mapping[SplitName, Tensor],
    split: ForgetSplit,
    facts: Mapping[str, float],
) -> EvalOutputs:
    newest = len(split.requests[-1].forget_test) if split.requests else None
    groups = {name: split.groups(getattr(split, name)).cpu() for name in logits}
    return EvalOutputs(logits, labels, split.forget_test_is_train, facts, newest, groups)
