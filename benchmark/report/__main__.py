"""Records -> tables, figures and claims. Reads, and runs nothing.

    python -m benchmark.report -m method.alpha=1,3,10       # the table of `benchmark.run -m` with the same overrides
    python -m benchmark.report table=2 profile=narrow       # the table of experiment=table2; also table=demo, …
    python -m benchmark.report figure=2 profile=quick       # the figure of experiment=figure2
    python -m benchmark.report figure=distance profile=narrow   # over all tables in results/; also figure=tradeoff
    python -m benchmark.report requests profile=quick       # forget requests one after the other: table and figure
    python -m benchmark.report claims profile=narrow        # the paper's claims, from the tables in results/
    python -m benchmark.report answer=narrow                # who is closest to the retrained model, with intervals
    python -m benchmark.report page                         # results/index.html: all of results/ on one page

Options: out=FOLDER (default results/NAME-PROTOCOL-PROFILE, for -m runs/tables/OVERRIDES), drop=RUN_ID,… (take records
out of the folder; drop=all forgets all that it holds). Every other key=value is an override, as for `python -m
benchmark.run`; claims, figure=distance and figure=tradeoff take protocol and profile, answer takes output_dir; the two
figures and answer take experiment=field too: its table alone. Records in the folder are part of the input: a table
grows by new records, and a row goes only by drop.
"""

import gc
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.cli import counted, run_cli, with_search_path
from benchmark.passwords import without_passwords

log = logging.getLogger(__name__)
KINDS = ("table", "figure", "requests", "claims", "answer", "page", "sweep")
OVERVIEWS = ("distance", "tradeoff")  # figures over all tables


def main() -> None:
    """Read the command line, write one folder and print its Markdown."""
    gc.disable()  # a tenth of the time of a process that lives for two seconds
    arguments = [without_passwords(word) for word in sys.argv[1:]]  # a table remembers them
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    text = report(with_search_path(arguments))
    from benchmark.report.typeset import show  # after the help, which needs no pandas

    show(text)


def report(arguments: Sequence[str]) -> str:
    """Write a table, a figure, requests, claims, an answer or the page; return the part that a terminal shows."""
    kind, name, options, overrides = read_arguments(arguments)
    if kind == "page":
        from benchmark.report.page.build import write_page

        if options or overrides:
            raise ValueError(f"Expected page alone, but got {' '.join([*options, *overrides])} too; try --help.")
        return write_page()
    out = Path(options["out"]).expanduser() if options.get("out") else None
    drop = set(options.get("drop", "").split(",")) - {""}
    overview = kind == "figure" and name in OVERVIEWS
    if overview or kind in ("claims", "answer"):
        words = [*overrides, *(f"drop={run_id}" for run_id in drop)]
        if kind == "answer":
            from benchmark.report.answer import write_answer

            return write_answer(name, words, out)
        if overview:
            from benchmark.report.overview import write_overview

            return write_overview(name, words, out)
        from benchmark.report.claims import write_claims

        return write_claims(words, out)
    from benchmark.report.query import read_query, write_files

    query = read_query(kind, name, overrides, out=out, drop=drop)
    files = query.files()
    write_files(query.folder, files)
    log.info("%s missing", counted(len({place.command for place in query.places} - {None}), "cell"))
    shown = ["block.md"] if "block.md" in files else ["table.md", "verdict.md", "saving.csv"]
    shown.append("ensemble.md")
    return "\n".join(str(files[name]) for name in shown if name in files)


def read_arguments(arguments: Sequence[str]) -> tuple[str, str, dict[str, str], list[str]]:
    """Return kind, name of experiment or profile, options and overrides of `table=…|figure=…|answer=…|requests|-m …`.

    >>> read_arguments(["table=2", "out=x", "profile=quick"])
    ('table', 'table2', {'out': 'x'}, ['profile=quick'])
    """
    options: dict[str, str] = {}
    overrides: list[str] = []
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if argument in ("requests", "claims", "page"):
            options[argument] = argument
        elif argument in ("-m", "--multirun"):
            options["sweep"] = "sweep"
        elif not separator and not argument.startswith("~"):
            raise ValueError(f"Expected key=value, but got {argument!r}; try --help.")
        elif name in ("table", "figure", "answer", "out", "drop"):
            options[name] = value
        else:
            overrides.append(argument)
    kinds = [kind for kind in KINDS if options.get(kind)]
    if len(kinds) != 1:
        got = " and ".join(kinds) or "none"
        known = "table=…, figure=…, requests, claims, answer=…, page or -m"
        raise ValueError(f"Expected {known}, but got {got}; try --help.")
    name = options.pop(kinds[0])
    return kinds[0], f"{kinds[0]}{name}" if name.isdigit() else name, options, overrides


if __name__ == "__main__":
    run_cli(main)
