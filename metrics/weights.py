"""How much of the model a method changed."""

from collections.abc import Mapping

from torch import Tensor, nn

from metrics.base import EvalOutputs


def share_changed(before: Mapping[str, Tensor], model: nn.Module) -> float:
    """Return the share of the model's parameters whose value differs from `before`, in [0, 1]."""
    changed = total = 0
    for name, parameter in model.named_parameters():
        changed += int((parameter.detach() != before[name]).sum())
        total += parameter.numel()
    return changed / total


def changed_fraction(outputs: EvalOutputs) -> float:
    """Return the share of parameters changed by the method, in [0, 1]."""
    return outputs.facts["changed_fraction"]
