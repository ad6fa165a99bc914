"""Trainings that are killed, and what they leave."""

from pathlib import Path

import pytest
import torch
from command_line import TINY
from hydra import compose, initialize_config_dir

from benchmark.checkpoints import store_of, train_original
from benchmark.compose import CONFIGS
from benchmark.oldcell import OldCell as Cell
from benchmark.resume import KeptTraining

ALWAYS = "compute.progress_seconds=0"


class Killed(BaseException):
    """What no `except Exception` stops."""


def make_cell(folder: Path, *overrides: str) -> Cell:
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        return Cell(compose("run", [*TINY, "recipe.epochs=4", ALWAYS, f"output_dir={folder}", *overrides]))


def equal(one, other) -> bool:
    """Return whether two nested values are the same, tensors bit for bit and in the same memory layout."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.stride() == other.stride() and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def kept_states(folder: Path) -> list[dict]:
    return [torch.load(path, weights_only=True) for path in sorted(folder.rglob("*.progress/*/*.pt"))]


def stop_after(epoch: int, monkeypatch: pytest.MonkeyPatch):
    """Let every training end in a kill at the end of `epoch`, before its state is kept."""
    keep = KeptTraining.keep

    def killed(self, now, *state):
        if now == epoch:
            raise Killed
        keep(self, now, *state)

    monkeypatch.setattr(KeptTraining, "keep", killed)


def broken_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Cell, Path]:
    """Return the cell of a training that was killed and the file it left."""
    cell = make_cell(folder)
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Killed):
            train_original(cell)
    (path,) = store_of(cell).progress("original", cell.original_key).rglob("*.pt")
    return cell, path
