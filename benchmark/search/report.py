"""The files of a finished search: trials, importances, a summary, the landscape and the best values."""

import io
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
import pandas as pd
from omegaconf import OmegaConf
from optuna import Study
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from benchmark.cell import Cell, content
from benchmark.report.query import write_files
from benchmark.report.typeset import Grid
from benchmark.search.landscape import landscape
from benchmark.search.study import n_complete, shown, with_values
from benchmark.workbench import Workbench


def refuse_to_replace(folder: Path, key: str, n_trials: int) -> None:
    """Raise ValueError if `folder` holds the results of another study, or of more than `n_trials` complete trials."""
    if not (folder / "trials.csv").is_file():  # written last
        return
    there = complete_in((folder / "trials.csv").read_text("utf-8"))
    study = re.search(r"^\| study \| (\w+) \|$", (folder / "summary.md").read_text("utf-8"), flags=re.MULTILINE)
    if there > n_trials or (study and study[1] != key):
        raise ValueError(
            f"Expected {folder} to hold at most {n_trials} trials of the study {key}, but it holds {there} of "
            f"{study[1] if study else 'an unnamed one'}; set out=ANOTHER_FOLDER."
        )


def complete_in(trials: str) -> int:
    """Return the number of complete trials in a table of trials, as CSV."""
    return int((pd.read_csv(io.StringIO(trials))["state"] == "complete").sum())


def write_report(bench: Workbench, study: Study, key: str, folder: Path) -> str:
    """Write summary.md, best.yaml, importances.csv, the landscape and trials.csv; return the summary.

    Args:
        key: names the study by what its trials depend on.
    """
    trials, importances = trials_of(study), importances_of(study)
    shares = pd.DataFrame(importances.items(), columns=["parameter", "importance"])
    summary = summarise(bench, study, key, trials, importances)
    lines = trials.to_csv(index=False, float_format="%.6g")
    files = {
        "summary.md": summary,
        "best.yaml": best_yaml(bench, study, folder),
        "importances.csv": shares.to_csv(index=False, float_format="%.4f"),
        **landscape(summary, pd.read_csv(io.StringIO(lines))),
        "trials.csv": lines,  # the last one: its presence says that the others are there
    }
    write_files(folder, files)
    return summary


def trials_of(study: Study) -> pd.DataFrame:
    """Return one row per trial: number, state, value, parameters, error, metrics (fractions), seconds, provenance."""
    rows = [
        {"number": trial.number, "state": trial.state.name.lower(), "value": trial.value, **trial.params, "error": None}
        | {name: value for name, value in trial.user_attrs.items() if name != "checksum"}
        for trial in study.get_trials(deepcopy=False)
    ]
    return pd.json_normalize(rows)


def importances_of(study: Study) -> dict[str, float]:
    """Return each parameter's share in how the best trials differ from the rest (PED-ANOVA); {} if none differ."""
    if len({trial.value for trial in study.get_trials(deepcopy=False)} - {None}) < 2:
        return {}
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())


def judged_on(bench: Workbench) -> str:
    n = len(bench.dataset.test)
    if bench.config.dataset.subset.get("held_out") is None:
        return f"the {n} test images that the tables use"
    return f"{n} training images held out from all training; the test images were not seen"


def best_yaml(bench: Workbench, study: Study, folder: Path) -> str:
    """Return the best values as a configuration of the package `method`."""
    objective = bench.config.search.objective
    return (
        f"# @package method\n"
        f"# Best of {n_complete(study)} trials: {objective.name} {100 * study.best_value:.2f} "
        f"({objective.direction}), judged on {judged_on(bench)}\n"
        f"# {run_command(bench.cell, study, ['--config-dir', str(folder.parent), f'+{folder.name}=best'])}\n"
        f"{OmegaConf.to_yaml(with_values({}, study.best_params))}"
    )


