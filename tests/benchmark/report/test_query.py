"""A command that reads records never destroys any: rows stay unless an option takes them away."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from report_cases import DEMO, GRID, compose, content_of, demo_cells, record_of, write_records

from benchmark.records import read_lines, to_lines
from benchmark.report.query import is_here, read_memory

ONE = ("protocol=paper", "case=digits_class", "method=ssd", "method_seed=1")
SWEEP = ("case=digits_class", "method=retrain,ssd", "recipe.lr=0.1,0.2", "train_seed=0,1")


def table_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "table.csv", dtype={"records": str})


def test_paths_and_devices_are_no_part_of_a_tables_cells():
    here = ["output_dir=x", "dataset.load.folder=y", "compute.precision=float32", "compute=fast", "hydra.searchpath=[]",
            "plugins=[x]"]  # fmt: skip
    assert all(map(is_here, here))
    assert not any(map(is_here, ["dataset=pins", "computer=1", "dataset.load.folders=z"]))


def test_a_folder_declares_no_plug_in(tmp_path):
    lines = [["profile=quick", "plugins=[x]", "hydra.searchpath=[file:///x]"]]
    (tmp_path / "report.json").write_text(json.dumps({"kind": "table", "overrides": lines}))
    assert read_memory(tmp_path)["overrides"] == [["profile=quick"]]


def test_a_table_is_complete_and_writing_it_again_changes_nothing(committed, finished, report):
    before = content_of(committed)
    assert set(before) == {"block.md", "table.csv", "table.md", "table.tex", "records.jsonl", "report.json"}
    code, printed = report("table=demo", *GRID)
    assert code == 0
    assert printed.endswith((committed / "block.md").read_text() + "\n")
    assert "| D_r | 90.50 ± 0.71 | 50.50 ± 0.71 | **60.50 ± 0.71** |" in (committed / "table.md").read_text()
    assert content_of(committed) == before


@pytest.mark.parametrize("arguments", [GRID, (*ONE, "output_dir=elsewhere")])
def test_a_committed_table_needs_nothing_but_its_folder(arguments, committed, report):
    """Cells that the command line does not name keep their rows."""
    before = content_of(committed)
    assert report("table=demo", *arguments)[0] == 0
    assert content_of(committed) == before


def test_a_table_grows_by_new_records(committed, report, caplog):
    caplog.set_level("INFO")
    _, printed = report("table=demo", *GRID[:3], "method_seed=0,1,2")
    assert printed.count("\npython -m benchmark.run") == 3  # each once, under the table
    assert "3 cells missing" in caplog.text
    write_records(*GRID[:3], "method_seed=2")
    assert report("table=demo", *ONE[:3])[0] == 0  # the folder remembers that it has three seeds
    assert set(table_of(committed)["n"]) == {3}
    assert len(read_lines(committed / "records.jsonl")) == 9
    assert read_memory(committed)["overrides"] == [[*GRID[:3], "method_seed=0,1,2"]]


def test_another_target_is_another_block(committed, report):
    write_records(*GRID, "task.target=3")
    assert report("table=demo", *ONE, "task.target=3")[0] == 0
    assert set(table_of(committed)["target"].astype(str)) == {"upright_2", "upright_3"}
    assert read_memory(committed)["overrides"] == [list(GRID), [*GRID[:2], *ONE[2:], "task.target=3"]]
    before = content_of(committed)
    assert report("table=demo", *GRID)[0] == 0
    assert content_of(committed) == before


def test_a_row_goes_only_by_an_option(committed, report):
    run_id = table_of(committed)["records"].iloc[0].split()[0]
    assert report("table=demo", *GRID, f"drop={run_id}")[0] == 0
    assert run_id not in (committed / "records.jsonl").read_text()
    assert "Missing cells, and what fills them" in (committed / "table.md").read_text()
    write_records(*ONE)
    assert report("table=demo", *ONE, "drop=all")[0] == 0
    assert set(table_of(committed)["method"]) == {"ssd"}


def test_other_hyper_parameters_do_not_join_a_committed_column(committed, report):
    before = content_of(committed)
    write_records(*ONE[:3], "method_seed=2", "method.alpha=1.5")
    code, printed = report("table=demo", *ONE[:3], "method_seed=2", "method.alpha=1.5")
    assert code == 1
    assert "differ in nothing but seeds, but method.alpha is " in printed
    assert content_of(committed) == before


def test_a_record_of_an_edited_method_is_missing_and_one_made_anew_takes_the_committed_ones_place(
    committed, report, caplog
):
    (cell, *_) = demo_cells("ssd")
    lines = read_lines(DEMO / "records.jsonl")
    (old,) = [record for record in lines if record.run_id == record_of(cell).run_id]
    edited = replace(old, metrics=dict.fromkeys(old.metrics, 0.125), code={**old.code, "methods.ssd": "edited"})
    edited.write(Path("runs/records"))
    assert report("table=demo", *GRID)[0] == 0
    assert "1 record made with other methods or metrics left out" in caplog.text
    assert read_lines(DEMO / "records.jsonl") == lines
    (DEMO / "records.jsonl").write_text(to_lines([replace(x, code={"methods.ssd": "older"}) for x in lines]))
    replace(edited, code=cell.code).write(Path("runs/records"))
    assert report("table=demo", *GRID)[0] == 0
    assert [x.metrics["mia"] for x in read_lines(DEMO / "records.jsonl") if x.run_id == old.run_id] == [0.125]


def test_the_committed_record_of_a_run_stays(committed, report):
    before = content_of(committed)
    record_of(demo_cells()[0], retain_accuracy=0.123).write(Path("runs/records"))  # measured again elsewhere
    assert report("table=demo", *GRID)[0] == 0
    assert content_of(committed) == before


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["table=demo", *ONE], "experiment=demo protocol=paper"),
        (["requests", "profile=quick", "dataset=digits"], "experiment=requests profile=quick"),
        (["-m", *SWEEP], "-m case=digits_class method=retrain,ssd"),
    ],
)
def test_without_any_record_the_command_refuses_and_says_what_to_run(arguments, asked, report, tmp_path):
    code, printed = report(*arguments)
    assert code == 1
    assert f"Expected records of {asked}" in printed
    assert f"run python -m benchmark.run {asked}" in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["table=demo", *GRID, "drop=abc"], "in drop=…, but got abc"),
        (["figure=demo", *GRID], "to hold figure demo, but it holds table demo"),
    ],
)
def test_a_folder_refuses_another_question(arguments, expected, committed, report):
    before = content_of(committed)
    code, printed = report(*arguments)
    assert code == 1
    assert expected in printed
    assert content_of(committed) == before


def test_a_caption_by_hand_holds_until_the_records_change(committed, report):
    memory = committed / "report.json"
    memory.write_text(json.dumps({**read_memory(committed), "caption": "By hand."}))
    report("table=demo", *GRID)
    assert (committed / "table.md").read_text().startswith("**Digits, every task.** By hand. D_f is over 20 images")
    write_records(*GRID[:3], "method_seed=2")
    report("table=demo", *GRID[:3], "method_seed=0,1,2")
    assert "By hand" not in (committed / "table.md").read_text() + memory.read_text()


def test_a_damaged_new_record_is_named_and_counts_as_missing(finished, report, caplog):
    path = next((finished / "records").iterdir())
    path.write_text("{")
    _, printed = report("table=demo", *GRID)
    assert path.name in caplog.text
    assert "Missing cells" in printed
    assert path.read_text() == "{"


def test_a_damaged_committed_record_stops_the_command(committed, report):
    path = committed / "records.jsonl"
    path.write_text(path.read_text().replace("0.61", "0.62"))
    before = content_of(committed)
    code, printed = report("table=demo", *GRID)
    assert code == 1
    assert "restore the file" in printed
    assert content_of(committed) == before


def test_a_folder_may_have_any_name(finished, report):
    assert report("table=demo", *GRID, "out=here")[0] == 0
    assert not DEMO.exists()
    assert len(compose("experiment=demo", *GRID)) == len(read_lines(Path("here/records.jsonl")))


def write_sweep(*, but: int) -> None:
    """Write a record for every cell of SWEEP without the last ones."""
    for cell in compose(*SWEEP)[: -but or None]:
        record_of(cell, zrf=0.1 * cell.seeds["train_seed"]).write(Path("runs/records"))


def test_a_sweep_has_a_row_per_value_that_varies(report):
    write_sweep(but=2)
    code, printed = report("-m", *SWEEP)
    assert code == 0
    assert "over 2 train seeds (n = 2)" in printed
    assert "| Varied | Model | Target | Method | D_r | D_f | MIA | gap |" in printed
    row = " | 50.00 ± 0.00 | 50.00 ± 0.00 | 50.00 ± 0.00 | 50.00 ± 0.00 |"
    assert f"| recipe.lr=0.1 | resnet18 | upright_2 | Retrain{row}" in printed
    assert f"| recipe.lr=0.2 | resnet18 | upright_2 | Retrain{row}" in printed
    assert "|  |  |  | SSD | missing | missing | missing | missing |" in printed
    lines = [line for line in printed.splitlines() if line.startswith("python -m benchmark.run ")]
    assert [("recipe.lr=0.2" in x, f"train_seed={i}" in x) for i, x in enumerate(lines)] == [(True, True)] * 2
    folder = Path("runs/tables/case-digits_class-method-retrain-ssd-recipe.lr-0.1-0.2-train_seed-0-1")
    before = content_of(folder)
    assert set(before) == {"table.csv", "table.md", "table.tex", "records.jsonl", "report.json"}
    assert set(table_of(folder)["recipe.lr"]) == {0.1, 0.2}
    assert report("-m", *SWEEP) == (0, printed)
    assert content_of(folder) == before


def test_a_row_of_a_sweep_is_missing_if_its_method_was_edited(report, caplog):
    write_sweep(but=0)
    _, before = report("-m", *SWEEP)
    (folder,) = Path("runs/tables").iterdir()
    lines = read_lines(folder / "records.jsonl")
    is_ssd = [record.labels["method"] == "ssd" for record in lines]
    old = [replace(x, code={"methods.ssd": "older"}) if edited else x for x, edited in zip(lines, is_ssd, strict=True)]
    (folder / "records.jsonl").write_text(to_lines(old))
    for record in old:
        record.write(Path("runs/records"))
    code, printed = report("-m", *SWEEP)
    assert code == 0
    assert printed.count("| SSD | missing | missing | missing | missing |") == 2
    assert f"{sum(is_ssd)} records made with other methods or metrics left out" in caplog.text
    assert "missing" not in before


def test_a_method_that_an_option_does_not_concern_stands_in_each_row_of_a_sweep(report):
    sweep = ("case=digits_class", "method=retrain,ssd", "protocol.importance.reduction=batch_mean,per_sample")
    for cell in compose(*sweep, "method_seed=0"):
        record_of(cell).write(Path("runs/records"))
    assert report("-m", *sweep, "method_seed=0", "out=here")[0] == 0
    varied = table_of(Path("here")).drop_duplicates(["protocol.importance.reduction", "method"])
    assert varied["protocol.importance.reduction"].tolist() == ["batch_mean", "per_sample"] * 2
    assert varied["records"].nunique() == 3
