"""One search: the cell whose method is searched, its study and the folder of its results."""

import copy
import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from hydra.utils import instantiate
from omegaconf import OmegaConf
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor

from benchmark import device, pipeline
from benchmark.cell import Cell, content, without_about
from benchmark.cli import duration
from benchmark.compose import cells_of
from benchmark.files import content_hash
from benchmark.search.objective import Objective, measured_by, named
from benchmark.search.report import Report, refuse_to_replace, shown, write_report
from benchmark.search.space import NumberedTPE, search_space, with_values
from benchmark.search.study import Evaluate, n_complete, open_storage, run_trials
from benchmark.workbench import Workbench
from methods.base import Cache
from methods.timing import Stopwatch

log = logging.getLogger(__name__)
NAMED = (
    "hydra.searchpath", "search", "search/objective",
    "dataset", "model", "task", "task.target", "case", "protocol", "profile",
)  # fmt: skip
FORMER = {  # moved code under the names by which running studies know it
    "benchmark.search.objective.gap_objective": "benchmark.objective.mean_absolute_gap",
    "benchmark.search.objective.score_objective": "benchmark.objective.weighted_score",
}


def search_cell(overrides: Sequence[str]) -> Cell:
    """Return the cell whose method is searched; its test images are held-out training images if it says so."""
    cell = one_cell(overrides)
    held_out = cell.config.search.held_out
    return cell if held_out is None else one_cell([*overrides, f"+dataset.subset.held_out={held_out}"])


def one_cell(overrides: Sequence[str]) -> Cell:
    cells = cells_of(overrides)
    if len(cells) != 1:
        raise ValueError(f"Expected one cell to search on, but got {len(cells)}; give each key one value.")
    if cells[0].config.get("search") is None:
        raise ValueError("Expected search=…, for example search=ssd, but got none; try --help.")
    return cells[0]


def settings(cell: Cell) -> dict[str, Any]:
    """Return the part of the configuration that decides the values of trials, under the names of older studies."""
    search = content(cell.config.search)
    value = search["objective"]["value"]
    value["_target_"] = FORMER.get(value["_target_"], value["_target_"])
    return {name: search[name] for name in ("parameters", "objective", "seed")} | {"science": cell.scientific}


def study_key(cell: Cell) -> str:
    """Return the hash of settings and data: trials with the same key belong to one study."""
    return content_hash(settings(cell) | {"data_fingerprint": cell.fingerprint})


def folder_name(cell: Cell) -> str:
    """Return the name of a search with default settings, for people."""
    names, search = cell.labels, cell.config.search
    target = [] if names["target"] == names["task"] else [names["target"]]
    parts = ["search", str(search.name), names["dataset"], names["model"], names["task"], *target]
    return "-".join([*parts, str(search.objective.name), names["protocol"], names["profile"]])


def default_folder(cell: Cell) -> Path:
    """Return results/<name>, with a part of the study's key if settings differ that the name does not tell."""
    plain = search_cell([word for word in cell.overrides if word.partition("=")[0] in NAMED])
    suffix = "" if settings(plain) == settings(cell) else f"-{study_key(cell)[:8]}"
    return Path("results") / f"{folder_name(cell)}{suffix}"


def make_objective(bench: Workbench) -> Objective:
    """Return the configured objective; the retrained model is trained only if the objective needs it."""
    node = bench.config.search.objective
    metrics = named(list(node.metrics), bench.metrics)
    reference: dict[str, float] = {}
    if node.needs_reference:
        retrained = pipeline.reference(bench)
        if retrained is None:
            raise ValueError(
                f"Expected a retrained model for search/objective={node.name}; use search/objective=score."
            )
        reference = measured_by(metrics, pipeline.load_outputs(bench, retrained)[0])
    return Objective(metrics, instantiate(node.value), reference)


