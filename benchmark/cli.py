"""Common parts of all command lines: plain log lines, and one line for an error."""

import difflib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    OmegaConfBaseException,
)  # fmt: skip

from benchmark.budget import EXIT_CODE, OutOfBudgetError
from benchmark.passwords import without_passwords, write_discreetly

CONFIGS = Path(__file__).parents[1] / "configs"
ADD_M = "add -m to run every combination."
MAX_VALUES = 100_000  # of a YAML file
MOST_CHARACTERS = 1000  # of an error: torch names every tensor that does not fit
ONE_LINE = "BENCHMARK_ONE_LINE_ERRORS"
SPINS = "10000"  # of a thread of torch that waits for another, before it lets other work have its core
EXPECTED = (ValueError, TypeError, OSError, FloatingPointError, HydraException, OmegaConfBaseException)


@dataclass(frozen=True)
class Failure:
    """Why a cell has no record."""

    cell: str
    reason: str


class Left(Failure):
    """A cell for which the budget has no time; nothing is wrong with it."""


def run_cli(command: Callable[[], Any], *, cells_of: Callable[[Sequence[str]], Any] | None = None) -> None:
    """Run `command`; an error ends it with one line and exit code 1, or a traceback under HYDRA_FULL_ERROR=1.

    Args:
        cells_of: composes a sweep; it finds what is wrong beside a missing -m.
    """
    show_log()
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when torch is imported; its own 300000 starve a busy machine
    if cells_of is not None:  # runs open no storage, and Hydra keeps the words of a sweep in a file
        sys.argv[1:] = map(without_passwords, sys.argv[1:])
    sys.argv[1:] = options_first(sys.argv[1:])
    if os.environ.get("HYDRA_FULL_ERROR") != "1":
        # Hydra then raises instead of printing several lines; the second variable tells worker processes who asked.
        os.environ |= {"HYDRA_FULL_ERROR": "1", ONE_LINE: "1"}
    try:
        try:
            check_folders(sys.argv[1:])
            command()
        finally:
            sys.stdout.flush()
        return
    except KeyboardInterrupt:
        code, line = 130, "stopped; run the same command again to continue."
    except OutOfBudgetError as error:
        code, line = EXIT_CODE, f"left by the budget: {error}; run the same command again to continue."
    except BrokenPipeError:  # of `| head`: nobody reads the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code, line = 141, ""
    except Exception as error:
        if wants_traceback():
            raise
        reason = describe(error)
        if cells_of is not None and reason.endswith(ADD_M):
            reason = error_of_sweep(cells_of) or reason
        code, line = 1, f"error: {reason}"
    if line:  # here the exception is gone, and with it whatever its frames held: a progress bar on the terminal
        print(line, file=sys.stderr)
    sys.exit(code)


def options_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments, -m and `--config-dir=FOLDER` in front: argparse takes no overrides on both sides of them.

    >>> options_first(["method=ssd", "--config-dir", "mine", "+found=best", "-m"])
    ['--config-dir=mine', '-m', 'method=ssd', '+found=best']
    """
    words = [re.sub(r"^-cd(?==|$)", "--config-dir", word) for word in arguments]
    while "--config-dir" in words[:-1]:
        at = words.index("--config-dir")
        words[at : at + 2] = [f"--config-dir={words[at + 1]}"]
    return sorted(words, key=lambda word: not re.match(r"(-m|--multirun|--config-dir=.*)$", word))


def with_search_path(arguments: Sequence[str]) -> list[str]:
    """Return the arguments, the folder of each `--config-dir` as Hydra's own override.

    Raises:
        ValueError: there is no such folder.
    """
    option, words = "--config-dir=", options_first(arguments)
    for at, word in enumerate(words):
        if word.startswith(option):
            folder = Path(word.removeprefix(option)).resolve()
            if not folder.is_dir():
                raise ValueError(f"Expected --config-dir to name a folder, but {folder} is none.")
            words[at] = f"hydra.searchpath=[file://{folder}]"
    return words


def check_folders(arguments: Sequence[str]) -> None:
    """Raise ValueError for a YAML file of a given folder that composing would never end with: aliases of aliases."""
    for word in re.findall(r"file://([^],]+)", " ".join(with_search_path(arguments))):
        for path in Path(word).rglob("*.yaml"):
            text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
            if "&" not in text or "*" not in text:
                continue
            with suppress(yaml.YAMLError):  # Hydra says it better
                if n_values(yaml.compose(text, Loader=yaml.SafeLoader), {}) > MAX_VALUES:
                    raise ValueError(f"Expected at most {MAX_VALUES} values in {path}, but its aliases stand for more.")


def n_values(node: Any, known: dict[int, int]) -> int:
    """Return how many values a YAML node stands for; `known`: those of the nodes seen, by identity."""
    if id(node) not in known:
        known[id(node)] = 1  # for an alias of its own parent
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        inner = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(n_values(part, known) for part in inner)
    return known[id(node)]


def show_log() -> None:
    """Print the suite's log lines, and of Hydra and its launchers the warnings only; `--info` is a log of Hydra's."""
    for stream in (sys.stdout, sys.stderr):
        write_discreetly(stream)
    warnings.formatwarning = plain_warning
    if {"--info", "-i"} & {word.split("=")[0] for word in sys.argv}:
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("hydra", "hydra_plugins", "fontTools"):
        logging.getLogger(name).setLevel(logging.WARNING)


def plain_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Return a warning of the suite's own without the place in its code, which tells a user nothing."""
    if "site-packages" in Path(filename).parts:
        return f"{filename}:{lineno}: {category.__name__}: {message}\n"
    return f"warning: {message}\n"


