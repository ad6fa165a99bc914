"""What depends on what: the artefacts that a cell's record rests on, and how each of them is made."""

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from benchmark.artefacts import Artefact, Facts, Store, Tensors
from benchmark.cell import Cell
from benchmark.device import provenance
from benchmark.evaluate import evaluate, from_tensors, predict, to_tensors
from benchmark.files import content_hash
from benchmark.records import RunRecord
from benchmark.training_state import StoredTraining, stored_training
from benchmark.workbench import Workbench, workbench
from datasets.seeding import derive_seed, generator
from methods.base import Cache, MethodContext, UnlearningMethod, skip_reason
from methods.requests import answer
from methods.timing import Stopwatch
from methods.training import train
from metrics.accuracy import top1_accuracy
from metrics.base import EvalOutputs
from metrics.weights import share_changed

log = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 10.0


# The graph


def store_of(cell: Cell) -> Store:
    return Store(Path(cell.config.output_dir) / "artefacts")


def original(cell: Cell) -> Artefact:
    """Return the original model."""
    return Artefact("original", cell.original_key, lambda: train_original(workbench(cell), original(cell)))


def unlearned(cell: Cell, n: int | None = None) -> Artefact:
    """Return the unlearned model; of several forget requests, the model after the first `n` (None: after all).

    The next request starts from the previous request's model.
    """
    key, needs = cell.outputs_key, (original(cell),)
    if cell.targets is not None and not cell.is_reference:  # a retrained model forgets all of them in one call
        n = n or len(cell.targets)
        key = key | {"task": key["task"] | {"target": cell.targets[:n]}}
        needs = (original(cell), unlearned(cell, n - 1)) if n > 1 else needs
    return Artefact("model", key, lambda: unlearn(workbench(cell), n), needs)


def outputs(cell: Cell) -> Artefact:
    """Return the outputs of the unlearned model on every split."""
    several = cell.targets is not None and not cell.is_reference
    needs = (original(cell), *([unlearned(cell)] if several or cell.config.save == "model" else []))
    return Artefact("outputs", cell.outputs_key, lambda: look(workbench(cell), outputs(cell)), needs)


def reference(cell: Cell) -> Artefact | None:
    """Return the outputs of the retrained model; None if the configuration has none."""
    if cell.config.get("reference") is None:
        return None
    return Artefact("outputs", cell.reference_key, lambda: look(workbench(cell), reference(cell)), (original(cell),))


def wanted(cell: Cell) -> list[Artefact]:
    """Return the artefacts that the cell's record reads, and those to be saved; a retrained model if a metric asks."""
    retrained = reference(cell) if "retrained" in cell.metric_needs and not cell.is_reference else None
    saved = unlearned(cell) if cell.config.save == "model" else None
    return [node for node in (original(cell), retrained, saved, outputs(cell)) if node is not None]


def make(cell: Cell, name: str) -> None:
    """Make the artefact `name` (see `Artefact.__str__`) of the cell, unless the cell's method skips its task."""
    made(cell, next(node for root in wanted(cell) for node in root.walk() if str(node) == name))


def made(cell: Cell, node: Artefact) -> str:
    """Make an artefact of the cell if it is not there yet; return the path of its tensors, or why it is skipped."""
    if node.kind != "original" and node.key != cell.reference_key and (reason := skip(workbench(cell))) is not None:
        return f"{cell}: skipped, {reason}"
    store_of(cell).get(node)
    return str(store_of(cell).path(node).with_suffix(".safetensors"))


def make_stage(cell: Cell, stage: str) -> str:
    """Make one artefact of the cell, `original`, `retrained` or `outputs`; return its path."""
    stages = {"original": original(cell), "retrained": reference(cell), "outputs": outputs(cell)}
    node = stages.get(stage)
    if node is None:
        known = ", ".join(["record", *(name for name, there in stages.items() if there is not None)])
        raise ValueError(f"Expected stage to be one of {known}, but got {stage!r}.")
    return made(cell, node)


# How each of them is made


