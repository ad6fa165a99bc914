"""The question of a command line: the cells it names, those that the folder remembers, and all their records."""

import json
import logging
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.utils import get_method

from benchmark.cell import Cell
from benchmark.cli import counted
from benchmark.compose import cells_of, choices, varying
from benchmark.files import content_hash
from benchmark.records import RunRecord, load_records, read_lines, to_lines
from benchmark.report.about import About, read_about
from benchmark.report.select import SEEDS, Place, places_of
from benchmark.sources import outdated
from datasets.files import replacing

log = logging.getLogger(__name__)
RESULTS = Path("results")
RECORDS, MEMORY = "records.jsonl", "report.json"
# Each kind and the function that gives its files; imported by name, because each needs libraries of its own.
KINDS = {
    "table": "benchmark.report.table.table_files",
    "figure": "benchmark.report.figures.figure_files",
    "requests": "benchmark.report.requests.request_files",
    "sweep": "benchmark.report.table.table_files",
}
ENSEMBLE = "benchmark.report.ensemble.ensemble_files"  # beside them, if table.ensemble names something
# Keys that say where and on what, and change no cell.
MACHINE = ("output_dir", "data_dir", "dataset.load.data_dir", "dataset.load.folder", "dataset.root", "dataset.file",
           "compute", "launcher", "hydra", "plugins", "reuse", "force", "budget", "save_model")  # fmt: skip


@dataclass(frozen=True)
class Query:
    """The question of a command line, with all that answers it.

    Attributes:
        kind: one of `KINDS`.
        name: of the experiment.
        places: in the order of the cells; committed records that belong to none of them come last.
        options: a cell that says how the table looks: `config.table` and `config.figure`.
        lines: the overrides that compose the folder's cells, line by line; the folder remembers them.
        caption: a caption that somebody wrote; it holds as long as the records are the same.
    """

    kind: str
    name: str
    folder: Path
    places: Sequence[Place]
    options: Cell
    lines: Sequence[Sequence[str]]
    caption: str | None

    @property
    def title(self) -> str:
        return str(self.options.config.table.title)

    @cached_property
    def cells(self) -> list[Cell]:
        return [place.cell for place in self.places if place.cell is not None]

    @cached_property
    def about(self) -> About:
        return read_about(self.cells)

    @cached_property
    def records(self) -> list[RunRecord]:
        """Every record of the table, each once."""
        return list({place.record.run_id: place.record for place in self.places if place.record is not None}.values())

    def files(self) -> dict[str, str | bytes]:
        """Return the content of every file of the folder, by name; the records, which all follows from, first."""
        memory = {"kind": self.kind, "experiment": self.name, "overrides": self.lines}
        memory |= {"caption": self.caption} if self.caption else {}
        return {
            RECORDS: to_lines(self.records),
            MEMORY: json.dumps(memory, indent=1, ensure_ascii=False) + "\n",
            **get_method(KINDS[self.kind])(self),
            **(get_method(ENSEMBLE)(self) if self.options.config.table.ensemble else {}),
        }


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write each file whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with replacing(folder / name) as part:
            part.write_bytes(content.encode() if isinstance(content, str) else content)
    log.info("wrote %s/{%s}", folder, ",".join(files))


def read_query(
    kind: str, name: str, overrides: Sequence[str], *, out: Path | None = None, drop: Collection[str] = ()
) -> Query:
    """Return the query of a command line; ValueError if there is no record for any of its cells.

    Committed records keep their places, and so do the cells that the folder's own overrides compose. The command
    line's overrides change single words of the folder's: they add cells, and take none away.

    Args:
        out: the folder, by default results/NAME-PROTOCOL-PROFILE, of a sweep OUTPUT_DIR/tables/OVERRIDES.
        drop: run ids of committed records that go; `all` forgets all that the folder holds.
    """
    is_sweep = kind == "sweep"
    base = [] if is_sweep else [f"experiment={name}"]
    here, own = ([word for word in overrides if is_here(word) == wanted] for wanted in (True, False))
    cells = cells_of([*base, *own, *here])
    if is_sweep:
        folder = out or Path(cells[0].config.output_dir) / "tables" / folder_name(own)
    else:
        folder = out or RESULTS / "-".join([name, cells[0].labels["protocol"], cells[0].labels["profile"]])
    memory, committed = ({}, []) if "all" in drop else (read_memory(folder), read_lines(folder / RECORDS))
    if (memory.get("kind", kind), memory.get("experiment", name)) != (kind, name):
        raise ValueError(
            f"Expected {folder} to hold {kind} {name}, but it holds {memory['kind']} {memory['experiment']}; set out=…."
        )
    run_ids = {record.run_id for record in committed}
    if unknown := set(drop) - run_ids - {"all"}:
        raise ValueError(f"Expected run ids of {folder / RECORDS} in drop=…, but got {', '.join(sorted(unknown))}.")

    lines: list[list[str]] = memory.get("overrides", [])
    merged = merge(lines[0], own) if lines else own
    if merged != own:
        cells = cells_of([*base, *merged, *here])
    remembered = [c for line in lines for c in (cells if line == merged else cells_of([*base, *line, *here]))]
    # In a sweep, an option may not concern a method: the same run stands in the row of each value.
    known, new = ({(*distinct(x), *x.overrides * is_sweep): x for x in part} for part in (remembered, cells))
    if known.keys() <= new.keys():
        lines, known = [merged], {}
    elif not new.keys() <= known.keys():
        lines = [*lines, merged]

    output = Path(cells[0].config.output_dir) / "records"
    asked = list((known | new).values())
    kept = [x for x in committed if x.run_id not in drop]
    if is_sweep and out is None:  # its folder lies beside the runs: what it holds grows old as they do
        kept, found = [], up_to_date({x.run_id: x for x in [*kept, *load_records(output)]}.values(), asked)
    else:
        found = up_to_date(load_records(output), asked)
        kept = [x for x in kept if not made_anew(x, found)]
    kept_ids = {x.run_id for x in kept}
    places = places_of(asked, kept, [x for x in found if x.run_id not in kept_ids])
    if is_sweep:
        places = by_varying(places)
    query = Query(kind, name, folder, places, cells[0], lines, memory.get("caption"))
    if not query.records:
        start = base or ["-m"]
        raise ValueError(
            f"Expected records of {' '.join([*start, *merged])}, but there are none in {folder / RECORDS} and "
            f"{output}; run python -m benchmark.run {shlex.join([*start, *merged, *here])} first."
        )
    unchanged = {record.run_id for record in query.records} == run_ids and len(kept) == len(committed)
    return query if unchanged else replace(query, caption=None)


