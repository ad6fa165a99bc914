"""What a command line of `benchmark.tables`, `benchmark.figures` or `benchmark.sequence` asks for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import initialize_config_dir

from benchmark.compose import CONFIGS
from benchmark.grid import cells_of
from benchmark.oldcell import OldCell as Cell
from benchmark.records import RunRecord, load_records


@dataclass(frozen=True)
class Query:
    """What a command line asks for: the cells of an experiment, their records and the folder to write to."""

    name: str
    cells: list[Cell]
    records: list[RunRecord]
    folder: Path


def read_query(kind: str, arguments: Sequence[str]) -> Query:
    """Return the query of `<kind>=NAME [out=FOLDER] [override …]`; a NAME of digits means `<kind>NAME`."""
    options: dict[str, str] = {}
    overrides: list[str] = []
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if not separator and not argument.startswith("~"):
            raise ValueError(f"Expected key=value, but got {argument!r}; try --help.")
        if name in (kind, "out"):
            options[name] = value
        else:
            overrides.append(argument)
    if kind not in options:
        raise ValueError(f"Expected {kind}=…, for example {kind}=2 or {kind}=demo, but got none.")
    name = f"{kind}{options[kind]}" if options[kind].isdigit() else options[kind]
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        cells = cells_of([f"experiment={name}", *overrides])
    first = cells[0]
    names = first.labels
    folder = Path(options.get("out", f"results/{name}-{names['protocol']}-{names['profile']}"))
    return Query(name, cells, load_records(Path(first.config.output_dir) / "records"), folder)
