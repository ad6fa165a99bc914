"""Which kept state a training takes up, and which it leaves alone."""

import logging
import pickle
from pathlib import Path

import pytest
import torch
from killed import broken_off, equal, make_cell

from benchmark import resume
from benchmark.checkpoints import train_original
from benchmark.store import file_sha256


def test_a_damaged_state_is_set_aside_and_the_training_starts_anew(tmp_path, monkeypatch, caplog):
    cell, path = broken_off(tmp_path / "broken", monkeypatch)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    state, _ = train_original(cell)
    assert "its hash is not its name" in caplog.text
    assert "continuing" not in caplog.text
    assert len(list(path.parent.glob("*.damaged-*"))) == 1
    assert equal(state, train_original(make_cell(tmp_path / "whole"))[0])


def test_the_older_of_two_states_is_taken_where_the_newer_is_damaged(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    cell, path = broken_off(tmp_path / "broken", monkeypatch)
    path.with_name(f"000003-{'0' * 64}.pt").write_bytes(b"half a file")  # killed before the older one was removed
    state, _ = train_original(cell)
    assert "continuing a training after epoch 2" in caplog.text
    assert equal(state, train_original(make_cell(tmp_path / "whole"))[0])


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_in_place_of_a_state_is_not_executed(tmp_path, monkeypatch, caplog):
    cell, path = broken_off(tmp_path, monkeypatch)
    trap, forged = tmp_path / "executed", tmp_path / "forged"
    torch.save({"epoch": Evil(trap)}, forged)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(forged, weights_only=True)
    forged.replace(path.with_name(f"000009-{file_sha256(forged)}.pt"))
    train_original(cell)
    assert "set aside" in caplog.text
    assert not trap.exists()


def test_another_device_or_code_does_not_continue(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    cell, _ = broken_off(tmp_path, monkeypatch)
    own = resume.provenance(cell.compute)
    for part in ("commit", "torch", "device", "precision", "channels_last", "compile"):
        monkeypatch.setattr(resume, "provenance", lambda compute, part=part: own | {part: "another"})
        train_original(cell)
    assert "continuing" not in caplog.text
    monkeypatch.setattr(resume, "provenance", lambda compute: own | {"finished": "later", "cpu_count": 99})
    train_original(cell)
    assert "continuing a training after epoch 2" in caplog.text


def test_an_edit_of_uncommitted_code_does_not_continue(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    own = resume.provenance(make_cell(tmp_path).compute)

    def as_if(dirty, code):
        monkeypatch.setattr(resume, "provenance", lambda compute: own | {"dirty": dirty})
        monkeypatch.setattr(resume, "code_hash", lambda: code)

    as_if(dirty=True, code="before")
    cell, _ = broken_off(tmp_path, monkeypatch)
    for dirty, code in ((True, "after"), (False, "before")):
        as_if(dirty, code)
        train_original(cell)
    assert "continuing" not in caplog.text
    as_if(dirty=True, code="before")
    train_original(cell)
    assert "continuing a training after epoch 2" in caplog.text


@pytest.mark.parametrize("dirty", [False, None])
def test_committed_or_installed_code_is_named_by_its_commit(dirty, tmp_path, monkeypatch):
    cell = make_cell(tmp_path)
    own = resume.provenance(cell.compute)
    monkeypatch.setattr(resume, "provenance", lambda compute: own | {"dirty": dirty})
    monkeypatch.setattr(resume, "code_hash", pytest.fail)
    resume.kept_training(cell, tmp_path)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 576 vs 534")])
def test_a_full_disk_does_not_stop_a_training(tmp_path, monkeypatch, caplog, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(resume.torch, "save", fail)
    train_original(make_cell(tmp_path))
    assert "going on without" in caplog.text
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("value", ["-1", "often"])
def test_a_wrong_interval_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match="progress_seconds to be a number of seconds"):
        train_original(make_cell(tmp_path, f"compute.progress_seconds={value}"))
