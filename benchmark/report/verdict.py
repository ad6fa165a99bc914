"""Ours beside the published numbers: the rule behind `match | near | off | missing`, and how it is printed."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.records import RunRecord
from benchmark.report.about import About
from benchmark.report.typeset import KEY, blocks, mean_and_spread, span

PAPER_KEY = [name for name in KEY if name != "ablation"]
PAPER_BLOCK = [name for name in PAPER_KEY if name not in ("method", "metric")]
PUBLISHED = Path(__file__).parents[2] / "results" / "paper" / "tables.csv"
LEAST_TOLERANCE = 1.0  # percentage points; below this two runs of one code base differ too
MEANS = ["mean_published", "mean_ours"]
REFERENCE, UNTOUCHED = "retrain", "baseline"  # columns of the published tables: what a gap is to, and the original
DRAWN, SHARES = "random", ("forget_accuracy", "mia")  # the task that draws its forget set, and the shares of that draw
PAPER_DRAW = 83  # samples: the published shares are multiples of 1/83
WITHIN = 1.5  # factor within which a printed ± of unknown unit fits the spread of the draw
GAP_NOTE = (
    "The Baseline changes nothing and is near the retrained model if there is little to forget, so a small gap alone "
    "is no evidence of forgetting."
)
GAP_OF_MEANS = (
    "mean over D_r, D_f and MIA of the distance between our means and the retrained model's (an answer averages over "
    "single runs instead)."
)


def published() -> pd.DataFrame:
    """Return the paper's 357 numbers in long form."""
    return pd.read_csv(PUBLISHED)


def verdicts(
    theirs: pd.DataFrame, values: pd.DataFrame, records: Sequence[RunRecord], *, protocol: str, profile: str
) -> pd.DataFrame:
    """Return ours beside the published numbers with `match`, `near`, `off` or `missing`.

    Rule: tolerance = max(1 point, 2·√(e_ours² + σ_published²)), see `errors`; `match` within one tolerance, `near`
    within three, `off` beyond.

    Args:
        theirs: the rows of `published` on one table.
        records: those that `values` names in its column `records`.
    """
    theirs = theirs[theirs["metric"] != "seconds"].drop(columns="table")  # times belong to their device
    ours = values.loc[values["ablation"] == "none", [*PAPER_KEY, "mean", "std", "n", "records"]]
    joined = theirs.merge(ours, on=PAPER_KEY, how="left", suffixes=("_published", "_ours"))
    joined["n"] = joined["n"].fillna(0).astype(int)
    joined["difference"] = joined["mean_ours"] - joined["mean_published"]
    by_id = {record.run_id: record for record in records}
    runs = [[by_id[run_id] for run_id in run_ids.split()] for run_ids in joined["records"].fillna("")]
    rows: list[Any] = joined.to_dict("records")
    spread = [2 * math.hypot(*errors(row, of)) for row, of in zip(rows, runs, strict=True)]
    joined["tolerance"] = pd.Series(spread).clip(lower=LEAST_TOLERANCE)
    ratio = joined["difference"].abs() / joined["tolerance"]
    joined["verdict"] = [
        "missing" if math.isnan(x) else "match" if x <= 1 else "near" if x <= 3 else "off" for x in ratio
    ]
    return joined.assign(protocol=protocol, profile=profile)[
        [*PAPER_KEY, "protocol", "profile", "mean_ours", "std_ours", "n", "mean_published", "std_published", "std_unit",
         "difference", "tolerance", "verdict"]
    ]  # fmt: skip


def errors(row: Mapping[str, Any], runs: Sequence[RunRecord]) -> tuple[float, float]:
    """Return the standard error of our mean of n runs, and the published standard deviation, in points.

    Ours is s/√n, s the sample standard deviation (n = 1: unknown, 0). The published one belongs to one run, as its n is
    not stated; it is 0 if its unit is uncertain. Shares of N_f random samples vary with the draw, by √(p(1−p)/N_f) per
    draw, p the published mean: our error is at least that of our draws together, and a published one of uncertain
    unit is a fraction if that fits the draw, else the draw's.
    """
    ours = 0.0 if math.isnan(row["std_ours"]) else row["std_ours"] / math.sqrt(row["n"])
    theirs = row["std_published"] if row["std_unit"] == "percent" else 0.0
    if row["task"] != DRAWN or row["metric"] not in SHARES:
        return ours, theirs
    if row["std_unit"] != "percent":
        printed, drawn = 100 * row["std_published"], draw_error(row["mean_published"], PAPER_DRAW)
        theirs = printed if drawn / WITHIN <= printed <= drawn * WITHIN else drawn
    draws = {run.seeds["split_seed"]: run.sizes["forget_train"] for run in runs}
    return max(ours, draw_error(row["mean_published"], sum(draws.values())) if draws else 0.0), theirs


