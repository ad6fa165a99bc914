"""Imports point one way, and importing does nothing else."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "datasets": set(),
    "metrics": set(),
    "methods": {"datasets"},
    "benchmark": {"datasets", "metrics", "methods"},
}
OURS = {*MAY_IMPORT, "scripts", "tests"}
FILES = [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]

IMPORT_ALL = """
import importlib, sys
import numpy, torch
before = torch.get_rng_state(), repr(numpy.random.get_state())
for name in sys.argv[1:]:
    importlib.import_module(name)
assert torch.equal(torch.get_rng_state(), before[0]), "an import drew from torch's global random state"
assert repr(numpy.random.get_state()) == before[1], "an import drew from NumPy's global random state"
assert "kaggle" not in sys.modules, "an import imported kaggle, which signs in when it is imported"
"""


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""


def forbidden(source: str, package: str) -> set[str]:
    roots = {name.split(".")[0] for name in imported(ast.parse(source))}
    return roots & OURS - MAY_IMPORT[package] - {package}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    assert forbidden(path.read_text(), path.relative_to(ROOT).parts[0]) == set()


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_every_package_is_looked_at(package):
    assert sum(path.relative_to(ROOT).parts[0] == package for path in FILES) >= 3


@pytest.mark.parametrize(
    ("source", "package", "wrong"),
    [
        ("def f():\n    from benchmark.store import ArtefactStore", "datasets", {"benchmark"}),
        ("import methods.base", "metrics", {"methods"}),
        ("import metrics.accuracy as a\nimport datasets", "methods", {"metrics"}),
        ("import scripts.x", "benchmark", {"scripts"}),
        ("from methods.base import MethodContext\nimport torch", "benchmark", set()),
    ],
)
def test_a_forbidden_import_is_found(source, package, wrong):
    assert forbidden(source, package) == wrong


def test_importing_everything_has_no_side_effect(tmp_path):
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *modules], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
