"""Bad inputs: one line that says what was expected, a non-zero exit code, no traceback, nothing half written."""

import json
import shutil
import subprocess
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import yaml
from command_line import TINY, make_cell, records_of, run_command
from omegaconf import OmegaConf

from benchmark.cli import describe
from benchmark.files import file_sha256
from benchmark.run import run_cell
from datasets import cifar

CIFAR10 = {
    "train_images": np.zeros((20, 32, 32, 3), np.uint8),
    "train_labels": np.arange(20) % 10,
    "test_images": np.zeros((10, 32, 32, 3), np.uint8),
    "test_labels": np.arange(10),
}
BASELINE = ["~method@reference", "method=baseline"]


def check_nothing_half_written(folder: Path) -> None:
    """No record, no leftovers, and every artefact that looks finished is."""
    assert not [path for path in folder.rglob("*") if path.suffix in (".part", ".pt")]
    assert not list(folder.rglob("records/*.json"))
    for facts in folder.rglob("artefacts/*/*.json"):
        assert json.loads(facts.read_text())["sha256"] == file_sha256(facts.with_suffix(".safetensors"))


def check_one_line(code: int, stderr: str, expected: str) -> None:
    lines = [line for line in stderr.splitlines() if line.strip() and not line.startswith("  ")]
    assert code != 0
    assert len(lines) == 1, stderr
    assert lines[0].startswith("error: ")
    assert expected in lines[0]
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("method=sdd", "one of those in configs/method, but got 'sdd'; did you mean ssd"),
        ("method.alhpa=3", "did you mean alpha"),
        ("ssd", "ssd"),
        ("recipe.epochs=???", "a value for recipe.epochs"),
        ("+method.beta=3", "beta"),
        ("method.alpha=[1,", "'[1,'"),
        ("task.target=${nothing}", "nothing"),
        ("--config-dir=/nowhere", "/nowhere"),
        ("method_seed=one", "method_seed to be a whole number, but got 'one'"),
        ("switched=nothing", "switched to be one of none, normalisation"),
        ("method=ssd,retrain", "one value per option, but got method=ssd,retrain; add -m"),
        ("save=weights", "save to be null or model, but got 'weights'"),
    ],
)
def test_a_wrong_word_on_the_command_line(argument, expected, tmp_path, monkeypatch, capsys):
    code = run_command([*TINY, f"output_dir={tmp_path}", argument], monkeypatch)
    check_one_line(code, capsys.readouterr().err, expected)
    check_nothing_half_written(tmp_path)


VALUES = {
    "": [
        ("task.target=rocket", "one of upright_0, upright_1"),
        ("task.target=20", "0 … 19"),
        ("method.alpha=ten", "alpha"),
        ("recipe={lr: 1.0e+30, warmup_epochs: 0}", "finite logits"),
        ("recipe.optimizer=lion", "sgd, adam or adamw"),
        ("recipe.lr=0", "lr to be a positive number, but got 0"),
        ("recipe.momentum=-1", "momentum to lie in [0, 1)"),
        ("preprocessing={mean: [0, 0], std: [1, 1]}", "three of each"),
        ("preprocessing.size=-1", "preprocessing.size to be at least 1 pixel"),
        ("original.checkpoint=first", "last or best_test, but got 'first'"),
        ("model.width=wide", "model.width to be a whole number from 1 on, but got 'wide'"),
        ("dataset.load.labels=both", "fine or coarse, but got 'both'"),
        ("dataset.subset.train_images=5", "at least one per class (20)"),
        ("dataset.subset.test_images=0", "test_images to be at least one per class (20), but got 0"),
        ("metric.mia.c=0", "c of the attack to be a number above 0, but got 0"),
    ],
    "task=random": [(f"task.n={n}", f"task.n to be in 1 … 59 for digits, but got {n!r}") for n in (60, 0, "many")],
    "method=retrain": [("method.recipe=null", "recipe to be a training recipe, but got None")],
    "method=unsir": [("method.repetitions=0", "repetitions and samples_per_class")],
    "method=fisher": [("method.tolerance=-1", "tolerance to be at least 0")],
    "method=bad_teacher": [("method.temperature=0", "temperature to be above 0")],
    "method=finetune": [("method.recipe.lr=1.0e+30", "lower lr (now 1e+30)")],
    "requests=sequence": [
        ("requests.targets=[6, 3, 6]", "but got 'upright_6' twice"),
        ("requests.targets=[6, rocket]", "but got 'rocket'"),
        (f"requests.targets={list(range(20))}", "retain_train"),
        ("requests.n=10", "requests.n to be in 1 … 9"),
        ("requests.targets=[]", "at least one target"),
        ("method.importance=old", "kept or refreshed"),
    ],
}  # fmt: skip


