"""Bad inputs: one line that says what was expected, a non-zero exit code, no traceback, no record."""

import json
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from bad_arguments import BAD_ARGUMENTS
from bad_inputs import CIFAR10, check_nothing_half_written, check_one_line
from command_line import TINY, make_table, records_of, run_command

from datasets import cifar

SMALL = ["case=digits_class", "method=baseline", "method_seed=0"]


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_argument(name, tmp_path, monkeypatch, capsys):
    arguments, expected = BAD_ARGUMENTS[name]
    code = run_command([*TINY, f"output_dir={tmp_path}", *arguments], monkeypatch)
    check_one_line(code, capsys.readouterr().err, expected)
    check_nothing_half_written(tmp_path)


def cifar10_run(data_dir: Path, tmp_path: Path, monkeypatch, capsys, *more: str) -> tuple[int, str]:
    arguments = [*TINY, "dataset=cifar10", *more, f"data_dir={data_dir}", f"output_dir={tmp_path / 'runs'}"]
    code = run_command([a for a in arguments if "subset" not in a], monkeypatch)
    return code, capsys.readouterr().err


def damaged(name: str) -> dict[str, np.ndarray]:
    return {
        "object array": CIFAR10 | {"train_images": np.array([None] * 20, dtype=object)},
        "label out of range": CIFAR10 | {"test_labels": np.arange(10) + 1},
        "wrong shape": CIFAR10 | {"train_images": np.zeros((20, 3, 32, 32), np.uint8)},
        "wrong type": CIFAR10 | {"train_images": np.zeros((20, 32, 32, 3), np.float32)},
        "negative label": CIFAR10 | {"train_labels": np.arange(20) - 1},
        "labels with NaN": CIFAR10 | {"train_labels": np.full(20, np.nan)},
        "fewer labels": CIFAR10 | {"train_labels": np.arange(10)},
        "no images": CIFAR10 | {"train_images": CIFAR10["train_images"][:0], "train_labels": np.arange(0)},
        "images with NaN": CIFAR10 | {"test_images": np.full((10, 32, 32, 3), np.nan)},
        "target missing": CIFAR10 | {"train_labels": np.arange(20) % 10 // 2},
        "one class left": CIFAR10 | {"train_labels": np.full(20, 1)},
        "target not in the test set": CIFAR10 | {"test_labels": np.arange(10) // 2},
        "missing array": {k: v for k, v in CIFAR10.items() if k != "test_labels"},
    }[name]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("object array", "to be an array file"),
        ("label out of range", "0 … 9"),
        ("wrong shape", "uint8 (N, H, W, 3)"),
        ("wrong type", "uint8 (N, H, W, 3)"),
        ("missing array", "it lacks test_labels"),
        ("negative label", "0 … 9, but got -1 … 18"),
        ("labels with NaN", "int64 (20,), but got float64"),
        ("fewer labels", "int64 (20,), but got int64 (10,)"),
        ("no images", "uint8 (N, H, W, 3)"),
        ("images with NaN", "test_images"),
        ("target missing", "forget_train of forget target 'dog' to hold samples"),
        ("one class left", "retain_train of forget target 'automobile' to hold samples"),
        ("target not in the test set", "forget_test of forget target 'dog' to hold samples"),
    ],
)
def test_bad_array_file(name, expected, tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "cifar10.npz", **damaged(name))
    target = "task.target=1" if name == "one class left" else "task.target=dog"
    check_one_line(*cifar10_run(tmp_path, tmp_path, monkeypatch, capsys, target), expected)
    check_nothing_half_written(tmp_path)


def test_truncated_array_file(tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "cifar10.npz", **CIFAR10)
    whole = (tmp_path / "cifar10.npz").read_bytes()
    (tmp_path / "cifar10.npz").write_bytes(whole[: len(whole) // 2])
    check_one_line(*cifar10_run(tmp_path, tmp_path, monkeypatch, capsys), "delete it and run again")


def test_missing_data_without_network(tmp_path, monkeypatch, capsys):
    def no_network(name: str, folder: Path):
        raise URLError("no route to host")

    monkeypatch.setattr(cifar, "official_arrays", no_network)
    check_one_line(*cifar10_run(tmp_path / "nowhere", tmp_path, monkeypatch, capsys), "$UNLEARN_DATA_DIR")


def test_subclass_task_without_superclasses(tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "cifar10.npz", **CIFAR10)
    arguments = ["dataset=cifar10", "task=subclass", "task.target=cat", "model.width=2", "recipe.epochs=1"]
    code = run_command([*arguments, f"data_dir={tmp_path}", f"output_dir={tmp_path / 'runs'}"], monkeypatch)
    check_one_line(code, capsys.readouterr().err, "use dataset=cifar20")


def test_output_dir_is_a_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").write_text("")
    code = run_command([*TINY, f"output_dir={tmp_path / 'runs'}"], monkeypatch)
    check_one_line(code, capsys.readouterr().err, "output_dir")


def test_unwritable_output_dir(monkeypatch, capsys):
    code = run_command([*TINY, "output_dir=/proc/runs"], monkeypatch)
    check_one_line(code, capsys.readouterr().err, "output_dir")


def test_a_half_record_is_computed_again(tmp_path, monkeypatch, caplog):
    arguments = [*TINY, f"output_dir={tmp_path}", "~method@reference", "method=baseline"]
    assert run_command(arguments, monkeypatch) == 0
    (name,), (record,) = records_of(tmp_path), (tmp_path / "records").glob("*.json")
    whole = json.loads(record.read_text())
    record.write_text(record.read_text()[:100])
    assert run_command(arguments, monkeypatch) == 0
    assert f"set aside the damaged {name}" in caplog.text
    assert json.loads(record.read_text())["metrics"] == whole["metrics"]
    assert len(list((tmp_path / "records").glob("*.damaged-*"))) == 1


@pytest.mark.parametrize("place", ["records", "artefacts", "artefacts/original"])
def test_a_file_in_place_of_a_folder(place, tmp_path, monkeypatch, capsys):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("")
    code = run_command([*TINY, "~method@reference", "method=baseline", f"output_dir={tmp_path}"], monkeypatch)
    check_one_line(code, capsys.readouterr().err, f"Expected to read and write {tmp_path / place}")
    check_nothing_half_written(tmp_path)


def test_data_dir_is_a_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "data").write_text("")
    monkeypatch.setenv("UNLEARN_DATA_DIR", str(tmp_path / "data"))
    code = run_command(["dataset=cifar10", f"output_dir={tmp_path / 'runs'}"], monkeypatch)
    check_one_line(code, capsys.readouterr().err, "$UNLEARN_DATA_DIR")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["profile=quick"], "table=2"),
        (["table=99"], "Available options in 'experiment'"),
        (["2"], "--help"),
        (["table=demo", "out=/proc/table", *SMALL], "/proc/table"),
        (["table=demo", "profile=slow"], "Available options in 'profile'"),
    ],
)
def test_bad_table_arguments(arguments, expected, monkeypatch, capsys):
    check_one_line(make_table(arguments, monkeypatch), capsys.readouterr().err, expected)


def test_a_failed_cell_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    arguments = ["-m", *TINY, "~method@reference", "method=baseline", "task.target=1,99,2", f"output_dir={tmp_path}"]
    assert run_command(arguments, monkeypatch) != 0
    errors = capsys.readouterr().err
    assert "1 of 3 cells failed" in errors
    assert "Traceback" not in errors
    assert len(records_of(tmp_path)) == 2


def test_started_as_a_file():
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "benchmark/run.py"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: start this from the root of the repository as `python -m benchmark.run`."
