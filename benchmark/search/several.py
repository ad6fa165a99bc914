"""Several searches -> one table: the values found for each method and forget request, and how flat the optimum is."""

import io
import json
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from optuna import Study

from benchmark import budget
from benchmark.budget import OutOfBudgetError
from benchmark.cell import Cell
from benchmark.cli import describe
from benchmark.report.about import About
from benchmark.report.query import is_here, write_files
from benchmark.report.typeset import Grid, escape
from benchmark.search.report import complete_in, judged_on, percent, run_command, trials_of
from benchmark.search.run import run_study, study_key
from benchmark.search.study import shown
from benchmark.workbench import Workbench

log = logging.getLogger(__name__)
NEAR = 0.01  # a trial whose objective is so close to that of the best one is as good
SEARCHES, TRIALS = "searches.jsonl", "trials.csv"
TITLE = "Values found by searches"
NUMBERS = ["number", "state", "value", "parameters", "error", "seconds.trial"]  # of a trial
HEAD = {
    "method": "Method", "dataset": "Data set", "task": "Task", "target": "Target", "forget": "N_f / N",
    "configured_objective": "Configured", "best_objective": "Best", "near": "Near", "parameter": "Option",
    "configured": "Configured value", "best": "Best value", "flat": "Values near the best",
}  # fmt: skip


def run_searches(cells: Sequence[Cell], folder: Path) -> str:
    """Run or continue searches one after the other; write their table after each, and return it.

    A search that fails, or whose method does not apply, is a row with its reason. One of more trials that the folder
    holds already stays.

    Raises:
        ValueError: the folder holds another search, or none ends.
    """
    budget.begin(cells[0].config.budget)
    keys = [study_key(cell) for cell in cells]
    found = stored_searches(folder)
    if other := [str(search["command"]) for key, (search, _) in found.items() if key not in keys]:
        raise ValueError(
            f"Expected {folder} to hold no other searches, but it holds {len(other)}, the first of `{other[0]}`; set "
            f"out=ANOTHER_FOLDER."
        )
    failed: dict[str, dict[str, Any]] = {}
    for n, (key, cell) in enumerate(zip(keys, cells, strict=True), start=1):
        log.info("[%d/%d] search %s: %s", n, len(cells), cell.config.search.name, cell)
        names = {"search": str(cell.config.search.name), **cell.labels, "seeds": dict(cell.seeds)}
        try:
            facts, trials = ended(cell)
        except OutOfBudgetError:
            raise
        except Exception as error:
            log.error("failed: %s", describe(error))
            failed[key] = {**names, "error": describe(error)}
        else:
            if key in found and complete_in(found[key][1]) > complete_in(trials):
                log.warning("%s holds more trials of this search; they stay", folder)
            else:
                found[key] = {**names, "study": key, **facts}, trials
        if found:
            rows = {**failed, **{key: search for key, (search, _) in found.items()}}
            ready = [key for key in dict.fromkeys(keys) if key in rows]
            text = joined([found[key][1] for key in ready if key in found])
            files = files_of([rows[key] for key in ready], text)
            write_files(folder, files)
    if not found:
        raise ValueError(f"Expected a search to end, but all failed, the first by: {failed[keys[0]]['error']}")
    return files["table.md"]


def ended(cell: Cell) -> tuple[dict[str, Any], str]:
    """Run or continue a search; return its facts, and its trials as CSV."""
    bench, study, key = run_study(cell)
    parameters, found = list(study.best_params), trials_of(study)
    values = found[parameters].apply(lambda row: json.dumps(row.to_dict(), default=str), axis="columns")
    trials = found.assign(parameters=values, study=key)[["study", *NUMBERS]]
    return facts_of(bench, study), trials.to_csv(index=False, float_format="%.6g")


def joined(tables: Sequence[str]) -> str:
    """Return tables of the same columns as one, all as CSV."""
    head = tables[0].partition("\n")[0] + "\n"
    return head + "".join(table.removeprefix(head) for table in tables)


def facts_of(bench: Workbench, study: Study) -> dict[str, Any]:
    """Return what a row of the table says of a search beside its trials."""
    objective, default, split = bench.config.search.objective, study.user_attrs["default"], bench.split
    words = shlex.split(run_command(bench.cell, study))
    return {
        "objective": str(objective.name),
        "direction": str(objective.direction),
        "judged_on": judged_on(bench),
        "models": bench.config.search.seeds,
        "n_forget": len(split.forget_train),
        "n_train": len(split.forget_train) + len(split.retain_train),
        "configured": {"objective": default["value"], **default["values"]},
        "best": study.best_trial.number,
        **default["provenance"],
        "command": shlex.join(word for word in words if not is_here(word)),
    }


def stored_searches(folder: Path) -> dict[str, tuple[dict[str, Any], str]]:
    """Return what a folder holds of each search that has ended, and its trials as CSV, by the study's key."""
    if not (folder / SEARCHES).is_file():
        return {}
    searches = map(json.loads, (folder / SEARCHES).read_text("utf-8").splitlines())
    trials = pd.read_csv(folder / TRIALS, keep_default_na=False, dtype=str)
    parts = {str(key): part.to_csv(index=False) for key, part in trials.groupby("study")}
    return {x["study"]: (x, parts[x["study"]]) for x in searches if "study" in x}


