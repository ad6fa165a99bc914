"""The artefacts that a cell's record rests on, how they depend on each other and how each is made."""

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from numbers import Real
from typing import Any

import torch
from hydra.utils import instantiate
from safetensors.torch import save_file
from threadpoolctl import threadpool_limits
from torch import nn

from benchmark.artefacts import Artefact, Facts, Tensors
from benchmark.cell import Cell, without_about
from benchmark.evaluate import evaluate, from_tensors, predict, to_tensors
from benchmark.progress import progress
from benchmark.records import RunRecord, flatten
from benchmark.relearn import accuracy_on, relearn
from benchmark.sources import module_hash
from benchmark.training_state import StoredTraining
from benchmark.workbench import Workbench
from datasets.base import ForgetSplit
from datasets.files import replacing
from datasets.seeding import derive_seed, generator
from methods.base import Cache, MethodContext, UnlearningMethod
from methods.requests import answer
from methods.timing import Stopwatch
from methods.training import Recipe, train
from metrics.accuracy import top1_accuracy
from metrics.base import EvalOutputs
from metrics.margins import kept_margins
from metrics.weights import share_changed

log = logging.getLogger(__name__)
Called = tuple[nn.Module, dict[str, float]]  # the unlearned model and the seconds by phase


# The graph


def original(bench: Workbench) -> Artefact:
    """Return the original model."""
    key, code = bench.cell.original_key, bench.cell.original_code
    return Artefact("original", key, lambda: train_original(bench), (), code, epochs_in(bench, key["original"]))


def unlearned(bench: Workbench, n: int | None = None) -> Artefact:
    """Return the unlearned model; of several forget requests, the model after the first `n` (None: after all).

    The next request starts from the previous request's model.
    """
    cell = bench.cell
    if cell.other is not None:
        return unlearned(Workbench(cell.other))
    key, needs = cell.outputs_key, [original(bench)]
    epochs = epochs_in(bench, key["method"])
    if cell.targets is not None and not cell.is_reference:  # a retrained model forgets all of them in one call
        n = n or len(cell.targets)
        key = key | {"task": key["task"] | {"target": cell.targets[:n]}}
        needs += [unlearned(bench, n - 1)] if n > 1 else []
        epochs = epochs if n == 1 else 0  # later requests keep nothing
    node = Artefact("model", key, lambda: unlearn(bench, node, n), tuple(needs), cell.outputs_code, epochs)
    return node


def outputs(bench: Workbench) -> Artefact:
    """Return the outputs of the unlearned model on every split."""
    if bench.cell.other is not None:
        return outputs(Workbench(bench.cell.other))
    cell, needs = bench.cell, [original(bench)]
    if keeps_models(bench) or (cell.targets is not None and not cell.is_reference):
        needs.append(unlearned(bench))
    key, code = cell.outputs_key, cell.outputs_code
    epochs = epochs_in(bench, key["method"]) if len(needs) == 1 else 0
    node = Artefact(
        "outputs", key, lambda: look(bench, node, partial(call, bench, bench.method, bench.split)), tuple(needs), code,
        epochs,
    )  # fmt: skip
    return node


def reference(bench: Workbench) -> Artefact | None:
    """Return the outputs of the retrained model; None if the configuration has none."""
    method, model = bench.reference_method, retrained(bench)
    if method is None or model is None:
        return None
    needs = (*model.needs, model) if keeps_models(bench) else model.needs  # a sweep may save it too: trained once
    node = replace(model, kind="outputs", needs=needs, make=lambda: look(bench, node, partial(retrain, bench, method)))
    return node


def retrained(bench: Workbench) -> Artefact | None:
    """Return the retrained model itself; None if the configuration has none."""
    if (method := bench.reference_method) is None:
        return None
    key, code = bench.cell.reference_key, bench.cell.reference_code
    epochs = epochs_in(bench, key["method"])
    node = Artefact(
        "model", key, lambda: kept(retrain(bench, method, load_original(bench)[0], node)), (original(bench),), code,
        epochs,
    )  # fmt: skip
    return node


