"""Check that every committed table follows from the records beside it: `python -m scripts.verify_results`."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.cli import run_cli
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
    dirty = records.loc[records["provenance.dirty"].astype(str) == "True", "run_id"]
    problems = [f"{folder.name}: record {name} comes from uncommitted code" for name in dirty]
    for row in table[table["metric"] != "rank"].to_dict("records"):
        chosen = records[records["run_id"].isin(str(row["records"]).split())]
        values = percent_or_seconds(chosen, row["metric"]).dropna()
        ours, printed = (values.mean(), values.std(ddof=1)), (row["mean"], row["std"])
        if len(values) != row["n"] or not np.allclose(ours, printed, atol=0.00501, equal_nan=True):
            cell = " ".join(str(row[name]) for name in KEY)
            problems.append(f"{folder.name}: {cell}: printed {printed}, n = {row['n']}; records give {ours}")
    return problems


def main() -> None:
    """Check every folder of results/ that holds a table; exit code 1 where a number has no record behind it."""
    folders = sorted(path.parent for path in RESULTS.glob("*/table.csv"))
    problems = [problem for folder in folders for problem in check_table(folder)]
    print("\n".join(problems) or f"{len(folders)} tables follow from their records")
    sys.exit(bool(problems))


if __name__ == "__main__":
    run_cli(main)
