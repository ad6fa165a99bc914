"""Records -> the paper's tables: mean ± std with n, as CSV, LaTeX and Markdown, with a verdict on each number.

    python -m benchmark.tables table=2 profile=quick          # the table of experiment=table2
    python -m benchmark.tables table=demo

Options: table=NAME, out=FOLDER (default results/<table>-<protocol>-<profile>); every other key=value is an override of
the experiment, as for `python -m benchmark.run`. The command reads records and runs nothing.
"""

import logging
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmark.cli import run_cli
from benchmark.oldcell import OldCell as Cell
from benchmark.query import read_query
from benchmark.records import RunRecord, to_frame
from benchmark.store import write_atomically
from benchmark.typeset import to_latex, to_markdown
from benchmark.verdict import PAPER_KEY, PUBLISHED, verdict_markdown, verdicts

log = logging.getLogger(__name__)
KEY = ["ablation", *PAPER_KEY]
COMPARED = ("retain_accuracy", "forget_accuracy", "mia")  # with the retrained model, by bold numbers


@dataclass(frozen=True)
class Table:
    """One table: long form, one row per (block, metric, method), and what its caption says.

    Columns of `values`: the key columns, `mean` and `std` (percent, or seconds; NaN where missing), `n`, `best`
    (closest to the retrained model), `skipped`, `command` (what fills a missing cell, one line a run) and `records`
    (run ids).
    """

    name: str
    title: str
    caption: str
    values: pd.DataFrame


def make_table(name: str, cells: Sequence[Cell], records: Sequence[RunRecord]) -> tuple[Table, list[RunRecord]]:
    """Return the table over `cells` and the records it rests on, in the order of the cells."""
    by_hash: dict[str, list[RunRecord]] = {}
    for record in records:
        by_hash.setdefault(record.scientific_hash, []).append(record)
    used: list[RunRecord] = []
    options = cells[0].config.table
    groups: dict[tuple[str, ...], list[Cell]] = {}
    pooled = "+".join(dict.fromkeys(cell.labels["target"] for cell in cells))
    for cell in cells:
        found = by_hash.get(cell.scientific_hash, [])
        if len(found) > 1:
            raise ValueError(
                f"Expected one record of {cell}, but got {len(found)} from different data; remove the ones that are "
                f"not wanted: {', '.join(record.run_id for record in found)}."
            )
        used += [record for record in found if record not in used]
        labels = cell.labels | ({"target": pooled} if options.pool_targets else {})
        groups.setdefault(tuple(labels[part] for part in KEY[:-1]), []).append(cell)
    rows = []
    for key, members in groups.items():
        present = [record for cell in members for record in by_hash.get(cell.scientific_hash, [])]
        for metric in options.metrics:
            run_ids = " ".join(record.run_id for record in present)
            rows.append([*key, metric, *aggregate(metric, members, present), run_ids])
    columns = [*KEY, "mean", "std", "n", "skipped", "command", "records"]
    values = mark_best(with_ranks(pd.DataFrame(rows, columns=columns), cells), cells)
    return Table(name, str(options.title), caption(cells, used), values), used


def measured(record: RunRecord, metric: str) -> float | None:
    """Return a metric in percent, or `seconds`: loading, method and evaluation together, the paper's t.

    None where the metric is not defined for the record, as `rank` is for no single one.
    """
    if metric == "seconds":
        return sum(record.seconds[part] for part in ("load", "method", "evaluation")) if record.metrics else None
    value = record.metrics.get(metric)
    return None if value is None else 100 * value


def aggregate(
    metric: str, cells: Sequence[Cell], records: Sequence[RunRecord]
) -> tuple[float, float, int, str | None, str | None]:
    """Return (mean, sample std, n), why the cell is empty and the commands that fill it, one a line."""
    done = {record.scientific_hash for record in records}
    command = "\n".join(fill_command(cell) for cell in cells if cell.scientific_hash not in done) or None
    series = pd.Series([x for record in records if (x := measured(record, metric)) is not None], dtype=float)
    if len(series):
        return float(series.mean()), float(series.std(ddof=1)), len(series), None, command
    skipped = next((record.skipped for record in records if record.skipped is not None), None)
    return math.nan, math.nan, 0, skipped, command


def fill_command(cell: Cell) -> str:
    """Return the command that computes the cell and no other."""
    return f"python -m benchmark.run {shlex.join(cell.overrides)}"


def with_ranks(values: pd.DataFrame, cells: Sequence[Cell]) -> pd.DataFrame:
    """Fill the rows of the metric `rank`: 1 for the smallest mean gap to the retrained model within a block."""
    compared = ~values["method"].isin(unranked_methods(cells) | reference_methods(cells))
    block = [name for name in KEY if name not in ("method", "metric")]
    gaps = values[compared & (values["metric"] == "gap")].set_index([*block, "method"])["mean"]
    ranks = gaps.groupby(level=block).rank(method="min")
    is_rank = values["metric"] == "rank"
    keys = pd.MultiIndex.from_frame(values.loc[is_rank, [*block, "method"]])
    values.loc[is_rank, "mean"] = ranks.reindex(keys).to_numpy()
    return values


def reference_methods(cells: Sequence[Cell]) -> set[str]:
    return {cell.labels["method"] for cell in cells if cell.is_reference}