def relearned(bench: Workbench, model: Artefact) -> Artefact:
    """Return how long the unlearned or the retrained model takes to know the forget set again; see `relearn`."""
    options, first = bench.cell.scientific["relearn"], original(bench)
    key = {**model.key, "relearn": options, "goal": first.hash, "seed": bench.cell.seeds["method_seed"]}
    node = Artefact(
        "relearn", key, lambda: learn_again(bench, model, node), (first, model), model.code, epochs_in(bench, options)
    )
    return node


def keeps_models(bench: Workbench) -> bool:
    """Return whether the unlearned and the retrained model are kept, not only their outputs."""
    return bench.config.save_model is not None or bench.cell.relearns


def epochs_in(bench: Workbench, node: Any) -> int:
    """Return the epochs of all recipes in a node of the configuration; 0 if no state of trainings is kept."""
    if bench.config.compute.progress_seconds is None or not isinstance(node, Mapping):
        return 0
    return sum(
        value if name == "epochs" and isinstance(value, int) else epochs_in(bench, value)
        for name, value in node.items()
    )


def staged(bench: Workbench) -> Artefact:
    """Return the artefact with which the cell's stage ends: the original, the retrained model's or its own outputs."""
    stages = {"original": original(bench), "retrained": reference(bench), "outputs": outputs(bench)}
    node = stages.get(bench.config.stage)
    if node is None:
        known = ", ".join(["record", *(name for name, there in stages.items() if there is not None)])
        raise ValueError(f"Expected stage to be one of {known}, but got {bench.config.stage!r}.")
    return node


def wanted(bench: Workbench) -> list[Artefact]:
    """Return the artefacts of a run: those that its record reads and those that it saves; or the one of its stage.

    The retrained model is among them only if a metric asks for it.
    """
    if bench.config.stage != "record":
        return [staged(bench)]
    cell = bench.cell
    gold = reference(bench) if "retrained" in cell.metric_needs and not cell.is_reference else None
    saved = unlearned(bench) if cell.config.save_model is not None else None
    models = (unlearned(bench), retrained(bench)) if cell.relearns else ()
    again = (relearned(bench, model) for model in models if model is not None)
    return [node for node in (original(bench), gold, saved, outputs(bench), *again) if node is not None]


def planned(bench: Workbench) -> list[Artefact]:
    """Return `wanted` without that which a method makes that skips the task; to know it, the data are loaded.

    A data set that cannot be loaded is no reason here to leave something out: its cells say why.
    """
    nodes = wanted(bench)
    if not hasattr(bench.method, "skip"):
        return nodes
    config = copy.deepcopy(bench.config)
    config.compute.device = "cpu"  # this process may not be the one that trains
    try:
        if Workbench(Cell(config)).skipped is None:
            return nodes
    except (ImportError, OSError, ValueError):
        return nodes
    others = bench.cell.original_key, bench.cell.reference_key
    return [node for node in nodes if node.key in others]


def make(bench: Workbench, name: str) -> None:
    """Make the artefact `name` (see `Artefact.__str__`) of the cell, unless the cell's method skips its task."""
    made(bench, next(node for root in wanted(bench) for node in root.walk() if str(node) == name))


def made(bench: Workbench, node: Artefact) -> str:
    """Make an artefact of the cell if it is not there yet; return the path of its tensors, or why it is skipped."""
    if node.kind != "original" and node.key != bench.cell.reference_key and bench.skipped is not None:
        return f"{bench.cell}: skipped, {bench.skipped}"
    bench.store.get(node)
    return str(bench.store.path(node).with_suffix(".safetensors"))


# How each of them is made


