"""Relearn time: the steps of a training on all of D after which a model knows the forget set again."""

from typing import Any, Protocol

import torch
from torch import nn

from benchmark.evaluate import predict
from datasets.base import LabelledImages
from datasets.batches import Preprocessing
from methods.training import Compute, Recipe, TrainingState, train
from metrics.accuracy import top1_accuracy


class KnownError(Exception):
    """The forget set is known again; ends a training in the middle of an epoch."""


class KeptTraining(TrainingState, Protocol):
    """The state of a training with values of the caller's, which it keeps and restores."""

    extra: dict[str, Any]


def accuracy_on(data: LabelledImages, model: nn.Module, preprocessing: Preprocessing, batch_size: int) -> float:
    """Return the share of `data` that the model, which is put into eval mode, gets right, in [0, 1]."""
    logits = predict(model.eval(), data, preprocessing, batch_size)
    return top1_accuracy(logits, data.labels.cpu(), averaging="per_sample", batch_size=len(data))


def relearn(
    model: nn.Module, data: LabelledImages, forget: LabelledImages, goal: float, recipe: Recipe, *, every: int,
    preprocessing: Preprocessing, random: torch.Generator, compute: Compute, batch_size: int, state: KeptTraining,
) -> tuple[int, list[float]]:  # fmt: skip
    """Train `model` in place on `data` until its accuracy on `forget` is `goal`, at most by the whole recipe.

    Args:
        goal: in [0, 1].
        every: steps between two looks at `forget`; the first look comes before the first step.
        batch_size: of the looks.
        state: its `extra` keeps what is returned, so that another process can continue.

    Returns:
        The steps, and the accuracy at each look; the goal is reached at the last one or not at all.
    """
    known = state.extra
    known |= {"steps": 0, "looks": []}

    def look() -> None:
        known["looks"].append(accuracy_on(forget, model, preprocessing, batch_size))
        if known["looks"][-1] >= goal:
            raise KnownError

    def after_step(optimizer: torch.optim.Optimizer) -> None:
        known["steps"] += 1
        if known["steps"] % every == 0:
            look()
            model.train()

    try:
        look()
        train(
            model, data, recipe, preprocessing=preprocessing, random=random, compute=compute, after_step=after_step,
            training_state=state,
        )  # fmt: skip
    except KnownError:
        pass
    return known["steps"], known["looks"]