def draw_error(percent: float, n: int) -> float:
    """Return the standard error, in points, of a share of n random samples.

    >>> round(draw_error(95.3, 83), 2), round(draw_error(100, 83), 2)
    (2.32, 1.65)
    """
    p = percent / 100
    if p in (0, 1):
        p = (p * PAPER_DRAW + 2) / (PAPER_DRAW + 4)  # as Wilson's interval: k + 2 of N + 4
    return 100 * math.sqrt(p * (1 - p) / n)


def distances(both: pd.DataFrame) -> pd.DataFrame:
    """Return how far each number lies from the retrained model's in its block, published and ours, in MEANS.

    Args:
        both: one row per published number, with the columns of MEANS; ours is NaN if we have none.
    """
    block = [name for name in ("table", *PAPER_KEY) if name in both and name != "method"]
    reference = both[both["method"] == REFERENCE].set_index(block)[MEANS]
    return (both.set_index(["method", *block])[MEANS] - reference).abs()


def with_gaps(verdict: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `verdicts`, and the mean distances as metric `gap` per block whose original we measured."""
    gaps = distances(verdict).dropna().groupby(["method", *PAPER_BLOCK], sort=False).mean().reset_index()
    known = gaps.loc[gaps["method"] == UNTOUCHED, PAPER_BLOCK]
    gaps = gaps[gaps["method"] != REFERENCE].merge(known, on=PAPER_BLOCK)
    if gaps.empty:
        return verdict
    same = {name: verdict[name].iloc[0] for name in ("protocol", "profile")}
    found = pd.concat([verdict, gaps.assign(metric="gap", verdict="", **same)], ignore_index=True)
    return found.assign(n=found["n"].astype("Int64"))


def with_runs(verdict: pd.DataFrame) -> pd.DataFrame:
    """Return the blocks of `verdicts` that have a run, and published spreads only if their unit is certain."""
    shown = verdict[verdict.groupby(PAPER_BLOCK, sort=False)["n"].transform("max") > 0].reset_index(drop=True)
    return shown.assign(std_published=shown["std_published"].where(shown["std_unit"] == "percent"))


def verdict_markdown(verdict: pd.DataFrame, title: str, about: About, images: str) -> str:
    """Return the rows of `verdicts` in the layout of the table, `ours / published, verdict` in each cell.

    Blocks without any run are left out, and published spreads without a certain unit.

    Args:
        images: a sentence on how many images D_f and MIA are over.
    """

    def cell(row: Mapping[str, Any]) -> str:
        if row["verdict"] == "missing":
            return ""
        theirs = mean_and_spread(row["mean_published"], row["std_published"])
        ours = mean_and_spread(row["mean_ours"], row["std_ours"])
        return ", ".join(filter(None, [f"{ours} / {theirs}", row["verdict"]]))

    n = verdict.loc[verdict["n"] > 0, "n"].tolist() or [0]
    first, counts = verdict.iloc[0], verdict["verdict"].value_counts()
    numbers = ", ".join(f"{counts.get(name, 0)} {name}" for name in ("match", "near", "off", "missing"))
    shown = with_gaps(with_runs(verdict)).assign(ablation="none")
    caption = (
        f"**{title}: ours / published.** Protocol {first['protocol']}, profile {first['profile']}, percent, "
        f"n = {span(n, 0)}. {images} Of {len(verdict)} published numbers: {numbers}; "
        f"results/README.md has the rule."
    )
    if (shown["metric"] == "gap").any():
        caption += f" gap: {GAP_OF_MEANS} {GAP_NOTE}"
    return f"{caption}\n\n{blocks(shown, about, cell).markdown()}" if len(shown) else f"{caption}\n"
