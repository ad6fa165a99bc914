"""Finished runs: list, show and remove their records, and the artefacts that no record needs.

    python -m benchmark.records                                    # a line for each record
    python -m benchmark.records dataset=cifar10 method=ssd         # those with these labels, seeds or options
    python -m benchmark.records show RUN_ID                        # one with its whole configuration and its command
    python -m benchmark.records sizes                              # disk use by kind
    python -m benchmark.records remove method=ssd --older-than 30d # asks first; needs a filter, an age or a run id
    python -m benchmark.records remove --artefacts                 # models, importances, outputs that no record needs;
                                                                   # with --older-than alone the old ones, no record

Options: output_dir=FOLDER (default runs), --yes (remove without asking). A filter is a label (dataset, method, …), a
seed or an option of the run, with one value or several (method.alpha=3,10). A removed record is made again by its
command, which is printed first; so are the artefacts it rests on. Remove nothing while a run is in progress: its
artefacts have no record yet.
"""

import argparse
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from benchmark.cli import counted, run_cli
from benchmark.files import canonical, content_hash, read_json
from benchmark.records import RunRecord, flatten, load_records

UNITS = {"h": 3600.0, "d": 86400.0, "w": 604800.0}  # seconds


@dataclass(frozen=True)
class Kept:
    """An artefact, or a damaged file of the kind `damaged`: the facts, none if damaged, and the files, facts first."""

    kind: str
    paths: tuple[Path, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Mapping[str, Any]:
        key: Mapping[str, Any] = self.facts.get("key", {})
        return key

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.paths if path.exists())


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--older-than")
    for flag in ("--artefacts", "--yes"):
        parser.add_argument(flag, action="store_true")
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    given = parser.parse_intermixed_args()
    options = dict(word.split("=", 1) for word in given.words if "=" in word)
    words = [word for word in given.words if "=" not in word]
    folder = Path(options.pop("output_dir", "runs")).expanduser()
    records = load_records(folder / "records")
    age = seconds_of(given.older_than) if given.older_than else 0.0
    found = [record for record in chosen(records, options) if age_of(record, folder) >= age]
    match words:
        case []:
            print("\n".join(lines_of(found)) or none_of(records, options, folder / "records"))
        case ["show", run_id]:
            print(shown(named(records, run_id)))
        case ["sizes"]:
            print(sizes(folder))
        case ["remove", *run_ids]:
            if not (run_ids or options or given.older_than or given.artefacts):
                raise ValueError("Expected a run id, a filter, --older-than or --artefacts after remove, but got none.")
            own = [named(records, run_id) for run_id in run_ids] or found
            by_age = given.older_than and not given.artefacts  # else the age is that of the artefacts
            gone = [x for x in own if x in found] if run_ids or options or by_age else []
            rest = [record for record in records if record not in gone]
            artefacts = [x for x in orphans(folder, rest) if age_of_file(x.paths[0]) >= age] if given.artefacts else []
            remove(folder, gone, artefacts, sure=given.yes)
        case _:
            raise ValueError(f"Expected show RUN_ID, sizes, remove or filters, but got {' '.join(words)}; try --help.")


def seconds_of(age: str) -> float:
    """Return an age in seconds.

    >>> seconds_of("12h"), seconds_of("2w")
    (43200.0, 1209600.0)

    Raises:
        ValueError: it is no number with a unit.
    """
    found = re.fullmatch(r"(\d+)([hdw])", age)
    if found is None:
        raise ValueError(f"Expected --older-than as 12h, 30d or 4w (hours, days, weeks), but got {age!r}.")
    return int(found[1]) * UNITS[found[2]]


def age_of(record: RunRecord, folder: Path) -> float:
    """Return the seconds since the run ended, or since its file was written if it does not say when."""
    if "finished" in record.provenance:
        return time.time() - datetime.fromisoformat(record.provenance["finished"]).timestamp()
    return age_of_file(path_of(record, folder))


