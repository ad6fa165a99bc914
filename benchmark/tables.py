"""Records -> the paper's tables: mean ± std with n, as CSV, LaTeX and Markdown, with a verdict on each number.

    python -m benchmark.tables table=2 profile=quick          # the table of experiment=table2
    python -m benchmark.tables table=demo

Options: table=NAME, out=FOLDER (default results/<table>-<protocol>-<profile>); every other key=value is an override of
the experiment, as for `python -m benchmark.run`. The command reads records and runs nothing.
"""

import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from hydra import initialize_config_dir

from benchmark.cell import Cell
from benchmark.cli import run_cli
from benchmark.grid import cells_of
from benchmark.records import RunRecord, load_records, to_frame
from benchmark.run import CONFIGS
from benchmark.store import write_atomically
from benchmark.typeset import METRICS, to_latex, to_markdown

log = logging.getLogger(__name__)
ROWS = tuple(METRICS)
KEY = ["task", "dataset", "model", "target", "method", "metric"]
PUBLISHED = Path(__file__).parent.parent / "results" / "paper" / "tables.csv"
LEAST_TOLERANCE = 1.0  # percentage points; below this two runs of one code base differ too


@dataclass(frozen=True)
class Table:
    """One table: long form, one row per (block, metric, method), and what its caption says.

    Columns of `values`: the key columns, `mean` and `std` in percent (NaN where missing), `n`, `best` (closest to the
    retrained model), `skipped` and `command` (what fills a missing cell).
    """

    name: str
    title: str
    caption: str
    values: pd.DataFrame


def make_table(name: str, cells: Sequence[Cell], records: Sequence[RunRecord]) -> tuple[Table, list[RunRecord]]:
    """Return the table over `cells` and the records it rests on, in the order of the cells."""
    by_hash: dict[str, list[RunRecord]] = {}
    for record in records:
        by_hash.setdefault(record.config_hash, []).append(record)
    used: list[RunRecord] = []
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        found = by_hash.get(cell.config_hash, [])
        if len(found) > 1:
            raise ValueError(
                f"Expected one record of {cell}, but got {len(found)} from different data; remove the ones that are "
                f"not wanted: {', '.join(record.run_id for record in found)}."
            )
        used += [record for record in found if record not in used]
        groups.setdefault(tuple(cell.identity[part] for part in KEY[:-1]), []).append(cell)
    rows = []
    for key, members in groups.items():
        present = [record for cell in members for record in by_hash.get(cell.config_hash, [])]
        for metric in ROWS:
            rows.append([*key, metric, *aggregate(metric, members, present)])
    columns = [*KEY, "mean", "std", "n", "skipped", "command"]
    values = mark_best(pd.DataFrame(rows, columns=columns), cells)
    title = str(cells[0].config.table or f"Runs of {cells[0].identity['dataset']}")
    return Table(name, title, caption(cells[0], used), values), used


def aggregate(
    metric: str, cells: Sequence[Cell], records: Sequence[RunRecord]
) -> tuple[float, float, int, str | None, str | None]:
    """Return (mean, sample std, n) in percent over the seeds, why the cell is empty and what fills it."""
    measured = [100 * x for record in records if (x := record.metrics.get(metric)) is not None]
    skipped = next((record.skipped for record in records if record.skipped is not None), None)
    command = None
    if not measured:
        nan = math.nan
        if skipped is None:
            command = fill_command(cells[0])
        return nan, nan, 0, skipped, command
    series = pd.Series(measured)
    return float(series.mean()), float(series.std(ddof=1)), len(measured), None, command


def fill_command(cell: Cell) -> str:
    """Return the command that computes the cell."""
    names = cell.identity
    groups = " ".join(f"{part}={names[part]}" for part in ("dataset", "model", "task", "method", "protocol", "profile"))
    target = "" if names["target"] == names["task"] else f" task.target={names['target']}"
    return f"python -m benchmark.run {groups}{target} method_seed={cell.seeds['method_seed']}"


def mark_best(values: pd.DataFrame, cells: Sequence[Cell]) -> pd.DataFrame:
    """Add `best`: within block and metric, the ranked method whose mean is closest to the retrained model's."""
    reference = {cell.identity["method"] for cell in cells if cell.is_reference}
    unranked = {cell.identity["method"] for cell in cells if not getattr(cell.method, "ranked", True)}
    values = values.assign(best=False)
    is_reference = values["method"].isin(reference)
    for _, rows in values.groupby([name for name in KEY if name != "method"], sort=False):
        goal = rows.loc[is_reference, "mean"]
        ranked = rows.loc[~rows["method"].isin(reference | unranked), "mean"]
        if goal.notna().any() and ranked.notna().any():
            gaps = (ranked - goal.iloc[0]).abs().round(2)
            values.loc[gaps.index[gaps == gaps.min()], "best"] = True
    return values


