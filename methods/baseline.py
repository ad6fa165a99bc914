"""The original model, unchanged: what there is to forget."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from datasets.base import ForgetSplit
from methods.base import MethodContext


@dataclass(frozen=True)
class Baseline:
    """Do nothing."""

    ranked: ClassVar[bool] = False

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module:
        return model.eval()
