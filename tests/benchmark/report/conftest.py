"""The command `benchmark.report` in a folder of its own, with finished records or with the committed results."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from report_cases import GRID, ROOT, compose, first, record_of

from benchmark.cli import run_cli
from benchmark.report.__main__ import main


@pytest.fixture(autouse=True)
def composed_once(monkeypatch) -> None:
    """The same overrides give the same cells; composing them takes most of a test's time."""
    monkeypatch.setattr("benchmark.report.query.cells_of", lambda overrides: list(compose(*overrides)))
    monkeypatch.setattr("benchmark.report.query.first_cell", lambda overrides: first(*overrides))


@pytest.fixture
def report(tmp_path, monkeypatch, capsys) -> Callable[..., tuple[int, str]]:
    """arguments -> (exit code, all that `python -m benchmark.report arguments` printed), in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["benchmark.report", *arguments])
        code: object = 0
        with monkeypatch.context() as patch:
            patch.delenv("HYDRA_FULL_ERROR", raising=False)
            try:
                run_cli(main)
            except SystemExit as end:
                code = end.code
        printed = "".join(capsys.readouterr())
        return (1, printed + code) if isinstance(code, str) else (int(code or 0), printed)

    return call


@pytest.fixture
def finished(tmp_path) -> Path:
    """The folder runs/ with a record for every cell of GRID."""
    for cell in compose("experiment=demo", *GRID):
        record_of(cell).write(tmp_path / "runs" / "records")
    return tmp_path / "runs"


@pytest.fixture
def results(tmp_path) -> Path:
    """A copy of the repository's results/."""
    folder = tmp_path / "results"
    shutil.copytree(ROOT / "results", folder, ignore=shutil.ignore_patterns("search-*", "speed"))
    return folder
