"""A folder of results/ as the page sees it: to which section it belongs, what it is called, what it holds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from benchmark.compose import CONFIGS
from benchmark.records import RunRecord, read_lines
from benchmark.report.query import RECORDS, read_memory

NAMED = {name: name for name in ("answer", "claims", "paper", "requests", "search", "speed")} | {"searches": "search"}
PROFILES = ("full", "narrow", "quick")  # the order on the page; a folder of another one, or of none, comes last


@dataclass(frozen=True)
class Folder:
    """A folder of committed results."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def section(self) -> str:
        """That of its first word in `NAMED`, `compared` with published numbers, `tables`, or `figures` for all else."""
        first = self.name.partition("-")[0]
        if first in NAMED:
            return NAMED[first]
        return "compared" if self.has("verdict.csv") else "tables" if self.has("table.csv") else "figures"

    @cached_property
    def title(self) -> str:
        """The bold words that open its Markdown, else the title of its experiment, else its name."""
        for path in sorted(self.path.glob("*.md"), key=lambda path: path.name != "table.md"):
            if found := re.match(r"\*\*(.+?)\.?\*\*|# (.+)", path.read_text("utf-8")):
                return found[1] or found[2]
        experiment = Path(CONFIGS) / "experiment" / f"{read_memory(self.path).get('experiment')}.yaml"
        title = OmegaConf.select(OmegaConf.load(experiment), "table.title") if experiment.is_file() else None
        return str(title or self.name.replace("-", " ").capitalize())

    @cached_property
    def records(self) -> list[RunRecord]:
        return read_lines(self.path / RECORDS)

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def text(self, name: str) -> str:
        """Return the text of a file, nothing if there is no such file."""
        return (self.path / name).read_text("utf-8") if self.has(name) else ""

    def files(self, ending: str) -> list[Path]:
        return sorted(path for path in self.path.iterdir() if path.suffix == ending)

    def frame(self, name: str) -> pd.DataFrame:
        """Return a CSV as a table; only an empty field is a missing value, and targets are names."""
        names = dict.fromkeys(("target", "newest", "records"), str)
        return pd.read_csv(self.path / name, dtype=names, keep_default_na=False, na_values=[""])


def folders_of(results: Path) -> Sequence[Folder]:
    """Return the folders of `results` by profile, the paper's scale first, and name."""
    folders = [Folder(path) for path in sorted(results.iterdir()) if path.is_dir()]
    return sorted(folders, key=lambda folder: [profile not in folder.name.split("-") for profile in PROFILES])
