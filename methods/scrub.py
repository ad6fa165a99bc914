"""SCRUB: a student that leaves its teacher on the forget set and stays with it on the retain set."""

import copy
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.base import ForgetSplit, LabelledImages
from datasets.values import check_fields
from methods.base import MethodContext
from methods.training import Pass, Recipe


def distance(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T²·KL(softmax(teacher/T) ‖ softmax(logits/T)), a mean over the samples; both are logits (B, K)."""
    own, other = ((z.float() / temperature).log_softmax(dim=1) for z in (logits, teacher))
    return temperature**2 * F.kl_div(own, other, reduction="batchmean", log_target=True)


@dataclass(frozen=True)
class Scrub:
    """Alternate passes that raise the KL divergence from the original model on D_f and passes over D_r.

    Kurmanji, Triantafillou, Hayes and Triantafillou, "Towards unbounded machine unlearning", NeurIPS 2023. In the first
    M epochs a pass over D_f maximises KL_T(original ‖ student); each epoch then minimises γ·CE + α·KL_T on D_r. One
    optimiser for both. At the start both models are the same: M = 1 follows only what batch statistics make differ.
    SCRUB+R then rewinds to the first of the E + 1 checkpoints, the original among them, whose error on D_f is nearest
    to the final student's on images of D_f's distribution that no model learnt (the released code has no file for the
    original, and stops when it is the nearest).

    Attributes:
        forget_batch_size: samples of D_f per step.
        ascent_epochs: M.
        alpha: α, of the divergence on D_r.
        gamma: γ, of the cross-entropy on D_r.
        temperature: T of both softmaxes.
        rewind: SCRUB+R; needs the split's `validation`.
    """

    recipe: Recipe
    forget_batch_size: Annotated[int, "[1, inf)"]
    ascent_epochs: Annotated[int, "[0, inf)"]
    alpha: Annotated[float, "[0, inf)"]
    gamma: Annotated[float, "[0, inf)"]
    temperature: Annotated[float, "(0, inf)"]
    rewind: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.recipe.augmentation is not None:
            raise ValueError("Expected a recipe without augmentation: the teacher sees every image once, as it is.")

    def skip(self, split: ForgetSplit) -> str | None:
        """Return why there is nothing to rewind by if all training images are learnt."""
        if self.rewind and not split.validation:
            return "SCRUB+R rewinds by images that no model learnt: add +dataset.subset.validation=0.1 to all runs"
        return None

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module:
        forget, retain = split.forget_train, split.retain_train
        on_forget, on_retain = (context.predict(model, data, self.recipe.batch_size) for data in (forget, retain))

        def ascent(student: nn.Module, images: Tensor, positions: Tensor) -> Tensor:
            return -distance(student(images), on_forget[positions], self.temperature)

        def descent(student: nn.Module, images: Tensor, positions: Tensor) -> Tensor:
            logits = student(images).float()
            error = F.cross_entropy(logits, retain.labels[positions])
            return self.gamma * error + self.alpha * distance(logits, on_retain[positions], self.temperature)

        def passes(epoch: int) -> list[Pass]:
            first = [Pass(forget, ascent, self.forget_batch_size)] if epoch <= self.ascent_epochs else []
            return [*first, Pass(retain, descent)]

        if not self.rewind or split.validation is None:
            return context.train(model, passes, self.recipe, "finetune")
        kept: dict[str, Any] = {"states": [], "errors": []}

        def error_on(data: LabelledImages) -> float:
            predicted = context.predict(model, data, self.recipe.batch_size).argmax(dim=1)
            return float(torch.ne(predicted, data.labels).double().mean())

        def keep(epoch: int) -> None:
            kept["states"].append(copy.deepcopy(model.state_dict()))
            kept["errors"].append(error_on(forget))

        keep(0)
        context.train(model, passes, self.recipe, "finetune", after_epoch=keep, extra=kept)
        goal, errors = error_on(split.validation), kept["errors"]
        model.load_state_dict(kept["states"][min(range(len(errors)), key=lambda i: abs(errors[i] - goal))])
        return model
