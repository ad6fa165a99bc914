"""The command `benchmark.report` in a folder of its own, with finished records or with the committed results."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import run_command
from report_cases import GRID, ROOT, compose, write_records

from benchmark.report import __main__ as command

Report = Callable[..., tuple[int, str]]


@pytest.fixture(scope="session", autouse=True)
def _composed_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmark.report.query.cells_of", lambda overrides: list(compose(*overrides)))
        yield


@pytest.fixture
def report(tmp_path, monkeypatch, capsys) -> Report:
    """arguments -> (exit code, all that `python -m benchmark.report arguments` printed), in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str]:
        code = run_command(arguments, monkeypatch, main=command.main)
        return code, "".join(capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def house(tmp_path_factory) -> Path:
    """A folder with runs/, a record for every cell of GRID, and the table of them in results/."""
    folder: Path = tmp_path_factory.mktemp("house")
    write_records(*GRID, folder=folder / "runs")
    before = Path.cwd()
    os.chdir(folder)
    command.report(["table=demo", *GRID])
    os.chdir(before)
    return folder


@pytest.fixture
def finished(house, tmp_path) -> Path:
    """The folder runs/ with a record for every cell of GRID, no table."""
    return Path(shutil.copytree(house / "runs", tmp_path / "runs"))


@pytest.fixture
def committed(house, tmp_path) -> Path:
    """The folder results/demo-paper-quick with the table of GRID, and no runs/."""
    return Path(shutil.copytree(house / "results", tmp_path / "results")) / "demo-paper-quick"


@pytest.fixture
def results(tmp_path) -> Path:
    """A copy of the repository's results/."""
    folder = tmp_path / "results"
    shutil.copytree(ROOT / "results", folder, ignore=shutil.ignore_patterns("search-*", "speed"))
    return folder
