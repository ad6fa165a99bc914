"""The examples of CONTRIBUTING.md, in a folder outside the repository: each takes its files, runs and is in a table."""

import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from command_line import TINY, run_command

from benchmark.report.__main__ import main as report_main
from benchmark.search.__main__ import main as search_main

ROOT = Path(__file__).parents[1]
GRID = ["experiment=demo", "case=digits_class", "method_seed=0"]
Command = Callable[..., int]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Where records and originals lie; all kinds share them."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def house(tmp_path, monkeypatch) -> Path:
    """A folder of the user's, on PYTHONPATH; what is below configs/ is found by --config-dir."""
    folder = tmp_path / "mine"
    (folder / "configs").mkdir(parents=True)
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def command(house, runs, monkeypatch) -> Command:
    """Run a command of the suite with the user's configuration; return its exit code."""

    def call(*arguments: str, main: Callable | None = None) -> int:
        plugins = sorted(path.stem for path in house.glob("*.py"))
        own = [f"--config-dir={house / 'configs'}", f"plugins=[{','.join(plugins)}]", f"output_dir={runs}", *arguments]
        return run_command(own, monkeypatch, **({} if main is None else {"main": main}))

    return call


@pytest.fixture
def table(command, house) -> Callable[..., pd.DataFrame]:
    """Run a grid and return its table, one row per block, metric and method."""

    def make(*overrides: str) -> pd.DataFrame:
        assert command(*overrides) == 0
        name, *rest = (word.replace("experiment=", "table=") for word in overrides)
        assert command(name, *rest, f"out={house / 'out'}", main=report_main) == 0
        return pd.read_csv(house / "out" / "table.csv")

    return make


def example(kind: str) -> dict[str, str]:
    """Return path -> text of the example of a kind in CONTRIBUTING.md; that of a method is in methods/README.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = re.search(rf"^### An? {kind}: .*?(?=^##)", text, re.DOTALL | re.MULTILINE)[0]
    if kind == "method":
        assert "(methods/README.md)" in section
        section = (ROOT / "methods" / "README.md").read_text().replace("methods.head_noise", "head_noise")
    block = r"^```(?:python|yaml)\n((?:# @package _global_\n)?# (?:methods/)?([\w/.]+).*?)```"
    found = re.findall(block, section, re.DOTALL | re.MULTILINE)
    return {path: text for text, path in found}


def add(house: Path, *, files: int, plugin: dict[str, str]) -> None:
    """Write a plug-in of so many files."""
    assert len(plugin) == files
    for name, text in plugin.items():
        path = house / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def values_of(table: pd.DataFrame, metric: str) -> dict[str, float]:
    rows = table[table["metric"] == metric]
    return dict(zip(rows["method"], rows["mean"], strict=True))


def test_a_method_takes_two_files(house, command, table):
    add(house, files=2, plugin=example("method"))
    made = table(*GRID, *TINY, "method=baseline,head_noise", "table.metrics=[retain_accuracy,changed_fraction]")
    changed = values_of(made, "changed_fraction")
    assert changed["baseline"] == 0 < changed["head_noise"] < 100
    assert "| Baseline | Head noise |" in (house / "out" / "table.md").read_text()
    add(house, files=1, plugin={"configs/search/head.yaml": """
        # @package _global_
        defaults: [common, {override /method: head_noise}, _self_]
        search: {name: head, parameters: [{name: sigma, low: 0.1, high: 3.0}]}
    """})  # fmt: skip
    more = ["dataset.subset.train_images=200", *TINY[1:], "search.n_trials=2", f"out={house / 'found'}"]
    assert command("search=head", *more, main=search_main) == 0
    assert len(pd.read_csv(house / "found" / "trials.csv")) == 2


def test_a_variant_takes_one_file_and_is_a_method_of_its_own(house, command, table):
    add(house, files=1, plugin=example("variant of a method"))
    made = table(*GRID, *TINY, "method=ssd,mild", "table.metrics=[changed_fraction]")
    assert made["n"].tolist() == [1, 1]  # never pooled, although class and seed are the same
    changed = values_of(made, "changed_fraction")
    assert changed["ssd"] < changed["mild"]
    assert "| SSD | Mild SSD |" in (house / "out" / "table.md").read_text()


def test_a_metric_takes_two_files_and_is_printed_in_its_own_unit(house, table):
    add(house, files=2, plugin=example("metric"))
    own = ["metric=[accuracy,membership,divergence,weights,entropy]",
           "table.metrics=[retain_accuracy,entropy,retrained_entropy]"]  # fmt: skip
    made = table(*GRID, *TINY, "method=retrain,baseline", *own)
    entropy = values_of(made, "entropy")
    assert all(0 < value < 2.996 for value in entropy.values())  # at most log(20); not times 100
    assert values_of(made, "retrained_entropy")["baseline"] == pytest.approx(entropy["retrain"], abs=0.01)
    markdown, latex = ((house / "out" / f"table.{kind}").read_text() for kind in ("md", "tex"))
    assert "| H |" in markdown
    assert "$H$" in latex
    assert "Percent but for H" in markdown


def test_a_data_set_takes_two_files(house, table):
    add(house, files=2, plugin=example("data set"))
    made = table(*GRID, "dataset=shades", "model.width=2",
                 "method=retrain,ssd", "task.target=1,dark", "table.metrics=[forget_accuracy]")  # fmt: skip
    assert set(made["dataset"]) == {"shades"}
    assert set(made["target"]) == {"grey", "dark"}  # 1 is grey: names come from the YAML
    assert len(made) == 4


def test_a_model_takes_two_files(house, table):
    add(house, files=2, plugin=example("model"))
    tiny = [word for word in TINY if not word.startswith("model")]
    made = table(*GRID, *tiny, "model=linear", "method=baseline,ssd", "table.metrics=[retain_accuracy]")
    assert set(made["model"]) == {"linear"}
    assert len(made) == 2


def test_a_figure_takes_two_files(house, command):
    add(house, files=2, plugin=example("figure"))
    assert command("experiment=accuracies", *TINY) == 0
    assert command("figure=accuracies", *TINY, f"out={house / 'out'}", main=report_main) == 0
    assert {"figure.png", "figure.pdf", "accuracies.csv"} <= {path.name for path in (house / "out").iterdir()}
    assert set(pd.read_csv(house / "out" / "accuracies.csv")["method"]) == {"baseline", "ssd"}


def test_a_quirk_takes_three_files_with_the_method_that_reads_it(house, command, table, capsys):
    add(house, files=3, plugin=example("quirk"))
    made = table(*GRID, *TINY, "protocol=released", "method=shrink", "switched=none,exact",
                 "+switches.exact='shrink.head_only=false'", "table.metrics=[changed_fraction]")  # fmt: skip
    changed = dict(zip(made["ablation"], made["mean"], strict=True))
    assert changed["none"] < changed["exact"]  # the head alone; every layer
    assert command(*GRID, *TINY, "method=shrink") != 0  # a protocol that does not say which
    assert "Expected an option shrink.head_only in the YAML file of protocol=strict; add it." in capsys.readouterr().err


def test_a_task_takes_two_files(house, table):
    add(house, files=2, plugin=example("task"))
    made = table(*GRID, *TINY, "task=every", "task.target=every", "method=baseline,ssd",
                 "table.metrics=[forget_accuracy]")  # fmt: skip
    assert set(made["task"]) == {"every"}
    assert made["mean"].notna().all()
