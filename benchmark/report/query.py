"""The question of a command line: the cells it names, those that the folder remembers, and all their records."""

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.cell import Cell
from benchmark.compose import cells_of, first_cell
from benchmark.records import RunRecord, load_records, read_lines, write_lines
from benchmark.report.about import About, read_about
from benchmark.report.select import Place, fill_command, places_of
from datasets.files import replacing

log = logging.getLogger(__name__)
RESULTS = Path("results")
RECORDS, MEMORY = "records.jsonl", "report.json"
KINDS = ("table", "figure", "requests")
OPTIONS = ("table", "figure", "out", "drop", "fresh")
MACHINE = ("output_dir", "data_dir", "dataset.load.data_dir", "dataset.load.folder", "compute", "launcher", "hydra")


@dataclass(frozen=True)
class Query:
    """The question of a command line, with all that answers it.

    Attributes:
        options: a cell that says how the table looks: `config.table` and `config.figure`.
        places: in the order of the cells; committed records that belong to none of them come last.
        lines: the overrides that compose the folder's cells, line by line; the folder remembers them.
        caption: a caption that somebody wrote; it holds as long as the records are the same.
    """

    asked: "Arguments"
    folder: Path
    options: Cell
    places: Sequence[Place]
    about: About
    lines: Sequence[Sequence[str]] = ()
    caption: str | None = None

    @property
    def records(self) -> list[RunRecord]:
        """Every record of the table, each once."""
        return list({place.record.run_id: place.record for place in self.places if place.record is not None}.values())

    @property
    def missing(self) -> list[str]:
        """The commands that compute what is not there yet."""
        return list(dict.fromkeys(c for place in self.places if (c := fill_command(place)) is not None))

    def memory(self) -> str:
        """Return report.json: what composes the cells of the folder."""
        values: dict[str, Any] = {
            "kind": self.asked.kind,
            "experiment": self.asked.name,
            "overrides": [list(line) for line in self.lines],
        }
        values |= {"caption": self.caption} if self.caption else {}
        return json.dumps(values, indent=1, ensure_ascii=False) + "\n"

    def write(self, files: Mapping[str, str | bytes]) -> None:
        """Write the files of a table or a figure, with the records and the overrides behind them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_lines(self.folder / RECORDS, self.records)
        write_files(self.folder, {**files, MEMORY: self.memory()})
        log.info("%d cells missing", len(self.missing))


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write each file whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with replacing(folder / name) as part:
            part.write_bytes(content.encode() if isinstance(content, str) else content)
    log.info("wrote %s/{%s}", folder, ",".join(files))


@dataclass(frozen=True)
class Arguments:
    """A command line, taken apart."""

    kind: str
    name: str
    out: Path | None = None
    drop: frozenset[str] = frozenset()
    fresh: bool = False
    overrides: Sequence[str] = ()

    @property
    def experiment(self) -> str:
        return f"experiment={self.name}"


def read_arguments(arguments: Sequence[str]) -> Arguments:
    """Return the parts of `table=NAME|figure=NAME|requests [out=FOLDER] [drop=RUN_ID,…] [fresh=true] [override …]`."""
    options: dict[str, str] = {}
    overrides: list[str] = []
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if argument == "requests":
            options["requests"] = "requests"
        elif not separator and not argument.startswith("~"):
            raise ValueError(f"Expected key=value, but got {argument!r}; try --help.")
        elif name in OPTIONS:
            options[name] = value
        else:
            overrides.append(argument)
    kinds = [kind for kind in KINDS if options.get(kind)]
    if len(kinds) != 1:
        raise ValueError(
            f"Expected table=…, figure=… or requests, but got {' and '.join(kinds) or 'none'}; try --help."
        )
    if options.get("fresh", "false") not in ("true", "false"):
        raise ValueError(f"Expected fresh=true or fresh=false, but got {options['fresh']!r}.")
    kind, name = kinds[0], options[kinds[0]]
    return Arguments(
        kind=kind,
        name=f"{kind}{name}" if name.isdigit() else name,
        out=Path(options["out"]) if options.get("out") else None,
        drop=frozenset(options.get("drop", "").split(",")) - {""},
        fresh=options.get("fresh") == "true",
        overrides=overrides,
    )


def read_query(asked: Arguments) -> Query:
    """Return the query of a command line; ValueError if there is no record for any of its cells.

    Committed records keep their places, and so do the cells that the folder's own overrides compose. The command
    line's overrides change single words of the folder's: they add cells, and take none away.
    """
    here = [word for word in asked.overrides if is_key(word, MACHINE)]
    own = [word for word in asked.overrides if word not in here]
    folder = asked.out or default_folder(asked)
    memory = {} if asked.fresh else read_memory(folder)
    committed = [] if asked.fresh else read_lines(folder / RECORDS)
    if (memory.get("kind", asked.kind), memory.get("experiment", asked.name)) != (asked.kind, asked.name):
        raise ValueError(
            f"Expected {folder} to hold {asked.kind} {asked.name}, but it holds {memory['kind']} "
            f"{memory['experiment']}; set out=…."
        )
    if unknown := asked.drop - {record.run_id for record in committed}:
        raise ValueError(f"Expected run ids of {folder / RECORDS} in drop=…, but got {', '.join(sorted(unknown))}.")
    lines: list[list[str]] = [list(map(str, line)) for line in memory.get("overrides", [])]
    merged = merge(lines[0], own) if lines else own
    cells = cells_of([asked.experiment, *merged, *here])
    remembered = [
        c for line in lines for c in (cells_of([asked.experiment, *line, *here]) if line != merged else cells)
    ]
    known, new = ({distinct(cell): cell for cell in part} for part in (remembered, cells))
    if known.keys() <= new.keys():
        lines, known = [merged], {}
    elif not new.keys() <= known.keys():
        lines.append(merged)
    every = list((known | new).values())
    kept = [record for record in committed if record.run_id not in asked.drop]
    run_ids = {record.run_id for record in committed}
    output = Path(cells[0].config.output_dir) / "records"
    places = places_of(every, kept, [record for record in load_records(output) if record.run_id not in run_ids])
    query = Query(asked, folder, cells[0], places, read_about(every), lines)
    if not query.records:
        raise ValueError(
            f"Expected records of {asked.experiment}, but there are none in {folder / RECORDS} and {output}; "
            f"run python -m benchmark.run {shlex.join([asked.experiment, *merged, *here])} first."
        )
    unchanged = {record.run_id for record in query.records} == run_ids
    return replace(query, caption=memory.get("caption") if unchanged else None)


def stored_query(folder: Path) -> Query:
    """Return the query that a folder answers from itself alone."""
    memory = read_memory(folder)
    if not memory:
        raise ValueError(f"Expected {folder / MEMORY}, but there is none; it says what the folder holds.")
    nowhere = f"output_dir={folder / 'none'}"
    return read_query(Arguments(memory["kind"], memory["experiment"], out=folder, overrides=[nowhere]))


def default_folder(asked: Arguments) -> Path:
    """Return results/NAME-PROTOCOL-PROFILE."""
    names = first_cell([asked.experiment, *asked.overrides]).labels
    return RESULTS / f"{asked.name}-{names['protocol']}-{names['profile']}"


def distinct(cell: Cell) -> tuple[str, ...]:
    """Return by which a table tells cells apart: two labels may share one record."""
    return (cell.scientific_hash, *map(str, sorted(cell.labels.items())))


def read_memory(folder: Path) -> dict[str, Any]:
    """Return what the folder remembers: the overrides that compose its cells, and a caption."""
    path = folder / MEMORY
    return dict(json.loads(path.read_text())) if path.exists() else {}


def key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def is_key(override: str, keys: Sequence[str]) -> bool:
    """Return whether an override concerns one of `keys` or what lies below it."""
    return any(key_of(override) == key or key_of(override).startswith((f"{key}.", f"{key}/")) for key in keys)


def merge(line: Sequence[str], own: Sequence[str]) -> list[str]:
    """Return `line` with the overrides of `own`, each in the place of the one with its key.

    >>> merge(["profile=quick", "task.target=1,10"], ["task.target=20", "model=vit"])
    ['profile=quick', 'task.target=20', 'model=vit']
    """
    changed = {key_of(word): word for word in own}
    return [changed.pop(key_of(word), word) for word in line] + list(changed.values())
