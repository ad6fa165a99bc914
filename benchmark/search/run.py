"""One search: the cell whose method is searched, its study and the folder of its results."""

import copy
import logging
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import pandas as pd
from hydra.utils import instantiate
from omegaconf import OmegaConf

from benchmark import budget, device, pipeline
from benchmark.artefacts import Tensors
from benchmark.cell import Cell, as_recorded, content, without_about
from benchmark.cli import describe
from benchmark.compose import cells_of, choices
from benchmark.files import content_hash
from benchmark.search.report import refuse_to_replace, write_report
from benchmark.search.study import (
    Evaluate,
    NumberedTPE,
    check_code,
    check_time,
    check_trials,
    n_complete,
    open_storage,
    run_trials,
    suggest,
    with_values,
)
from benchmark.sources import sources_of
from benchmark.workbench import Workbench
from datasets.files import locked
from methods.base import Cache
from methods.timing import Stopwatch
from metrics.base import EvalOutputs

log = logging.getLogger(__name__)
NAMED = (
    "hydra.searchpath", "plugins", "data_dir", "search", "search/objective",
    "dataset", "model", "task", "task.target", "case", "protocol", "profile",
)  # fmt: skip

SHARE = "trials run one after the other; start the same command several times to share them"
OF_RUNS = {  # what no search does, and what to do instead
    "launcher": SHARE, "hydra/launcher": SHARE, "hydra.launcher": SHARE,
    "force": "search.storage=ANOTHER searches anew", "save_model": "give it to the command of the best values",
    "stage": "a search ends with the last trial",
}  # fmt: skip


def search_cells(overrides: Sequence[str]) -> list[Cell]:
    """Return the cells whose methods are searched; test images are held-out training images if a search says so.

    `search=ssd,scrub` names several searches.
    """
    names = [word.removeprefix("search=").split(",") for word in overrides if word.startswith("search=")]
    rest = [word for word in overrides if not word.startswith("search=")]
    if not names:
        known = ", ".join(name for name in choices("search") if name != "common")
        raise ValueError(f"Expected search=…, for example search=ssd, but got none; there are {known}.")
    for word in rest:
        for key, hint in OF_RUNS.items():
            if re.match(rf"\+*{key}[.=]", word):
                raise ValueError(f"Expected no {key} in a search, but got {word}; {hint}.")
    cells = [cell for name in names[-1] for cell in cells_of([f"search={name}", *rest])]
    for config in (cell.config for cell in cells):
        if config.search.held_out is not None:
            OmegaConf.update(config, "dataset.subset.held_out", config.search.held_out, force_add=True)
    return cells


def search_cell(overrides: Sequence[str]) -> Cell:
    """Return the only cell that is searched; ValueError for several."""
    cells = search_cells(overrides)
    if len(cells) != 1:
        raise ValueError(f"Expected one cell to search on, but got {len(cells)}; add -m to search on each.")
    return cells[0]


def cells_of_trial(cell: Cell) -> list[Cell]:
    """Return `search.seeds` cells from the method seed of `cell` upwards; a trial's numbers are means over them."""
    seeds = range(int(cell.config.method_seed) + 1, int(cell.config.method_seed) + cell.config.search.seeds)
    return [cell, *(search_cell([*cell.overrides, f"method_seed={seed}"]) for seed in seeds)]


def study_key(cell: Cell) -> str:
    """Return the hash of what the values of trials depend on: trials with the same key belong to one study."""
    search = content(cell.config.search)
    settings = {name: as_recorded(search[name]) for name in ("parameters", "objective", "seed")}
    settings |= {"seeds": search["seeds"]} if search["seeds"] > 1 else {}
    return content_hash(settings | {"science": cell.scientific, "data_fingerprint": cell.fingerprint})


def folder_name(cell: Cell) -> str:
    """Return the name of a search with default settings, for people."""
    names, search = cell.labels, cell.config.search
    target = [] if names["target"] == names["task"] else [names["target"]]
    parts = ["search", str(search.name), names["dataset"], names["model"], names["task"], *target]
    return "-".join([*parts, str(search.objective.name), names["protocol"], names["profile"]])


