"""What a search leaves behind: trials, importances, a summary, the landscape and the best values as a configuration."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from benchmark.cell import Cell
from benchmark.device import provenance
from benchmark.files import write_atomically
from benchmark.search.objective import Objective
from benchmark.search.space import Space, with_values
from benchmark.workbench import Workbench


@dataclass(frozen=True, eq=False)
class Report:
    """A finished search.

    Attributes:
        key: names the study by what its trials depend on.
    """

    bench: Workbench
    study: optuna.Study
    key: str
    space: Space
    objective: Objective
    folder: Path

    @property
    def cell(self) -> Cell:
        return self.bench.cell

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row per trial: number, state, value, parameters, metrics (fractions), error, seconds, provenance."""
        rows = []
        for trial in self.study.get_trials(deepcopy=False):
            failed = trial.state in (TrialState.FAIL, TrialState.PRUNED)
            row = {"number": trial.number, "state": trial.state.name.lower(), "value": trial.value}
            row |= {name: trial.params.get(name) for name in self.space}
            row |= {"error": "its process ended" if failed else None} | trial.user_attrs
            rows.append(row)
        return pd.json_normalize(rows).drop(columns="alive", errors="ignore")  # a column of older studies

    @property
    def complete(self) -> pd.DataFrame:
        return self.trials[self.trials["state"] == "complete"]

    @cached_property
    def importances(self) -> pd.DataFrame:
        """Share of each parameter in how far the best trials' distribution differs (PED-ANOVA); sums to 1."""
        shares: dict[str, float] = {}
        if self.complete["value"].nunique() > 1:
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            shares = optuna.importance.get_param_importances(self.study, evaluator=evaluator)
        return pd.DataFrame({"parameter": list(shares), "importance": list(shares.values())})

    @property
    def judged_on(self) -> str:
        n = len(self.bench.dataset.test)
        if self.cell.config.dataset.subset.get("held_out") is None:
            return f"the {n} test images that the tables use"
        return f"{n} training images held out from all training; the test images were not seen"

    @property
    def run_command(self) -> str:
        """The command that runs the method with the best values and records it, on the test images."""
        ours = re.compile(r"[+~]*(search|dataset\.subset\.held_out)\b")
        words = [word for word in self.cell.overrides if not ours.match(word)]
        best = [f"method.{name}={value}" for name, value in self.study.best_params.items()]
        return shlex.join(["python", "-m", "benchmark.run", f"method={self.cell.labels['method']}", *words, *best])

    @cached_property
    def summary(self) -> str:
        """The summary as Markdown."""
        names, search = self.cell.labels, self.cell.config.search
        complete, objective, origin = self.complete, search.objective, provenance(self.bench.compute)
        seconds = complete[["seconds.trial", "seconds.evaluation"]].median()
        revisions = zip(complete["provenance.commit"], complete["provenance.dirty"], strict=True)
        commits = {f"{commit[:10]}{' (dirty)' if dirty else ''}" for commit, dirty in revisions}
        over = [", ".join(self.metrics.values())]
        over += [f"{name} {dict(objective.value[name])}" for name in ("weights", "targets") if name in objective.value]
        facts = {
            "objective": f"{objective.name}, {objective.direction}, over {'; '.join(over)}",
            "judged on": self.judged_on,
            "protocol, profile": f"{names['protocol']}, {names['profile']}",
            "seeds": ", ".join(f"{name} {seed}" for name, seed in self.cell.seeds.items()),
            "trials": f"{len(complete)} complete, {len(self.trials) - len(complete)} failed or not finished",
            "sampler": f"TPE, seed {search.seed}, optuna {optuna.__version__}",
            "study": self.key,
            "device": ", ".join(sorted(complete["provenance.device"].unique())),
            "commit": ", ".join(sorted(commits)),
            "versions": f"torch {origin['torch']}, Python {origin['python']}",
            "seconds per trial": f"{seconds.iloc[0]:.2f}, one pass over all splits {seconds.iloc[1]:.2f} (medians)",
        }
        shares = ", ".join(f"{row.parameter} {row.importance:.2f}" for row in self.importances.itertuples())
        return f"""\
**Search {search.name}: {names["dataset"]}, {names["model"]}, {names["task"]} {names["target"]}**

{markdown([["", ""], *facts.items()])}

Objective and metrics in percent.

{markdown(self.results)}

Importance of the parameters (PED-ANOVA): {shares or "all trials gave the same value"}.

The best values on the test images:

    {self.run_command}
"""

    @property
    def metrics(self) -> dict[str, str]:
        """The objective's metrics with their labels."""
        nodes = self.cell.config.metric
        return {name: OmegaConf.select(nodes[name], "about.label") or name for name in self.objective.metrics}

    @property
    def results(self) -> list[list[str]]:
        """The table of configured, best and retrained, in percent."""
        best, default = self.study.best_trial, self.study.user_attrs["default"]
        rows = [
            ("configured", default["values"], default),
            (f"best (trial {best.number})", best.params, best.user_attrs | {"value": best.value}),
        ]
        if self.objective.reference:
            rows.append(("retrained", {}, self.objective.reference))
        table = [["", *self.space, str(self.cell.config.search.objective.name), *self.metrics.values()]]
        for name, values, numbers in rows:
            percent = [f"{100 * numbers[part]:.2f}" if part in numbers else "" for part in ("value", *self.metrics)]
            table.append([name, *(shown(values.get(parameter)) for parameter in self.space), *percent])
        return table


