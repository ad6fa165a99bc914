"""The code that a configuration may name: this project's, and that of the plug-ins of the command line."""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from benchmark.sources import found_file, leaves, module_of

OWN = ("benchmark", "datasets", "methods", "metrics")
NAMES_CODE = re.compile(r"(.*\.)?_target_|dataset\.classes\.\w+|hydra\.\w+_logging\..*\.(class|\(\))")
OF_HYDRA = re.compile(r"hydra\.(launcher|sweeper)\._target_|hydra\.\w+_logging\..*")  # may name code of `hydra`


def check_targets(config: Mapping[str, Any], plugins: Sequence[str] = ()) -> None:
    """Raise ValueError if a `_target_` in a configuration, or a path of class names, names other code.

    That is code of no package in `OWN` or `plugins`, or something that the named module takes from elsewhere, such as
    `benchmark.models.torch.load`. Nothing is imported.

    Args:
        config: plain values, interpolations as they stand.
    """
    for name, value in leaves(config):
        package = str(value).partition(".")[0]
        if value is None or not NAMES_CODE.fullmatch(name):
            continue
        if OF_HYDRA.fullmatch(name) and package in ("hydra", "hydra_plugins", "logging"):
            continue
        if package not in (*OWN, *plugins):
            hint = f"; if you trust it, add plugins=[{package}] to the command" if package.isidentifier() else ""
            raise ValueError(f"Expected {name} to name code of this project or of a plug-in, but got {value!r}{hint}.")
        if module_of(str(value)) is None:
            raise ValueError(
                f"Expected {name} to name a module of {package} and something in it, but got {value!r}, which has no "
                f"file; check the name, and that the folder above {package} is the current one or in PYTHONPATH."
            )
        if not is_defined(str(value)):
            raise ValueError(
                f"Expected {name} to name what a module of {package} defines itself, but got {value!r}; name the "
                f"module that defines it."
            )


@cache
def is_defined(target: str) -> bool:
    """Return whether `module.name`, or `module.Class.name`, is defined in the module or taken from its own package."""
    module = module_of(target)
    if module is None:
        return False
    name, *inner = target.split(".")[len(module.split(".")) :]
    file = found_file(module)
    try:
        body = list(statements(ast.parse(file.read_bytes())))
    except SyntaxError as error:
        raise ValueError(f"Expected Python code in {file}, but line {error.lineno} is none: {error.msg}.") from error
    if inner:
        owners = [node for node in body if isinstance(node, ast.ClassDef) and node.name == name]
        return len(inner) == 1 and any(
            isinstance(f, ast.FunctionDef) and f.name == inner[0] for c in owners for f in c.body
        )
    return any(defines(node, name, module) for node in body)


def statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the statements of a module, those under a condition too."""
    for node in tree.body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from (part for part in ast.walk(node) if isinstance(part, ast.stmt))


def defines(node: ast.stmt, name: str, module: str) -> bool:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name == name
    if isinstance(node, ast.Assign | ast.AnnAssign):
        places = node.targets if isinstance(node, ast.Assign) else [node.target]
        return any(getattr(place, "id", None) == name for place in places)
    if not isinstance(node, ast.ImportFrom):
        return False
    is_package = found_file(module).name == "__init__.py"
    folder = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
    source = ".".join([*folder, *filter(None, [node.module])])
    if source.partition(".")[0] != module.partition(".")[0] or source == module:
        return False
    return any(
        is_defined(f"{source}.{name}")
        if alias.name == "*"
        else (alias.asname or alias.name) == name and is_defined(f"{source}.{alias.name}")
        for alias in node.names
    )


def check_composed(config: DictConfig, overrides: Sequence[str]) -> None:
    """Raise ValueError for foreign code, for plug-ins that a file declares, and for variables that a file sets.

    Args:
        config: with Hydra's own node.
        overrides: of the command line.
    """
    raw: Any = OmegaConf.to_container(config)
    declared = {word.lstrip("+").partition("=")[0] for word in overrides} & {"plugins"}
    hydra = raw.get("hydra") or {}
    if (raw.get("plugins") and not declared) or "plugins" in (hydra.get("sweeper", {}).get("params") or {}):
        raise ValueError("Expected plugins=[…] on the command line alone, but a file of the configuration has it.")
    if hydra.get("job", {}).get("env_set"):
        raise ValueError("Expected no hydra.job.env_set, but got one; set variables in the shell.")
    check_targets(raw, raw.get("plugins") or ())
