"""The input of a metric."""

from collections.abc import Mapping
from dataclasses import dataclass, field
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
        facts: numbers about the model itself; `changed_fraction` is the share of parameters that differ from the
            original model, in [0, 1].
        groups: per split the classes among which one is forgotten, (N,) int64: fine ones in the subclass task.
        newest_test: how many of the samples at the end of `forget_test` belong to the newest of several requests.
        others: outputs of models to compare with: `retrained`, and `untrained` (random in every layer; on
            `forget_train` alone). Only those that a metric of the run needs are there, see `about.needs` in its YAML.
    """

    logits: Mapping[SplitName, Tensor]
    labels: Mapping[SplitName, Tensor]
    forget_test_is_train: bool
    facts: Mapping[str, float] = field(default_factory=dict)
    newest_test: int | None = None
    groups: Mapping[SplitName, Tensor] = field(default_factory=dict)
    others: "Mapping[str, EvalOutputs]" = field(default_factory=dict)

    @property
    def test_logits(self) -> Tensor:
        """Logits on the whole test set, (N, K)."""
        if self.forget_test_is_train:
            return self.logits["retain_test"]
        return torch.cat([self.logits["retain_test"], self.logits["forget_test"]])


class Metric(Protocol):
    """A function of outputs; its options are bound by the configuration. None: not defined for these outputs."""

    def __call__(self, outputs: EvalOutputs) -> float | None: ...


class Metrics(Protocol):
    """A function of outputs to several numbers, in the record as `name.part`."""

    def __call__(self, outputs: EvalOutputs) -> Mapping[str, float | None]: ...
