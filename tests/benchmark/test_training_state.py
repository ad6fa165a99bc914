"""A training that was killed and continued ends as one left alone, bit for bit."""

import logging
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import killed_in_epoch
from command_line import make_cell as tiny_cell

from benchmark import pipeline, training_state
from benchmark.cell import Cell
from benchmark.training_state import StoredTraining
from benchmark.workbench import Workbench
from datasets.files import file_sha256
from tests.conftest import Touching

ROOT = Path(__file__).parents[2]
ALWAYS = "compute.progress_seconds=0"


def make_cell(folder: Path, *overrides: str) -> Cell:
    return tiny_cell(folder, "recipe.epochs=4", ALWAYS, *overrides)


def train_original(cell: Cell) -> tuple[dict, dict]:
    return pipeline.original(Workbench(cell)).make()


def equal(one, other) -> bool:
    """Return whether two nested values are the same, tensors bit for bit and in the same memory layout."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.stride() == other.stride() and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def stored_states(folder: Path) -> list[dict]:
    return [torch.load(path, weights_only=True) for path in sorted(folder.rglob("*.progress/*/*.pt"))]


@pytest.mark.parametrize(
    "overrides",
    [["original.checkpoint=last"], ["original.checkpoint=best_test", "recipe.optimizer=adamw", "recipe.lr=0.003"]],
    ids=["last", "best_test"],
)
def test_a_continued_original_is_the_undisturbed_one(tmp_path, monkeypatch, overrides, caplog):
    caplog.set_level(logging.INFO)
    state, facts = train_original(make_cell(tmp_path / "whole", *overrides))
    cell = make_cell(tmp_path / "broken", *overrides)
    killed_in_epoch(3, lambda: train_original(cell), monkeypatch)
    (stored,) = stored_states(tmp_path / "broken")
    assert stored["epoch"] == 2
    again, again_facts = train_original(cell)
    assert "continuing a training after epoch 2" in caplog.text
    assert equal(again, state)
    for name in ("test_accuracy", "kept_epoch"):
        assert again_facts[name] == facts[name]
    assert again_facts["seconds"] > stored["seconds"] > 0
    # Weights, buffers, optimiser, generator and the best epoch: all that the last epoch left, in both.
    (whole,), (continued,) = stored_states(tmp_path / "whole"), stored_states(tmp_path / "broken")
    assert whole["epoch"] == 4
    assert len(whole["optimizer"]["state"]) > 10
    assert equal(whole | {"seconds": 0}, continued | {"seconds": 0})


@pytest.mark.parametrize(
    "method",
    [
        ["retrain"],
        ["unsir", "method.repair.epochs=4", "method.noise_steps=2", "method.repetitions=2"],
        ["scrub_r", "method.recipe.lr=0.01", "+dataset.subset.validation=0.34"],
    ],
    ids=lambda method: method[0],
)
def test_a_continued_method_is_the_undisturbed_one(tmp_path, monkeypatch, method):
    names = ("whole", "broken")
    whole, broken = (Workbench(make_cell(tmp_path / name, f"method={method[0]}", *method[1:])) for name in names)
    pipeline.made(whole, pipeline.original(whole))  # no part of this
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    pipeline.made(whole, pipeline.outputs(whole))
    killed_in_epoch(3, lambda: pipeline.made(broken, pipeline.outputs(broken)), monkeypatch)
    assert max(state["epoch"] for state in stored_states(tmp_path / "broken")) == 2
    pipeline.made(broken, pipeline.outputs(broken))
    expected, found = (bench.store.get(pipeline.outputs(bench))[0] for bench in (whole, broken))
    assert equal(found, expected)
    assert not list(tmp_path.rglob("*.progress"))  # gone with the finished artefact


def test_a_quick_training_stores_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(StoredTraining, "_write", lambda *arguments: pytest.fail("this costs time"))
    train_original(make_cell(tmp_path, "recipe.epochs=1", "compute.progress_seconds=600"))
    train_original(make_cell(tmp_path, "recipe.epochs=1", "compute.progress_seconds=null"))
    assert not list(tmp_path.rglob("*.progress"))


def test_the_time_between_two_states_is_at_least_the_chosen_one(tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 10))  # seconds; each epoch asks once, each writing once more
    monkeypatch.setattr(training_state.time, "monotonic", lambda: next(clock))
    training, written = StoredTraining(tmp_path, every=30), []
    monkeypatch.setattr(training, "_write", lambda epoch, state: written.append((epoch, state["seconds"])))
    network = torch.nn.Linear(1, 1)
    for epoch in range(1, 9):
        training.keep(epoch, network, torch.optim.SGD(network.parameters()), torch.Generator())
    assert written == [(3, 30), (6, 60)]  # the writing itself, 10 s, is no training
    assert training.seconds == -20


def test_the_older_of_two_states_is_taken_if_the_newer_is_damaged(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    whole, broken = make_cell(tmp_path / "whole"), make_cell(tmp_path / "broken")
    killed_in_epoch(3, lambda: train_original(broken), monkeypatch)
    (path,) = tmp_path.rglob("original/*.progress/*/*.pt")
    path.with_name(f"000003-{'0' * 64}.pt").write_bytes(b"half a file")  # killed before the older one was removed
    state, _ = train_original(broken)
    assert "its hash is not its name" in caplog.text
    assert "continuing a training after epoch 2" in caplog.text
    assert len(list(path.parent.glob("*.damaged-*"))) == 1
    assert equal(state, train_original(whole)[0])


def test_a_pickle_in_place_of_a_state_is_not_executed(tmp_path, caplog):
    trap, forged = tmp_path / "executed", tmp_path / "forged"
    torch.save({"epoch": Touching(trap)}, forged)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(forged, weights_only=True)
    forged.replace(tmp_path / f"000009-{file_sha256(forged)}.pt")
    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters())
    assert StoredTraining(tmp_path, every=0).resume(network, optimizer, torch.Generator()) == 0
    assert "set aside" in caplog.text
    assert not trap.exists()


def test_only_the_same_code_on_the_same_device_continues(tmp_path, monkeypatch):
    bench = Workbench(make_cell(tmp_path))
    node, own = pipeline.original(bench), bench.provenance()

    def folder_of(**changes: object) -> Path:
        monkeypatch.setattr(Workbench, "provenance", lambda bench: own | changes)
        return bench.training_state(node, "train").folder

    plain = folder_of()
    assert folder_of(finished="later", cpu_count=99, commit="of another README", dirty=True) == plain
    for part in ("suite", "torch", "device", "precision", "channels_last", "compile"):
        assert folder_of(**{part: "another"}) != plain, part


def test_a_kept_training_belongs_to_the_code_of_its_artefact(tmp_path):
    bench = Workbench(make_cell(tmp_path))
    node = pipeline.original(bench)
    edited = replace(node, code={"mine": "0"})
    assert bench.store.training_folder(node) == bench.store.training_folder(edited)
    assert bench.training_state(node, "a").folder != bench.training_state(edited, "a").folder
    assert bench.training_state(node, "a").folder == bench.training_state(pipeline.original(bench), "a").folder


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 576 vs 534")])
def test_a_full_disk_does_not_stop_a_training(tmp_path, monkeypatch, caplog, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(training_state.torch, "save", fail)
    train_original(make_cell(tmp_path, "recipe.epochs=1"))
    assert "going on without" in caplog.text
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
