"""Search a method's hyper-parameters with Optuna's TPE; a killed search continues, several processes may share one.

    python -m benchmark.search search=ssd                     # α and λ of SSD on the embedded digits
    python -m benchmark.search search=ssd dataset=cifar20 task=class task.target=vehicle2 profile=quick protocol=paper
    python -m benchmark.search search=finetune search/objective=score search.n_trials=20

search=NAME             parameters and ranges, from configs/search/NAME.yaml
search/objective=NAME   gap (to the retrained model, smaller is better) | score (weighted; needs no retrained model)
search.n_trials=50      complete trials in all: of earlier starts, and of every process on the same storage
search.storage=…        default: SQLite below output_dir; a file name: a journal; URL://…: a database for many machines
search.held_out=0.2     share of the training images to judge on, null: the test images (protocol strict, paper)
out=FOLDER              default: results/search-<what is searched>

Every other key=value is one of `python -m benchmark.run`. FOLDER gets trials.csv, importances.csv, summary.md,
landscape.png and .pdf, and best.yaml, which any run takes:

    python -m benchmark.run --config-dir results +search-<what is searched>=best dataset=… task=…

`optuna-dashboard STORAGE` shows the study while it runs; the command prints STORAGE.
"""

import logging
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState
from torch import nn

from benchmark.cell import content, without_about
from benchmark.checkpoints import importance_memo, in_memory, load_original, load_outputs, unlearn
from benchmark.cli import run_cli
from benchmark.compose import CONFIGS
from benchmark.grid import duration
from benchmark.objective import Objective, choose, measure
from benchmark.oldcell import OldCell as Cell
from benchmark.provenance import provenance
from benchmark.search_report import Report, write_report
from benchmark.search_space import NumberedTPE, search_space, with_values
from benchmark.search_study import Evaluate, open_storage, run_trials
from benchmark.store import content_hash
from methods.base import skip_reason
from methods.timing import Stopwatch

log = logging.getLogger(__name__)


def search_cell(overrides: Sequence[str]) -> Cell:
    """Return the cell whose method is searched; its test images are held-out training images where it says so."""
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        config = compose("run", list(overrides))
        if config.get("search") is None:
            raise ValueError("Expected search=…, for example search=ssd, but got none; try --help.")
        held_out = None if OmegaConf.is_missing(config.search, "held_out") else config.search.held_out
        if held_out is not None:
            config = compose("run", [*overrides, f"+dataset.subset.held_out={held_out}"])
    return Cell(config)


def study_key(cell: Cell) -> dict[str, Any]:
    """Return what the values of trials depend on: where it is the same, trials belong to one study."""
    search = content(cell.config.search)
    parts = {name: search[name] for name in ("parameters", "objective", "seed")}
    return parts | {"scientific": cell.scientific, "data_fingerprint": cell.dataset.fingerprint}


def folder_name(cell: Cell) -> str:
    """Return the default name of the results folder, for people."""
    names, search = cell.labels, cell.config.search
    target = [] if names["target"] == names["task"] else [names["target"]]
    parts = ["search", str(search.name), names["dataset"], names["model"], names["task"], *target]
    return "-".join([*parts, str(search.objective.name), names["protocol"], names["profile"]])


def make_objective(cell: Cell, original: nn.Module) -> Objective:
    """Return the configured objective; the retrained model is trained only where the objective needs it."""
    node = cell.config.search.objective
    metrics = choose(
        list(node.metrics), {name: instantiate(without_about(metric)) for name, metric in cell.config.metric.items()}
    )
    reference: dict[str, float] = {}
    if node.needs_reference:
        if cell.reference_method is None:
            raise ValueError(
                f"Expected a retrained model for search/objective={node.name}; use search/objective=score."
            )
        reference = measure(metrics, load_outputs(cell, cell.reference_method, cell.reference_key, original)[0])
    return Objective(str(node.name), node.direction, metrics, instantiate(node.value), reference)