def train_original(bench: Workbench, node: Artefact) -> tuple[Tensors, Facts]:
    """Train the original model.

    `original.checkpoint` decides which epoch is kept: the `last`, or the first with the `best_test` accuracy.
    """
    data, selection, seed = bench.dataset, bench.config.original.checkpoint, bench.cell.seeds["train_seed"]
    if selection not in ("last", "best_test"):
        raise ValueError(f"Expected original.checkpoint to be last or best_test, but got {selection!r}.")
    model = bench.build_model(seed)
    best: dict[str, Any] = {"accuracy": -1.0, "epoch": 0, "state": {}}
    labels = bench.cell.labels
    report = epoch_reporter(f"original {labels['model']} on {labels['dataset']}", bench.recipe.epochs)

    def test_accuracy() -> float:
        logits = predict(model, data.test, bench.preprocessing, bench.eval_batch_size)
        return top1_accuracy(logits, data.test.labels.cpu(), averaging="per_sample", batch_size=len(logits))

    def after_epoch(epoch: int) -> None:
        report(epoch)
        if selection == "best_test" and (accuracy := test_accuracy()) > best["accuracy"]:
            best.update(accuracy=accuracy, epoch=epoch, state=copy.deepcopy(model.state_dict()))

    stopwatch = Stopwatch(bench.device)
    folder = store_of(bench.cell).training_folder(node)
    state = stored_training(bench.compute, bench.config.compute.progress_seconds, folder, extra=best)
    with stopwatch.phase("original"):
        train(
            model, data.train, bench.recipe, preprocessing=bench.preprocessing, compute=bench.compute,
            random=generator("original", seed, device=bench.device), after_epoch=after_epoch,
            training_state=state,
        )  # fmt: skip
    stopwatch.add("original", state.seconds)
    if selection == "last":
        best.update(accuracy=test_accuracy(), epoch=bench.recipe.epochs, state=model.state_dict())
    return best["state"], {
        "test_accuracy": best["accuracy"],
        "kept_epoch": best["epoch"],
        "epochs": bench.recipe.epochs,
        "seconds": stopwatch.seconds["original"],
        "provenance": provenance(bench.compute),
    }


def epoch_reporter(what: str, epochs: int) -> Callable[[int], None]:
    """Return a function that logs the epochs of a training, at most one line every ten seconds."""
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


def unlearn(bench: Workbench, n: int | None) -> tuple[Tensors, Facts]:
    """Answer the cell's forget request, or the `n`-th of several, starting from the previous one's model."""
    cell, method = bench.cell, bench.method
    first, _ = load_original(cell)
    model = copy.deepcopy(first)
    if n is None:
        model, seconds = call(bench, method, model, unlearned(cell))
    else:
        node = unlearned(cell, n)
        if n > 1:
            model.load_state_dict(store_of(cell).get(unlearned(cell, n - 1))[0])
        newest = replace(bench.split, requests=bench.split.requests[:n])
        model, seconds = call(bench, partial(answer, method, original=first), model, node, split=newest)
    return dict(model.state_dict()), {"seconds": seconds, "provenance": provenance(bench.compute)}


def look(bench: Workbench, node: Artefact) -> tuple[Tensors, Facts]:
    """Look once at every split with the model that `node` is about; the model itself is kept if `node` needs it."""
    cell, first = bench.cell, load_original(bench.cell)[0]
    kept = next((need for need in node.needs if need.kind == "model"), None)
    if kept is not None:
        state, facts = store_of(cell).get(kept)
        model = copy.deepcopy(first)
        model.load_state_dict(state)
        seconds = facts["seconds"]
    else:
        retrains = node.key == cell.reference_key
        if retrains:
            log.info("  retraining without the forget set (%s)", bench.split.forget_target)
        method = bench.reference_method if retrains else bench.method
        model, seconds = call(bench, method, copy.deepcopy(first), node)
    seen, seconds["evaluation"] = measured_outputs(bench, model, first)
    facts = dict(seen.facts) | {"seconds": seconds, "provenance": provenance(bench.compute)}
    return to_tensors(seen), facts


def measured_outputs(bench: Workbench, model: nn.Module, first: nn.Module) -> tuple[EvalOutputs, float]:
    """Return the outputs of `model` on every split, with its distance to the original, and the seconds that took."""
    stopwatch = Stopwatch(bench.device)
    with stopwatch.phase("evaluation"):
        seen = evaluate(
            model, bench.split, bench.preprocessing, batch_size=bench.eval_batch_size,
            facts={"changed_fraction": share_changed(dict(first.named_parameters()), model)},
        )  # fmt: skip
    return seen, stopwatch.seconds["evaluation"]


def call(
    bench: Workbench,
    method: UnlearningMethod,
    model: nn.Module,
    node: Artefact | None = None,
    *,
    split: Any = None,
    cache: Cache | None = None,
) -> tuple[nn.Module, dict[str, float]]:
    """Call `method` on `model`, which it may change; return the unlearned model and the seconds by phase.

    Args:
        node: the artefact in whose folder long trainings keep their state; None keeps none.
        split: the cell's own if None.
        cache: stands in for `importance_cache`; its seconds then belong to `rest`.
    """
    stopwatch = Stopwatch(bench.device)
    trainings: list[StoredTraining] = []

    def state(names: tuple[object, ...]) -> StoredTraining:
        folder = store_of(bench.cell).training_folder(node)
        trainings.append(stored_training(bench.compute, bench.config.compute.progress_seconds, folder, *names))
        return trainings[-1]

    context = MethodContext(
        seed=bench.cell.seeds["method_seed"],
        compute=bench.compute,
        preprocessing=bench.preprocessing,
        recipe=bench.recipe,
        build_model=bench.build_model,
        stopwatch=stopwatch,
        cache=cache or importance_cache(bench, stopwatch),
        training_state=None if node is None else state,
    )
    with stopwatch.phase("wall"):
        model = method(model, bench.split if split is None else split, context)
    stopwatch.add("wall", sum(training.seconds for training in trainings))
    return model, method_seconds(stopwatch.seconds)