def summarise(bench: Workbench, study: Study, key: str, trials: pd.DataFrame, importances: Mapping[str, float]) -> str:
    """Return the summary as Markdown."""
    cell, search, names = bench.cell, bench.config.search, bench.cell.labels
    objective, origin = search.objective, bench.provenance()
    more = "" if search.seeds == 1 else f"; each trial is the mean over {search.seeds} method seeds from there on"
    complete = trials[trials["state"] == "complete"]
    revisions = zip(complete["provenance.commit"], complete["provenance.dirty"], strict=True)
    metrics = ", ".join(cell.metric_about[name]["label"] for name in objective.metrics)
    options = [f"; {name} {value}" for name, value in content(objective.value).items() if not name.startswith("_")]
    facts = {
        "objective": f"{objective.name}, {objective.direction}, over {metrics}{''.join(options)}",
        "judged on": judged_on(bench),
        "protocol, profile": f"{names['protocol']}, {names['profile']}",
        "seeds": ", ".join(f"{name} {seed}" for name, seed in cell.seeds.items()) + more,
        "trials": f"{len(complete)} complete, {len(trials) - len(complete)} failed or not finished",
        "sampler": f"TPE, seed {search.seed}, optuna {optuna.__version__}",
        "study": key,
        "device": ", ".join(sorted(complete["provenance.device"].unique())),
        "commit": ", ".join(sorted({f"{commit[:10]}{' (dirty)' if dirty else ''}" for commit, dirty in revisions})),
        "versions": f"torch {origin['torch']}, Python {origin['python']}",
        "seconds per trial": f"{complete['seconds.trial'].median():.2f} (median)",
    }
    shares = ", ".join(f"{name} {share:.2f}" for name, share in importances.items())
    return f"""\
**Search {search.name}: {names["dataset"]}, {names["model"]}, {names["task"]} {names["target"]}**

{Grid(["", ""], list(facts.items()), "ll").markdown()}
Objective and metrics in percent.

{results(cell, study).markdown()}
Importance of the parameters (PED-ANOVA): {shares or "all trials gave the same value"}.

The best values on the test images:

    {run_command(cell, study)}
"""


def results(cell: Cell, study: Study) -> Grid:
    """Return the table of configured, best and retrained, in percent."""
    objective, best, default = cell.config.search.objective, study.best_trial, study.user_attrs["default"]
    rows = {
        "configured": (default["values"], default),
        f"best (trial {best.number})": (best.params, best.user_attrs | {"value": best.value}),
        "retrained": ({}, study.user_attrs["retrained"]),
    }
    table = [
        [row, *(shown(values.get(name)) for name in best.params)]
        + [percent(numbers.get(name)) for name in ("value", *objective.metrics)]
        for row, (values, numbers) in rows.items()
        if numbers
    ]
    head = ["", *best.params, str(objective.name), *(cell.metric_about[name]["label"] for name in objective.metrics)]
    return Grid(head, table, "l" + "r" * (len(head) - 1))


def percent(value: float | None) -> str:
    """Return a fraction in percent; nothing for values that give no finite number."""
    return "" if value is None else f"{100 * value:.2f}"


def run_command(cell: Cell, study: Study, best: Sequence[str] | None = None) -> str:
    """Return the command that runs the method with the best values and records it, on the test images.

    It repeats all words of the search's own command but its budget, those of the search, and the values searched.

    Args:
        best: words for the best values; None: each value itself.
    """
    found = {f"method.{name}": value for name, value in study.best_params.items()}
    other = [word for word in cell.overrides if not re.match(r"[+~]*search\b", word)]
    apart = "dataset.subset.validation"  # a search's own file may set it
    skipped = {"method", "budget", apart, *found}
    words = [word for word in other if word.partition("=")[0].lstrip("+") not in skipped]
    if (share := cell.config.dataset.subset.get("validation")) is not None:
        words.append(f"++{apart}={share}")
    values = [f"{name}={value}" for name, value in found.items()] if best is None else best
    return shlex.join(["python", "-m", "benchmark.run", f"method={cell.labels['method']}", *words, *values])