def default_folder(cell: Cell) -> Path:
    """Return results/<name>, with a part of the study's key if the name does not tell all.

    Other settings are such a case, and a name with characters that no key of Hydra's has: `+<name>=best` reads a file.
    """
    key, name = study_key(cell), re.sub(r"[^\w-]+", "-", folder_name(cell), flags=re.ASCII)
    named = [word for word in cell.overrides if word.partition("=")[0] in NAMED]
    data = [word for word in cell.overrides if re.match(r"\+*(dataset\.|model\.timm_name=|task\.file=)", word)]
    plain = "" if data else study_key(search_cell(named))  # without these words there may be no data
    return Path("results") / (name if (name, key) == (folder_name(cell), plain) else f"{name}-{key[:8]}")


def check_parameters(parameters: Sequence[Mapping[str, Any]], method: Mapping[str, Any]) -> None:
    """Raise ValueError unless Optuna can suggest each parameter, and each names another value of the method."""
    values = map(str, pd.json_normalize(dict(method)).dropna(axis="columns"))  # by their dotted paths
    known = [name for name in values if not name.rpartition(".")[2].startswith("_")]
    try:
        names = suggest(optuna.create_study().ask(), parameters).keys()
        if not names or len(names) < len(parameters) or not names <= {*known}:
            raise ValueError("each value of the method at most once")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"Expected search.parameters, each with the name of a value of the method ({', '.join(known)}) and low < "
            f"high (log, integer) or choices, but got {list(parameters)} ({error})."
        ) from error


def check_options(bench: Workbench) -> None:
    """Raise ValueError for options that no search can have."""
    cell, search = bench.cell, bench.config.search
    check_parameters(content(search.parameters), without_about(cell.config.method))
    metrics = [str(name) for name in cell.config.metric if not cell.metric_about[str(name)]["needs"]]
    if not search.objective.metrics or not {*search.objective.metrics} <= {*metrics}:
        raise ValueError(
            f"Expected search.objective.metrics among {', '.join(metrics)}, which need no other model, but got "
            f"{', '.join(search.objective.metrics) or 'none'}."
        )
    if search.objective.needs_reference and cell.config.get("reference") is None:
        raise ValueError(
            f"Expected a retrained model for search/objective={search.objective.name}; use search/objective=score."
        )
    if cell.targets is not None:
        raise ValueError(
            f"Expected one forget request to search on, but got {len(cell.targets)}; leave requests=sequence out and "
            f"run the sequence with the values that the search finds."
        )
    bench.validate()
    if bench.skipped is not None:
        raise ValueError(f"Expected a method that applies to the task, but it does not: {bench.skipped}.")


def measure(bench: Workbench, outputs: EvalOutputs) -> dict[str, Any]:
    """Return the objective's metrics of the outputs, fractions."""
    return {str(name): pipeline.measure(bench, name, outputs) for name in bench.config.search.objective.metrics}


