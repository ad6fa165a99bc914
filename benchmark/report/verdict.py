"""Ours beside the published numbers: the rule behind `match | near | off | missing`, and how it is printed."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.report.about import About
from benchmark.report.typeset import KEY, blocks, mean_and_spread

PAPER_KEY = [name for name in KEY if name != "ablation"]
PUBLISHED = Path(__file__).parents[2] / "results" / "paper" / "tables.csv"
LEAST_TOLERANCE = 1.0  # percentage points; below this two runs of one code base differ too


def published() -> pd.DataFrame:
    """Return the paper's 357 numbers in long form."""
    return pd.read_csv(PUBLISHED)


def verdicts(name: str, values: pd.DataFrame, paper: pd.DataFrame, *, protocol: str, profile: str) -> pd.DataFrame:
    """Return ours beside the published numbers with `match`, `near`, `off` or `missing`.

    Rule: tolerance = max(1 point, 2·√(σ_ours² + σ_published²)); σ_published = 0 if the table's ± has no certain unit;
    `match` within one tolerance, `near` within three, `off` beyond.
    """
    comparable = paper["metric"] != "seconds"  # times belong to their device
    theirs = paper[(paper["table"] == name) & comparable].drop(columns="table")
    ours = values[[*PAPER_KEY, "mean", "std", "n"]]
    joined = theirs.merge(ours, on=PAPER_KEY, how="left", suffixes=("_published", "_ours"))
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
        [*PAPER_KEY, "protocol", "profile", "mean_ours", "std_ours", "n", "mean_published", "std_published", "std_unit",
         "difference", "tolerance", "verdict"]
    ]  # fmt: skip


def verdict_markdown(verdict: pd.DataFrame, title: str, about: About) -> str:
    """Return the rows of `verdicts` in the layout of the table, `ours / published, verdict` in each cell.

    Blocks without any run are left out, and published spreads without a certain unit.
    """

    def cell(row: Mapping[str, Any]) -> str:
        if row["verdict"] == "missing":
            return ""
        theirs = mean_and_spread(row["mean_published"], row["std_published"])
        return f"{mean_and_spread(row['mean_ours'], row['std_ours'])} / {theirs}, {row['verdict']}"

    first, counts = verdict.iloc[0], verdict["verdict"].value_counts()
    numbers = ", ".join(f"{counts.get(name, 0)} {name}" for name in ("match", "near", "off", "missing"))
    caption = (
        f"**{title}: ours / published.** Protocol {first['protocol']}, profile {first['profile']}, percent, "
        f"n = {verdict['n'].max()}. Of {len(verdict)} published numbers: {numbers}; results/README.md has the rule."
    )
    block = [name for name in PAPER_KEY if name not in ("method", "metric")]
    shown = verdict[verdict.groupby(block, sort=False)["n"].transform("max") > 0].assign(ablation="none")
    shown["std_published"] = shown["std_published"].where(shown["std_unit"] == "percent")
    return f"{caption}\n\n{blocks(shown, about, cell).markdown()}" if len(shown) else f"{caption}\n"
