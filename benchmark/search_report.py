"""What a search leaves behind: trials, importances, a summary, the landscape and the best values as a configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from benchmark.landscape import draw_landscape
from benchmark.objective import Objective
from benchmark.oldcell import OldCell as Cell
from benchmark.provenance import provenance
from benchmark.records import flatten
from benchmark.store import write_atomically

SHORT = {"retain_accuracy": "D_r", "forget_accuracy": "D_f", "mia": "MIA"}


@dataclass(frozen=True, eq=False)
class Report:
    """A finished search; `default` holds the configured values and what they gave."""

    cell: Cell
    study: optuna.Study
    space: Mapping[str, BaseDistribution]
    default: Mapping[str, Any]
    objective: Objective
    folder: Path

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row a trial: number, state, value, parameters, metrics (fractions), seconds, origin, error."""
        rows = []
        for trial in self.study.get_trials(deepcopy=False):
            kept = {name: x for name, x in flatten(trial.user_attrs).items() if name not in ("alive", "error")}
            failed = trial.state in (TrialState.FAIL, TrialState.PRUNED)
            reason = trial.user_attrs.get("error", "its process ended" if failed else None)
            values = {name: trial.params.get(name) for name in self.space}
            state = trial.state.name.lower()
            rows.append(
                {"number": trial.number, "state": state, "value": trial.value} | values | kept | {"error": reason}
            )
        return pd.DataFrame(rows)

    @property
    def complete(self) -> pd.DataFrame:
        return self.trials[self.trials["state"] == "complete"]

    @property
    def best(self) -> dict[str, Any]:
        """The best trial's values, by the parameters' names."""
        return dict(self.study.best_params)

    @cached_property
    def importances(self) -> pd.DataFrame:
        """Share of each parameter in how far the best trials' distribution differs (PED-ANOVA); sums to 1."""
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        shares: dict[str, float] = {}
        if self.complete["value"].nunique() > 1:
            shares = optuna.importance.get_param_importances(self.study, evaluator=evaluator)
        return pd.DataFrame({"parameter": list(shares), "importance": list(shares.values())})

    @property
    def judged_on(self) -> str:
        """On which images trials were judged."""
        n, held_out = len(self.cell.dataset.test), self.cell.config.dataset.subset.get("held_out")
        if held_out is None:
            return f"the {n} test images that the tables use"
        return f"{n} training images held out from all training; the test images were not seen"

    @property
    def overrides(self) -> str:
        """The command line's words for the best values."""
        return " ".join(f"method.{name}={value}" for name, value in self.best.items())

    @property
    def run_command(self) -> str:
        """The command that runs the method with the best values and records it, on the test images."""
        names = self.cell.labels
        words = [f"{part}={names[part]}" for part in ("dataset", "model", "task", "protocol", "profile")]
        words += [] if names["target"] == names["task"] else [f"task.target={names['target']}"]
        words += [f"{name}={seed}" for name, seed in self.cell.seeds.items() if seed != 0]
        return f"python -m benchmark.run method={names['method']} {' '.join(words)} {self.overrides}"

    @cached_property
    def summary(self) -> str:
        """The summary as Markdown."""
        names, search = self.cell.labels, self.cell.config.search
        states = self.trials["state"].value_counts()
        origin = provenance(self.cell.compute)
        seconds = self.complete[["seconds.trial", "seconds.evaluation"]].median()
        metrics = ", ".join(SHORT.get(name, name) for name in self.objective.metrics)
        devices = ", ".join(sorted(self.complete["provenance.device"].unique()))
        commits = ", ".join(sorted({commit_name(row) for row in self.complete.to_dict("records")}))
        facts = {
            "objective": f"{self.objective.name}, {self.objective.direction}, over {metrics}{self.weights}",
            "judged on": self.judged_on,
            "protocol, profile": f"{names['protocol']}, {names['profile']}",
            "seeds": ", ".join(f"{name} {seed}" for name, seed in self.cell.seeds.items()),
            "trials": f"{states['complete']} complete, {len(self.trials) - states['complete']} failed or withdrawn",
            "sampler": f"TPE, seed {search.seed}, optuna {optuna.__version__}",
            "device": devices,
            "commit": commits,
            "versions": f"torch {origin['torch']}, Python {origin['python']}",
            "seconds a trial": f"{seconds.iloc[0]:.2f}, one pass over all splits {seconds.iloc[1]:.2f} (medians)",
        }  # fmt: skip
        lines = [
            f"**Search {search.name}: {names['dataset']}, {names['model']}, {names['task']} {names['target']}**",
            "",
        ]
        lines += ["| | |", "| --- | --- |", *(f"| {name} | {fact} |" for name, fact in facts.items()), ""]
        lines += [*self._results(), "", *self._importance_lines(), "", "The best values on the test images:", ""]
        return "\n".join([*lines, f"    {self.run_command}", ""])

    @property
    def weights(self) -> str:
        node = self.cell.config.search.objective.value
        parts = [f"{name} {dict(node[name])}" for name in ("weights", "targets") if name in node]
        return f"; {', '.join(parts)}" if parts else ""

    def _results(self) -> list[str]:
        """Return the table of configured, best and retrained, in percent."""
        metrics = list(self.objective.metrics)
        best = self.study.best_trial
        rows: list[tuple[str, Mapping[str, Any], float | None, Mapping[str, Any]]] = [
            ("configured", self.default["values"], self.default["value"], self.default),
            (f"best (trial {best.number})", best.params, best.value, best.user_attrs),
        ]
        if self.objective.reference:
            rows.append(("retrained", {}, None, self.objective.reference))
        head = ["", *self.space, self.objective.name, *(SHORT.get(name, name) for name in metrics)]
        lines = ["Objective and metrics in percent.", "", f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
        for name, values, value, measured in rows:
            cells = [name, *(shown(values.get(parameter)) for parameter in self.space)]
            cells.append("" if value is None else f"{100 * value:.2f}")
            lines.append(f"| {' | '.join([*cells, *(f'{100 * measured[metric]:.2f}' for metric in metrics)])} |")
        return lines

    def _importance_lines(self) -> list[str]:
        parts = [f"{row.parameter} {row.importance:.2f}" for row in self.importances.itertuples()]
        return [f"Importance of the parameters (PED-ANOVA): {', '.join(parts) or 'all trials gave the same value'}."]


def commit_name(trial: Mapping[Any, Any]) -> str:
    """Return the commit that a trial ran at, and whether the code differed from it."""
    return f"{trial['provenance.commit'][:10]}{' (dirty)' if trial['provenance.dirty'] else ''}"


def shown(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted names as nested mappings.

    >>> nested({"a": 1, "b.c": 2, "b.d": 3})
    {'a': 1, 'b': {'c': 2, 'd': 3}}
    """
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *parents, leaf = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def best_yaml(report: Report) -> str:
    """Return the best values as a configuration of the package `method`."""
    group = report.folder.name
    lines = [
        "# @package method",
        f"# Best of {len(report.complete)} trials: {report.objective.name} {100 * report.study.best_value:.2f} "
        f"({report.objective.direction}), judged on {report.judged_on}",
        f"# python -m benchmark.run --config-dir {report.folder.parent} +{group}=best …",
        f"# or, word by word: {report.overrides}",
    ]
    return "\n".join(lines) + "\n" + OmegaConf.to_yaml(OmegaConf.create(nested(report.best)))


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
    title = f"{report.objective.name} in percent ({report.objective.direction}), {report.cell}"
    draw_landscape(report.trials, report.space, report.default["values"], report.best, title,
                   minimize=report.objective.direction == "minimize",
                   paths=[report.folder / f"landscape.{kind}" for kind in ("png", "pdf")])  # fmt: skip
