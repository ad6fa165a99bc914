"""Records -> what a sequence of forget requests does: a curve, a table and the request at which the model breaks.

    python -m benchmark.sequence profile=quick                    # of experiment=sequence
    python -m benchmark.sequence dataset=digits profile=quick method=baseline,ssd,finetune

Options: out=FOLDER (default results/sequence-<protocol>-<profile>); every other key=value is an override of
experiment=sequence, as for `python -m benchmark.run`. The command reads records and runs nothing.
"""

import logging
import sys

from benchmark.cli import run_cli
from benchmark.curves import finding, make_curves
from benchmark.query import read_query
from benchmark.records import to_frame
from benchmark.sequence_output import draw, to_latex, to_markdown
from benchmark.store import write_atomically
from benchmark.tables import make_table

log = logging.getLogger(__name__)


def main() -> None:
    """Read the command line and write the table and the figure with the records behind them."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    query = read_query("table", ["table=sequence", *sys.argv[1:]])
    table, used = make_table(query.name, query.cells, query.records)
    if not used:
        raise ValueError("Expected records of experiment=sequence, but got none; run it first.")
    curves = make_curves(table, query.cells)
    caption = f"{table.caption} {finding(curves)}"
    names = query.cells[0].labels
    n = len({record.seeds["method_seed"] for record in used})
    device = ", ".join(sorted({record.provenance["device"] for record in used}))
    title = (
        f"{table.title}\n{names['model']}, protocol {names['protocol']}, profile {names['profile']}; {device}; n = {n}"
    )
    query.folder.mkdir(parents=True, exist_ok=True)
    markdown = to_markdown(curves, table.title, caption)
    files = {
        "table.csv": curves.values.to_csv(index=False, float_format="%.2f"),
        "table.md": markdown,
        "table.tex": to_latex(curves, table.title, caption),
        "records.csv": to_frame(used).to_csv(index=False),
    }
    for name, text in files.items():
        write_atomically(query.folder / name, text)
    draw(curves, title, [query.folder / f"figure.{kind}" for kind in ("png", "pdf")])
    print(markdown)
    log.info("wrote %s/{table.csv,table.md,table.tex,records.csv,figure.png,figure.pdf}", query.folder)


if __name__ == "__main__":
    run_cli(main)
