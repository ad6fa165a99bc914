"""Tables -> the paper's claims about SSD beside what comes out here.

    python -m benchmark.report profile=quick        # from results/*-paper-quick to results/claims-paper-quick

Options: protocol=paper|strict, profile=full|quick, results=FOLDER. Reads what `benchmark.tables` and
`benchmark.figures` wrote and runs nothing; a claim whose table is not there yet is missing.
"""

import logging
import sys
from pathlib import Path

import pandas as pd

from benchmark.cli import run_cli
from benchmark.store import write_atomically
from benchmark.typeset import METRICS, ORDER, TITLES
from benchmark.verdict import PAPER_KEY, PUBLISHED

log = logging.getLogger(__name__)
COMPARISON = [f"table{number}" for number in (2, 3, 4, 5, 6)]
REFERENCE, NOT_COMPARED = "retrain", ("baseline", "fisher")  # columns of Tables 1-6
BLOCK = [name for name in PAPER_KEY if name != "method"]
COLUMNS = ["claim", "of", "unit", "published", "published_same_cells", "ours", "n"]
CHANGED, SAVING = 1.7, 84.32  # percent: in the text; in Figure 2


def gaps(values: pd.DataFrame) -> pd.DataFrame:
    """Return |method − retrained model| in points, one row for each key in PAPER_KEY and each `table`."""
    block = ["table", *BLOCK]
    reference = values[values["method"] == REFERENCE].set_index(block)["mean"].rename("reference")
    compared = values[~values["method"].isin([REFERENCE, *NOT_COMPARED])].join(reference, on=block)
    return compared.assign(gap=(compared["mean"] - compared["reference"]).abs()).dropna(subset="gap")


def gap_claims(ours: pd.DataFrame, published: pd.DataFrame) -> list[list[object]]:
    """Return, for each method, the mean absolute gap over Tables 2–6, published and over the cells that both have.

    n counts the numbers behind the last two.
    """
    theirs = gaps(published)
    same = theirs.merge(gaps(ours), on=["table", *PAPER_KEY], suffixes=("_published", "_ours"))
    claim = "mean absolute gap to the retrained model, Tables 2-6"
    rows: list[list[object]] = []
    for method in [name for name in ORDER if name in set(theirs["method"])]:
        everywhere, here = (part[part["method"] == method] for part in (theirs, same))
        means = everywhere["gap"].mean(), here["gap_published"].mean(), here["gap_ours"].mean()
        rows.append([claim, TITLES[method], "points", *means, len(here)])
    return rows


def time_ratios(values: pd.DataFrame) -> pd.Series:
    """Return Fisher's time over SSD's in every block of Table 1 that has both, indexed by (task, data set, target)."""
    times = values[values["metric"] == "seconds"]
    wide = times.pivot_table(index=["task", "dataset", "target"], columns="method", values="mean", sort=False)
    ratios: pd.Series = wide.reindex(columns=["fisher", "ssd"]).dropna().pipe(lambda t: t["fisher"] / t["ssd"])
    return ratios


def time_claims(ours: pd.DataFrame, published: pd.DataFrame) -> list[list[object]]:
    """Return one row for each block of Table 1."""
    theirs, found = time_ratios(published), time_ratios(ours)
    rows: list[list[object]] = []
    for (task, dataset, target), ratio in zip(theirs.index.to_list(), theirs, strict=True):
        block = (task, dataset, target)
        here = block in found.index
        of = f"{task} {dataset} {target}"
        claim = "time of Fisher forgetting over SSD's, Table 1"
        rows.append([claim, of, "times", ratio, ratio if here else None, found.get(block), int(here)])
    return rows


def single_claims(folders: dict[str, Path]) -> list[list[object]]:
    """Return the share of parameters that SSD changes and the share of its time that precomputing I_D saves."""
    changed = read(folders["selectivity"] / "table.csv", "method", "mean", "n")
    saving = read(folders["figure2"] / "saving.csv", "method", "mean", "count")
    rows: list[list[object]] = []
    for claim, of, published, table in (
        ("parameters changed", "SSD, CIFAR-100 rocket", CHANGED, changed),
        ("own time saved by precomputing I_D", "SSD, CIFAR-20 vehicle2", SAVING, saving),
    ):
        ssd = table[table["method"] == "ssd"].drop(columns="method").to_numpy(dtype=float)
        ours, n = (ssd[0, 0], int(ssd[0, 1])) if len(ssd) else (None, 0)
        rows.append([claim, of, "percent", published, published if n else None, ours, n])
    return rows


def read(path: Path, *columns: str) -> pd.DataFrame:
    """Return some columns of a CSV file, without rows where there is no such file."""
    return pd.read_csv(path)[list(columns)] if path.is_file() else pd.DataFrame(columns=list(columns))


def make_claims(results: Path, protocol: str, profile: str) -> pd.DataFrame:
    """Return one row a claim: published, published on the cells that are there, ours, and n."""
    names = [*COMPARISON, "table1", "selectivity", "figure2"]
    folders = {name: results / f"{name}-{protocol}-{profile}" for name in names}
    published = pd.read_csv(PUBLISHED)
    tables = [
        read(folders[name] / "table.csv", *PAPER_KEY, "mean").assign(table=name) for name in (*COMPARISON, "table1")
    ]
    ours = pd.concat([table for table in tables if len(table)] or tables[:1])
    parts = []
    for build, chosen in ((gap_claims, COMPARISON), (time_claims, ["table1"])):
        parts += build(*(values[values["table"].isin(chosen)] for values in (ours, published)))
    return pd.DataFrame(parts + single_claims(folders), columns=COLUMNS)


def to_markdown(claims: pd.DataFrame, protocol: str, profile: str) -> str:
    """Return the claims as a Markdown table."""
    metrics = ", ".join(METRICS[name] for name in ("retain_accuracy", "forget_accuracy", "mia"))
    lines = [
        f"**The paper's claims.** Protocol {protocol}, profile {profile}. The gap is over {metrics}. Published, same "
        f"cells: the published number over the cells behind ours. n: numbers, blocks or method seeds behind ours.\n",
        "| Claim | Of | Unit | Published | Published, same cells | Ours | n |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for claim, of, unit, *numbers, n in claims.itertuples(index=False):
        shown = ["missing" if pd.isna(x) else f"{x:.2f}" for x in numbers]
        lines.append("| " + " | ".join([claim, of, unit, *shown, str(n)]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the command line and write claims.csv and claims.md."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    options = {"protocol": "paper", "profile": "full", "results": str(PUBLISHED.parents[1])}
    for argument in sys.argv[1:]:
        name, separator, value = argument.partition("=")
        if not separator or name not in options:
            raise ValueError(f"Expected one of {', '.join(f'{x}=…' for x in options)}, but got {argument!r}.")
        options[name] = value
    results, names = Path(options["results"]), (options["protocol"], options["profile"])
    claims = make_claims(results, *names)
    folder = results / "-".join(["claims", *names])
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "claims.csv", claims.to_csv(index=False, float_format="%.2f"))
    text = to_markdown(claims, *names)
    write_atomically(folder / "claims.md", text)
    print(text)
    log.info("wrote %s/claims.csv and claims.md", folder)


if __name__ == "__main__":
    run_cli(main)
