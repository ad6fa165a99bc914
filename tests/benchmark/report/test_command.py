"""The command itself: its arguments, errors in one line, and what it never imports."""

import subprocess
import sys
from pathlib import Path

import pytest
from report_cases import ROOT

from benchmark.report.__main__ import read_arguments

TRACE = """
import sys
sys.argv = ["benchmark.report", *{arguments}]
from benchmark.report.__main__ import main
main()
print("imported", *sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


def test_a_table_imports_only_what_it_needs(results):
    arguments = ["table=selectivity", "profile=narrow"]
    unneeded = {"torch", "torchvision", "timm", "sklearn", "scipy", "matplotlib", "safetensors", "optuna"}
    run = subprocess.run(
        [sys.executable, "-c", TRACE.format(arguments=arguments)], cwd=results.parent, env={"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not set(run.stdout.splitlines()[-1].split()) & unneeded


def test_help_shows_every_kind(report):
    code, printed = report("--help")
    assert code == 0
    for word in ("-m method.alpha=1,3,10", "table=2", "figure=2", "requests", "claims", "answer=", "drop=", "out="):
        assert word in printed
    assert report()[1] == printed


def test_options_and_overrides_are_told_apart():
    *_, options, overrides = read_arguments(["table=2", "drop=a,b", "~method@reference", "table.title=x"])
    assert options == {"drop": "a,b"}
    assert overrides == ["~method@reference", "table.title=x"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["profile=quick"], "Expected table=…, figure=…, requests, claims, answer=…, page or -m, but got none"),
        (["table="], "Expected table=…"),
        (["table=2", "requests"], "but got table and requests"),
        (["table=2", "--quick"], "Expected key=value, but got '--quick'; try --help."),
        (["table=nine"], "nine"),
        (["table=2", "profile=foo"], "foo"),
        (["table=2", "profile=quick", "recipe.epoch=3"], "epoch"),
        (["claims", "profile=foo"], "Expected profile=full or narrow or quick, but got 'foo'"),
        (["claims", "protocol=loose"], "Expected protocol=paper or strict, but got 'loose'"),
        (["claims", "profile=full"], "Expected tables in results/*-paper-full, but there are none; run make"),
        (["answer=foo"], "Expected answer=full or narrow or quick, but got 'foo'"),
        (["answer=quick", "drop=a"], "Expected answer=PROFILE with out=… and output_dir=… alone, but got 'drop=a'"),
        (["answer=quick", "experiment=fild"], "Expected experiment=ablation or demo or "),
        (["answer=quick"], "Expected records of SSD and of the retrained model under profile=quick"),
        (
            ["answer=quick", f"--config-dir={Path(__file__).parent}"],
            "Expected records of SSD and of the retrained model under profile=quick",
        ),
        (
            ["claims", f"--config-dir={Path(__file__).parent}"],
            "Expected tables in results/*-paper-full, but there are none; run make",
        ),
        (
            ["figure=distance", "experiment=field", "profile=quick"],
            "in results/field-paper-quick, but there are none; run python -m benchmark.report table=field",
        ),
        (["claims", "drop=a"], "Expected claims with protocol=…, profile=… and out=… alone, but got 'drop=a'"),
    ],
)
def test_an_error_is_one_line_and_nothing_is_written(arguments, expected, report, tmp_path):
    code, printed = report(*arguments)
    assert code == 1
    assert printed.startswith("error: ")
    assert expected in printed
    assert len(printed.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
