"""Declared and imported packages agree."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = ("benchmark", "datasets", "methods", "metrics", "scripts")
UNSEEN = {"six"}  # declared for the sake of another package


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: list[str]) -> set[str]:
    return {normalised(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}


def imported(*folders: str) -> set[str]:
    """Return the distributions whose packages any file in the folders imports, at the top or in a function."""
    roots = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                roots.add(node.module.split(".")[0])
    others = packages_distributions()
    third_party = {root for root in roots - {*CODE} if root not in sys.stdlib_module_names}
    return {normalised(others.get(root, [root])[0]) for root in third_party}


def test_declared_and_imported_packages_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    required = declared([*project["dependencies"], *extras["suite"]])
    optional = declared([requirement for name, extra in extras.items() if name != "dev" for requirement in extra])
    found = imported(*CODE)
    assert found - required - optional == set()
    assert required - found - UNSEEN == set()


def test_the_library_needs_torch_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert declared(project["dependencies"]) == {"torch"} == imported("methods/dampening")
