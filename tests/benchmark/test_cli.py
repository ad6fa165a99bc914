"""The frame of all commands: how they end, and what a wrong word is answered with."""

import ast
import contextlib
import io
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from benchmark.budget import OutOfBudgetError
from benchmark.cli import run_cli
from benchmark.passwords import write_discreetly

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command"])


@pytest.mark.parametrize(("error", "code", "line"), [
    (KeyboardInterrupt(), 130, "stopped; run the same command again to continue."),
    (OutOfBudgetError("3 trials"), 3, "left by the budget: 3 trials; run the same command again to continue."),
])  # fmt: skip
def test_a_command_that_is_ended_says_one_line_and_has_an_exit_code_of_its_own(error, code, line, capsys):
    def ended():
        raise error

    with pytest.raises(SystemExit) as exit:
        run_cli(ended)
    assert exit.value.code == code
    assert capsys.readouterr().err == f"{line}\n"


@pytest.mark.parametrize("own", [None, "7"])
def test_threads_that_wait_give_way_before_torch_is_imported(own, tmp_path):
    """libgomp reads the variable when it is loaded."""
    code = (
        "import os, sys; sys.argv = ['run', 'benchmark']\n"
        "from benchmark.cli import run_cli\n"
        "import benchmark.run, benchmark.search.__main__\n"
        "run_cli(lambda: print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT']))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment |= {"PYTHONPATH": str(ROOT)} | ({} if own is None else {"GOMP_SPINCOUNT": own})
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == f"False {own or 10_000}\n", done.stderr


def test_a_traceback_comes_on_request_alone(monkeypatch):
    def wrong():
        raise ValueError("no")

    with pytest.raises(SystemExit):
        run_cli(wrong)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.delenv("BENCHMARK_ONE_LINE_ERRORS")
    with pytest.raises(ValueError, match="no"):
        run_cli(wrong)


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


def test_a_warning_of_the_suite_is_one_line_without_its_place(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    run_cli(lambda: None)
    shown = warnings.formatwarning("Nothing is selected.", UserWarning, "methods/ssd.py", 57)
    assert shown == "warning: Nothing is selected.\n"
    shown = warnings.formatwarning("old", FutureWarning, "/x/site-packages/y.py", 3)
    assert shown == "/x/site-packages/y.py:3: FutureWarning: old\n"


STORAGE = "postgresql://me:p4ss/w@rd@host/db"


@pytest.mark.parametrize("wrong", [False, True])
def test_no_password_is_printed(wrong, monkeypatch, capsys):
    monkeypatch.setenv("KAGGLE_KEY", "0123456789abcdef")

    def command():
        print(f"watch {STORAGE} with {os.environ['KAGGLE_KEY']}")
        logging.getLogger("x").warning("open %s?password=sesame", STORAGE)
        if wrong:
            raise ValueError(f"Expected search.storage to be …, but got {STORAGE}.")

    root = logging.getLogger()
    level = root.level
    monkeypatch.setattr(root, "handlers", [])  # so that the command has its own, and later tests have none of it
    with pytest.raises(SystemExit) if wrong else contextlib.nullcontext():
        run_cli(command)
    root.setLevel(level)
    printed = "".join(capsys.readouterr())
    assert printed.count("postgresql://me:***@host/db") == 2 + wrong
    assert not [word for word in ("p4ss", "w@rd", "sesame", "0123456789abcdef") if word in printed]


def test_a_letter_that_the_terminal_does_not_have_ends_nothing():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    write_discreetly(stream)
    print("α ∈ [0.1, 100]", file=stream, flush=True)
    assert raw.getvalue() == b"\\u03b1 \\u2208 [0.1, 100]\n"


def is_text_of_any_encoding(call: ast.Call) -> bool:
    """Whether a call opens a text file with the encoding of the locale."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    owner = getattr(getattr(call.func, "value", None), "id", "")
    named = {keyword.arg for keyword in call.keywords} & {"encoding"}
    if name in ("read_text", "write_text"):
        return not named and len(call.args) <= (name == "write_text")
    if name != "open" or owner in ("Image", "file", "os"):
        return False
    return not named and not any("b" in str(getattr(word, "value", "")) for word in call.args)


def test_text_files_are_utf8_whatever_the_locale():
    files = [
        path
        for folder in ("benchmark", "datasets", "methods", "metrics", "scripts")
        for path in (ROOT / folder).rglob("*.py")
    ]
    calls = [
        (path.name, node)
        for path in files
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
    ]
    assert len(calls) > 1000
    assert [f"{name}:{call.lineno}" for name, call in calls if is_text_of_any_encoding(call)] == []
