"""Own images, own models and deletion requests from the command line, without a line of code."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from command_line import composed, records_of, run_command
from faces import picture, write_folder

from benchmark.compose import choices
from benchmark.records import load_records
from benchmark.report.__main__ import main as report_main
from benchmark.workbench import Workbench
from datasets.folder import load_folder

SMALL = ["recipe.epochs=1", "recipe.milestones=[]", "method=baseline", "~method@reference"]
METRICS = "metric=[accuracy,membership]"


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Run a command on this test's folders; return its exit code."""
    own = [f"data_dir={tmp_path / 'data'}", f"output_dir={tmp_path / 'runs'}"]
    return lambda *words, **main: run_command([*own, *words], monkeypatch, **main)


@pytest.fixture
def pets(tmp_path):
    names = [f"{name}/{name}{i}.png" for name in ("cat", "dog", "owl") for i in range(10)]
    return write_folder(tmp_path / "pets", {name: picture(seed) for seed, name in enumerate(names)})


def trained_on(pets, tmp_path):
    """Return the files of the training images."""
    data = load_folder("pets", tmp_path / "data", pets, 32, 0.2, 0)
    return [data.file_names[row] for row in data.train.index]


def record_of(tmp_path):
    (text,) = records_of(tmp_path / "runs").values()
    return json.loads(text)


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_own_data_need_no_other_word(profile, pets):
    """Recipe, classes and target follow from the files."""
    (cell,) = composed("dataset=folder", f"dataset.root={pets}", f"profile={profile}")
    assert (cell.labels["dataset"], cell.labels["target"]) == ("pets", "cat")
    assert cell.scientific["original"]["recipe"]["epochs"] > 1
    assert len(cell.run_id) == 16
    assert str(pets.parent) not in str(cell.scientific)


def test_every_spelling_of_an_own_class_is_one_run(pets, tmp_path):
    np.savez(tmp_path / "shades.npz", images=np.zeros((6, 4, 4), np.uint8), labels=np.arange(6) % 3 + 5)
    for data, spellings, name in (
        (f"dataset=folder,dataset.root={pets}", ["dog", "1"], "dog"),
        (f"dataset=npz,dataset.file={tmp_path / 'shades.npz'}", ["6"], "6"),
    ):
        cells = [composed(*data.split(","), f"task.target={target}")[0] for target in spellings]
        assert len({cell.run_id for cell in cells}) == 1
        assert {cell.labels["target"] for cell in cells} == {name}


def test_a_class_and_a_file_may_have_the_name_of_what_is_not_there(tmp_path):
    np.savez(tmp_path / "absent.npz", images=np.zeros((6, 4, 4), np.uint8), labels=["absent", "present"] * 3)
    (cell,) = composed("dataset=npz", f"dataset.file={tmp_path / 'absent.npz'}", "task.target=absent")
    assert (cell.scientific["task"]["target"], cell.scientific["dataset"]["name"]) == ("absent", "absent")
    assert Workbench(cell).dataset.class_names == ("absent", "present")


def test_a_folder_is_trained_on_and_asked_to_forget_files_by_name(pets, tmp_path, command):
    known = trained_on(pets, tmp_path)
    (tmp_path / "ids.txt").write_text(f"{known[0]}\n{known[20].rpartition('/')[2]}\n")
    words = [*SMALL, METRICS, "dataset=folder", f"dataset.root={pets}", "model.width=2", "task=indices"]
    assert command(*words, f"task.file={tmp_path / 'ids.txt'}") == 0
    record = record_of(tmp_path)
    assert record["labels"] | {"dataset": "pets", "task": "indices", "target": "ids"} == record["labels"]
    assert record["sizes"]["forget_train"] == record["sizes"]["forget_test"] == 2
    assert record["sizes"]["retain_train"] == 22


def test_a_wrong_line_ends_in_one_error(pets, tmp_path, command, capsys):
    (tmp_path / "ids.txt").write_text("cat0.png\ncow.png\n")
    words = [*SMALL, "dataset=folder", f"dataset.root={pets}", "task=indices", f"task.file={tmp_path / 'ids.txt'}"]
    assert command(*words) != 0
    assert "error: Expected line 2 of" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_several_classes_of_arrays_of_ones_own(tmp_path, command):
    labels = np.arange(40) % 4
    images = (60 * labels[:, None, None] + np.arange(64).reshape(8, 8)).astype(np.uint8)
    np.savez(tmp_path / "shades.npz", x_train=images, y_train=labels, x_test=images[:12], y_test=labels[:12])
    words = [*SMALL, METRICS, "dataset=npz", f"dataset.file={tmp_path / 'shades.npz'}", "model.width=2"]
    assert command(*words, "task.target=[3,1]") == 0
    record = record_of(tmp_path)
    assert record["labels"] | {"dataset": "shades", "target": "1+3"} == record["labels"]
    assert record["sizes"]["forget_train"] == 20
    assert record["sizes"]["forget_test"] == 6


TINY_TIMM = ["dataset.subset.train_images=200", "dataset.subset.test_images=40", "recipe.epochs=1",
             "recipe.lr=0.01", "model=timm", "model.timm_name=test_resnet"]  # fmt: skip


@pytest.mark.slow
def test_every_method_runs_on_a_model_of_timms_and_stands_in_a_table(tmp_path, command):
    grid = ["experiment=demo_field", "case=digits_class", "method_seed=0", *TINY_TIMM]
    assert command(*grid) == 0
    assert command("table=demo_field", *grid[1:], f"out={tmp_path / 'out'}", main=report_main) == 0
    records = [json.loads(text) for text in records_of(tmp_path / "runs").values()]
    assert {record["labels"]["method"] for record in records} == {*choices("method")} - {"retrain_other"}
    assert {record["labels"]["model"] for record in records} == {"test_resnet"}
    assert all(record["skipped"] is None for record in records)


@pytest.mark.slow
def test_the_commands_of_the_documents_run(pets, tmp_path, command):
    text = (Path(__file__).parents[2] / "configs" / "README.md").read_text().partition("## Your own data")[2]
    (pets / "ids.txt").write_text("\n".join(trained_on(pets, tmp_path)[:2]))
    np.savez(pets / "NAME.npz", images=np.arange(30 * 64, dtype=np.uint8).reshape(30, 8, 8), labels=np.arange(30) % 3)
    lines = text.partition("```sh long\n")[2].partition("```")[0].replace("FOLDER", str(pets)).splitlines()
    assert len(lines) == 5
    for line in lines:
        words = shlex.split(line.replace("resnet34", "test_resnet"))[3:]
        width = [] if "model=timm" in words else ["model.width=2"]
        assert command(*words, *width, *SMALL[:2]) == 0, line
    records = load_records(tmp_path / "runs" / "records")  # of each command, and of the models beside it
    assert [record.labels["method"] for record in records].count("ssd") == len(lines) - 1
