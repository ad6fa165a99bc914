"""Records -> Figure 2: where each method's time goes, and what SSD saves when I_D is computed beforehand.

    python -m benchmark.figures figure=2 profile=quick        # the figure of experiment=figure2

Options: figure=NAME, out=FOLDER; every other key=value is an override of the experiment. Runs nothing.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmark.cli import run_cli
from benchmark.query import read_query
from benchmark.records import to_frame
from benchmark.store import write_atomically
from benchmark.tables import make_table
from benchmark.typeset import ORDER, TITLES

log = logging.getLogger(__name__)
PHASES = {
    "load": "loading",
    "importance_full": "importance of D",
    "importance_forget": "importance of D_f",
    "rest": "the method itself",
    "evaluation": "evaluation",
}


def time_shares(records: pd.DataFrame) -> pd.DataFrame:
    """Return mean seconds by method (rows) and phase (columns), in the paper's order of methods.

    Args:
        records: as in records.csv.
    """
    done = records[records["skipped"].isna()].rename(columns={f"seconds.{phase}": phase for phase in PHASES})
    means = done.groupby("method")[list(PHASES)].mean()
    return means.loc[sorted(means.index, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))]


def precomputing_saves(records: pd.DataFrame) -> pd.DataFrame:
    """Return the share of a method's own time that goes into I_D, for each method that computes it, in percent.

    The paper gives 84.32 ± 0.21 % for SSD. Where seeds share an I_D, it was measured once, and the spread is not one
    of measurements.

    Args:
        records: as in records.csv.
    """
    done = records[records["skipped"].isna() & (records["seconds.importance_full"] > 0)]
    saving = 100 * done["seconds.importance_full"] / done["seconds.method"]
    return saving.groupby(done["method"]).agg(["mean", "std", "count"]).reset_index()


def draw(seconds: pd.DataFrame, title: str, paths: Sequence[Path]) -> None:
    """Draw stacked shares of each method's time, with its total in seconds, into every path."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shares = 100 * seconds.div(seconds.sum(axis=1), axis=0)
    figure, axes = plt.subplots(figsize=(7, 0.6 + 0.42 * len(shares)), layout="constrained")
    left = pd.Series(0.0, index=shares.index)
    names = [TITLES.get(name, name) for name in shares.index]
    for (phase, label), colour in zip(
        PHASES.items(), ("#bbbbbb", "#4477aa", "#66ccee", "#ee6677", "#ccbb44"), strict=True
    ):
        axes.barh(names, shares[phase], left=left, label=label, color=colour)
        left += shares[phase]
    for row, total in enumerate(seconds.sum(axis=1)):
        axes.text(101, row, f"{total:.1f} s", va="center")
    axes.set(xlim=(0, 100), xlabel="share of the time in %")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize="medium")
    figure.legend(loc="outside lower center", ncols=len(PHASES), fontsize="small", frameon=False)
    for path in paths:
        figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Read the command line and write the figure with the numbers behind it."""
    if {"-h", "--help"} & set(sys.argv[1:]) or len(sys.argv) == 1:
        print(__doc__)
        return
    query = read_query("figure", sys.argv[1:])
    table, used = make_table(query.name, query.cells, query.records)
    if not used:
        raise ValueError(f"Expected records of experiment={query.name}, but got none; run it first.")
    query.folder.mkdir(parents=True, exist_ok=True)
    records = to_frame(used)
    seconds, saving = time_shares(records), precomputing_saves(records)
    device = used[0].provenance["device"]
    paths = [query.folder / f"figure.{kind}" for kind in ("png", "pdf")]
    names = query.cells[0].labels
    draw(seconds, f"{table.title}: {names['protocol']}, {names['profile']} profile, {device}", paths)
    write_atomically(query.folder / "seconds.csv", seconds.to_csv(float_format="%.3f"))
    write_atomically(query.folder / "saving.csv", saving.to_csv(index=False, float_format="%.2f"))
    write_atomically(query.folder / "records.csv", records.to_csv(index=False))
    print(saving.to_string(index=False))
    log.info("wrote %s and the numbers behind it", ", ".join(map(str, paths)))


if __name__ == "__main__":
    run_cli(main)