def age_of_file(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def path_of(record: RunRecord, folder: Path) -> Path:
    return folder / "records" / f"{record.run_id}.json"


def chosen(records: Sequence[RunRecord], options: Mapping[str, str]) -> list[RunRecord]:
    """Return the records with these labels, seeds and options; ValueError for a key that none of them has."""
    rows, left = rows_of(records), list(records)
    for key, text in options.items():
        values, wanted = values_of(rows, key), {plain(value) for value in parsed(f"{key}={text}")}
        if records and not any(values.values()):
            known = ", ".join([*records[0].labels, *records[0].seeds])
            raise ValueError(f"Expected a label, a seed or an option of a record, but got {key}; there are {known}.")
        left = [record for record in left if wanted & values[record.run_id]]
    return left


def rows_of(records: Sequence[RunRecord]) -> dict[str, dict[str, Any]]:
    """Return by run id all values of a record, and those that its command gave."""
    return {record.run_id: overrides_of(record) | record.row() for record in records}


def values_of(rows: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, set[str]]:
    """Return the values of a label, seed or option by run id."""
    of_original, own = f"scientific.original.{key}", f"hyperparameters.{key.removeprefix('method.')}"
    names = (key, f"seeds.{key}", f"scientific.{key}", of_original, own)
    return {run_id: {plain(row[name]) for name in names if name in row} for run_id, row in rows.items()}


def none_of(records: Sequence[RunRecord], options: Mapping[str, str], folder: Path) -> str:
    """Return that no record was found, and the values that there are of the filters."""
    rows = rows_of(records)
    there = "".join(f"; {key}: {', '.join(sorted(set().union(*values_of(rows, key).values())))}" for key in options)
    return f"none of {counted(len(records), 'record')} in {folder}{there}" if records else f"no records in {folder}"


@cache
def parsed(word: str) -> tuple[Any, ...]:
    """Return the values of an override, those of a list or range too, as Hydra reads them."""
    override = OverridesParser.create().parse_override(word)
    return tuple(override.sweep_iterator()) if override.is_discrete_sweep() else (override.value(),)


def overrides_of(record: RunRecord) -> dict[str, Any]:
    """Return the overrides of a record's command, by key."""
    words = (word.lstrip("+").partition("=") for word in record.overrides or ())
    return {key: parsed(f"{key}={text}")[0] for key, _, text in words if text}


def plain(value: Any) -> str:
    """Return a value as text; 3, 3.0 and "3" are the same."""
    return str(canonical(value))


def lines_of(records: Sequence[RunRecord]) -> list[str]:
    """Return a line for each record: run id, day, names and seeds, and the options that tell equal names apart."""
    options = [flatten(record.scientific or {"method": record.hyperparameters}) for record in records]
    same: dict[str, list[dict[str, Any]]] = {}
    for record, mine in zip(records, options, strict=True):
        same.setdefault(name_of(record), []).append(mine)
    lines = []
    for record, mine in zip(records, options, strict=True):
        others = same[name_of(record)]
        varies = [f"{key}={value}" for key, value in mine.items() if any(x.get(key) != value for x in others)]
        day = str(record.provenance.get("finished", ""))[:10]
        lines.append(" ".join([record.run_id, f"{day:10}", name_of(record), *varies]))
    return lines


def name_of(record: RunRecord) -> str:
    names = [record.labels[part] for part in ("dataset", "model", "task", "target", "method", "protocol", "profile")]
    return " ".join([*names, *(f"{name}={value}" for name, value in record.seeds.items())])


def named(records: Sequence[RunRecord], run_id: str) -> RunRecord:
    """Return the record of a run id or its start; ValueError if there is none, or several."""
    found = [record for record in records if record.run_id.startswith(run_id)]
    if len(found) != 1:
        raise ValueError(f"Expected the run id of one record, but {run_id!r} names {len(found)}; list all of them.")
    return found[0]


def shown(record: RunRecord) -> str:
    """Return a record in YAML, and its command."""
    text: str = yaml.safe_dump(record.content(), sort_keys=False, allow_unicode=True)
    return f"{text}\n{command_of(record)}"


def command_of(record: RunRecord) -> str:
    return record.command or f"# {record.run_id}: an older record, which does not name its command"


def artefacts_in(folder: Path) -> Iterator[Kept]:
    """Yield the artefacts and the damaged files below `folder`; trainings in progress are none."""
    for path in sorted((folder / "artefacts").glob("*/*.json")):
        paths = path, path.with_suffix(".safetensors"), path.with_suffix(".lock")
        try:
            yield Kept(path.parent.name, paths, read_json(path))
        except ValueError:
            yield Kept("damaged", paths)
    for path in sorted(folder.glob("**/*.damaged-*")):
        yield Kept("damaged", (path,))


def orphans(folder: Path, records: Sequence[RunRecord]) -> list[Kept]:
    """Return the artefacts that none of the records rests on.

    An importance is needed with its original, a saved model with a record of its method. Older records do not say what
    they rest on: all that rests on their original is needed.
    """
    from benchmark.cell import Cell

    needed: set[str] = set()
    for record in records:
        if record.scientific is not None:
            cell = object.__new__(Cell)  # every key follows from the two
            vars(cell).update(scientific=record.scientific, fingerprint=record.data_fingerprint)
            needed |= {content_hash(key) for key in (cell.original_key, cell.outputs_key, cell.reference_key)}
            needed |= {name_of_model(key) for key in (cell.outputs_key, cell.reference_key)}
    every = list(artefacts_in(folder))
    sha256s = {record.original.get("sha256") for record in records if record.scientific is None}
    old = {x.paths[0].stem for x in every if x.kind == "original" and x.facts.get("sha256") in sha256s}
    return [x for x in every if not ({x.paths[0].stem, str(x.key.get("original"))} & old or needed & names_of(x))]


def names_of(artefact: Kept) -> set[str]:
    """Return the names of which a record needs one if it needs the artefact."""
    if artefact.kind.startswith("importance"):
        return {str(artefact.key.get("original"))}
    return {name_of_model(artefact.key) if artefact.kind in ("model", "relearn") else artefact.paths[0].stem}


def name_of_model(key: Mapping[str, Any]) -> str:
    """Return what the models of several requests share: original, method and seed."""
    return content_hash({name: key.get(name) for name in ("original", "method", "method_seed")})


def sizes(folder: Path) -> str:
    """Return the number of files and the megabytes of each kind, as a table."""
    size: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for path in folder.rglob("*"):
        if path.is_file():
            parts = path.relative_to(folder).parts
            kind = "damaged" if ".damaged-" in path.name else parts[min(parts[0] == "artefacts", len(parts) - 2)]
            size[kind] += path.stat().st_size
            count[kind] += 1
    lines = [f"{kind:20} {count[kind]:6} files {size[kind] / 1e6:10.1f} MB" for kind in sorted(size)]
    return "\n".join([*lines, f"{'all':20} {count.total():6} files {size.total() / 1e6:10.1f} MB"])


def remove(folder: Path, records: Sequence[RunRecord], artefacts: Sequence[Kept], *, sure: bool) -> None:
    """Name what goes and the commands that make it again, ask, and delete it."""
    if not records and not artefacts:
        print("nothing to remove")
        return
    for line, record in zip(lines_of(records), records, strict=True):
        print(f"{line}\n  {command_of(record)}")
    for artefact in artefacts:
        print(f"{artefact.kind}/{artefact.paths[0].name}")
    size = sum(artefact.size for artefact in artefacts) / 1e6
    question = f"Remove records: {len(records)}, artefacts: {len(artefacts)} ({size:.1f} MB)? [y/N] "
    if not sure:
        print(question, end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("nothing was removed")
            return
    paths = [path_of(record, folder) for record in records]
    margins = [path.with_suffix(".safetensors") for path in paths]
    for path in [*paths, *margins, *(path for x in artefacts for path in x.paths)]:
        path.unlink(missing_ok=True)
    print(f"removed records: {len(records)}, artefacts: {len(artefacts)} ({size:.1f} MB)")


if __name__ == "__main__":
    run_cli(main)
