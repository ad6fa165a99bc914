"""What a metric sees."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

SplitName = Literal["forget_train", "retain_train", "forget_test", "retain_test"]


@dataclass(frozen=True, eq=False)
class EvalOutputs:
    """Logits and labels of one model on every split.

    Attributes:
        logits: per split (N, K) float32.
        labels: per split (N,) int64.
        forget_test_is_train: D_f accuracy is measured on the forgotten training samples (random task).
        changed_fraction: share of parameters that differ from the original model, in [0, 1].
        newest_test: how many of the samples at the end of `forget_test` the newest of several requests forgot.
        reference: the outputs of the retrained model, where there is one.
        untrained_logits: of a model that is random in every layer, on the forget set's training part, (N_f, K).
    """

    logits: Mapping[SplitName, Tensor]
    labels: Mapping[SplitName, Tensor]
    forget_test_is_train: bool
    changed_fraction: float
    newest_test: int | None = None
    reference: "EvalOutputs | None" = None
    untrained_logits: Tensor | None = None

    @property
    def test_logits(self) -> Tensor:
        """Logits on the whole test set, (N, K)."""
        if self.forget_test_is_train:
            return self.logits["retain_test"]
        return torch.cat([self.logits["retain_test"], self.logits["forget_test"]])


class Metric(Protocol):
    """A function of outputs; its options are bound by the configuration. None: not defined for these outputs."""

    def __call__(self, outputs: EvalOutputs) -> float | None: ...