def stored_files(folder: Path) -> dict[str, str]:
    """Return the files of a folder of searches as they follow from its searches and trials."""
    lines = (folder / SEARCHES).read_text("utf-8").splitlines()
    return files_of([json.loads(line) for line in lines], (folder / TRIALS).read_text("utf-8"))


def files_of(searches: Sequence[Mapping[str, Any]], trials: str) -> dict[str, str]:
    """Return table.csv, table.md, table.tex, and what they are made from.

    Args:
        trials: as CSV, of all searches.
    """
    found = pd.read_csv(io.StringIO(trials), keep_default_na=False, dtype={"study": str})
    rows = [row for search in searches for row in rows_of(search, found)]
    values = pd.DataFrame(rows).reindex(columns=[*HEAD, "command"])
    about, said = About(), caption(searches)
    grid = Grid(list(HEAD.values()), [list(map(str, row)) for row in printed(rows, about)], "llllrrrrlrrl")
    opens = frozenset(n for n, row in enumerate(grid.rows) if row[0])
    latex = Grid([escape(x) for x in grid.head], [[escape(x) for x in row] for row in grid.rows], grid.align, opens)
    failed = [x for x in searches if "error" in x]
    reasons = "".join(f"\nn/a: {about.method(x['method']).label}, {x['task']}: {x['error']}\n" for x in failed)
    commands = "\n".join(str(x["command"]) for x in searches if "error" not in x)
    return {
        SEARCHES: "".join(json.dumps(search) + "\n" for search in searches),
        TRIALS: trials,
        "table.csv": values.to_csv(index=False),
        "table.md": f"**{TITLE}.** {said}\n\n{grid.markdown()}{reasons}"
        f"\nThe best trials' values on the test images:\n\n```\n{commands}\n```\n",
        "table.tex": latex.latex(TITLE, said, size="scriptsize"),
    }


def rows_of(search: Mapping[str, Any], trials: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield one row per option of a search, with its value in the best trial and in those near it."""
    if "error" in search:
        return
    done = trials[(trials["study"] == search["study"]) & (trials["state"] == "complete")]
    objective = done["value"].astype(float)
    values = [json.loads(text) for text in done["parameters"]]
    best = objective.max() if search["direction"] == "maximize" else objective.min()
    is_near = list((objective - best).abs() <= NEAR)
    (chosen,) = (x for x, number in zip(values, done["number"], strict=True) if number == search["best"])
    for name in chosen:
        near = [x[name] for x, keep in zip(values, is_near, strict=True) if keep]
        yield {
            **{key: search[key] for key in ("method", "dataset", "task", "target", "command")},
            "forget": f"{search['n_forget']} / {search['n_train']}",
            "configured_objective": percent(search["configured"]["objective"]), "best_objective": percent(best),
            "near": f"{sum(is_near)} of {len(done)}", "parameter": name,
            "configured": shown(search["configured"][name]), "best": shown(chosen[name]), "flat": spread(near),
        }  # fmt: skip


def spread(values: Sequence[Any]) -> str:
    """Return the range of numbers, or the choices among others.

    >>> spread([0.5, 3, 1]), spread([0.5, 0.5]), spread([True, False, True])
    ('0.5 to 3', '0.5', 'False, True')
    """
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return " to ".join(dict.fromkeys((shown(min(values)), shown(max(values)))))
    return ", ".join(sorted({shown(value) for value in values}))


def printed(rows: Sequence[Mapping[str, Any]], about: About) -> Iterator[list[object]]:
    """Yield the cells of each row; those that are the same for all options of a search stand once."""
    once, above = list(HEAD)[: list(HEAD).index("parameter")], None
    for row in rows:
        cells: dict[str, object] = {name: row[name] for name in HEAD}
        cells["configured_objective"] = row["configured_objective"] or "diverges"
        cells["method"] = about.method(row["method"]).label
        yield list((cells | dict.fromkeys(once, "") if row["command"] == above else cells).values())
        above = row["command"]


def caption(searches: Sequence[Mapping[str, Any]]) -> str:
    """Return in words what the numbers are, and what all searches share."""
    done = [search for search in searches if "error" not in search]
    shared = {
        name: ", ".join(dict.fromkeys(str(search[name]) for search in done))
        for name in ("objective", "protocol", "profile", "models", "judged_on", "device")
    }
    models = "one model" if shared["models"] == "1" else f"each trial the mean over {shared['models']} method seeds"
    return (
        f"Objective {shared['objective']}, in percent, of the configured values, which are no trial, and of the best "
        f"trial; near: trials whose objective lies within {100 * NEAR:g} point of the best one's. "
        f"Protocol {shared['protocol']}, profile {shared['profile']}, {models}; judged on {shared['judged_on']}. "
        f"{shared['device']}."
    )
