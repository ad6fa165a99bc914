"""The command itself: help, errors in one line, and what it never imports."""

import ast
import subprocess
import sys

import pytest
from report_cases import ROOT

from benchmark.report.__main__ import with_search_path

TRACE = """
import sys
sys.argv = ["benchmark.report", *{arguments}]
from benchmark.report.__main__ import main
main()
print("imported", *sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


def imported(results, *arguments: str) -> set[str]:
    """Return the top-level packages that a command has imported at its end."""
    code = TRACE.format(arguments=arguments)
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=results.parent, env={"PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    return set(run.stdout.splitlines()[-1].split())


def test_a_table_of_committed_records_needs_neither_torch_nor_matplotlib(results):
    packages = imported(results, "table=selectivity", "profile=quick")
    assert not packages & {"torch", "torchvision", "timm", "sklearn", "scipy", "matplotlib", "safetensors", "optuna"}


def test_help_needs_no_pandas_and_no_hydra_compose(results):
    assert not imported(results, "--help") & {"torch", "pandas", "matplotlib", "optuna"}


def test_a_figure_and_claims_need_no_torch():
    """Nothing in the package names it, nor anything that imports it."""
    allowed = {"benchmark.cell", "benchmark.cli", "benchmark.compose", "benchmark.files", "benchmark.records"}
    for path in (ROOT / "benchmark" / "report").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in map(str, names):
                assert name.partition(".")[0] not in ("torch", "methods", "metrics"), (path, name)
                if name.startswith("benchmark.") and not name.startswith("benchmark.report"):
                    assert name in allowed, (path, name)


def test_help_shows_every_kind(report):
    code, printed = report("--help")
    assert code == 0
    for word in ("table=2", "figure=2", "requests", "claims", "drop=", "fresh=true", "out="):
        assert word in printed
    assert report()[1] == printed


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["profile=quick"], "Expected table=…"),
        (["table=2", "--quick"], "Expected key=value, but got '--quick'; try --help."),
        (["table=nine"], "nine"),
        (["table=2", "profile=quick", "recipe.epoch=3"], "epoch"),
    ],
)
def test_an_error_is_one_line(arguments, expected, report, tmp_path):
    code, printed = report(*arguments)
    assert code == 1
    assert printed.startswith("error: ")
    assert expected in printed
    assert len(printed.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_configurations_may_stand_anywhere(tmp_path):
    expected = [f"hydra.searchpath=[file://{tmp_path}]", "table=a b"]
    assert with_search_path(["--config-dir", str(tmp_path), "table=a b"]) == expected
    assert with_search_path([f"--config-dir={tmp_path}", "table=a b"]) == expected
    assert with_search_path(["table=2"]) == ["table=2"]
