"""The steps that make up a whole SSD cell: dampening, evaluation, a search trial, a cell cold and with I_D kept."""

import copy
from collections.abc import Callable, Iterator
from functools import cache

from torch import Tensor, nn

from methods.base import Memo, MethodContext
from methods.dampening.dampen import dampen
from methods.dampening.importance import parameter_importance
from methods.ssd import ordered
from methods.timing import Stopwatch
from scripts.speed_measure import Result, Step, timed
from scripts.speed_steps import Steps
from scripts.speed_textbook import dampen as textbook_dampen

Dampening = Callable[..., object]
MOVED_BYTES = 16  # a parameter: weight, I_D and I_Df are read, the weight is written


def cell_steps(steps: Steps) -> Iterator[Step]:
    """Yield the steps; the first that needs I_D and I_Df computes them."""
    cell, ssd, model, plain = steps.cell, steps.ssd, steps.model, steps.plain
    split = cell.split
    everything = ordered(split, ssd.order, context(steps).random("importance order"))

    @cache
    def importances() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        full, forget = (
            parameter_importance(model, steps.batches(data), reduction=ssd.reduction)
            for data in (everything, split.forget_train)
        )
        return full, forget

    def dampened(way: Dampening, start: nn.Module) -> nn.Module:
        changed = copy.deepcopy(start)
        way(changed, *importances(), alpha=ssd.alpha, lam=ssd.lam)
        return changed

    own, unlearned = cache(copy.deepcopy), cache(lambda: dampened(dampen, model))

    def again(way: Dampening, start: nn.Module) -> Result:
        """Dampen the same copy over and over: the same work each time, and no copying in it."""
        way(own(start), *importances(), alpha=ssd.alpha, lam=ssd.lam)
        return {}

    def both() -> tuple[Result, Result]:
        ours, theirs = dampened(dampen, model), dampened(textbook_dampen, plain)
        return dict(ours.named_parameters()), dict(theirs.named_parameters())

    spent: dict[str, list[float]] = {"evaluation": [], "cell": []}
    textbook_result: dict[str, Tensor] = {}

    def textbook_unlearned() -> nn.Module:
        size = 1 if ssd.reduction == "per_sample" else ssd.batch_size
        i_d = steps.textbook.importance(plain, everything, size)
        i_df = steps.textbook.importance(plain, split.forget_train, size)
        changed = copy.deepcopy(plain)
        textbook_dampen(changed, i_d, i_df, alpha=ssd.alpha, lam=ssd.lam)
        return changed

    def textbook_cell() -> Result:
        changed, unlearning = timed(textbook_unlearned, cell.device)
        result, evaluation = timed(lambda: steps.textbook_evaluate(changed), cell.device)
        textbook_result.update(result)
        spent["evaluation"].append(evaluation)
        spent["cell"].append(unlearning + evaluation)
        return dict(textbook_result)

    def kept(phase: str, key: object, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        return importances()[0] if phase == "importance_full" else compute()

    def borrowed(part: str) -> tuple[list[float], Result]:
        return spent[part], textbook_result

    def cell_with(memo: Memo | None) -> Result:
        return steps.evaluate(ssd(copy.deepcopy(model), split, context(steps, memo)))

    parameters = sum(p.numel() for p in model.parameters())
    images = split.num_train + len(cell.dataset.test)
    yield Step(
        "dampening", "parameters", parameters, lambda: again(dampen, model), lambda: again(textbook_dampen, plain),
        agreement=both, moved_bytes=MOVED_BYTES * parameters,
    )  # fmt: skip
    yield Step("cell_cold", "images", images, lambda: cell_with(None), textbook_cell)
    yield Step("cell_cached", "images", images, lambda: cell_with(kept), borrowed=lambda: borrowed("cell"))
    yield Step(
        "evaluation", "images", images, lambda: steps.evaluate(unlearned()), borrowed=lambda: borrowed("evaluation")
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
