"""Bad inputs: one line that says what was expected, a non-zero exit code, no traceback, no record."""

import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from command_line import TINY, make_table, records_of, run_command

from datasets import cifar

CIFAR10 = {
    "train_images": np.zeros((20, 32, 32, 3), np.uint8),
    "train_labels": np.arange(20) % 10,
    "test_images": np.zeros((10, 32, 32, 3), np.uint8),
    "test_labels": np.arange(10),
}

# name: (arguments, what the line must say)
BAD_ARGUMENTS = {
    "unknown data set": (["dataset=cifar9"], "Available options in 'dataset': cifar10"),
    "unknown method": (["method=sdd"], "Available options in 'method'"),
    "unknown experiment": (["experiment=table99"], "Available options in 'experiment'"),
    "typo in a key": (["method.alhpa=3"], "did you mean alpha"),
    "no key": (["ssd"], "ssd"),
    "missing value": (["recipe.epochs=???"], "recipe.epochs"),
    "unknown class": (["task.target=rocket"], "one of 0, 1, 2"),
    "class index too large": (["task.target=10"], "0 … 9"),
    "alpha zero": (["method.alpha=0"], "alpha to be a finite number above 0, but got 0"),
    "alpha negative": (["method.alpha=-1"], "alpha to be a finite number above 0"),
    "alpha not a number": (["method.alpha=nan"], "alpha to be a finite number above 0, but got nan"),
    "alpha text": (["method.alpha=ten"], "alpha"),
    "lambda infinite": (["method.lam=inf"], "lam to be a finite number above 0"),
    "unknown reduction": (["method.reduction=sum"], "batch_mean or per_sample"),
    "unknown order": (["protocol=paper", "method.order=sorted"], "class_sorted or shuffled"),
    "unknown reset": (["method=retrain", "method.reset=tail"], "all or head"),
    "no epochs": (["recipe.epochs=0"], "epochs and batch_size to be at least 1"),
    "diverging training": (["recipe.lr=1e30", "recipe.warmup_epochs=0"], "finite logits"),
    "unknown optimizer": (["recipe.optimizer=lion"], "sgd, adam or adamw"),
    "unknown checkpoint": (["original.checkpoint=first"], "last or best_test"),
    "unknown device": (["compute.device=tpu9"], "compute.device"),
    "no such GPU": (["compute.device=cuda:99"], "compute.device"),
    "unknown precision": (["compute.precision=float8"], "auto, float32 or bfloat16"),
    "width zero": (["model.width=0"], "model.width"),
    "too many to forget": (["task=random", "task.n=60"], "task.n to be in 1 … 59"),
    "subset smaller than the classes": (["dataset.subset.train_images=5"], "at least one a class (10)"),
    "unknown averaging": (["metric.retain_accuracy.averaging=median"], "per_sample or per_batch"),
    "negative seed text": (["method_seed=one"], "one"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_argument(name, tmp_path, monkeypatch, capsys):
    arguments, expected = BAD_ARGUMENTS[name]
    code = run_command([*TINY, f"output_dir={tmp_path}", *arguments], monkeypatch)
    check_one_line(code, capsys.readouterr().err, expected)
    assert not records_of(tmp_path)


def check_one_line(code: int, stderr: str, expected: str) -> None:
    lines = [line for line in stderr.splitlines() if line.strip() and not line.startswith("  ")]
    assert code != 0
    assert len(lines) == 1, stderr
    assert lines[0].startswith("error: ")
    assert expected in lines[0]
    assert "Traceback" not in stderr


def cifar10_run(data_dir: Path, tmp_path: Path, monkeypatch, capsys) -> tuple[int, str]:
    arguments = [*TINY, "dataset=cifar10", f"data_dir={data_dir}", f"output_dir={tmp_path / 'runs'}"]
    code = run_command([a for a in arguments if "subset" not in a], monkeypatch)
    return code, capsys.readouterr().err


def damaged(name: str) -> dict[str, np.ndarray]:
    return {
        "object array": CIFAR10 | {"train_images": np.array([None] * 20, dtype=object)},
        "label out of range": CIFAR10 | {"test_labels": np.arange(10) + 1},
        "wrong shape": CIFAR10 | {"train_images": np.zeros((20, 3, 32, 32), np.uint8)},
        "wrong type": CIFAR10 | {"train_images": np.zeros((20, 32, 32, 3), np.float32)},
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
    ],
)
def test_bad_array_file(name, expected, tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "cifar10.npz", **damaged(name))
    check_one_line(*cifar10_run(tmp_path, tmp_path, monkeypatch, capsys), expected)


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


def test_half_record(tmp_path, monkeypatch, capsys):
    arguments = [*TINY, f"output_dir={tmp_path}", "~method@reference", "method=baseline"]
    assert run_command(arguments, monkeypatch) == 0
    record = next((tmp_path / "records").glob("*.json"))
    record.write_text(record.read_text()[:100])
    capsys.readouterr()
    check_one_line(run_command(arguments, monkeypatch), capsys.readouterr().err, "delete it and run again")


def test_missing_pretrained_weights(tmp_path, monkeypatch, capsys):
    arguments = ["model.timm_name=vit_tiny_patch16_224", f"model.weights={tmp_path / 'none.npz'}", "model=vit"]
    code = run_command([*arguments, "+recipe=full/resnet18_digits", f"output_dir={tmp_path}"], monkeypatch)
    assert code != 0
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["profile=quick"], "table=2"),
        (["table=99"], "Available options in 'experiment'"),
        (["2"], "--help"),
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
