"""Which records belong to which cell; rows stay unless an option takes them away."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from report_cases import GRID, compose, content_of, record_of

from benchmark.records import read_lines
from benchmark.report.query import is_key, merge, read_arguments, read_memory
from benchmark.report.select import Place, check_column, fill_command, places_of

FOLDER = Path("results/demo-paper-quick")


def table_of(folder: Path = FOLDER) -> pd.DataFrame:
    return pd.read_csv(folder / "table.csv", dtype={"records": str})


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["table=2"], "table2"),
        (["table=demo", "out=x"], "demo"),
        (["profile=quick", "table=ablation"], "ablation"),
        (["figure=2"], "figure2"),
        (["requests", "requests=sequence"], "requests"),
    ],
)
def test_a_table_is_named_by_number_or_experiment(arguments, name):
    assert read_arguments(arguments).name == name


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["profile=quick"], "Expected table=…, figure=… or requests, but got none"),
        (["table="], "Expected table=…"),
        (["table=2", "requests"], "but got table and requests"),
        (["table=2", "quick"], "Expected key=value, but got 'quick'"),
        (["table=2", "fresh=yes"], "Expected fresh=true or fresh=false, but got 'yes'"),
    ],
)
def test_bad_arguments(arguments, expected):
    with pytest.raises(ValueError, match=expected):
        read_arguments(arguments)


def test_options_and_overrides_are_told_apart():
    asked = read_arguments(["table=2", "drop=a,b", "fresh=true", "~method@reference", "table.title=x"])
    assert (asked.drop, asked.fresh) == ({"a", "b"}, True)
    assert asked.overrides == ["~method@reference", "table.title=x"]


def test_overrides_replace_their_own_key_only():
    line = ["profile=quick", "task.target=1,10", "table.title=x"]
    assert merge(line, ["profile=quick"]) == line
    assert merge(line, ["task.target=3", "+new=1"]) == ["profile=quick", "task.target=3", "table.title=x", "+new=1"]
    assert merge([], ["a=1"]) == ["a=1"]


def test_paths_and_devices_are_no_part_of_a_tables_cells():
    keys = ("output_dir", "dataset.load.folder", "compute", "hydra")
    here = ["output_dir=x", "dataset.load.folder=y", "compute.precision=float32", "compute=fast", "hydra.searchpath=[]"]
    assert all(is_key(word, keys) for word in here)
    assert not any(is_key(word, keys) for word in ["dataset=pins", "computer=1", "dataset.load.folders=z"])


def test_every_cell_and_every_committed_record_has_a_place():
    cells = compose("experiment=demo", *GRID)
    done, other = record_of(cells[0]), replace(record_of(cells[1]), run_id="other", scientific_hash="gone")
    lost = replace(other, run_id="lost", scientific_hash="gone too", labels={**other.labels, "target": "3"})
    places = places_of(cells, [done, other, lost], [])
    assert [place.record and place.record.run_id for place in places] == [
        done.run_id, "other", *[None] * (len(cells) - 2), "lost"
    ]  # fmt: skip
    assert places[-1].labels["target"] == "3"
    assert [fill_command(place) is None for place in places] == [True, True, *[False] * (len(cells) - 2), True]
    command = fill_command(places[2])
    assert command is not None
    assert command.startswith("python -m benchmark.run experiment=demo ") or "method=" in command


def test_a_new_record_belongs_to_its_hash_alone():
    cells = compose("experiment=demo", *GRID)
    stranger = replace(record_of(cells[0]), scientific_hash="gone")
    assert all(place.record is None for place in places_of(cells, [], [stranger]))


def column(*records) -> list[Place]:
    return [Place(None, record) for record in records]


def test_seeds_of_one_method_are_one_column():
    cells = [cell for cell in compose("experiment=demo", *GRID) if cell.labels["method"] == "ssd"]
    check_column("SSD", [Place(cell, record_of(cell)) for cell in cells], pooled=False)


def test_the_seed_of_a_random_forget_set_is_a_seed_too():
    cells = compose("experiment=demo", "profile=quick", "case=digits_random", "method=ssd", "method_seed=0,1")
    assert len({cell.scientific_hash for cell in cells}) == 2
    check_column("SSD", [Place(cell, None) for cell in cells], pooled=False)


@pytest.mark.parametrize(
    ("overrides", "difference"),
    [
        (["method.alpha=8,1.5"], r"method\.alpha is 8(\.0)? and 1\.5"),
        (["recipe.epochs=3,4"], r"original\.recipe\.epochs is 3 and 4"),
        (["dataset.subset.train_images=100,200"], r"dataset\.train_images is 100 and 200"),
    ],
)
def test_cells_that_differ_in_more_than_seeds_are_never_pooled(overrides, difference):
    cells = compose("experiment=demo", "profile=quick", "case=digits_class", "method=ssd", "method_seed=0", *overrides)
    with pytest.raises(ValueError, match=f"SSD on digits to differ in nothing but seeds, but {difference}"):
        check_column("SSD on digits", [Place(cell, None) for cell in cells], pooled=False)


def test_targets_are_pooled_only_if_declared():
    cells = compose("experiment=demo", "profile=quick", "case=digits_class", "method=ssd", "task.target=1,2")
    places = [Place(cell, record_of(cell)) for cell in cells if cell.seeds["method_seed"] == 0]
    check_column("SSD", places, pooled=True)
    with pytest.raises(ValueError, match=r"task\.target is 1 and 2"):
        check_column("SSD", places, pooled=False)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"hyperparameters": {"alpha": 3.0}}, r"method\.alpha is 8\.0 and 3\.0"),
        ({"data_fingerprint": "e"}, "data_fingerprint is d+ and e"),
        ({"original": {"epochs": 9}}, r"original\.epochs is 4 and 9"),
        ({"sizes": {"parameters": 1}}, "parameters is 700000 and 1"),
    ],
)
def test_records_without_a_cell_are_compared_too(change, difference):
    first, second = (record_of(cell) for cell in compose("experiment=demo", *GRID) if cell.labels["method"] == "ssd")
    changed = {name: {**getattr(second, name), **x} if isinstance(x, dict) else x for name, x in change.items()}
    with pytest.raises(ValueError, match=difference):
        check_column("SSD", column(first, replace(second, **changed)), pooled=False)


def test_one_seed_has_one_record():
    first = record_of(compose("experiment=demo", *GRID)[0])
    check_column("retrain", column(first, first), pooled=False)
    with pytest.raises(ValueError, match=r"one record of retrain per seed, but got .* and twin; drop="):
        check_column("retrain", column(first, replace(first, run_id="twin")), pooled=False)


def test_a_table_is_complete_and_writing_it_again_changes_nothing(finished, report):
    code, printed = report("table=demo", *GRID)
    assert code == 0
    assert "| D_r | 90.50 ± 0.71 | 50.50 ± 0.71 | **60.50 ± 0.71** |" in printed
    assert set(content_of(FOLDER)) == {"table.csv", "table.md", "table.tex", "records.jsonl", "report.json"}
    before = content_of(FOLDER)
    assert report("table=demo", *GRID)[0] == 0
    assert content_of(FOLDER) == before


def test_a_committed_table_needs_nothing_but_its_folder(finished, report):
    report("table=demo", *GRID)
    before = content_of(FOLDER)
    for path in finished.rglob("*.json"):
        path.unlink()
    for arguments in (["profile=quick"], ["profile=quick", "output_dir=elsewhere"], GRID):
        assert report("table=demo", *arguments)[0] == 0
        assert content_of(FOLDER) == before


def test_cells_that_the_command_line_does_not_name_keep_their_rows(finished, report):
    report("table=demo", *GRID)
    before = content_of(FOLDER)
    assert report("table=demo", "profile=quick", "method=ssd", "method_seed=1")[0] == 0
    assert content_of(FOLDER) == before


def test_a_table_grows_by_new_records(finished, report):
    report("table=demo", *GRID)
    _, printed = report("table=demo", "profile=quick", "method_seed=0,1,2")
    assert printed.count("\npython -m benchmark.run") == 3  # each once, under the table
    for cell in compose("experiment=demo", *GRID[:-1], "method_seed=2"):
        record_of(cell).write(finished / "records")
    assert report("table=demo", "profile=quick")[0] == 0  # the folder remembers that it has three seeds
    assert set(table_of()["n"]) == {3}
    assert len(read_lines(FOLDER / "records.jsonl")) == 9
    assert read_memory(FOLDER)["overrides"] == [[*GRID[:-1], "method_seed=0,1,2"]]


def test_another_target_is_another_block(finished, report):
    report("table=demo", *GRID)
    for cell in compose("experiment=demo", *GRID, "task.target=3"):
        record_of(cell).write(finished / "records")
    assert report("table=demo", "profile=quick", "task.target=3")[0] == 0
    assert set(table_of()["target"].astype(str)) == {"6", "3"}
    assert len(read_memory(FOLDER)["overrides"]) == 2
    before = content_of(FOLDER)
    assert report("table=demo", "profile=quick")[0] == 0
    assert content_of(FOLDER) == before


def test_a_row_goes_only_by_an_option(finished, report):
    report("table=demo", *GRID)
    run_id = table_of()["records"].iloc[0].split()[0]
    (finished / "records" / f"{run_id}.json").unlink()
    assert report("table=demo", "profile=quick", f"drop={run_id}")[0] == 0
    assert run_id not in (FOLDER / "records.jsonl").read_text()
    assert "missing" not in (FOLDER / "table.md").read_text().split("Missing cells")[0]
    assert "Missing cells, and what fills them" in (FOLDER / "table.md").read_text()
    assert report("table=demo", *GRID[:2], "method=ssd", "method_seed=0", "fresh=true")[0] == 0
    assert set(table_of()["method"]) == {"ssd"}


def test_a_run_id_that_is_not_there_is_not_dropped(finished, report):
    report("table=demo", *GRID)
    code, printed = report("table=demo", *GRID, "drop=abc")
    assert code == 1
    assert "in drop=…, but got abc" in printed


def test_other_hyper_parameters_do_not_join_a_committed_column(finished, report):
    report("table=demo", *GRID)
    before = content_of(FOLDER)
    cell = compose("experiment=demo", *GRID[:2], "method=ssd", "method_seed=2", "method.alpha=1.5")[0]
    record_of(cell).write(finished / "records")
    code, printed = report("table=demo", "profile=quick", "method=ssd", "method.alpha=1.5", "method_seed=2")
    assert code == 1
    assert "differ in nothing but seeds, but method.alpha is " in printed
    assert content_of(FOLDER) == before


def test_the_committed_record_of_a_run_stays(finished, report):
    report("table=demo", *GRID)
    before = content_of(FOLDER)
    cell = compose("experiment=demo", *GRID)[0]
    record_of(cell, retain_accuracy=0.123).write(finished / "records")  # measured again elsewhere
    assert report("table=demo", "profile=quick")[0] == 0
    assert content_of(FOLDER) == before


@pytest.mark.parametrize("arguments", [["table=demo"], ["requests"], ["figure=2"]])
def test_without_any_record_the_command_refuses_and_says_what_to_run(arguments, report, tmp_path):
    code, printed = report(*arguments, *GRID[:1], "method=ssd", "method_seed=0")
    assert code == 1
    assert "Expected records of experiment=" in printed
    assert "run python -m benchmark.run experiment=" in printed
    assert list(tmp_path.iterdir()) == []


def test_a_folder_holds_one_experiment(finished, report):
    report("table=demo", *GRID, "out=here")
    before = content_of(Path("here"))
    code, printed = report("table=selectivity", "profile=quick", "out=here")
    assert code == 1
    assert "Expected here to hold table selectivity, but it holds table demo" in printed
    assert content_of(Path("here")) == before


def test_a_caption_by_hand_holds_until_the_records_change(finished, report):
    report("table=demo", *GRID)
    memory = FOLDER / "report.json"
    memory.write_text(json.dumps({**read_memory(FOLDER), "caption": "By hand."}))
    report("table=demo", *GRID)
    assert (FOLDER / "table.md").read_text().startswith("**Digits, every task.** By hand.\n")
    for cell in compose("experiment=demo", *GRID[:-1], "method_seed=2"):
        record_of(cell).write(finished / "records")
    report("table=demo", *GRID[:-1], "method_seed=0,1,2")
    assert "By hand" not in (FOLDER / "table.md").read_text() + memory.read_text()


def test_a_damaged_new_record_is_named_and_counts_as_missing(finished, report, caplog):
    caplog.set_level(logging.INFO)
    path = next((finished / "records").iterdir())
    path.write_text("{")
    _, printed = report("table=demo", *GRID)
    assert path.name in caplog.text
    assert "Missing cells" in printed
    assert path.read_text() == "{"


def test_a_damaged_committed_record_stops_the_command(finished, report):
    report("table=demo", *GRID)
    path = FOLDER / "records.jsonl"
    path.write_text(path.read_text().replace("0.61", "0.62"))
    before = content_of(FOLDER)
    code, printed = report("table=demo", *GRID)
    assert code == 1
    assert "restore the file" in printed
    assert content_of(FOLDER) == before
