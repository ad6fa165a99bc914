"""Make committed results again from their records: `python -m scripts.verify_results [FOLDER …]`."""

import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

from benchmark.cli import counted, run_cli
from benchmark.records import RunRecord, read_lines
from benchmark.report.answer import answer_files
from benchmark.report.claims import claim_files
from benchmark.report.query import MEMORY, RECORDS, stored_query

RESULTS = Path(__file__).parent.parent / "results"


def problems_of(folder: Path) -> Iterator[str]:
    """Yield everything in a results folder that does not follow from its records, byte by byte."""
    if folder.name.startswith("claims-"):
        _, protocol, profile = folder.name.split("-")
        yield from differences(folder, claim_files(folder.parent, protocol, profile))
    elif folder.name.startswith("answer-"):
        yield from differences(folder, answer_files(folder.parent, folder.name.removeprefix("answer-")))
        yield from (
            f"{folder.name}: {problem}" for record in read_lines(folder / RECORDS) for problem in origin(record)
        )
    elif not (folder / MEMORY).is_file() or not (folder / RECORDS).is_file():
        yield f"{folder.name}: no {MEMORY} or no {RECORDS}"
    else:
        query = stored_query(folder)
        yield from differences(folder, query.files())
        yield from (f"{folder.name}: {problem}" for record in query.records for problem in origin(record))


def differences(folder: Path, files: Mapping[str, str | bytes]) -> Iterator[str]:
    """Yield which files differ from `files`; a figure by another version of matplotlib is not compared."""
    for name, content in files.items():
        path = folder / name
        if not path.is_file():
            yield f"{folder.name}: no {name}"
        elif path.read_bytes() != (content.encode() if isinstance(content, str) else content):
            drawn_by = re.search(rb"Matplotlib v(?:ersion)?([0-9.]+\d)", path.read_bytes())
            if drawn_by is None or drawn_by[1].decode() == version("matplotlib"):
                yield f"{folder.name}: {name} does not follow from the records"


def origin(record: RunRecord) -> Iterator[str]:
    """Yield whether a record, or its original model, comes from uncommitted code; older records tell of one only."""
    if record.provenance["dirty"] or record.original.get("dirty"):
        yield f"record {record.run_id} comes from uncommitted code"


def main() -> None:
    """Check the named folders, or all of results/ that follow from records; exit code 1 if one fails."""
    patterns = ("table.csv", "figure.png", "claims.csv", "answer.csv", RECORDS)
    every = {path.parent for pattern in patterns for path in RESULTS.glob(f"*/{pattern}")}
    folders = [Path(name) for name in sys.argv[1:]] or sorted(every)
    problems = [problem for folder in folders for problem in problems_of(folder)]
    print("\n".join(problems) or f"no problem in {counted(len(folders), 'folder')}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    run_cli(main)