def shown(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first row is its head."""
    lines = [f"| {' | '.join(row)} |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]]]
    return "\n".join(lines)


def best_yaml(report: Report) -> str:
    """Return the best values as a configuration of the package `method`."""
    group, objective = report.folder.name, report.cell.config.search.objective
    return (
        f"# @package method\n"
        f"# Best of {len(report.complete)} trials: {objective.name} {100 * report.study.best_value:.2f} "
        f"({objective.direction}), judged on {report.judged_on}\n"
        f"# python -m benchmark.run --config-dir {report.folder.parent} +{group}=best …\n"
        f"{OmegaConf.to_yaml(with_values({}, report.study.best_params))}"
    )


def refuse_to_replace(folder: Path, key: str, n_trials: int) -> None:
    """Raise ValueError if `folder` holds the results of another study, or of more than `n_trials` complete trials."""
    if not (folder / "trials.csv").is_file():
        return
    there = int((pd.read_csv(folder / "trials.csv")["state"] == "complete").sum())
    summary = folder / "summary.md"
    study = re.search(r"^\| study \| (\w+) \|$", summary.read_text() if summary.is_file() else "", flags=re.MULTILINE)
    if there > n_trials or (study and study[1] != key):
        raise ValueError(
            f"Expected {folder} to hold at most {n_trials} trials of the study {key}, but it holds {there} of "
            f"{study[1] if study else 'an unnamed one'}; set out=ANOTHER_FOLDER."
        )


def write_report(report: Report) -> None:
    """Write trials.csv, importances.csv, best.yaml, summary.md and landscape.{png,pdf}."""
    report.folder.mkdir(parents=True, exist_ok=True)
    files = {
        "trials.csv": report.trials.to_csv(index=False, float_format="%.6g"),
        "importances.csv": report.importances.to_csv(index=False, float_format="%.4f"),
        "best.yaml": best_yaml(report),
        "summary.md": report.summary,
    }
    for name, text in files.items():
        write_atomically(report.folder / name, text)
    draw_landscape(report)


def draw_landscape(report: Report) -> None:
    """Draw the objective over the first two parameters, with the configured and the best point, as PNG and PDF."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from optuna.visualization.matplotlib import plot_contour, plot_slice

    names, objective = list(report.space)[:2], report.cell.config.search.objective
    with plt.rc_context():  # Optuna sets a style
        plot = plot_contour if len(names) == 2 else plot_slice
        axes: Any = plot(report.study, params=names, target_name=f"{objective.name} (fraction, {objective.direction})")
        axes.set_title(str(report.cell), fontsize="small")
        if len(names) == 2 and not any(isinstance(report.space[name], CategoricalDistribution) for name in names):
            points = {"configured": report.study.user_attrs["default"]["values"], "best": report.study.best_params}
            for (name, values), marker in zip(points.items(), "*D", strict=True):
                at = [values[parameter] for parameter in names]
                axes.scatter(*at, marker=marker, s=120, color="#ee6677", edgecolors="black", label=name, zorder=4)
            axes.autoscale()  # the configured point may lie outside the ranges
            axes.legend()
        for kind in ("png", "pdf"):
            axes.figure.savefig(report.folder / f"landscape.{kind}", dpi=150, bbox_inches="tight")
        plt.close(axes.figure)
