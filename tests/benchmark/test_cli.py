"""The frame of all commands: how they end, and what a wrong word is answered with."""

import sys

import pytest

from benchmark.budget import OutOfBudgetError
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


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize("option", ["--config-dir={}", "hydra.searchpath=[file://{}]"])
def test_aliases_that_never_end_are_an_error(option, tmp_path, monkeypatch, capsys):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "plain.yaml").write_text("a: &a [1]\nb: *a\nc: &c [*c]\n")
    monkeypatch.setattr(sys, "argv", ["command", option.format(tmp_path)])
    run_cli(lambda: None)
    (tmp_path / "method" / "bomb.yaml").write_text(BOMB)
    with pytest.raises(SystemExit):
        run_cli(lambda: pytest.fail("composed"))
    assert "bomb.yaml, but its aliases stand for more.\n" in capsys.readouterr().err


def test_a_budget_that_ends_is_exit_code_3(capsys):
    def ended():
        raise OutOfBudgetError("3 of 5 trials")

    with pytest.raises(SystemExit) as exit:
        run_cli(ended)
    assert exit.value.code == 3
    assert capsys.readouterr().err == "left by the budget: 3 of 5 trials; run the same command again to continue.\n"