def train_original(bench: Workbench) -> tuple[Tensors, Facts]:
    """Train the original model.

    `original.checkpoint` decides which epoch is kept: the `last`, or the first with the `best_test` accuracy.
    """
    data, selection, seed = bench.dataset, bench.config.original.checkpoint, bench.cell.seeds["train_seed"]
    model = bench.build_model(seed)
    best: dict[str, Any] = {"accuracy": -1.0, "epoch": 0, "state": {}}
    labels = bench.cell.labels

    def test_accuracy() -> float:
        logits = predict(model, data.test, bench.preprocessing, bench.eval_batch_size)
        return top1_accuracy(logits, data.test.labels.cpu(), averaging="per_sample", batch_size=len(logits))

    def after_epoch(epoch: int) -> None:
        report(epoch)
        if selection == "best_test" and (accuracy := test_accuracy()) > best["accuracy"]:
            best.update(accuracy=accuracy, epoch=epoch, state=copy.deepcopy(model.state_dict()))

    stopwatch = Stopwatch(bench.device)
    state = bench.training_state(original(bench), extra=best)
    step = f"epochs of the original {labels['model']} on {labels['dataset']}"
    with stopwatch.phase("original"), progress(step, bench.recipe.epochs) as report:
        train(
            model, bench.training_images, bench.recipe, preprocessing=bench.preprocessing, compute=bench.compute,
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
    }


def unlearn(bench: Workbench, node: Artefact, n: int | None) -> tuple[Tensors, Facts]:
    """Answer the cell's forget request, or the `n`-th of several, starting from the previous one's model."""
    first, _ = load_original(bench)
    model, method, split = copy.deepcopy(first), bench.method, bench.split
    if n is not None:
        method, split = partial(answer, method, original=first), replace(split, requests=split.requests[:n])
        for previous in node.needs[1:]:
            model.load_state_dict(bench.store.get(previous)[0])
    return kept(call(bench, method, split, model, node))


def retrain(bench: Workbench, method: UnlearningMethod, model: nn.Module, node: Artefact) -> Called:
    """Return the retrained model; `model` is a copy of the original."""
    log.info("  retraining without the forget set (%s)", bench.split.forget_target)
    return call(bench, method, bench.split, model, node)


def learn_again(bench: Workbench, model: Artefact, node: Artefact) -> tuple[Tensors, Facts]:
    """Train a model on D until it knows the forget set again; without a forgotten class nothing is missing."""
    split, options = bench.split, bench.config.relearn
    if split.forget_test_is_train:
        return {}, {"steps": None, "ended": None, "seconds": 0.0}
    first, _ = load_original(bench)
    recipe: Recipe = instantiate(without_about(options.recipe))
    looked = accuracy_on(split.forget_train, first, bench.preprocessing, bench.eval_batch_size)
    goal = (1 - options.margin) * looked
    first.load_state_dict(bench.store.get(model)[0])
    stopwatch, state = Stopwatch(bench.device), bench.training_state(node)
    with stopwatch.phase("relearn"):
        steps, looks = relearn(
            first, bench.training_images, split.forget_train, goal, recipe, every=options.every,
            preprocessing=bench.preprocessing, compute=bench.compute, batch_size=bench.eval_batch_size, state=state,
            random=generator("relearn", bench.cell.seeds["method_seed"], device=bench.device),
        )  # fmt: skip
    stopwatch.add("relearn", state.seconds)
    ended = float(looks[-1] < goal)
    return {"looks": torch.tensor(looks)}, {"steps": steps, "ended": ended, "seconds": stopwatch.seconds["relearn"]}


def kept(called: Called) -> tuple[Tensors, Facts]:
    """Return an unlearned model as tensors and facts."""
    model, seconds = called
    return dict(model.state_dict()), {"seconds": seconds}


def look(bench: Workbench, node: Artefact, run: Callable[[nn.Module, Artefact], Called]) -> tuple[Tensors, Facts]:
    """Look once at every split with the unlearned model: the one that `node` needs, else what `run` makes of a copy."""
    first, _ = load_original(bench)
    model = copy.deepcopy(first)
    if len(node.needs) == 1:
        model, seconds = run(model, node)
    else:
        state, facts = bench.store.get(node.needs[-1])
        model.load_state_dict(state)
        seconds = facts["seconds"]
    seen, evaluation = look_at(bench, model, first)
    return to_tensors(seen), {**seen.facts, "seconds": {**seconds, "evaluation": evaluation}}