def make_evaluate(bench: Workbench, objective: Objective) -> Evaluate:
    """Return the function of a trial: unlearn on a copy of the original, look at every split, measure the objective.

    Importances are loaded or computed once and stay on the device.
    """
    original, _ = pipeline.load_original(bench)
    cache = in_memory(pipeline.importance_cache(bench, Stopwatch(bench.device)))
    method_node = without_about(bench.config.method)
    origin = {name: device.provenance(bench.compute)[name] for name in ("commit", "dirty", "device")}

    def evaluate(values: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        start = time.perf_counter()
        method = instantiate(with_values(method_node, values))
        model, seconds = pipeline.call(bench, method, copy.deepcopy(original), bench.split, cache=cache)
        outputs, evaluation = pipeline.look_at(bench, model, original)
        value, measured = objective(outputs)
        spent = {"method": seconds["method"], "evaluation": evaluation, "trial": time.perf_counter() - start}
        return value, {**measured, **outputs.facts, "seconds": spent, "provenance": origin}

    return evaluate


def in_memory(cache: Cache) -> Cache:
    """Return a cache that asks `cache` once for each (phase, options) and keeps the tensors on the device."""
    kept: dict[str, dict[str, Tensor]] = {}

    def remembered(
        phase: str, options: Mapping[str, object], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        name = content_hash([phase, options])
        if name not in kept:
            kept[name] = cache(phase, options, compute)
        return kept[name]

    return remembered


def log_trial(study: Study, trial: FrozenTrial, *, n_trials: int, metrics: Sequence[str]) -> None:
    """Log one line about a finished trial."""
    values = ", ".join(f"{name} {shown(value)}" for name, value in trial.params.items())
    if trial.state != TrialState.COMPLETE or trial.value is None or trial.duration is None:
        log.info("trial %d failed: %s (%s)", trial.number, values, trial.user_attrs.get("error"))
        return
    complete = n_complete(study)
    left = duration(trial.duration.total_seconds() * max(n_trials - complete, 0))
    measured = ", ".join(f"{name} {100 * trial.user_attrs[name]:.1f}" for name in metrics)
    log.info("[%d/%d] %.2f (best %.2f): %s: %s; %s left",
             complete, n_trials, 100 * trial.value, 100 * study.best_value, values, measured, left)  # fmt: skip


def check_options(bench: Workbench) -> None:
    """Raise ValueError for options that no search can have."""
    n_trials, targets = bench.config.search.n_trials, bench.cell.targets
    if n_trials < 1:
        raise ValueError(f"Expected search.n_trials to be at least 1, but got {n_trials}.")
    if targets is not None:
        raise ValueError(
            f"Expected one forget request to search on, but got {len(targets)}; leave requests=sequence out and "
            f"run the sequence with the values that the search finds."
        )
    bench.validate()
    if bench.skipped is not None:
        raise ValueError(f"Expected a method that applies to the task, but it does not: {bench.skipped}.")


def open_study(cell: Cell, key: str) -> Study:
    """Return the study, new or as earlier starts and other processes left it."""
    options = cell.config.search
    storage = options.storage or f"sqlite:///{Path(cell.config.output_dir).resolve()}/searches/{key}.db"
    study = optuna.create_study(
        storage=open_storage(storage), study_name=f"{folder_name(cell)}-{key}", direction=options.objective.direction,
        sampler=NumberedTPE(options.seed), load_if_exists=True,
    )  # fmt: skip
    log.info("study %s; to watch it: optuna-dashboard %s", study.study_name, storage)
    return study


def run_search(cell: Cell, out: str | None) -> str:
    """Run or continue the search of `cell`, write its results to the folder `out` and return the summary.

    Raises:
        ValueError: an option is wrong, or the folder holds another search or a larger one.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    options, method = cell.config.search, cell.config.method
    space = search_space(content(options.parameters), without_about(method))
    device.set_up(cell.config.compute)
    bench = Workbench(cell)
    check_options(bench)
    key, folder = study_key(cell), Path(out) if out else default_folder(cell)
    study = open_study(cell, key)
    refuse_to_replace(folder, key, max(options.n_trials, n_complete(study)))
    objective = make_objective(bench)
    evaluate = make_evaluate(bench, objective)
    if "default" not in study.user_attrs:  # the configured values: warms up, and shows an error of the set-up
        values = {name: OmegaConf.select(method, name) for name in space}
        value, kept = evaluate(values)
        study.set_user_attr("default", {"values": values, "value": value, **kept})
    log.info("configured values: %.2f", 100 * study.user_attrs["default"]["value"])
    run_trials(
        study, space, evaluate, n_trials=options.n_trials, max_failures=options.max_failures,
        callbacks=[partial(log_trial, n_trials=options.n_trials, metrics=list(objective.metrics))],
    )  # fmt: skip
    with FileLock(Path(cell.config.output_dir) / "searches" / f"{key}.lock"):  # processes that share it write in turn
        report = Report(bench, study, key, space, objective, folder)
        refuse_to_replace(folder, key, n_complete(study))
        write_report(report)
    log.info("wrote %s", folder)
    return report.summary
