"""Make committed results again from their records, and compare them byte by byte.

    python -m scripts.verify_results                                  # all in results/
    python -m scripts.verify_results results/table2-paper-narrow       # one folder
    python -m scripts.verify_results results/table*                   # some
    python -m scripts.verify_results results/figure2-* results/distance-*
    make verify

Figures by another version of matplotlib are not compared.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from hydra.errors import HydraException

from benchmark.cli import counted, describe, run_cli
from benchmark.records import RunRecord, read_lines
from benchmark.report.__main__ import OVERVIEWS
from benchmark.report.answer import answer_files
from benchmark.report.claims import claim_files
from benchmark.report.overview import overview_files
from benchmark.report.page.build import PAGE, page_of
from benchmark.report.query import MEMORY, RECORDS, stored_query
from benchmark.search.landscape import landscape_files
from benchmark.search.several import SEARCHES, stored_files

RESULTS = Path(__file__).parent.parent / "results"


def problems_of(folder: Path) -> Iterator[str]:
    """Yield everything in a results folder that does not follow from its records, byte by byte."""
    name, *names = folder.name.split("-")
    records: Sequence[RunRecord] = ()
    if name == "claims":
        yield from differences(folder, claim_files(folder.parent, *names))
    elif name in OVERVIEWS:
        yield from differences(folder, overview_files(folder.parent, name, *names))
    elif name == "search":
        yield from differences(folder, landscape_files(folder))
    elif name == "searches":
        yield from differences(folder, stored_files(folder))
        if any(json.loads(line).get("dirty") for line in (folder / SEARCHES).read_text("utf-8").splitlines()):
            yield f"{folder.name}: a search comes from uncommitted code"
    elif name == "answer":
        profile, _, experiment = folder.name.removeprefix("answer-").partition("-")
        yield from differences(folder, answer_files(folder.parent, profile, experiment=experiment or None))
        records = read_lines(folder / RECORDS)
    elif not (folder / MEMORY).is_file() or not (folder / RECORDS).is_file():
        yield f"{folder.name}: no {MEMORY} or no {RECORDS}"
    else:
        query = stored_query(folder)
        yield from differences(folder, query.files())
        records = query.records
    yield from (f"{folder.name}: {problem}" for record in records for problem in origin(record))


def described(folder: Path) -> Iterator[str]:
    """Yield the problems of a folder, an error that ends its check among them: a figure of a plug-in, for example."""
    try:
        yield from problems_of(folder)
    except (ValueError, HydraException) as error:
        yield f"{folder.name}: not checked: {describe(error)}"


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


def page_problems(results: Path) -> Iterator[str]:
    """Yield whether the page over all folders, if there is one, is another than they give."""
    if (results / PAGE).is_file():
        yield from differences(results, {PAGE: page_of(results)})


def origin(record: RunRecord) -> Iterator[str]:
    """Yield whether a record, or its original model, comes from uncommitted code; older records tell of one only."""
    if record.provenance["dirty"] or record.original.get("dirty"):
        yield f"record {record.run_id} comes from uncommitted code"


def main() -> None:
    """Check the named folders, or all of results/ that follow from records, and its page; exit code 1 if one fails."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    patterns = ("table.csv", "figure.png", "landscape.png", "claims.csv", "answer.csv", RECORDS)
    every = {path.parent for pattern in patterns for path in RESULTS.glob(f"*/{pattern}")}
    folders = [Path(name) for name in sys.argv[1:]] or sorted(every)
    problems = [problem for folder in folders for problem in described(folder)]
    problems += [] if sys.argv[1:] else page_problems(RESULTS)
    print("\n".join(problems) or f"no problem in {counted(len(folders), 'folder')}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    run_cli(main)