def make_evaluate(bench: Workbench, reference: Mapping[str, float]) -> Evaluate:
    """Return the function of a trial: unlearn on a copy of the original, look at every split, measure the objective.

    Importances are loaded or computed once and stay on the device.
    """
    original, _ = pipeline.load_original(bench)
    objective = instantiate(bench.config.search.objective.value)
    cache = in_memory(pipeline.importance_cache(bench, Stopwatch(bench.device)))
    method_node = without_about(bench.config.method)
    origin = origin_of(bench)

    def evaluate(values: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        start = time.perf_counter()
        method = instantiate(with_values(method_node, values))
        model, seconds = pipeline.call(bench, method, bench.split, copy.deepcopy(original), cache=cache)
        outputs, evaluation = pipeline.look_at(bench, model, original)
        measured = measure(bench, outputs)
        spent = {"method": seconds["method"], "evaluation": evaluation, "trial": time.perf_counter() - start}
        return objective(measured, reference), {**measured, **outputs.facts, "seconds": spent, "provenance": origin}

    return evaluate


def origin_of(bench: Workbench) -> dict[str, Any]:
    """Return what a trial says of the code and the device, with the precision of its trainings."""
    provenance = bench.provenance()
    device = f"{provenance['device']}, {provenance['precision']}"
    return {"commit": provenance["commit"], "dirty": provenance["dirty"], "device": device}


def mean_over_seeds(evaluates: Sequence[Evaluate]) -> Evaluate:
    """Return the function of a trial on several models: means of numbers, sums of seconds, the objective of each."""

    def evaluate(values: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        objectives, kept = zip(*(one(values) for one in evaluates), strict=True)
        numbers = [{name: x for name, x in one.items() if isinstance(x, int | float)} for one in kept]
        seconds = {name: sum(one["seconds"][name] for one in kept) for name in kept[0]["seconds"]}
        each = {str(n): value for n, value in enumerate(objectives)}
        return fmean(objectives), {**kept[0], **means(numbers), "seconds": seconds, "each": each}

    return evaluates[0] if len(evaluates) == 1 else evaluate


def means(numbers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: fmean(one[name] for one in numbers) for name in numbers[0]}


def in_memory(cache: Cache) -> Cache:
    """Return a cache that asks `cache` once for each (phase, options) and keeps the tensors on the device."""
    kept: dict[str, Tensors] = {}

    def remembered(phase: str, options: Mapping[str, object], make: Callable[[], Tensors]) -> Tensors:
        name = content_hash([phase, options])
        if name not in kept:
            kept[name] = cache(phase, options, make)
        return kept[name]

    return remembered


def run_study(cell: Cell, folder: Path | None = None) -> tuple[Workbench, optuna.Study, str]:
    """Run or continue the trials of `cell`; return its parts, the study and its key.

    Args:
        folder: refused before the first trial if it holds another search or a larger one.

    Raises:
        ValueError: an option is wrong, or the folder holds another search.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    device.set_up(cell.config.compute)
    options, key = cell.config.search, study_key(cell)
    benches = [Workbench(one) for one in cells_of_trial(cell)]
    for bench in benches:
        check_options(bench)
    storage = options.storage or f"sqlite:///{own_files(cell, key)}.db"
    study = optuna.create_study(
        storage=open_storage(storage), study_name=f"{folder_name(cell)}-{key}", direction=options.objective.direction,
        sampler=NumberedTPE(options.seed), load_if_exists=True,
    )  # fmt: skip
    check_trials(study)
    check_code(study, code_of(cell), reuse=bool(cell.config.reuse))
    log.info("study %s; to watch it: optuna-dashboard %s", study.study_name, storage)
    if folder is not None:
        refuse_to_replace(folder, key, max(options.n_trials, n_complete(study)))
    references = [reference_of(bench) for bench in benches]
    study.set_user_attr("retrained", means(references))
    evaluate = mean_over_seeds([make_evaluate(*one) for one in zip(benches, references, strict=True)])
    parameters = content(options.parameters)
    if "default" not in study.user_attrs:  # the configured values: warms up, and shows an error of the set-up
        check_time(study, options.n_trials, first=True)
        values = {one["name"]: OmegaConf.select(cell.config.method, one["name"]) for one in parameters}
        try:
            value, kept = evaluate(values)
        except FloatingPointError as error:  # the values to search for are others
            value, kept = None, {"provenance": origin_of(benches[0]), "error": describe(error)}
        default = {"values": values, "value": value, **kept}
        study.set_user_attr("default", default | {"checksum": content_hash(default)})
    default = study.user_attrs["default"]
    log.info("configured values: %s", default.get("error") or f"{100 * default['value']:.2f}")
    run_trials(study, parameters, evaluate, n_trials=options.n_trials, max_failures=options.max_failures)
    return benches[0], study, key


def code_of(cell: Cell) -> dict[str, str]:
    """Return the hashes of the code behind the values of trials: method, objective, its metrics, retrained model."""
    objective = content(cell.config.search.objective)
    metrics = {name: cell.metrics[name] for name in objective["metrics"]}
    retrained = cell.reference_code if objective["needs_reference"] else {}
    own = sources_of({"objective": objective["value"]})
    return cell.outputs_code | retrained | sources_of(metrics, own=True) | own


def reference_of(bench: Workbench) -> dict[str, Any]:
    """Return the metrics of the retrained model, {} for an objective that does not look at it."""
    retrained = pipeline.reference(bench) if bench.config.search.objective.needs_reference else None
    return {} if retrained is None else measure(bench, pipeline.load_outputs(bench, retrained)[0])


def own_files(cell: Cell, key: str) -> Path:
    """Return the path, without an ending, of a search's files below its output_dir."""
    return Path(cell.config.output_dir).resolve() / "searches" / key


def run_search(cell: Cell, out: str | None) -> str:
    """Run or continue the search of `cell`, write its results to the folder `out` and return the summary."""
    budget.begin(cell.config.budget)
    folder = Path(out).expanduser() if out else default_folder(cell)
    bench, study, key = run_study(cell, folder)
    own = own_files(cell, key)
    own.parent.mkdir(parents=True, exist_ok=True)
    with locked(Path(f"{own}.lock"), f"writing {folder}"):  # processes that share it write in turn
        check_trials(study)
        refuse_to_replace(folder, key, n_complete(study))
        summary = write_report(bench, study, key, folder)
    log.info("wrote %s", folder)
    return summary