def call(
    bench: Workbench,
    method: UnlearningMethod,
    split: ForgetSplit,
    model: nn.Module,
    node: Artefact | None = None,
    *,
    cache: Cache | None = None,
) -> Called:
    """Call `method` on `model`, which it may change; return the unlearned model and the seconds by phase.

    Args:
        node: the artefact in whose folder long trainings keep their state; None keeps none.
        cache: stands in for `importance_cache`; its seconds then belong to `rest`.
    """
    stopwatch = Stopwatch(bench.device)
    trainings: list[StoredTraining] = []

    def state(node: Artefact, names: tuple[object, ...], extra: dict[str, Any] | None = None) -> StoredTraining:
        trainings.append(bench.training_state(node, *names, extra=extra))
        return trainings[-1]

    context = MethodContext(
        seed=bench.cell.seeds["method_seed"],
        compute=bench.compute,
        preprocessing=bench.preprocessing,
        recipe=bench.recipe,
        build_model=bench.build_model,
        stopwatch=stopwatch,
        cache=cache or importance_cache(bench, stopwatch),
        training_state=None if node is None else partial(state, node),
        progress=progress,
    )
    with stopwatch.phase("wall"):
        returned: object = method(model, split, context)
    if not isinstance(returned, nn.Module):
        name, got = bench.cell.labels["method"], type(returned).__name__
        raise ValueError(f"Expected method={name} to return the unlearned model, but got {got}.")
    stopwatch.add("wall", sum(training.seconds for training in trainings))
    return returned, method_seconds(stopwatch.seconds)


def method_seconds(measured: Mapping[str, float]) -> dict[str, float]:
    """Split the method's wall-clock time: importances as first computed, the rest without them and any caching."""
    parts = {name: measured.get(name, 0.0) for name in ("importance_full", "importance_forget")}
    parts["rest"] = max(measured["wall"] - measured.get("cache", 0.0), 0.0)
    return {**parts, "method": sum(parts.values())}


def importance_cache(bench: Workbench, stopwatch: Stopwatch) -> Cache:
    """Return the context's cache: importances are artefacts too, their seconds booked as first measured."""

    def remember(phase: str, options: Mapping[str, object], make: Callable[[], Tensors]) -> Tensors:
        def timed() -> tuple[Tensors, Facts]:
            inner = Stopwatch(bench.device)
            with inner.phase(phase):
                tensors = make()
            return tensors, {"seconds": inner.seconds[phase]}

        first = original(bench)
        with stopwatch.phase("cache"):
            key = {"original": first.hash, **options}
            code = {**first.code, make.__module__: module_hash(make.__module__)}
            tensors, facts = bench.store.get(Artefact(phase, key, timed, (first,), code))
            on_device = {name: value.to(bench.device) for name, value in tensors.items()}
        stopwatch.add(phase, facts["seconds"])
        return on_device

    return remember


def look_at(bench: Workbench, model: nn.Module, first: nn.Module) -> tuple[EvalOutputs, float]:
    """Return the outputs of `model` on every split, with its distance to the original, and the seconds that took."""
    stopwatch = Stopwatch(bench.device)
    with stopwatch.phase("evaluation"):
        facts = {"changed_fraction": share_changed(dict(first.named_parameters()), model)}
        seen = evaluate(model, bench.split, bench.preprocessing, batch_size=bench.eval_batch_size, facts=facts)
    return seen, stopwatch.seconds["evaluation"]


# Reading them


def load_original(bench: Workbench) -> tuple[nn.Module, Facts]:
    """Return the original model in eval mode, trained if it is not there yet, and its facts."""
    state, facts = bench.store.get(original(bench))
    model = bench.build_model(seed=0)
    model.load_state_dict(state)
    return model.eval(), facts


def load_outputs(bench: Workbench, node: Artefact) -> tuple[EvalOutputs, Facts]:
    """Return the outputs that `node` holds, and its facts. So another metric costs no unlearning."""
    tensors, facts = bench.store.get(node)
    return from_tensors(tensors, bench.split, {"changed_fraction": facts["changed_fraction"]}), facts


def other_outputs(bench: Workbench) -> dict[str, EvalOutputs]:
    """Return the outputs of the other models that the cell's metrics ask for, by the name of the need."""
    found, needs = {}, bench.cell.metric_needs
    if "retrained" in needs and (node := reference(bench)) is not None:
        seen, _ = load_outputs(bench, node)
        found["retrained"] = replace(seen, facts={**seen.facts, **relearning(bench, retrained(bench))})
    if "untrained" in needs:
        model = bench.build_model(derive_seed(bench.cell.seeds["method_seed"], "untrained"), pretrained=False)
        size = bench.eval_batch_size
        found["untrained"] = evaluate(
            model, bench.split, bench.preprocessing, batch_size=size, facts={}, splits=("forget_train",)
        )
    return found


