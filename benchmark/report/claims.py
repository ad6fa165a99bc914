"""Tables -> the paper's claims about SSD beside ours."""

from pathlib import Path

import pandas as pd

from benchmark.compose import choices
from benchmark.report.about import About, read_about
from benchmark.report.typeset import Grid, label_of
from benchmark.report.verdict import PAPER_KEY, published

COMPARISON = [f"table{number}" for number in (2, 3, 4, 5, 6)]
REFERENCE = "retrain"  # the column of Tables 1-6 that the others are compared with
COLUMNS = ["claim", "of", "unit", "published", "published_same_cells", "ours", "n"]
HEADS = ["Claim", "Of", "Unit", "Published", "Published, same cells", "Ours", "n"]
CHANGED, SAVING = 1.7, 84.32  # percent: in the text; in Figure 2


def claim_files(results: Path, protocol: str, profile: str) -> dict[str, str]:
    """Return claims.csv and claims.md; ValueError if nothing was run, or for a name that is none."""
    for kind, name in (("protocol", protocol), ("profile", profile)):
        known = choices(kind)
        if name not in known:
            raise ValueError(f"Expected {kind}={' or '.join(known)}, but got {name!r}.")
    about = read_about()
    claims = make_claims(results, protocol, profile, about)
    if not claims["n"].any():
        raise ValueError(
            f"Expected tables in {results}/*-{protocol}-{profile}, but there are none; "
            f"run make reproduce-table2 PROTOCOL={protocol} PROFILE={profile} or another first."
        )
    return {
        "claims.csv": claims.to_csv(index=False, float_format="%.2f"),
        "claims.md": to_markdown(claims, protocol, profile, about),
    }


def make_claims(results: Path, protocol: str, profile: str, about: About) -> pd.DataFrame:
    """Return one row per claim: published, published on the cells that are there, ours, and n."""
    names = [*COMPARISON, "table1", "selectivity", "figure2"]
    folders = {name: results / f"{name}-{protocol}-{profile}" for name in names}
    paper = published()
    tables = [
        read(folders[name] / "table.csv", *PAPER_KEY, "mean").assign(table=name) for name in (*COMPARISON, "table1")
    ]
    ours = pd.concat([table for table in tables if len(table)] or tables[:1])
    compared, theirs = (values[values["table"].isin(COMPARISON)] for values in (ours, paper))
    timed, their_times = (values[values["table"] == "table1"] for values in (ours, paper))
    rows = [*gap_claims(compared, theirs, about), *time_claims(timed, their_times), *single_claims(folders)]
    return pd.DataFrame(rows, columns=COLUMNS)


def gaps(values: pd.DataFrame, about: About) -> pd.DataFrame:
    """Return |method − retrained model| in points, one row per table and key of the paper, of ranked methods."""
    block = ["table", *(name for name in PAPER_KEY if name != "method")]
    is_reference = values["method"] == REFERENCE
    reference = values[is_reference].set_index(block)["mean"].rename("reference")
    ranked = values["method"].map(lambda name: about.method(name).ranked).astype(bool)
    compared = values[ranked & ~is_reference].join(reference, on=block)
    return compared.assign(gap=(compared["mean"] - compared["reference"]).abs()).dropna(subset="gap")


def gap_claims(ours: pd.DataFrame, paper: pd.DataFrame, about: About) -> list[list[object]]:
    """Return, per method, the mean absolute gap over Tables 2–6, published and over the cells that both have.

    n counts the numbers behind the last two.
    """
    theirs = gaps(paper, about)
    same = theirs.merge(gaps(ours, about), on=["table", *PAPER_KEY], suffixes=("_published", "_ours"))
    rows: list[list[object]] = []
    for method in about.sorted_methods(theirs["method"]):
        everywhere, here = (part[part["method"] == method] for part in (theirs, same))
        means = everywhere["gap"].mean(), here["gap_published"].mean(), here["gap_ours"].mean()
        claim = "mean absolute gap to the retrained model, Tables 2-6"
        rows.append([claim, about.method(method).label, "points", *means, len(here)])
    return rows


def time_ratios(values: pd.DataFrame) -> pd.Series:
    """Return Fisher's time over SSD's in every block of Table 1 that has both, indexed by (task, data set, target)."""
    times = values[values["metric"] == "seconds"]
    wide = times.pivot_table(index=["task", "dataset", "target"], columns="method", values="mean", sort=False)
    ratios: pd.Series = wide.reindex(columns=["fisher", "ssd"]).dropna().pipe(lambda t: t["fisher"] / t["ssd"])
    return ratios


def time_claims(ours: pd.DataFrame, paper: pd.DataFrame) -> list[list[object]]:
    """Return one row per block of Table 1."""
    theirs, found = time_ratios(paper), time_ratios(ours)
    claim = "time of Fisher forgetting over SSD's, Table 1"
    rows: list[list[object]] = []
    for block, ratio in zip(theirs.index.to_list(), theirs, strict=True):
        here = block in found.index
        rows.append(
            [claim, " ".join(map(str, block)), "times", ratio, ratio if here else None, found.get(block), int(here)]
        )
    return rows


def single_claims(folders: dict[str, Path]) -> list[list[object]]:
    """Return the share of parameters that SSD changes and the share of its time that precomputing I_D saves."""
    changed = read(folders["selectivity"] / "table.csv", "method", "mean", "n")
    saving = read(folders["figure2"] / "saving.csv", "method", "mean", "count")
    rows: list[list[object]] = []
    for claim, of, paper, table in (
        ("parameters changed", "SSD, CIFAR-100 rocket", CHANGED, changed),
        ("own time saved by precomputing I_D", "SSD, CIFAR-20 vehicle2", SAVING, saving),
    ):
        ssd = table[table["method"] == "ssd"].drop(columns="method").to_numpy(dtype=float)
        ours, n = (ssd[0, 0], int(ssd[0, 1])) if len(ssd) else (None, 0)
        rows.append([claim, of, "percent", paper, paper if n else None, ours, n])
    return rows


def read(path: Path, *columns: str) -> pd.DataFrame:
    """Return some columns of a CSV file, without rows if there is no such file."""
    return pd.read_csv(path)[list(columns)] if path.is_file() else pd.DataFrame(columns=list(columns))


def to_markdown(claims: pd.DataFrame, protocol: str, profile: str, about: About) -> str:
    """Return the claims as a Markdown table."""
    metrics = ", ".join(label_of(about, name) for name in ("retain_accuracy", "forget_accuracy", "mia"))
    rows = []
    for claim, of, unit, *numbers, n in claims.itertuples(index=False):
        rows.append([claim, of, unit, *("missing" if pd.isna(x) else f"{x:.2f}" for x in numbers), str(n)])
    return (
        f"**The paper's claims.** Protocol {protocol}, profile {profile}. The gap is over {metrics}. Published, same "
        f"cells: the published number over the cells behind ours. n: numbers, blocks or method seeds behind ours.\n\n"
        f"{Grid(HEADS, rows, 'lllrrrr').markdown()}"
    )
