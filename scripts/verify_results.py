"""Check that every committed table and figure follows from its records: `python -m scripts.verify_results`."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.cli import run_cli
from benchmark.figures import precomputing_saves, time_shares
from benchmark.tables import KEY

RESULTS = Path(__file__).parent.parent / "results"


def percent_or_seconds(records: pd.DataFrame, metric: str) -> pd.Series:
    """Return one value a record, as `benchmark.tables` shows it."""
    if metric == "seconds":
        return records[[f"seconds.{part}" for part in ("load", "method", "evaluation")]].sum(axis=1, skipna=False)
    return 100 * records.get(f"metrics.{metric}", pd.Series(dtype=float))


def check_table(folder: Path) -> list[str]:
    """Return what is wrong with one results folder: means, spreads or counts that its records do not give."""
    table = pd.read_csv(folder / "table.csv", dtype={"records": str}, keep_default_na=False, na_values=[""])
    records = pd.read_csv(folder / "records.csv", dtype={"run_id": str})
    problems = check_origin(folder, records)
    for row in table[table["metric"] != "rank"].to_dict("records"):
        chosen = records[records["run_id"].isin(str(row["records"]).split())]
        values = percent_or_seconds(chosen, row["metric"]).dropna()
        ours, printed = (values.mean(), values.std(ddof=1)), (row["mean"], row["std"])
        if len(values) != row["n"] or not np.allclose(ours, printed, atol=0.00501, equal_nan=True):
            cell = " ".join(str(row[name]) for name in KEY)
            problems.append(f"{folder.name}: {cell}: printed {printed}, n = {row['n']}; records give {ours}")
    return problems


def check_origin(folder: Path, records: pd.DataFrame) -> list[str]:
    """Return which records come from uncommitted code, or start from an original model that does."""
    dirty = pd.Series(False, index=records.index)
    for name in ("provenance.dirty", "original.dirty"):  # older records do not have the second
        dirty |= records.get(name, dirty).astype(str) == "True"
    return [f"{folder.name}: record {name} comes from uncommitted code" for name in records.loc[dirty, "run_id"]]


def check_figure(folder: Path) -> list[str]:
    """Return what is wrong with the numbers behind a figure of times."""
    if not (folder / "records.csv").is_file():
        return [f"{folder.name}: no records.csv"]
    records = pd.read_csv(folder / "records.csv", dtype={"run_id": str})
    problems = check_origin(folder, records)
    for name, ours, tolerance in (
        ("seconds.csv", time_shares(records).reset_index(), 0.000501),
        ("saving.csv", precomputing_saves(records), 0.00501),
    ):
        printed = pd.read_csv(folder / name)
        try:
            pd.testing.assert_frame_equal(printed, ours, check_dtype=False, rtol=0, atol=tolerance)
        except AssertionError:
            problems.append(f"{folder.name}: {name} does not follow from the records")
    return problems


def main() -> None:
    """Check every folder of results/ with a table or times; exit code 1 where a number has no record behind it."""
    tables, figures = (sorted(path.parent for path in RESULTS.glob(f"*/{name}.csv")) for name in ("table", "seconds"))
    problems = [problem for folder in tables for problem in check_table(folder)]
    problems += [problem for folder in figures for problem in check_figure(folder)]
    print("\n".join(problems) or f"{len(tables)} tables and {len(figures)} figures follow from their records")
    sys.exit(bool(problems))


if __name__ == "__main__":
    run_cli(main)
