"""Originals, importances and the outputs of unlearned models: computed once, then loaded."""

import copy
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmark.evaluate import evaluate, from_tensors, predict, to_tensors
from benchmark.oldcell import OldCell as Cell
from benchmark.provenance import provenance
from benchmark.resume import KeptTraining, kept_training
from benchmark.store import ArtefactStore, Card, content_hash
from datasets.seeding import generator
from methods.base import Memo, MethodContext, UnlearningMethod
from methods.timing import Stopwatch
from methods.training import train
from metrics.accuracy import top1_accuracy
from metrics.base import EvalOutputs
from metrics.weights import share_changed

log = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 10.0


def store_of(cell: Cell) -> ArtefactStore:
    return ArtefactStore(Path(cell.config.output_dir) / "artefacts")


def load_original(cell: Cell) -> tuple[nn.Module, Card]:
    """Return the original model in eval mode, trained where it is not there yet, and its card."""
    state, card = store_of(cell).get("original", cell.original_key, lambda: train_original(cell))
    model = cell.build_model(seed=0)
    model.load_state_dict(state)
    return model.eval(), card


def train_original(cell: Cell) -> tuple[dict[str, Tensor], Card]:
    """Train the original model; return its state and what its card says.

    `original.checkpoint` decides which epoch is kept: the `last`, or the first with the `best_test` accuracy.
    """
    data, selection, seed = cell.dataset, cell.config.original.checkpoint, cell.seeds["train_seed"]
    if selection not in ("last", "best_test"):
        raise ValueError(f"Expected original.checkpoint to be last or best_test, but got {selection!r}.")
    model = cell.build_model(seed)
    best: dict[str, Any] = {"accuracy": -1.0, "epoch": 0, "state": {}}
    report = epoch_reporter(f"original {cell.labels['model']} on {cell.labels['dataset']}", cell.recipe.epochs)

    def test_accuracy() -> float:
        logits = predict(model, data.test, cell.preprocessing, cell.eval_batch_size)
        return top1_accuracy(logits, data.test.labels.cpu(), averaging="per_sample", batch_size=len(logits))

    def after_epoch(epoch: int) -> None:
        report(epoch)
        if selection == "best_test" and (accuracy := test_accuracy()) > best["accuracy"]:
            best.update(accuracy=accuracy, epoch=epoch, state=copy.deepcopy(model.state_dict()))

    stopwatch = Stopwatch(cell.compute.device)
    random = generator("original", seed, device=cell.compute.device)
    progress = kept_training(cell, store_of(cell).progress("original", cell.original_key), extra=best)
    with stopwatch.phase("original"):
        train(
            model, data.train, cell.recipe, preprocessing=cell.preprocessing, random=random, compute=cell.compute,
            after_epoch=after_epoch, progress=progress,
        )  # fmt: skip
    stopwatch.add("original", progress.seconds)
    if selection == "last":
        best.update(accuracy=test_accuracy(), epoch=cell.recipe.epochs, state=model.state_dict())
    card = {
        "test_accuracy": best["accuracy"],
        "kept_epoch": best["epoch"],
        "epochs": cell.recipe.epochs,
        "seconds": stopwatch.seconds["original"],
        "provenance": provenance(cell.compute),
    }
    return best["state"], card


def epoch_reporter(what: str, epochs: int) -> Callable[[int], None]:
    """Return a function that logs the progress of a training, at most one line every ten seconds."""
    start = last = time.monotonic()
    before: int | None = None  # epochs of an earlier process

    def report(epoch: int) -> None:
        nonlocal last, before
        before = epoch - 1 if before is None else before
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            left = (now - start) / (epoch - before) * (epochs - epoch)
            log.info("  training the %s: epoch %d of %d, %.0f s left", what, epoch, epochs, left)

    return report


