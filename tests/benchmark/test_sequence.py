"""Sequences of forget requests, end to end on the digits."""

import json
import logging
from pathlib import Path

import pandas as pd
import pytest
from command_line import TINY, records_of, run_command
from hydra import compose, initialize_config_dir

from benchmark import sequence
from benchmark.compose import CONFIGS
from benchmark.curves import breaking_points
from benchmark.oldcell import OldCell as Cell
from scripts.verify_results import check_table

GRID = [
    "experiment=sequence", "dataset=digits", "profile=quick", *TINY, "recipe.epochs=3", "requests.n=1,2,3",
    "method=baseline,ssd,finetune",
]  # fmt: skip
GOLDEN = {
    "method=ssd task=class protocol=strict": "913684cde6e51a54",
    "method=ssd task=class protocol=paper": "4879a98b3e22cb06",
    "method=ssd task=subclass protocol=strict": "b7f0002ca31f276e",
    "method=ssd task=subclass protocol=paper": "221098197f5a5928",
    "method=ssd task=random protocol=strict": "c75ef24df177a43c",
    "method=ssd task=random protocol=paper": "f6e407d4515652b0",
    "method=finetune task=class protocol=strict": "b23e102c91ddfee9",
    "method=finetune task=class protocol=paper": "26b40ee7e79bce81",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sequence")
    with pytest.MonkeyPatch.context() as patch:
        assert run_command([*GRID, f"output_dir={folder}"], patch) == 0
        table = [*GRID[1:], f"output_dir={folder}", f"out={folder / 'table'}"]
        assert run_command(table, patch, main=sequence.main) == 0
    return folder


def test_what_an_option_does_not_concern_is_run_once(finished):
    records = [json.loads(text) for text in records_of(finished).values()]
    assert len(records) == 3 * (1 + 1 + 2)  # baseline, finetune, ssd kept and refreshed
    assert {r["labels"]["target"] for r in records} == {"6", "6+3", "6+3+8"}
    assert all(set(r["metrics"]) >= {"newest_accuracy", "mia", "changed_fraction"} for r in records)
    sizes = [r["sizes"] for r in records]
    assert {s["forget_train"] + s["retain_train"] for s in sizes} == {60}


def test_table_figure_and_verification(finished):
    folder = finished / "table"
    table = pd.read_csv(folder / "table.csv")
    assert set(table["curve"]) == {"Baseline", "Finetune", "SSD, I_D kept", "SSD, I_D refreshed"}
    assert not table.duplicated(["curve", "request", "metric"]).any()
    first = table[table["request"] == 1].set_index(["curve", "metric"])["mean"]
    pd.testing.assert_series_equal(first["SSD, I_D kept"], first["SSD, I_D refreshed"])
    assert "more than 5 points below" in (folder / "table.md").read_text()
    assert (folder / "table.tex").read_text().count(r"\begin{") == 2
    assert (folder / "figure.png").stat().st_size > 10_000
    assert (folder / "figure.pdf").read_bytes().startswith(b"%PDF")
    assert [problem for problem in check_table(folder) if "uncommitted" not in problem] == []


def test_a_longer_sequence_continues_and_repeating_computes_nothing(finished, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.json")}
    assert run_command([*GRID, "requests.n=1,2,3", f"output_dir={finished}"], monkeypatch) == 0
    assert "18 cells: 18 done, 0 to run" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*.json")} == before
    longer = ["method=finetune", "ablation=none", "requests.n=4", f"output_dir={finished}"]
    assert run_command([*GRID, *longer], monkeypatch) == 0
    new = [path for path in finished.rglob("*.json") if path not in before]
    assert sorted(path.parent.name for path in new) == ["outputs", "records", "requests"]  # one call, no prefix again


def test_breaking_point():
    values = pd.DataFrame(
        [(n, "original", 90.0) for n in (1, 2, 3)]
        + [(1, "a", 89.0), (2, "a", 85.0), (3, "a", 84.9)]
        + [(1, "b", 95.0), (2, "b", 10.0), (3, "b", 90.0)]
        + [(n, "c", 90.0) for n in (1, 2, 3)],
        columns=["request", "curve", "mean"],
    ).assign(metric="retain_accuracy")
    assert breaking_points(values, "original", 5.0) == {"a": 3, "b": 2, "c": None}


def test_the_option_is_new_science_only_in_a_sequence():
    """Golden hashes: another one means that all records are computed again."""
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        for arguments, expected in GOLDEN.items():
            assert Cell(compose("run", arguments.split())).scientific_hash == expected
        kept, longer, single = (
            Cell(compose("run", ["requests=sequence", "task.target=6", *extra]))
            for extra in (["requests.n=1"], ["requests.n=1", "requests.targets=[6,1,2]"], ["requests.n=2"])
        )
    assert (
        kept.scientific_hash == longer.scientific_hash != single.scientific_hash
    )  # the targets that are not reached do not count
    assert kept.original_key == single.original_key


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["method=ssd"], "add method=baseline"),
        (["requests.n=7"], "Expected records of experiment=sequence"),
    ],
)
def test_bad_tables(arguments, expected, finished, monkeypatch, capsys):
    code = run_command([*GRID[1:], *arguments, f"output_dir={finished}"], monkeypatch, main=sequence.main)
    assert code == 1
    assert expected in capsys.readouterr().err
