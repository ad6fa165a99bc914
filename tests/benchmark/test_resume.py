"""A training that was killed and continued ends as one left alone, bit for bit."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from command_line import TINY, records_of, run_command
from killed import ALWAYS, Killed, equal, kept_states, make_cell, stop_after

from benchmark import resume
from benchmark.checkpoints import load_original, train_original
from benchmark.resume import KeptTraining
from benchmark.store import ArtefactStore, file_sha256

ROOT = Path(__file__).parents[2]
SGD, ADAMW = ["recipe.optimizer=sgd"], ["recipe.optimizer=adamw", "recipe.lr=0.003"]


@pytest.mark.parametrize("selection", ["last", "best_test"])
@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_a_continued_original_is_the_undisturbed_one(tmp_path, monkeypatch, optimizer, selection, caplog):
    caplog.set_level(logging.INFO)
    overrides = [*optimizer, f"original.checkpoint={selection}"]
    state, card = train_original(make_cell(tmp_path / "whole", *overrides))
    cell = make_cell(tmp_path / "broken", *overrides)
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Killed):
            train_original(cell)
    (kept,) = kept_states(tmp_path / "broken")
    assert kept["epoch"] == 2
    again, again_card = train_original(cell)
    assert "continuing a training after epoch 2" in caplog.text
    assert all(torch.equal(again[name], value) for name, value in state.items())
    assert [again_card[name] for name in ("test_accuracy", "kept_epoch")] == [
        card[name] for name in ("test_accuracy", "kept_epoch")
    ]
    assert again_card["seconds"] > kept["seconds"] > 0
    # Weights, buffers, optimiser, generator and the best epoch: all that the last epoch left, in both.
    (whole,), (continued,) = kept_states(tmp_path / "whole"), kept_states(tmp_path / "broken")
    assert whole["epoch"] == 4
    assert len(whole["optimizer"]["state"]) > 10
    assert equal(whole | {"seconds": 0}, continued | {"seconds": 0})


def test_a_continued_training_takes_what_the_earlier_process_spent(tmp_path, monkeypatch):
    cell = make_cell(tmp_path)
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Killed):
            train_original(cell)
    monkeypatch.setattr(torch, "load", lambda *a, load=torch.load, **k: load(*a, **k) | {"seconds": 5000.0})
    assert 5000 < train_original(cell)[1]["seconds"] < 5060


def outputs_of(folder: Path) -> dict[str, torch.Tensor]:
    store = ArtefactStore(folder / "artefacts")
    (card,) = (store.folder / "outputs").glob("*.json")
    found = store._load(card)
    assert found is not None
    return found[0]


@pytest.mark.parametrize(
    "method",
    [
        ["method=retrain", "protocol=strict"],
        ["method=retrain", "protocol=paper"],
        ["method=finetune"],
        ["method=unsir", "method.repair.epochs=4"],
    ],
    ids=["retrain all", "retrain head", "finetune", "unsir"],
)
def test_a_continued_method_is_the_undisturbed_one(tmp_path, monkeypatch, method):
    arguments = [*TINY, "recipe.epochs=4", ALWAYS, *method, "~method@reference"]
    for folder in ("whole", "broken"):  # the originals are no part of this
        load_original(make_cell(tmp_path / folder, *method))
    assert run_command([*arguments, f"output_dir={tmp_path / 'whole'}"], monkeypatch) == 0
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Killed):
            run_command([*arguments, f"output_dir={tmp_path / 'broken'}"], monkeypatch)
    assert max(state["epoch"] for state in kept_states(tmp_path / "broken")) == 2
    assert run_command([*arguments, f"output_dir={tmp_path / 'broken'}"], monkeypatch) == 0
    assert equal(outputs_of(tmp_path / "whole"), outputs_of(tmp_path / "broken"))
    assert len(records_of(tmp_path / "broken")) == 1
    assert not list(tmp_path.rglob("*.progress"))  # gone with the finished artefact


def test_a_quick_training_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(KeptTraining, "_write", lambda *arguments: pytest.fail("this costs time"))
    train_original(make_cell(tmp_path, "compute.progress_seconds=30"))
    train_original(make_cell(tmp_path, "compute.progress_seconds=null"))
    assert not list(tmp_path.rglob("*.progress"))


def test_the_time_between_two_states_is_at_least_the_chosen_one(tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 10))  # seconds; each epoch asks once, each writing once more
    monkeypatch.setattr(resume.time, "monotonic", lambda: next(clock))
    training, written = KeptTraining(tmp_path, every=30), []
    monkeypatch.setattr(training, "_write", lambda epoch, state: written.append((epoch, state["seconds"])))
    network = torch.nn.Linear(1, 1)
    for epoch in range(1, 9):
        training.keep(epoch, network, torch.optim.SGD(network.parameters()), torch.Generator())
    assert written == [(3, 30), (6, 60)]  # the writing itself, 10 s, is no training
    assert training.seconds == -20


@pytest.mark.slow
@pytest.mark.parametrize("selection", ["last", "best_test"])
def test_a_process_killed_in_mid_training_and_started_again(tmp_path, selection):
    """`kill -9` after a few epochs; the same command then continues and ends with the same checkpoint and record."""
    arguments = ["recipe.epochs=12", "recipe.milestones=[5,9]", ALWAYS, f"original.checkpoint={selection}"]
    command = [sys.executable, "-m", "benchmark.run", "method=retrain", *arguments]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = subprocess.Popen([*command, f"output_dir={broken}"], cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(broken.rglob("original/*.progress/*/00000[3-9]*.pt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(broken.rglob("original/*.json"))
    assert max(state["epoch"] for state in kept_states(broken)) < 12
    done = subprocess.run([*command, f"output_dir={broken}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "continuing a training after epoch" in done.stderr
    assert subprocess.run([*command, f"output_dir={whole}"], cwd=ROOT).returncode == 0
    for kind in ("original", "outputs"):
        ours, theirs = (list((folder / "artefacts" / kind).glob("*.safetensors")) for folder in (broken, whole))
        assert [(p.name, file_sha256(p)) for p in ours] == [(p.name, file_sha256(p)) for p in theirs]
    assert not [p for p in broken.rglob("*") if p.suffix in (".part", ".progress", ".pt")]
