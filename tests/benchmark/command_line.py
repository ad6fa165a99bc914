"""Run the suite's commands inside the test process, on cells that take a moment."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
from omegaconf import OmegaConf

from benchmark import run
from benchmark.cell import Cell
from benchmark.cli import run_cli
from benchmark.compose import cells_of, initialised
from benchmark.report.__main__ import main as report_main
from benchmark.training_state import StoredTraining

TINY = ["dataset.subset.train_images=60", "dataset.subset.test_images=30", "model.width=2", "recipe.epochs=1"]


def run_command(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch, main: Callable = run.main) -> int:
    """Return the exit code of `python -m benchmark.run arguments`; what it prints goes to capsys."""
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    try:
        with patch.dict(os.environ):  # the command sets variables for its workers
            run_cli(main, cells_of=cells_of)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    return 0


def make_table(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the exit code of `python -m benchmark.report arguments`."""
    return run_command(arguments, monkeypatch, main=report_main)


def records_of(output_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((output_dir / "records").glob("*.json"))}


@cache
def composed(*overrides: str) -> list[Cell]:
    with initialised():
        return cells_of(overrides)


def make_cells(folder: Path, *overrides: str, base: Sequence[str] = TINY) -> list[Cell]:
    """Return new cells of a sweep below `folder`; composed once per sweep."""
    own = {"output_dir": str(folder)}
    return [Cell(OmegaConf.merge(cell.config, own), cell.overrides) for cell in composed(*base, *overrides)]


def make_cell(folder: Path, *overrides: str, base: Sequence[str] = TINY) -> Cell:
    (cell,) = make_cells(folder, *overrides, base=base)
    return cell


class Killed(BaseException):
    """What no `except Exception` stops."""


def killed_in_epoch(n: int, call: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call a function whose training ends in a kill at the end of its n-th epoch, before its state is written."""
    keep = StoredTraining.keep

    def killed(self, epoch, *state):
        if epoch == n:
            raise Killed
        keep(self, epoch, *state)

    with monkeypatch.context() as patch:
        patch.setattr(StoredTraining, "keep", killed)
        with pytest.raises(Killed):
            call()
