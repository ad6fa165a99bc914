"""Retraining on the retain set: the reference that every unlearning method is compared with."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from datasets.base import ForgetSplit
from methods.base import MethodContext, get_classifier
from methods.training import Recipe


@dataclass(frozen=True)
class Retrain:
    """Train on D_r alone.

    Attributes:
        reset: `all` starts from a fresh model, the true reference; `head` keeps the original's weights and
            initialises only the last layer anew, as the released code does.
        recipe: for the training on D_r.
    """

    reset: Literal["all", "head"]
    recipe: Recipe

    def __post_init__(self) -> None:
        if self.reset not in ("all", "head"):
            raise ValueError(f"Expected reset to be all or head, but got {self.reset!r}.")
        if not isinstance(self.recipe, Recipe):
            raise ValueError(f"Expected recipe to be a training recipe, but got {self.recipe!r}.")

    def start(self, model: nn.Module, context: MethodContext) -> nn.Module:
        """Return the model that training starts from; with `head`, `model` itself with a new last layer."""
        fresh = context.fresh_model("retrain")
        if self.reset == "all":
            return fresh
        get_classifier(model).load_state_dict(get_classifier(fresh).state_dict())
        return model

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module:
        return context.train(self.start(model, context), split.retain_train, self.recipe, "retrain")