def test_a_wrong_value(tmp_path):
    for group, values in VALUES.items():
        for value, expected in values:
            cell = make_cell(tmp_path, *filter(None, [group]))
            key, _, text = value.partition("=")
            OmegaConf.update(cell.config, key, yaml.safe_load(text), merge=True)
            with pytest.raises(Exception, match=r".") as error:
                run_cell(cell)
            line = describe(error.value)
            assert expected in line, value
            assert "\n" not in line, value
            assert "HYDRA_FULL_ERROR" not in line, value  # it was foreseen
    check_nothing_half_written(tmp_path)


def cifar10_run(data_dir: Path, tmp_path: Path, monkeypatch, capsys, *more: str) -> tuple[int, str]:
    own = [] if "nowhere" in str(data_dir) else ["dataset.fingerprint=null"]  # a user's own arrays, not the official
    arguments = [*TINY[2:], "dataset=cifar10", *own, *more]
    code = run_command([*arguments, f"data_dir={data_dir}", f"output_dir={tmp_path / 'runs'}"], monkeypatch)
    check_nothing_half_written(tmp_path)
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("arrays", "empty"),
    [
        ({"train_labels": np.arange(20) % 10 // 2}, "forget_train"),
        ({"train_labels": np.full(20, 5)}, "retain_train"),
        ({"test_labels": np.arange(10) // 2}, "forget_test"),
    ],
)
def test_an_array_file_without_samples_of_the_target(arrays, empty, tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "cifar10.npz", **CIFAR10 | arrays)
    expected = f"{empty} of forget target 'dog' to hold samples"
    check_one_line(*cifar10_run(tmp_path, tmp_path, monkeypatch, capsys, "task.target=dog"), expected)


def test_missing_data_without_network(tmp_path, monkeypatch, capsys):
    def no_network(name: str, folder: Path):
        raise URLError("no route to host")

    monkeypatch.setattr(cifar, "official_arrays", no_network)
    check_one_line(*cifar10_run(tmp_path / "nowhere", tmp_path, monkeypatch, capsys), "$UNLEARN_DATA_DIR")


def test_a_subclass_without_superclasses(tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "cifar10.npz", **CIFAR10)
    more = ["task=subclass", "task.target=cat"]
    check_one_line(*cifar10_run(tmp_path, tmp_path, monkeypatch, capsys, *more), "use dataset=cifar20")


@pytest.mark.parametrize("place", ["records", "artefacts/original"])
def test_a_file_in_place_of_a_folder(place, tmp_path, monkeypatch, capsys):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("")
    code = run_command([*TINY, *BASELINE, f"output_dir={tmp_path}"], monkeypatch)
    check_one_line(code, capsys.readouterr().err, f"Expected to read and write {tmp_path / place}")
    check_nothing_half_written(tmp_path)


def test_a_half_record_is_made_again(tmp_path, monkeypatch, caplog):
    arguments = ["-m", *TINY, f"output_dir={tmp_path}", *BASELINE]
    assert run_command(arguments, monkeypatch) == 0
    (name,), (record,) = records_of(tmp_path), (tmp_path / "records").glob("*.json")
    whole = json.loads(record.read_text())
    record.write_text(record.read_text()[:100])
    assert run_command(arguments, monkeypatch) == 0
    assert f"set aside the damaged {name}" in caplog.text
    assert json.loads(record.read_text())["metrics"] == whole["metrics"]
    assert len(list((tmp_path / "records").glob("*.damaged-*"))) == 1


def test_a_failed_cell_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    arguments = ["-m", *TINY, *BASELINE, "task.target=1,99,2", f"output_dir={tmp_path}"]
    assert run_command(arguments, monkeypatch) != 0
    errors = capsys.readouterr().err
    assert "1 of 3 cells failed" in errors
    assert "Traceback" not in errors
    assert len(records_of(tmp_path)) == 2


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 300 kB; skips where mounting is not permitted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small_disk, monkeypatch, capsys):
    code = run_command([*TINY, "model.width=8", *BASELINE, f"output_dir={small_disk}"], monkeypatch)
    check_one_line(code, capsys.readouterr().err, "No space left on device")
    check_nothing_half_written(small_disk)
