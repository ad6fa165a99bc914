"""The steps that make up a whole SSD cell: dampening, evaluation, a search trial, a cell cold and with I_D kept."""

import copy
import time
from collections.abc import Callable, Iterator

from torch import Tensor, nn

from datasets.base import LabelledImages
from methods.base import Memo, MethodContext
from methods.importance import ordered, parameter_importance
from methods.ssd import dampen
from methods.timing import Stopwatch
from scripts.speed_measure import Result, Step
from scripts.speed_steps import Steps
from scripts.speed_textbook import dampen as textbook_dampen

MOVED_BYTES = 16  # a parameter: weight, I_D and I_Df are read, the weight is written


def cell_steps(steps: Steps) -> Iterator[Step]:
    """Yield the steps; I_D and I_Df are computed here, before any of them."""
    cell, ssd, model, plain = steps.cell, steps.ssd, steps.model, steps.plain
    split = cell.split
    everything = ordered(split, ssd.order, context(steps).random("importance order"))

    def importance(data: LabelledImages) -> dict[str, Tensor]:
        return parameter_importance(model, steps.batches(data), reduction=ssd.reduction)

    full, forget = importance(everything), importance(split.forget_train)

    def dampened(way: Callable[..., object], start: nn.Module) -> nn.Module:
        changed = copy.deepcopy(start)
        way(changed, full, forget, alpha=ssd.alpha, lam=ssd.lam)
        return changed

    spent: dict[str, list[float]] = {"evaluation": [], "cell": []}
    textbook_result: dict[str, Tensor] = {}

    def textbook_cell() -> Result:
        start = time.perf_counter()
        size = 1 if ssd.reduction == "per_sample" else ssd.batch_size
        i_d = steps.textbook.importance(plain, everything, size)
        i_df = steps.textbook.importance(plain, split.forget_train, size)
        changed = copy.deepcopy(plain)
        textbook_dampen(changed, i_d, i_df, alpha=ssd.alpha, lam=ssd.lam)
        before = time.perf_counter()
        textbook_result.update(steps.textbook_evaluate(changed))
        spent["evaluation"].append(time.perf_counter() - before)
        spent["cell"].append(time.perf_counter() - start)
        return dict(textbook_result)

    def kept(phase: str, key: object, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        return full if phase == "importance_full" else compute()

    def borrowed(part: str) -> tuple[list[float], Result]:
        return spent[part], textbook_result

    def cell_with(memo: Memo | None) -> Result:
        return steps.evaluate(ssd(copy.deepcopy(model), split, context(steps, memo)))

    parameters = sum(p.numel() for p in model.parameters())
    images = split.num_train + len(cell.dataset.test)
    yield Step(
        "dampening", "parameters", parameters, lambda: dict(dampened(dampen, model).named_parameters()),
        lambda: dict(dampened(textbook_dampen, plain).named_parameters()), moved_bytes=MOVED_BYTES * parameters,
    )  # fmt: skip
    yield Step("cell_cold", "images", images, lambda: cell_with(None), textbook_cell)
    yield Step("cell_cached", "images", images, lambda: cell_with(kept), borrowed=lambda: borrowed("cell"))
    unlearned = dampened(dampen, model)
    yield Step(
        "evaluation", "images", images, lambda: steps.evaluate(unlearned), borrowed=lambda: borrowed("evaluation")
    )
    yield Step(
        "trial", "images", images, lambda: steps.evaluate(dampened(dampen, model)),
        borrowed=lambda: borrowed("evaluation"),
    )  # fmt: skip


def context(steps: Steps, memo: Memo | None = None) -> MethodContext:
    """Return the cell's context; `memo` keeps I_D."""
    cell = steps.cell
    return MethodContext(
        seed=0, compute=cell.compute, preprocessing=cell.preprocessing, recipe=cell.recipe,
        build_model=cell.build_model, stopwatch=Stopwatch(cell.device), memo=memo,
    )  # fmt: skip
