"""Records -> tables, figures and claims. Reads, and runs nothing.

    python -m benchmark.report table=2 profile=quick     # the table of experiment=table2; also table=demo, …
    python -m benchmark.report figure=2 profile=quick    # the figure of experiment=figure2
    python -m benchmark.report requests profile=quick    # forget requests one after the other: table and figure
    python -m benchmark.report claims profile=quick      # the paper's claims, from the tables in results/

Options: out=FOLDER (default results/NAME-PROTOCOL-PROFILE), drop=RUN_ID,… (take records out of the folder),
fresh=true (forget all that the folder holds), results=FOLDER (of the tables that claims reads). Every other key=value
is an override of the experiment, as for `python -m benchmark.run`. Records in the folder are part of the input: a
table grows by new records, and a row goes only by drop or fresh.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.cli import run_cli, with_search_path


def main() -> None:
    """Read the command line, write one folder and print its Markdown."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
    elif "claims" in arguments:
        arguments.remove("claims")
        print(report_claims(arguments))
    else:
        print(report(with_search_path(arguments)))


def report(arguments: Sequence[str]) -> str:
    """Write a table, a figure or requests; return the part that a terminal shows."""
    from benchmark.report.files import files_of
    from benchmark.report.query import read_arguments, read_query

    query = read_query(read_arguments(arguments))
    files = files_of(query)
    query.write(files)
    return str(files.get("table.md", files.get("saving.csv", "")))


def report_claims(arguments: Sequence[str]) -> str:
    """Write claims.csv and claims.md; return the Markdown."""
    from benchmark.report.claims import claim_files
    from benchmark.report.query import RESULTS, write_files

    options = {"protocol": "paper", "profile": "full", "results": str(RESULTS), "out": ""}
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if not separator or name not in options:
            raise ValueError(f"Expected one of {', '.join(f'{x}=…' for x in options)}, but got {argument!r}.")
        options[name] = value
    names = options["protocol"], options["profile"]
    files = claim_files(Path(options["results"]), *names)
    write_files(Path(options["out"] or f"{options['results']}/claims-{'-'.join(names)}"), files)
    return files["claims.md"]


if __name__ == "__main__":
    run_cli(main)