def evaluator(cell: Cell, original: nn.Module, objective: Objective) -> Evaluate:
    """Return what a trial does: unlearn on a copy of the original, look at every split, measure the objective.

    Importances are loaded or computed once and stay on the device.
    """
    memo = in_memory(importance_memo(cell, Stopwatch(cell.compute.device)))
    origin = {name: provenance(cell.compute)[name] for name in ("commit", "dirty", "device")}

    def evaluate(values: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        method = instantiate(without_about(with_values(cell.config.method, values)))
        start = time.perf_counter()
        outputs, seconds = unlearn(cell, method, original, memo=memo)
        value, measured = objective(outputs)
        spent = {"method": seconds["method"], "evaluation": seconds["evaluation"], "trial": time.perf_counter() - start}
        kept = {"changed_fraction": outputs.changed_fraction, "seconds": spent, "provenance": origin}
        return value, measured | kept

    return evaluate


def evaluate_default(study: optuna.Study, cell: Cell, space: Mapping[str, Any], evaluate: Evaluate) -> dict[str, Any]:
    """Return values, objective and metrics of the configured hyper-parameters, measured once a study.

    It warms everything up too, and shows an error of the set-up before the first trial.
    """
    known: dict[str, Any] | None = study.user_attrs.get("default")
    if known is None:
        values = {name: OmegaConf.select(cell.config.method, name) for name in space}
        value, kept = evaluate(values)
        known = {"values": values, "value": value, **kept}
        study.set_user_attr("default", known)
    return known


def progress(study: optuna.Study, n_trials: int, names: Sequence[str]) -> Callable[[FrozenTrial], None]:
    """Return a function that logs one line for each trial of this process."""
    start, done = time.monotonic(), 0

    def report(trial: FrozenTrial) -> None:
        nonlocal done
        where = ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                          for name, value in trial.params.items())  # fmt: skip
        if trial.state != TrialState.COMPLETE or trial.value is None:
            log.info("trial %d failed: %s (%s)", trial.number, where, trial.user_attrs.get("error"))
            return
        done += 1
        complete = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        metrics = ", ".join(f"{name} {100 * trial.user_attrs[name]:.1f}" for name in names)
        left = (time.monotonic() - start) / done * (n_trials - complete)
        log.info(
            "[%d/%d] %.2f (best %.2f): %s: %s; %s left",
            complete, n_trials, 100 * trial.value, 100 * study.best_value, where, metrics, duration(max(left, 0)),
        )  # fmt: skip

    return report


def run_search(cell: Cell, folder: Path) -> Report:
    """Run or continue the search of `cell` and write its results to `folder`."""
    cell.validate()
    if cell.targets is not None:
        raise ValueError(
            f"Expected one forget request to search on, but got a sequence of {len(cell.targets)}; leave "
            f"requests=sequence out and run the sequence with what is found."
        )
    options = cell.config.search
    space = search_space(content(options.parameters), cell.config.method)
    if options.n_trials < 1:
        raise ValueError(f"Expected search.n_trials to be at least 1, but got {options.n_trials}.")
    if (reason := skip_reason(cell.method, cell.split)) is not None:
        raise ValueError(f"Expected a method that applies to the task, but it does not: {reason}.")
    key = content_hash(study_key(cell))
    storage = options.storage or f"sqlite:///{Path(cell.config.output_dir).resolve()}/searches/{key}.db"
    study = optuna.create_study(
        storage=open_storage(storage), study_name=f"{folder_name(cell)}-{key}", direction=options.objective.direction,
        sampler=NumberedTPE(options.seed), load_if_exists=True,
    )  # fmt: skip
    log.info("study %s; to watch it: optuna-dashboard %s", study.study_name, storage)
    original, _ = load_original(cell)
    objective = make_objective(cell, original)
    evaluate = evaluator(cell, original, objective)
    default = evaluate_default(study, cell, space, evaluate)
    log.info("configured values: %.2f", 100 * default["value"])
    run_trials(
        study, space, evaluate, n_trials=options.n_trials, max_failures=options.max_failures,
        report=progress(study, options.n_trials, list(objective.metrics)),
    )  # fmt: skip
    report = Report(cell, study, space, default, objective, folder)
    write_report(report)
    return report


def main() -> None:
    """Read the command line and run one search."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments) or not arguments:
        print(__doc__)
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    out = [argument.removeprefix("out=") for argument in arguments if argument.startswith("out=")]
    cell = search_cell([argument for argument in arguments if not argument.startswith("out=")])
    folder = Path(out[-1]) if out else Path("results") / folder_name(cell)
    print(run_search(cell, folder).summary)
    log.info("wrote %s", folder)


if __name__ == "__main__":
    run_cli(main)
