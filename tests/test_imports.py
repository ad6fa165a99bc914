"""Imports point one way, without a circle, and importing does nothing else."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("benchmark", "datasets", "methods", "metrics", "scripts")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}

# A module may import those of its own room and of the rooms on its right; the longest name that fits is its room.
FILES = ("benchmark.budget", "benchmark.files", "benchmark.sources", "datasets.files")
CELL = (*(f"benchmark.{name}" for name in ("cell", "passwords", "resolvers", "schema", "targets")),
        *(f"datasets.{name}" for name in ("files", "targets", "values")))  # fmt: skip
LIBRARY = ("datasets", "methods", "metrics")
BASE = ("benchmark.device", "benchmark.models", "benchmark.artefacts", *CELL, *FILES, *LIBRARY)
GRID = ("benchmark.compose", "benchmark.composer", "benchmark.records", "benchmark.cli", *CELL, *FILES)
BENCH = ("benchmark.workbench", "benchmark.training_state", *BASE)
PIPELINE = ("benchmark.evaluate", "benchmark.records", *BENCH)
MAY_IMPORT = {
    "datasets": (),
    "metrics": (),
    "methods": ("datasets",),
    "methods.dampening": (),
    "benchmark.budget": (),
    "benchmark.files": FILES,
    "benchmark.sources": FILES,
    "benchmark.artefacts": FILES,
    "benchmark.passwords": (),
    "benchmark.resolvers": (),
    "benchmark.schema": ("datasets.values",),
    "benchmark.targets": FILES,
    "benchmark.cell": (*CELL, *FILES),
    "benchmark.composer": CELL,
    "benchmark.compose": ("benchmark.composer", *CELL),
    "benchmark.records": FILES,
    "benchmark.records.__main__": GRID,
    "benchmark.cli": ("benchmark.budget", "benchmark.passwords"),
    "benchmark.device": ("methods", *FILES),
    "benchmark.models": ("methods",),
    "benchmark.evaluate": ("datasets", "metrics"),
    "benchmark.relearn": ("benchmark.evaluate", "datasets", "methods", "metrics"),
    "benchmark.training_state": ("methods", *FILES),
    "benchmark.workbench": BENCH,
    "benchmark.progress": ("benchmark.cli",),
    "benchmark.pipeline": ("benchmark.progress", "benchmark.relearn", *PIPELINE),
    "benchmark.run": ("benchmark.pipeline", *GRID, *PIPELINE),
    "benchmark.callback": (
        "benchmark.artefacts",
        "benchmark.workbench",
        "benchmark.pipeline",
        "benchmark.progress",
        *GRID,
    ),
    "benchmark.launcher": ("benchmark.run", "benchmark.callback", "benchmark.pipeline", *GRID, *PIPELINE),
    "benchmark.report": GRID,
    "benchmark.search": ("benchmark.run", "benchmark.pipeline", "benchmark.report", *GRID, *PIPELINE),
    "scripts": PACKAGES,
}
WITHOUT_TORCH = (*(f"benchmark.{name}" for name in ("cell", "compose", "records", "cli", "callback")),
                 *(f"datasets.{name}" for name in ("arrays", "folder", "npz", "pins")))  # fmt: skip


def imports_of(module: str, source: str) -> Iterator[str]:
    """Yield what a module imports, wherever it does; relative names in full. Names for type checkers do not count."""
    tree = ast.parse(source)
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            is_package = MODULES.get(module, Path()).name == "__init__.py"
            folder = module.split(".")[: len(module.split(".")) - node.level + is_package]
            name = ".".join([*(folder if node.level else []), *filter(None, [node.module])])
            yield from (f"{name}.{alias.name}" if f"{name}.{alias.name}" in MODULES else name for alias in node.names)


def is_in(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def room_of(module: str) -> str:
    """Return the longest name in `MAY_IMPORT` that the module lies in; itself for one that has no rule."""
    return max((room for room in MAY_IMPORT if is_in(module, room)), key=len, default=module)


def forbidden(module: str, source: str) -> set[str]:
    """Return what a module imports of the suite against the rules."""
    room = room_of(module)
    allowed = (room, *MAY_IMPORT.get(room, ()))
    ours = {name for name in imports_of(module, source) if name.split(".")[0] in (*PACKAGES, "tests")}
    return {name for name in ours if not any(is_in(name, other) for other in allowed)}


def test_imports_point_one_way():
    wrong = {module: forbidden(module, path.read_text()) for module, path in MODULES.items()}
    assert {module: names for module, names in wrong.items() if names} == {}


def test_every_module_has_a_rule():
    assert [module for module in MODULES if module != "benchmark" and room_of(module) not in MAY_IMPORT] == []
    assert [room for room in MAY_IMPORT if not any(is_in(module, room) for module in MODULES)] == []


def circles(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_benchmark_stands_on_six_floors():
    """A room stands one floor above the highest one that it imports."""
    rooms: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        if is_in(module, "benchmark"):
            names = (name for name in imports_of(module, path.read_text()) if is_in(name, "benchmark"))
            room = ".".join(module.split(".")[:2])
            rooms.setdefault(room, set()).update({".".join(name.split(".")[:2]) for name in names} - {room})
    floors: dict[str, int] = {}
    for room in TopologicalSorter(rooms).static_order():
        floors[room] = 1 + max((floors[other] for other in rooms.get(room, ())), default=0)
    assert max(floors.values()) <= 6, floors


def test_there_is_no_circle():
    graph = {
        module: {name for name in imports_of(module, path.read_text()) if name in MODULES and name != module}
        for module, path in MODULES.items()
    }
    assert circles(graph) == []
    rooms: dict[str, set[str]] = {}
    for module, names in graph.items():
        rooms.setdefault(room_of(module), set()).update(set(map(room_of, names)) - {room_of(module)})
    assert circles(rooms) == []


@pytest.mark.parametrize(
    ("source", "module", "wrong"),
    [
        ("def f():\n    from benchmark.artefacts import Store", "datasets.base", {"benchmark.artefacts"}),
        ("import methods.base", "metrics.base", {"methods.base"}),
        ("import metrics.accuracy as a\nimport datasets", "methods.ssd", {"metrics.accuracy"}),
        ("from ..base import MethodContext", "methods.dampening.dampen", {"methods.base"}),
        ("from benchmark import pipeline", "benchmark.report.table", {"benchmark.pipeline"}),
        ("import scripts.x\nimport tests.y", "benchmark.cell", {"scripts.x", "tests.y"}),
        ("from methods.base import MethodContext\nimport torch", "benchmark.workbench", set()),
        ("if TYPE_CHECKING:\n    from benchmark.run import main", "benchmark.cell", set()),
    ],
)
def test_a_forbidden_import_is_found(source, module, wrong):
    assert forbidden(module, source) == wrong


def test_a_circle_is_found():
    assert set(circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}


IMPORTS = """
import importlib, sys
import numpy
of_numpy = repr(numpy.random.get_state())
light, others = (argument.split(",") for argument in sys.argv[1:])
for name in light:
    importlib.import_module(name)
    assert "torch" not in sys.modules, f"{name} imports torch"
import torch
of_torch = torch.get_rng_state()
for name in others:
    importlib.import_module(name)
assert torch.equal(torch.get_rng_state(), of_torch), "an import drew from torch's global random state"
assert repr(numpy.random.get_state()) == of_numpy, "an import drew from NumPy's global random state"
assert "kaggle" not in sys.modules, "an import imported kaggle, which signs in when it is imported"
"""


def test_importing_everything_has_no_side_effect_and_records_and_names_of_data_need_no_torch(tmp_path):
    programs = ("__main__", "launcher")  # the second needs an engine that is an extra
    names = [module for module in MODULES if module.split(".")[-1] not in programs and "launcher" not in module]
    light = [*WITHOUT_TORCH, *(name for name in names if is_in(name, "benchmark.report"))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", IMPORTS, ",".join(light), ",".join(names)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
