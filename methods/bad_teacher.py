"""Bad teacher: learn the forget set from an incompetent teacher, the rest from the original model."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.base import ForgetSplit, LabelledImages
from methods.base import MethodContext
from methods.training import Recipe


def distillation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return KL(target ‖ softmax(logits)), averaged over samples *and* classes as in the released code.

    Args:
        logits: of the student, (B, K).
        target: probabilities from the teachers, (B, K).
    """
    return F.kl_div(torch.log_softmax(logits.float(), dim=1), target, reduction="none").mean()


@dataclass(frozen=True)
class BadTeacher:
    """Train the original model as a student of two teachers that never change.

    On D_f the target is the prediction of an incompetent teacher, on a random part of D_r that of the original model.
    Both are in eval mode and see every image once, so their predictions are made before the student starts; the
    released code makes both for every image, with the same result.

    Attributes:
        incompetent: weights of the incompetent teacher: `head` starts as the original did before its training (a
            pretrained body, if there is one, with a new head); `all` is random everywhere.
        retain_fraction: share of D_r that the student sees, in [0, 1].
        temperature: of the teachers' softmax and the student's.
        recipe: of the student's training; without augmentation.
    """

    incompetent: Literal["head", "all"]
    retain_fraction: float
    temperature: float
    recipe: Recipe

    def __post_init__(self) -> None:
        if self.incompetent not in ("head", "all"):
            raise ValueError(f"Expected incompetent to be head or all, but got {self.incompetent!r}.")
        if not 0 <= self.retain_fraction <= 1:
            raise ValueError(f"Expected retain_fraction to lie in [0, 1], but got {self.retain_fraction}.")
        if not self.temperature > 0:
            raise ValueError(f"Expected temperature to be above 0, but got {self.temperature}.")
        if self.recipe.augmentation is not None:
            raise ValueError("Expected a recipe without augmentation: the teachers see every image once, as it is.")

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module:
        retain = self.draw_retain(split, context)
        targets = torch.cat(
            [
                self.predict(self.incompetent_teacher(context), split.forget_train, context),
                self.predict(model, retain, context),
            ]
        )  # (N, K)

        def loss(student: nn.Module, images: Tensor, positions: Tensor) -> Tensor:
            return distillation_loss(student(images) / self.temperature, targets[positions])

        return context.train(model, split.forget_train.join(retain), self.recipe, "bad teacher", loss=loss)

    def draw_retain(self, split: ForgetSplit, context: MethodContext) -> LabelledImages:
        """Return the random part of D_r."""
        order = torch.randperm(
            len(split.retain_train), generator=context.random("bad teacher retain"), device=context.device
        )
        return split.retain_train.subset(order[: int(self.retain_fraction * len(order))])

    def incompetent_teacher(self, context: MethodContext) -> nn.Module:
        """Return a model that knows nothing of the data."""
        return context.fresh_model("incompetent teacher", pretrained=self.incompetent == "head")

    @torch.no_grad()
    def predict(self, teacher: nn.Module, data: LabelledImages, context: MethodContext) -> Tensor:
        """Return the teacher's probabilities on `data` in its order, (N, K) float32."""
        teacher.eval()
        parts = []
        with context.compute.autocast():
            for images, _ in context.batches(data, self.recipe.batch_size):
                parts.append(torch.softmax(teacher(images).float() / self.temperature, dim=1))
        return torch.cat(parts) if parts else torch.empty(0, device=context.device)
