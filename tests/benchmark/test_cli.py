"""The frame of all commands: how they end, and what a wrong word is answered with."""

import sys

import pytest

from benchmark.cli import run_cli
from scripts import download_data


@pytest.fixture(autouse=True)
def _arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command"])


def test_an_interrupt_is_one_line_and_130(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as exit:
        run_cli(interrupted)
    assert exit.value.code == 130
    assert capsys.readouterr().err == "stopped; run the same command again to continue.\n"


def test_a_traceback_comes_on_request_alone(monkeypatch):
    def wrong():
        raise ValueError("no")

    with pytest.raises(SystemExit):
        run_cli(wrong)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.delenv("BENCHMARK_ONE_LINE_ERRORS")
    with pytest.raises(ValueError, match="no"):
        run_cli(wrong)


def test_help_for_the_download_makes_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["download_data", "--help"])
    download_data.main()
    assert "download_data [FOLDER]" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
