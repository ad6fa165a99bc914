"""Tables -> the paper's claims about SSD beside ours."""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmark.composer import SEARCH_PATH
from benchmark.report.about import ABOUT
from benchmark.report.query import RESULTS, check_choice, key_of, write_files
from benchmark.report.typeset import Grid
from benchmark.report.verdict import GAP_NOTE, GAP_OF_MEANS, MEANS, PAPER_KEY, REFERENCE, distances, published

COMPARISON = [f"table{number}" for number in (2, 3, 4, 5, 6)]
COLUMNS = ["claim", "of", "unit", "published", "published_same_cells", "ours", "n"]
HEADS = ["Claim", "Of", "Unit", "Published", "Published, same cells", "Ours", "n"]
CHANGED, SAVING = 1.7, 84.32  # percent: in the text; in Figure 2


def write_claims(overrides: Sequence[str], out: Path | None = None) -> str:
    """Write claims.csv and claims.md of `[protocol=…] [profile=…]`; return the Markdown."""
    names = protocol_and_profile(overrides, "claims")
    files = claim_files(RESULTS, names["protocol"], names["profile"])
    write_files(out or RESULTS / f"claims-{names['protocol']}-{names['profile']}", files)
    return files["claims.md"]


def protocol_and_profile(overrides: Sequence[str], what: str, *more: str) -> dict[str, str]:
    """Return the names in `[protocol=…] [profile=…]`, and in those of `more` that are there; ValueError for others."""
    names, groups = {"protocol": "paper", "profile": "full"}, ("protocol", "profile", *more)
    for word in [word for word in overrides if key_of(word) != SEARCH_PATH]:
        kind, _, name = word.partition("=")
        if kind not in groups:
            taken = ", ".join(f"{group}=…" for group in groups)
            raise ValueError(f"Expected {what} with {taken} and out=… alone, but got {word!r}.")
        names[kind] = name
    for kind, name in names.items():
        check_choice(kind, kind, name, overrides)
    return names


def claim_files(results: Path, protocol: str, profile: str) -> dict[str, str]:
    """Return claims.csv and claims.md; ValueError if nothing was run."""
    claims = make_claims(results, protocol, profile)
    if not claims["n"].any():
        raise ValueError(
            f"Expected tables in {results}/*-{protocol}-{profile}, but there are none; "
            f"run make reproduce-table2 PROTOCOL={protocol} PROFILE={profile} or another first."
        )
    return {
        "claims.csv": claims.to_csv(index=False, float_format="%.2f"),
        "claims.md": to_markdown(claims, protocol, profile),
    }


def make_claims(results: Path, protocol: str, profile: str) -> pd.DataFrame:
    """Return one row per claim: published, published on the cells that are there, ours, and n."""

    def read(name: str, file: str, *columns: str) -> pd.DataFrame:
        path = results / f"{name}-{protocol}-{profile}" / file
        found = pd.read_csv(path, dtype={"target": str}) if path.is_file() else pd.DataFrame(columns=list(columns))
        return found[list(columns)].assign(table=name)

    paper, key = published(), ["table", *PAPER_KEY]
    tables = [read(name, "table.csv", "ablation", *PAPER_KEY, "mean") for name in (*COMPARISON, "table1")]
    tables = [table[table["ablation"] == "none"] for table in tables]
    ours = pd.concat([table for table in tables if len(table)] or tables[:1])
    both = paper.merge(ours, on=key, how="left", suffixes=("_published", "_ours"))[[*key, *MEANS]]
    changed = read("selectivity", "table.csv", "method", "mean", "n")
    saving = read("figure2", "saving.csv", "method", "mean", "count").rename(columns={"count": "n"})
    rows = [
        *gap_claims(both[both["table"].isin(COMPARISON)]),
        *time_claims(both[both["table"] == "table1"]),
        single_claim("parameters changed", "SSD, CIFAR-100 rocket", CHANGED, changed),
        single_claim("own time saved by precomputing I_D", "SSD, CIFAR-20 vehicle2", SAVING, saving),
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def gap_claims(both: pd.DataFrame) -> list[list[object]]:
    """Return each method's mean absolute gap over Tables 2–6 and over each task, published and over common cells.

    The original itself is among the methods. n counts the numbers behind the last two columns.

    Args:
        both: one row per published number; `mean_ours` is NaN if we have none.
    """
    gaps = distances(both)
    parts = {"Tables 2-6": gaps} | {f"{task} task": part for task, part in gaps.groupby("task", sort=False)}
    rows: list[list[object]] = []
    for name, part in parts.items():
        for method in ABOUT.sorted_methods(set(part.index.unique("method")) - {REFERENCE}):
            everywhere, here = part.loc[method], part.loc[method].dropna()
            claim = f"mean absolute gap to the retrained model, {name}"
            means = everywhere["mean_published"].mean(), *(here[mean].mean() for mean in MEANS)
            rows.append([claim, ABOUT.method(method).label, "points", *means, len(here)])
    return rows


def time_claims(both: pd.DataFrame) -> list[list[object]]:
    """Return Fisher's time over SSD's in every block of Table 1."""
    times = both[both["metric"] == "seconds"].set_index(["method", "task", "dataset", "target"])[MEANS]
    rows: list[list[object]] = []
    ratios = (times.loc["fisher"] / times.loc["ssd"]).reset_index()
    for *block, theirs, ours in ratios.itertuples(index=False):
        claim = ["time of Fisher forgetting over SSD's, Table 1", " ".join(block), "times", theirs]
        rows.append([*claim, None, None, 0] if math.isnan(ours) else [*claim, theirs, ours, 1])
    return rows


def single_claim(claim: str, of: str, paper: float, table: pd.DataFrame) -> list[object]:
    """Return a claim about SSD that is one number of one table."""
    ssd = table[table["method"] == "ssd"]
    ours = [paper, float(ssd["mean"].iloc[0]), int(ssd["n"].iloc[0])] if len(ssd) else [None, None, 0]
    return [claim, of, "percent", paper, *ours]


def to_markdown(claims: pd.DataFrame, protocol: str, profile: str) -> str:
    """Return the claims as a Markdown table."""
    rows = [
        [claim, of, unit, *("missing" if pd.isna(x) else f"{x:.2f}" for x in numbers), str(n)]
        for claim, of, unit, *numbers, n in claims.itertuples(index=False)
    ]
    return (
        f"**The paper's claims.** Protocol {protocol}, profile {profile}. gap: {GAP_OF_MEANS} Published, same "
        f"cells: the published number over the cells behind ours. n: numbers, blocks or method seeds behind ours. "
        f"{GAP_NOTE}\n\n{Grid(HEADS, rows, 'lllrrrr').markdown()}"
    )