def check_choice(key: str, group: str, name: str, overrides: Sequence[str]) -> None:
    """Raise a ValueError if `name` is no file of a configuration group, nor of the folder of `--config-dir`."""
    if name not in (known := choices(group, overrides)):
        raise ValueError(f"Expected {key}={' or '.join(known)}, but got {name!r}.")


def stored_query(folder: Path) -> Query:
    """Return the query that a folder answers from itself alone."""
    memory, nowhere = read_memory(folder), f"output_dir={folder / 'none'}"
    return read_query(memory["kind"], memory["experiment"], [*memory["overrides"][0], nowhere], out=folder)


def up_to_date(records: Collection[RunRecord], cells: Sequence[Cell]) -> list[RunRecord]:
    """Return the records that were made with today's methods and metrics; the others count as missing.

    A metric that is newer than a record does not count: the record shows nothing for it.
    """
    today = {cell.scientific_hash: cell.code for cell in cells if not cell.config.reuse}

    def is_fresh(record: RunRecord) -> bool:
        now, made_with = today.get(record.scientific_hash, {}), record.code or {}
        return not outdated(made_with, {x: now[x] for x in now if x in made_with or not made_with})

    fresh = [record for record in records if is_fresh(record)]
    if old := len(records) - len(fresh):
        log.warning("%s made with other methods or metrics left out (reuse=true takes them)", counted(old, "record"))
    return fresh


def made_anew(record: RunRecord, found: Sequence[RunRecord]) -> bool:
    """Return whether a committed record was made again with other methods or metrics: that one stands for the run."""
    return any(x.run_id == record.run_id and outdated(record.code or {}, x.code or {}) for x in found)


def by_varying(places: Sequence[Place]) -> list[Place]:
    """Return the places of a sweep, each with what varies, but for seeds, in the place of the switched option."""
    found = varying([place.cell for place in places if place.cell is not None])
    varied = [[] if place.cell is None else shlex.split(found[place.cell]) for place in places]
    words = [shlex.join(word for word in words if key_of(word) not in SEEDS) for words in varied]
    return [replace(x, labels={**x.labels, "ablation": text}) for x, text in zip(places, words, strict=True)]


def folder_name(overrides: Sequence[str]) -> str:
    """Return a name for the table of a sweep; a long one ends in a hash.

    >>> folder_name(["method=ssd", "method.alpha=1,3"])
    'method-ssd-method.alpha-1-3'
    """
    name = re.sub(r"[^\w.]+", "-", " ".join(overrides)).strip("-") or "single"
    return name if len(name) <= 100 else f"{name[:83]}-{content_hash(list(overrides))}"


def distinct(cell: Cell) -> tuple[str, ...]:
    """Return by which a table tells cells apart: two labels may share one record."""
    return (cell.scientific_hash, *map(str, sorted(cell.labels.items())))


def read_memory(folder: Path) -> dict[str, Any]:
    """Return what the folder remembers: the overrides that compose its cells, none of this machine, and a caption."""
    path = folder / MEMORY
    memory = dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}
    lines = [[word for word in line if not is_here(word)] for line in memory.get("overrides", [])]
    return memory | ({"overrides": lines} if lines else {})


def key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def is_here(override: str) -> bool:
    """Return whether an override concerns this machine alone: one of the keys of MACHINE, or what lies below it."""
    path = key_of(override).replace("/", ".")
    return f"{path}.".startswith(tuple(f"{key}." for key in MACHINE))


def merge(line: Sequence[str], own: Sequence[str]) -> list[str]:
    """Return `line` with the overrides of `own`, each in the place of the one with its key.

    >>> merge(["profile=quick", "task.target=1,10"], ["task.target=20", "model=vit"])
    ['profile=quick', 'task.target=20', 'model=vit']
    """
    changed = {key_of(word): word for word in own}
    return [changed.pop(key_of(word), word) for word in line] + list(changed.values())