def relearning(bench: Workbench, model: Artefact | None) -> dict[str, float]:
    """Return the facts of `relearned` that metrics read; none if nobody asks for them or nothing is missing."""
    if model is None or not bench.cell.relearns:
        return {}
    _, facts = bench.store.get(relearned(bench, model))
    return {f"relearn_{name}": facts[name] for name in ("steps", "ended") if facts[name] is not None}


def measure(bench: Workbench, name: str, outputs: EvalOutputs) -> Mapping[str, Any] | float | None:
    """Return a metric of the outputs; an error says of which."""
    try:
        metric = bench.metrics[name]
        with threadpool_limits(1, "blas"):  # the last bit of a sum is not the same with other numbers of threads
            value = metric(outputs)
        for number in flatten({name: value}).values():
            if not isinstance(number, Real | None):
                raise TypeError(f"Expected a number, None or a mapping of these, but got {type(number).__name__}")
    except Exception as error:
        error.add_note(f"in metric {name}")
        raise
    return value


def made_by(bench: Workbench) -> list[Mapping[str, Any]]:
    """Return the provenance of what the record rests on beside the original, which it names, and of this process.

    Importances are not among them: a method asks for them while it runs.
    """
    nodes = {str(node): node for root in wanted(bench) for node in root.walk() if node.kind != "original"}
    return [bench.provenance(), *(facts["provenance"] for facts in map(bench.store.facts_of, nodes.values()) if facts)]


def make_record(bench: Workbench) -> RunRecord:
    """Measure the cell and write its record."""
    cell, split = bench.cell, bench.split
    first, origin = load_original(bench)
    metrics: Mapping[str, float | None] = {}
    facts: Facts = {"seconds": {}, "provenance": bench.provenance()}
    if bench.skipped is None:
        seen, facts = load_outputs(bench, outputs(bench))
        own = {**seen.facts, **relearning(bench, unlearned(bench))}
        complete = replace(seen, facts=own, others=other_outputs(bench))
        stopwatch = Stopwatch(bench.device)
        with stopwatch.phase("metrics"):
            measured = {name: measure(bench, name, complete) for name in cell.scientific["metric"]}
        facts["seconds"]["evaluation"] += stopwatch.seconds["metrics"]  # metrics added later leave the time alone
        measured |= {name: measure(bench, name, complete) for name in bench.metrics if name not in measured}
        metrics = flatten(measured)
        cell.margins_path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(cell.margins_path) as part:
            save_file(kept_margins(seen) | {"rows": bench.forgotten_rows}, part)
    dirty = any(one["dirty"] for one in made_by(bench)) or facts["provenance"]["dirty"]  # None: nobody knows
    record = RunRecord(
        run_id=cell.run_id,
        scientific_hash=cell.scientific_hash,
        labels=cell.labels,
        hyperparameters=cell.scientific["method"],
        seeds=cell.seeds,
        metrics=metrics,
        seconds={"load": bench.load_seconds, "original": origin["seconds"], **facts["seconds"]},
        sizes={
            "forget_train": len(split.forget_train),
            "retain_train": len(split.retain_train),
            "forget_test": len(split.forget_test),
            "retain_test": len(split.retain_test),
            "parameters": sum(p.numel() for p in first.parameters()),
        },
        provenance={**facts["provenance"], "dirty": dirty},
        data_fingerprint=cell.fingerprint,
        original={name: origin[name] for name in ("test_accuracy", "kept_epoch", "epochs", "sha256")}
        | {name: origin["provenance"][name] for name in ("commit", "dirty")},
        skipped=bench.skipped,
        scientific=cell.scientific,
        code=cell.code,
        overrides=[word for word in cell.overrides if not word.startswith("budget=")],
    )
    record.write(cell.record_path.parent)
    return record