def wants_traceback() -> bool:
    """Return whether the user asked for tracebacks."""
    return os.environ.get("HYDRA_FULL_ERROR") == "1" and ONE_LINE not in os.environ


def describe(error: BaseException) -> str:
    """Return one line about an error; of one that Hydra wrapped, the cause."""
    if isinstance(error, OverrideParseException):
        return (
            f"Expected key=value, but got {error.override}; a value with other characters than letters, digits and "
            f"/ - _ . stands in quotes inside quotes: '{error.override.partition('=')[0]}=\"VALUE\"'."
        )
    while isinstance(error, HydraException) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, MissingConfigException) and "/" in str(error.missing_cfg_file):
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        known = list(error.options or sorted(path.stem for path in (CONFIGS / group).glob("*.yaml")))
        hint, there = nearest(name, known), ", ".join(known)
        return f"Expected {group}=… to be one of those in configs/{group}, but got {name!r}{hint}; there are {there}."
    if isinstance(error, ConfigKeyError | ConfigAttributeError) and isinstance(error.parent_node, DictConfig):
        known = [str(name) for name in error.parent_node]
        hint, there = nearest(str(error.key), known), ", ".join(known) or "none"
        if str(error.full_key).startswith("hydra.launcher."):
            there += ", with launcher=local or launcher=ray more"
        return f"Expected a key of the configuration, but got {error.full_key!r}{hint}; there are {there}."
    if isinstance(error, InterpolationKeyError) and (
        found := re.search(r"Interpolation key '(.+?)' not found", str(error))
    ):
        return (
            f"Expected a value for {error.full_key}, but {found[1]}, its default, is not there; set {error.full_key}=…."
        )
    if isinstance(error, OSError) and error.filename is not None:
        return (
            f"Expected to read and write {error.filename}, but could not ({error.strerror}); "
            f"check the path, its permissions and the space left."
        )
    text = re.sub(r"\s+", " ", str(error).split("Config search path:")[0]).strip()
    text = re.sub(r"^ValueError raised while resolving interpolation: (.+?)( full_key: .*)?$", r"\1", text)
    if found := re.search(r"(?:Sweep parameters|Ambiguous value for argument) '(.+?)' ", text):
        return f"Expected one value per option, but got {found[1]}; put a value with a comma in quotes, or {ADD_M}"
    text = text or type(error).__name__
    if text.startswith("Expected more than 1 value per channel when training"):
        text = (
            "Expected at least two images in each batch, since the model normalises over the batch, but got one; set "
            "recipe.batch_size or method.recipe.batch_size so that no single image is left over, or a larger "
            "dataset.size or model.image_size."
        )
    if notes := getattr(error, "__notes__", []):
        text = f"{text} ({'; '.join(notes)})"
    if len(text) > MOST_CHARACTERS:
        text = f"{text[:MOST_CHARACTERS]} … (HYDRA_FULL_ERROR=1 shows the rest)"
    if not isinstance(error, EXPECTED):
        text = f"{type(error).__name__}: {text} (HYDRA_FULL_ERROR=1 shows the traceback)"
    return text


def error_of_sweep(cells_of: Callable[[Sequence[str]], Any]) -> str:
    """Return what would be wrong with this process's command line if it had -m; nothing if it would do."""
    try:
        cells_of([word for word in with_search_path(sys.argv[1:]) if not word.startswith("-")])
    except Exception as error:
        return describe(error)
    return ""


def counted(n: int, noun: str) -> str:
    """Return a number of things.

    >>> counted(1, "cell"), counted(0, "cell"), counted(2, "set of outputs")
    ('1 cell', '0 cells', '2 sets of outputs')
    """
    head, _, rest = noun.partition(" of ")
    return f"{n} {noun}" if n == 1 else f"{n} {head}s of {rest}" if rest else f"{n} {head}s"


def nearest(word: str, known: list[str]) -> str:
    """Return the closest of the known words as a hint, or nothing."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}" if close else ""


def duration(seconds: float) -> str:
    """Return a time for people.

    >>> duration(75), duration(7320)
    ('1 min 15 s', '2 h 2 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