def caption(cell: Cell, records: Sequence[RunRecord]) -> str:
    """Return what a reader must know beside the numbers: protocol, profile, sizes, device, n, rules."""
    names = cell.identity
    parts = [f"Protocol {names['protocol']}, profile {names['profile']}."]
    if records:
        sizes = records[0].sizes
        train = sizes["forget_train"] + sizes["retain_train"]
        epochs = sorted({record.original["epochs"] for record in records})
        accuracy = [100 * record.original["test_accuracy"] for record in records]
        counts = pd.Series(
            [(r.identity["model"], r.identity["target"], r.identity["method"]) for r in records]
        ).value_counts()
        n = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
        spread = (
            f"{min(accuracy):.1f}"
            if max(accuracy) - min(accuracy) < 0.05
            else f"{min(accuracy):.1f} to {max(accuracy):.1f}"
        )
        parts.append(
            f"{train} training images, {sizes['parameters'] / 1e6:.2f} M parameters, original trained for "
            f"{' and '.join(map(str, epochs))} epochs (test accuracy {spread} %)."
        )
        parts.append(f"Mean ± sample standard deviation in percent over n = {n} method seeds.")
        parts.append(f"Device: {', '.join(sorted({record.provenance['device'] for record in records}))}.")
    parts.append("Bold: closest to the retrained model.")
    return " ".join(parts)


def verdicts(table: Table, published: pd.DataFrame, *, protocol: str, profile: str) -> pd.DataFrame:
    """Return ours beside the published numbers with `match`, `near`, `off` or `missing`.

    Rule: tolerance = max(1 point, 2·√(σ_ours² + σ_published²)); σ_published = 0 where the table's ± has no certain
    unit; `match` within one tolerance, `near` within three, `off` beyond.
    """
    paper = published[(published["table"] == table.name) & published["metric"].isin(ROWS)].drop(columns="table")
    joined = paper.merge(table.values[[*KEY, "mean", "std", "n"]], on=KEY, how="left", suffixes=("_published", "_ours"))
    joined["n"] = joined["n"].fillna(0).astype(int)
    joined["difference"] = joined["mean_ours"] - joined["mean_published"]
    sigma = joined["std_published"].where(joined["std_unit"] == "percent", 0.0).fillna(0.0)
    spread = (sigma**2 + joined["std_ours"].fillna(0.0) ** 2) ** 0.5
    joined["tolerance"] = (2 * spread).clip(lower=LEAST_TOLERANCE)
    ratio = joined["difference"].abs() / joined["tolerance"]
    joined["verdict"] = [
        "missing" if math.isnan(x) else "match" if x <= 1 else "near" if x <= 3 else "off" for x in ratio
    ]
    return joined.assign(protocol=protocol, profile=profile)[
        [*KEY, "protocol", "profile", "mean_ours", "std_ours", "n", "mean_published", "std_published", "std_unit",
         "difference", "tolerance", "verdict"]
    ]  # fmt: skip


def write_table(table: Table, records: Sequence[RunRecord], cell: Cell, folder: Path) -> None:
    """Write table.csv, table.tex, table.md, records.csv and, for a published table, verdict.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    published = pd.read_csv(PUBLISHED)
    files = {
        "table.csv": table.values.to_csv(index=False, float_format="%.2f"),
        "table.tex": to_latex(table.values, table.title, table.caption),
        "table.md": to_markdown(table.values, table.title, table.caption),
        "records.csv": to_frame(list(records)).to_csv(index=False) if records else "",
    }
    if table.name in set(published["table"]):
        names = cell.identity
        verdict = verdicts(table, published, protocol=names["protocol"], profile=names["profile"])
        files["verdict.csv"] = verdict.to_csv(index=False, float_format="%.2f")
    for name, text in files.items():
        write_atomically(folder / name, text)


def main() -> None:
    """Read the command line and write one table."""
    if {"-h", "--help"} & set(sys.argv[1:]) or len(sys.argv) == 1:
        print(__doc__)
        return
    options: dict[str, str] = {}
    overrides: list[str] = []
    for argument in sys.argv[1:]:
        name, separator, value = argument.partition("=")
        if not separator:
            raise ValueError(f"Expected key=value, but got {argument!r}; try --help.")
        if name in ("table", "out"):
            options[name] = value
        else:
            overrides.append(argument)
    if "table" not in options:
        raise ValueError("Expected table=…, for example table=2 or table=demo, but got none.")
    name = f"table{options['table']}" if options["table"].isdigit() else options["table"]
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        cells = cells_of([f"experiment={name}", *overrides])
    first = cells[0]
    records = load_records(Path(first.config.output_dir) / "records")
    table, used = make_table(name, cells, records)
    names = first.identity
    folder = Path(options.get("out", f"results/{name}-{names['protocol']}-{names['profile']}"))
    write_table(table, used, first, folder)
    print(to_markdown(table.values, table.title, table.caption))
    missing = table.values["command"].dropna().drop_duplicates()
    log.info("wrote %s/{table.csv,table.tex,table.md,records.csv}; %d cells missing", folder, len(missing))


if __name__ == "__main__":
    run_cli(main)
