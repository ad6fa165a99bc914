"""values=searched is what the committed searches found, and the configured values wherever nothing was searched."""

import json
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

from benchmark.compose import CONFIGS, cells_of, choices
from benchmark.report.about import About

RESULTS = Path(__file__).parents[3] / "results"
FOUND = {
    name: pd.read_csv(RESULTS / f"searches-{name}-strict" / "table.csv", keep_default_na=False, dtype=str)
    for name in ("digits", "narrow", "narrow-all")
}
TASKS = ("class", "subclass", "random")
CIFAR20 = {"class": "case=cifar20_vehicle2", "subclass": "case=cifar20_rocket"}
SEARCHED = sorted(name.removeprefix("searched/") for name in choices("values/searched"))


def nodes(*words: str) -> dict[str, object]:
    """The node of each searched method."""
    cells = cells_of([f"method={','.join(SEARCHED)}", *words])
    return {cell.labels["method"]: cell.config.method for cell in cells}


def rounded(value: str) -> object:
    number = json.loads(value.lower())
    return float(f"{number:.2g}") if isinstance(number, float) else number


@pytest.mark.parametrize(
    ("name", "task", "words", "least"),
    [
        *(("digits", task, [f"case=digits_{task}"], 40) for task in TASKS),
        *(("narrow", task, [case, "profile=narrow"], 30) for task, case in CIFAR20.items()),
        *(("narrow-all", task, [case, "profile=narrow"], 10) for task, case in CIFAR20.items()),
    ],
)
def test_searched_values_are_the_best_of_a_committed_search_to_two_digits(name, task, words, least):
    found = FOUND[name]
    rows, methods = found[found["task"] == task], nodes(*words, "values=searched")
    assert len(rows) > least
    assert {*rows["method"]} <= {*methods}
    for row in rows.to_dict("records"):
        is_better = float(row["best_objective"]) < float(row["configured_objective"] or "inf")
        value = OmegaConf.select(methods[row["method"]], row["parameter"])
        expected = row["best"] if is_better else row["configured"]
        try:
            assert value == rounded(expected), row
        except json.JSONDecodeError:
            assert value == expected, row


def test_data_that_nobody_searched_on_keep_their_values():
    searched = pd.concat(pd.read_csv(path) for path in RESULTS.glob("searches-*/table.csv"))
    for name, task, words in (
        ("cifar10", "random", ["dataset=cifar10", "task=random"]),
        ("cifar20", "class", ["case=cifar20_vehicle2", "profile=narrow"]),
    ):
        mine = searched[(searched["dataset"] == name) & (searched["task"] == task)]
        found, kept = nodes(*words, "values=searched"), nodes(*words)
        assert {key for key in kept if found[key] != kept[key]} <= {*mine["method"]}
    vit = ["case=cifar20_vehicle2", "profile=narrow", "model=vit"]
    assert nodes(*vit, "values=searched") == nodes(*vit)


def test_a_value_of_the_command_line_counts_more():
    (cell,) = cells_of(["method=finetune", "values=searched", "method.recipe.lr=0.3"])
    assert cell.config.method.recipe.lr == 0.3


@pytest.mark.parametrize("name", FOUND)
def test_the_table_of_the_documentation_is_that_of_the_searches(name):
    text = (Path(CONFIGS) / "README.md").read_text("utf-8")
    found = FOUND[name].drop_duplicates(["method", "task"]).set_index(["method", "task"])
    tasks = [task for task in TASKS if task in found.index.get_level_values("task")]
    for method in found.index.unique("method"):
        cells = [About().method(method).label]
        for task in tasks:
            if (method, task) not in found.index:
                cells.append("")
                continue
            row = found.loc[method, task]
            start = f"{float(row['configured_objective']):.1f}" if row["configured_objective"] else "diverges"
            cells.append(f"{start} → {float(row['best_objective']):.1f}, {row['near'].split()[0]}")
        assert f"| {' | '.join(cells)} |" in text
