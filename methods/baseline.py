"""The original model, unchanged."""

from dataclasses import dataclass

from torch import nn

from datasets.base import ForgetSplit
from methods.base import MethodContext


@dataclass(frozen=True)
class Baseline:
    """Do nothing."""

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module:
        return model.eval()