def unlearn(
    cell: Cell, method: UnlearningMethod, original: nn.Module, *, memo: Memo | None = None, progress: Path | None = None
) -> tuple[EvalOutputs, dict[str, float]]:
    """Run `method` on a copy of the original and look once at every split; return outputs and seconds by phase.

    Args:
        memo: stands in for `importance_memo`; its seconds then belong to `rest`.
        progress: folder where long trainings keep their state; None keeps none.
    """
    stopwatch = Stopwatch(cell.compute.device)
    trainings: list[KeptTraining] = []

    def kept(folder: Path, names: tuple[object, ...]) -> KeptTraining:
        trainings.append(kept_training(cell, folder, *names))
        return trainings[-1]

    context = MethodContext(
        seed=cell.seeds["method_seed"],
        compute=cell.compute,
        preprocessing=cell.preprocessing,
        recipe=cell.recipe,
        build_model=cell.build_model,
        stopwatch=stopwatch,
        memo=memo or importance_memo(cell, stopwatch),
        progress=None if progress is None else partial(kept, progress),
    )
    model = copy.deepcopy(original)
    with stopwatch.phase("wall"):
        model = method(model, cell.split, context)
    stopwatch.add("wall", sum(training.seconds for training in trainings))
    with stopwatch.phase("evaluation"):
        outputs = evaluate(
            model, cell.split, cell.preprocessing, batch_size=cell.eval_batch_size,
            changed_fraction=share_changed(dict(original.named_parameters()), model),
        )  # fmt: skip
    return outputs, method_seconds(stopwatch.seconds)


def method_seconds(measured: Mapping[str, float]) -> dict[str, float]:
    """Split the method's wall-clock time: importances as first computed, the rest without them and any caching."""
    parts = {name: measured.get(name, 0.0) for name in ("importance_full", "importance_forget")}
    rest = measured["wall"] - measured.get("memo", 0.0)
    parts["rest"] = max(rest, 0.0)
    return {**parts, "method": sum(parts.values()), "evaluation": measured["evaluation"]}


def importance_memo(cell: Cell, stopwatch: Stopwatch) -> Memo:
    """Return the context's memo: tensors kept beside the original model, their seconds booked as first measured."""

    def memo(phase: str, options: Mapping[str, object], compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        def timed() -> tuple[dict[str, Tensor], Card]:
            inner = Stopwatch(cell.compute.device)
            with inner.phase(phase):
                tensors = compute()
            return tensors, {"seconds": inner.seconds[phase], "provenance": provenance(cell.compute)}

        key = {"original": content_hash(cell.original_key), **options}
        with stopwatch.phase("memo"):
            tensors, card = store_of(cell).get(phase, key, timed)
            on_device = {name: value.to(cell.compute.device) for name, value in tensors.items()}
        stopwatch.add(phase, card["seconds"])
        return on_device

    return memo


def in_memory(memo: Memo) -> Memo:
    """Return a memo that asks `memo` once for each (phase, options) and keeps the tensors on the device."""
    kept: dict[str, dict[str, Tensor]] = {}

    def remembered(
        phase: str, options: Mapping[str, object], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        name = content_hash([phase, options])
        if name not in kept:
            kept[name] = memo(phase, options, compute)
        return kept[name]

    return remembered


def load_outputs(
    cell: Cell, method: UnlearningMethod, key: Mapping[str, Any], original: nn.Module
) -> tuple[EvalOutputs, Card]:
    """Return what the unlearned model says on every split, and the card; computed where it is not there.

    So another metric, or another reference, costs no unlearning.
    """

    def compute() -> tuple[dict[str, Tensor], Card]:
        if key == cell.reference_key:
            log.info("  retraining without the forget set (%s)", cell.split.forget_target)
        outputs, seconds = unlearn(cell, method, original, progress=store_of(cell).progress("outputs", key))
        card = {"changed_fraction": outputs.changed_fraction, "seconds": seconds}
        return to_tensors(outputs), card | {"provenance": provenance(cell.compute)}

    tensors, card = store_of(cell).get("outputs", key, compute)
    return from_tensors(tensors, cell.split, card["changed_fraction"]), card