def method_seconds(measured: Mapping[str, float]) -> dict[str, float]:
    """Split the method's wall-clock time: importances as first computed, the rest without them and any caching."""
    parts = {name: measured.get(name, 0.0) for name in ("importance_full", "importance_forget")}
    parts["rest"] = max(measured["wall"] - measured.get("cache", 0.0), 0.0)
    return {**parts, "method": sum(parts.values())}


def importance_cache(bench: Workbench, stopwatch: Stopwatch) -> Cache:
    """Return the context's cache: importances are artefacts too, their seconds booked as first measured."""
    cell = bench.cell

    def remember(phase: str, options: Mapping[str, object], compute: Callable[[], Tensors]) -> Tensors:
        def timed() -> tuple[Tensors, Facts]:
            inner = Stopwatch(bench.device)
            with inner.phase(phase):
                tensors = compute()
            return tensors, {"seconds": inner.seconds[phase], "provenance": provenance(bench.compute)}

        key = {"original": content_hash(cell.original_key), **options}
        with stopwatch.phase("cache"):
            tensors, facts = store_of(cell).get(Artefact(phase, key, timed, (original(cell),)))
            on_device = {name: value.to(bench.device) for name, value in tensors.items()}
        stopwatch.add(phase, facts["seconds"])
        return on_device

    return remember


# What is read from them


def load_original(cell: Cell) -> tuple[nn.Module, Facts]:
    """Return the original model in eval mode, trained if it is not there yet, and its facts."""
    state, facts = store_of(cell).get(original(cell))
    model = workbench(cell).build_model(seed=0)
    model.load_state_dict(state)
    return model.eval(), facts


def load_outputs(cell: Cell, node: Artefact) -> tuple[EvalOutputs, Facts]:
    """Return the outputs that `node` holds, and its facts. So another metric costs no unlearning."""
    tensors, facts = store_of(cell).get(node)
    return from_tensors(tensors, workbench(cell).split, {"changed_fraction": facts["changed_fraction"]}), facts


def other_outputs(bench: Workbench) -> Iterator[tuple[str, EvalOutputs]]:
    """Yield the outputs of the other models that the cell's metrics ask for, by the name of the need."""
    cell = bench.cell
    if "retrained" in cell.metric_needs and (node := reference(cell)) is not None:
        yield "retrained", load_outputs(cell, node)[0]
    if "untrained" in cell.metric_needs:
        model = bench.build_model(derive_seed(cell.seeds["method_seed"], "untrained"), pretrained=False)
        size, splits = bench.eval_batch_size, ("forget_train",)
        yield "untrained", evaluate(model, bench.split, bench.preprocessing, batch_size=size, facts={}, splits=splits)


def skip(bench: Workbench) -> str | None:
    """Return why the cell's method does not apply to its task, or None."""
    return skip_reason(bench.method, bench.split)


def make_record(cell: Cell) -> RunRecord:
    """Measure the cell and write its record."""
    bench = workbench(cell)
    first, origin = load_original(cell)
    stopwatch, skipped = Stopwatch(bench.device), skip(bench)
    metrics: dict[str, float | None] = {}
    seconds, made_by = {"load": bench.load_seconds, "original": origin["seconds"]}, provenance(bench.compute)
    if skipped is None:
        seen, facts = load_outputs(cell, outputs(cell))
        seconds, made_by = seconds | facts["seconds"], facts["provenance"]
        others = dict(other_outputs(bench))
        with stopwatch.phase("metrics"):
            complete = replace(seen, others=others)
            metrics = {name: metric(complete) for name, metric in bench.metrics.items()}
        seconds["evaluation"] += stopwatch.seconds["metrics"]
    split = bench.split
    record = RunRecord(
        run_id=cell.run_id,
        scientific_hash=cell.scientific_hash,
        labels=cell.labels,
        hyperparameters=cell.scientific["method"],
        seeds=cell.seeds,
        metrics=metrics,
        seconds=seconds,
        sizes={
            "forget_train": len(split.forget_train),
            "retain_train": len(split.retain_train),
            "forget_test": len(split.forget_test),
            "retain_test": len(split.retain_test),
            "parameters": sum(p.numel() for p in first.parameters()),
        },
        provenance=made_by,
        data_fingerprint=cell.fingerprint,
        original={name: origin[name] for name in ("test_accuracy", "kept_epoch", "epochs", "sha256")}
        | {name: origin["provenance"][name] for name in ("commit", "dirty")},
        skipped=skipped,
    )
    record.write(cell.record_path.parent)
    return record
