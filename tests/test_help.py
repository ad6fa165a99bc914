"""Every command starts its help with examples, and the documented completion completes."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WITH_TORCH = ("scripts.download_data", "scripts.verify_results")
MAINS = [*sorted(ROOT.glob("benchmark/*/__main__.py")), *sorted(ROOT.glob("scripts/[a-z]*.py"))]


def examples(text: str) -> list[str]:
    """Return the commands in the first block of indented lines."""
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("  "))
    block = lines[start : next((n for n in range(start, len(lines)) if not lines[n].strip()), len(lines))]
    return [line for line in block if re.match(r" +(\w+=\S+ )?(python -m|make)\b", line)]


@pytest.mark.parametrize("path", MAINS, ids=[str(path.relative_to(ROOT)) for path in MAINS])
def test_help_starts_with_five_examples(path):
    text = ast.get_docstring(ast.parse(path.read_text()), clean=False) or ""
    assert len(examples(text)) >= 5
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("path", MAINS, ids=[str(path.relative_to(ROOT)) for path in MAINS])
def test_help_needs_no_torch_and_leaves_no_file(path, tmp_path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    unneeded = set() if module in WITH_TORCH else {"torch", "optuna", "pandas", "matplotlib"}
    code = (
        f"import atexit, runpy, sys; sys.argv = ['', '--help']; "
        f"atexit.register(lambda: print('imported', *{unneeded} & set(sys.modules))); "
        f"runpy.run_module({module!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"python -m {module} " in done.stdout
    assert done.stdout.splitlines()[-1] == "imported"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("reproduce-table2 METHOD=ssd", "variables among METHODS MODEL SEEDS .*, but got METHOD"),
        ("search search=finetune", "SEARCH, but got search"),
        ("search WORKERS=2", "no WORKERS for a search"),
    ],
)
def test_make_refuses_what_it_would_not_heed(words, message):
    done = subprocess.run(["make", "--dry-run", "PY=x", *words.split()], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode
    assert re.search(message, done.stderr)


def test_the_table_that_needs_an_account_keeps_nothing_else_from_being_made():
    words = ["make", "--dry-run", "--old-file=.venv/.ready", "PY=x", "reproduce-all"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    made = re.findall(r"x -m benchmark.*?(?:experiment=| )(table\w+|ablation|claims|answer)", done.stdout)
    assert made[-6:] == ["ablation", "claims", "answer", "table4", "claims", "answer"]


def test_the_help_of_a_run_does_too():
    header = yaml.safe_load((ROOT / "configs" / "run.yaml").read_text())["hydra"]["help"]["header"]
    assert len(examples(header)) == 5


@pytest.mark.slow
def test_the_documented_completion_lists_the_methods(tmp_path):
    script = (ROOT / "configs" / "README.md").read_text().split("## Completion")[1].split("```")[1].partition("\n")[2]
    script = script.replace(".venv/bin/unlearn", f"{tmp_path}/unlearn").replace("exec python", f"exec {sys.executable}")
    script += 'COMP_LINE="unlearn method=f"; COMP_CWORD=1; hydra_bash_completion; echo ${COMPREPLY[@]}'
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["method=finetune", "method=fisher"], done.stderr