def unranked_methods(cells: Sequence[Cell]) -> set[str]:
    return {cell.labels["method"] for cell in cells if not getattr(cell.method, "ranked", True)}


def mark_best(values: pd.DataFrame, cells: Sequence[Cell]) -> pd.DataFrame:
    """Add `best`: within block and metric, the ranked method closest to the retrained model; times have none."""
    reference, unranked = reference_methods(cells), unranked_methods(cells)
    values = values.assign(best=False)
    is_reference = values["method"].isin(reference)
    for _, rows in values.groupby([name for name in KEY if name != "method"], sort=False):
        goal = rows.loc[is_reference, "mean"]
        ranked = rows.loc[~rows["method"].isin(reference | unranked), "mean"]
        if goal.notna().any() and ranked.notna().any() and rows["metric"].iloc[0] in COMPARED:
            gaps = (ranked - goal.iloc[0]).abs().round(2)
            values.loc[gaps.index[gaps == gaps.min()], "best"] = True
    return values


def caption(cells: Sequence[Cell], records: Sequence[RunRecord]) -> str:
    """Return what a reader must know beside the numbers: protocol, profile, sizes, device, n, rules."""
    names = cells[0].labels
    by_hash = {cell.scientific_hash: cell for cell in cells}
    parts = [f"Protocol {names['protocol']}, profile {names['profile']}."]
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        groups.setdefault((record.labels["dataset"], record.labels["model"]), []).append(record)
    for (dataset, model), members in groups.items():
        sizes, cell = members[0].sizes, by_hash[members[0].scientific_hash]
        epochs = " and ".join(map(str, sorted({record.original["epochs"] for record in members})))
        accuracy = span([100 * record.original["test_accuracy"] for record in members])
        with_or_without = "with" if cell.recipe.augmentation is not None else "without"
        judged = "training" if cell.dataset.test is cell.dataset.train else "test"
        forgotten = span([record.sizes["forget_test"] for record in members], 0)
        attacked = span([record.sizes["forget_train"] for record in members], 0)
        parts.append(
            f"{dataset}: {sizes['forget_train'] + sizes['retain_train']} training images, {model} of "
            f"{sizes['parameters'] / 1e6:.2f} M parameters, originals trained for {epochs} epochs "
            f"{with_or_without} augmentation ({judged} accuracy {accuracy} %). "
            f"D_f is over {forgotten} images, MIA over {attacked}."
        )
    if records:
        n = len({record.seeds["method_seed"] for record in records})
        seeds = f"{n} method seeds" if n > 1 else "one method seed"
        targets = len({record.labels["target"] for record in records}) if cells[0].config.table.pool_targets else 1
        over = f"{targets} targets and {seeds}" if targets > 1 else seeds
        spread = f"mean ± sample standard deviation over {over}" if n * targets > 1 else seeds
        parts.append(f"Percent, {spread} (n = {n * targets}).")
        ways = {(record.provenance["device"], record.provenance["precision"]) for record in records}
        parts.append(f"Device and training precision: {'; '.join(', '.join(way) for way in sorted(ways))}.")
    if reference_methods(cells):
        parts.append("Bold: closest to the retrained model.")
    return " ".join(parts)


def span(values: Sequence[float], decimals: int = 1) -> str:
    """Return one number, or the range.

    >>> span([1.0, 1.01]), span([1.0, 2.0]), span([3, 5], 0)
    ('1.0', '1.0 to 2.0', '3 to 5')
    """
    low, high = f"{min(values):.{decimals}f}", f"{max(values):.{decimals}f}"
    return low if low == high else f"{low} to {high}"


def write_table(table: Table, records: Sequence[RunRecord], cell: Cell, folder: Path) -> None:
    """Write table.csv, table.tex, table.md, records.csv and, for a published table, verdict.csv and verdict.md."""
    folder.mkdir(parents=True, exist_ok=True)
    published = pd.read_csv(PUBLISHED)
    files = {
        "table.csv": table.values.to_csv(index=False, float_format="%.2f"),
        "table.tex": to_latex(table.values, table.title, table.caption),
        "table.md": to_markdown(table.values, table.title, table.caption),
        "records.csv": to_frame(list(records)).to_csv(index=False) if records else "",
    }
    if table.name in set(published["table"]):
        names = cell.labels
        verdict = verdicts(table.name, table.values, published, protocol=names["protocol"], profile=names["profile"])
        files["verdict.csv"] = verdict.to_csv(index=False, float_format="%.2f")
        files["verdict.md"] = verdict_markdown(verdict, table.title)
    for name, text in files.items():
        write_atomically(folder / name, text)


def main() -> None:
    """Read the command line and write one table."""
    if {"-h", "--help"} & set(sys.argv[1:]) or len(sys.argv) == 1:
        print(__doc__)
        return
    query = read_query("table", sys.argv[1:])
    table, used = make_table(query.name, query.cells, query.records)
    write_table(table, used, query.cells[0], query.folder)
    print(to_markdown(table.values, table.title, table.caption))
    missing = "\n".join(table.values["command"].dropna().drop_duplicates()).splitlines()
    log.info("wrote %s/{table.csv,table.tex,table.md,records.csv}; %d cells missing", query.folder, len(missing))


if __name__ == "__main__":
    run_cli(main)
