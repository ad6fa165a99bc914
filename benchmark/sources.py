"""The code and the files that decide a run's numbers beside its configuration; no torch, nothing is imported."""

import ast
import hashlib
import logging
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from datasets.files import content_of

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[1]
SHARED = {"base", "timing", "training"}  # modules that all methods or metrics share: a change of them only warns
FOLDERS = ("benchmark", "configs", "datasets", "methods", "metrics")  # code and files that a run reads


def sources_of(nodes: Mapping[str, Any], *, own: bool = False, files: bool = True) -> dict[str, str]:
    """Return a hash for each module that a `_target_` in `nodes` names, and for each file that an option names.

    Of this project's modules only those of the nodes themselves count, and only if `own`; others always do.

    Args:
        nodes: plain values by name.
        files: False if other names stand for the files already: the fingerprint of the data, the hash of the weights.
    """
    found: dict[str, str] = {}
    for name, node in nodes.items():
        for path, value in leaves(node, name):
            if path.endswith("._target_"):
                if (module := module_of(value)) is None:
                    continue
                if (own and path == f"{name}._target_") or not is_ours(module):
                    found[module] = module_hash(module)
            elif files and isinstance(value, str) and "." in value and (file := Path(value)).is_file():
                found[path] = content_of(file)[:16]
    return found


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value below `node` with its dotted path, which starts with `path`."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else None
    if items is None:
        yield path, node
        return
    for key, item in items:
        yield from leaves(item, f"{path}.{key}" if path else str(key))


@cache
def module_of(target: str) -> str | None:
    """Return the longest start of `target` that is a Python file, but not all of it; None if there is none."""
    parts = target.split(".")
    starts = (".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1))
    return next((start for start in starts if found_file(start).suffix == ".py"), None)


@cache
def found_file(name: str) -> Path:
    """Return the file of a module, its folder if it has none; an empty path if there is no such module."""
    first, *rest = name.split(".")
    try:
        spec = find_spec(first)
    except ValueError:  # __main__
        spec = None
    if spec is None:
        return Path()
    place = Path(spec.origin or next(iter(spec.submodule_search_locations or ()), ""))
    for part in rest:  # a parent is not imported, unlike by find_spec
        folder = place.parent if place.name == "__init__.py" else place
        options = (folder / f"{part}.py", folder / part / "__init__.py", folder / part)
        found = next((path for path in options if path.exists()), None)
        if found is None:
            return Path()
        place = found
    return place.resolve()


def is_ours(module: str) -> bool:
    """Return whether a module belongs to this project, so that `suite_hash` covers it."""
    return module.partition(".")[0] in FOLDERS and found_file(module).is_relative_to(ROOT)


@cache
def module_hash(name: str) -> str:
    """Return a hash of a module and of all beside it that it rests on by its imports, of ours without `SHARED`.

    Of a package of others all files count. Comments, docstrings and layout do not. Of an installed one all that was
    installed with it counts, as it is: that can be a large library. Empty for a module without a file.
    """
    path = found_file(name)
    if path.suffix != ".py":
        return ""
    if "site-packages" in path.parts:  # its neighbours are other people's packages
        together = [distribution(each) for each in packages_distributions().get(name.partition(".")[0], ())]
        installed = [at for one in together for at in one.files or () if at.suffix == ".py"]
        return joint_hash({str(at): content_of(Path(at.locate())) for at in installed} or {name: content_of(path)})
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    root, top = path.parent, found_file(name.partition(".")[0])
    if top.name == "__init__.py" and not is_ours(name):
        root = top.parent
        return joint_hash({str(file.relative_to(root)): plain_code(file) for file in files_of(root)})
    files, waiting, left_out = set(), [path], SHARED if is_ours(name) else set()
    while waiting:
        if (file := waiting.pop()) not in files:
            files.add(file)
            waiting += (at for other in imported(file, package) - left_out for at in files_of(root / other))
    return joint_hash({str(file.relative_to(root)): plain_code(file) for file in files})


def imported(path: Path, package: str) -> set[str]:
    """Return the modules and packages that a file imports from its own package, by their names inside it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level < 2:
            start = ".".join(filter(None, (package if node.level else "", node.module)))
            names |= {start, *(f"{start}.{alias.name}" for alias in node.names)}
    own = f"{package}." if package else ""
    return {other.removeprefix(own).split(".")[0] for other in names if other.startswith(own)}


def files_of(place: Path) -> list[Path]:
    """Return the file of the module at `place` without its suffix, or all files of the package there, or none."""
    if (place / "__init__.py").is_file():
        return sorted(place.rglob("*.py"))
    return [file] if (file := place.with_suffix(".py")).is_file() else []


def plain_code(path: Path) -> str:
    """Return a file's code without comments, docstrings and layout; all of a file that is none, such as a template."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        return path.read_text("utf-8", errors="replace")
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not is_text(part)]
    return ast.unparse(tree)


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@cache
def suite_hash() -> str:
    """Return a hash of the Python and YAML files in `FOLDERS`, committed or not, as at the first call."""
    paths = [path for folder in FOLDERS for kind in ("*.py", "*.yaml") for path in (ROOT / folder).rglob(kind)]
    return joint_hash({str(path.relative_to(ROOT)): content_of(path) for path in paths if path.is_file()})


def joint_hash(texts: Mapping[str, str]) -> str:
    """Return 16 hex digits that name texts by their names."""
    return hashlib.sha256(repr(sorted(texts.items())).encode()).hexdigest()[:16]


def changes(made_with: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the names of modules and files that differ from those that something was made with."""
    return sorted(name for name in {**made_with, **now} if made_with.get(name) != now.get(name))


def outdated(made_with: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the names in `now` that something was made without or with another version of; it may hold more."""
    return sorted(name for name, value in now.items() if made_with.get(name) != value)


@cache
def say_changed(names: tuple[str, ...]) -> None:
    """Say in one line why results are made again, once per process."""
    log.warning("made with another version of %s: making it again (reuse=true keeps it)", ", ".join(names))


@cache
def say_other_suite(commit: str) -> None:
    """Say in one line that results of another version of this suite count, once per process and version."""
    log.warning("using results of another version of this suite, commit %s (force=true makes them again)", commit[:8])
