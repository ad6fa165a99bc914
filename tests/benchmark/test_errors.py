"""Bad inputs: one line that says what was expected, a non-zero exit code, no traceback, nothing half written."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from command_line import TINY, make_cell, records_of, run_command
from omegaconf import OmegaConf

from benchmark.cli import describe
from benchmark.run import run_cell
from datasets.files import file_sha256

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
        ("ssd", "Expected key=value, but got ssd;"),
        ("dataset.root=~/photos", "stands in quotes inside quotes: 'dataset.root=\"VALUE\"'"),
        ("dataset.root=/data/a=b", "Expected key=value, but got dataset.root=/data/a=b;"),
        ("method.alpha=1,2", "but got method.alpha=1,2; put a value with a comma in quotes, or add -m"),
        ("method.alpha=nan", "Expected method.alpha to be a finite number, but got nan"),
        ("recipe.lr=inf", "Expected recipe.lr to be a finite number, but got inf"),
        ("hydra.launcher.workers=2", "there are _target_, with launcher=local or launcher=ray more"),
        ("force=yes", "force"),
        ("recipe.epochs=???", "a value for recipe.epochs"),
        ("+method.beta=3", "beta"),
        ("method.alpha=[1,", "Expected key=value, but got method.alpha=[1,"),
        ("task.target=${nothing}", "nothing"),
        (
            "case=cifar10_random task=subclass",
            "a value for task.target, but dataset.targets.subclass, its default, is not",
        ),
        ("search=ssd", "no search here, but got search=ssd; run python -m benchmark.search search=ssd"),
        ("--config-dir=/nowhere", "Expected --config-dir to name a folder, but /nowhere is none."),
        ("method_seed=one", "method_seed to be a whole number, but got 'one'"),
        ("switched=nothing", "switched to be one of none, normalisation"),
        (
            "method=ssd,retrain",
            "one value per option, but got method=ssd,retrain; put a value with a comma in quotes, or add -m",
        ),
        ("method=ssd,retrian", "got 'retrian'; did you mean retrain"),
        ("save_model=weights", "save_model to be a file name that ends in .safetensors"),
        ("+foo=1", "a key of the configuration, but got 'foo'"),
        ("+dataset.lable=x", "got 'dataset.lable'; did you mean label"),
        ("metric=[accuracy,wieghts]", "got 'wieghts'; did you mean weights"),
        ("dataset=folder dataset.root=2024", "dataset.root to be a text that is not empty, but got 2024"),
    ],
)
def test_a_wrong_word_on_the_command_line(argument, expected, tmp_path, monkeypatch, capsys):
    code = run_command([*TINY, f"output_dir={tmp_path}", *argument.split()], monkeypatch)
    check_one_line(code, capsys.readouterr().err, expected)
    check_nothing_half_written(tmp_path)


# How each part refuses its own wrong options stands in that part's tests: here are those that no part sees alone.
VALUES = {
    "": [
        ("task.target=rocket", "one of upright_0, upright_1"),
        ("method.alpha=ten", "alpha"),
        ("recipe={lr: 1.0e+30, warmup_epochs: 0}", "finite logits"),
        ("preprocessing={mean: [0, 0], std: [1, 1]}", "preprocessing.mean to be 3 values, each a finite number"),
        ("preprocessing.size=-1", "preprocessing.size to be a whole number from 1 on or null, but got -1"),
        ("original.checkpoint=first", "last or best_test, but got 'first'"),
        ("dataset.load.labels=both", "fine or coarse, but got 'both'"),
        ("metric.mia.c=0", "metric.mia.c to be a finite number above 0, but got 0"),
    ],
    "task=random": [("task.n=many", "task.n to be a whole number from 1 on, but got 'many'")],
    "method=retrain": [("method.recipe=null", "method.recipe to be a Recipe, but got None")],
    "method=unsir": [("method.repetitions=0", "method.repetitions to be a whole number from 1 on, but got 0")],
    "method=finetune": [("method.recipe.lr=1.0e+30", "lower lr (now 1e+30)")],
    "requests=sequence": [("method.importance=old", "kept or refreshed")],
}  # fmt: skip


def test_a_single_image_under_batch_normalisation_names_the_remedy():
    with pytest.raises(ValueError, match="more than 1 value") as error:
        torch.nn.BatchNorm2d(2)(torch.zeros(1, 2, 1, 1))
    assert re.search("at least two images in each batch, .*set recipe.batch_size", describe(error.value))


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
