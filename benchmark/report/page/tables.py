"""CSV files -> grids with methods in rows, each number a link to its record."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from benchmark.report.about import ABOUT
from benchmark.report.page.folders import Folder
from benchmark.report.page.markup import LINK, badge, run_link
from benchmark.report.typeset import BLOCK, HEADS, VERDICTS, Cell, Grid, blocks, mean_and_spread, printed
from benchmark.report.verdict import PAPER_KEY, with_runs

RUNS = "runs"  # the column that names all runs of a row
THEIRS = ["mean_published", "std_published", "std_unit", "verdict"]


def compared(folder: Folder) -> Grid:
    """Return every number of a table beside the published one; published blocks without a run are left out."""
    values, verdict = folder.frame("table.csv"), folder.frame("verdict.csv")
    theirs = with_runs(verdict).fillna({"verdict": ""})
    both = values.merge(theirs[[*PAPER_KEY, *THEIRS]], on=PAPER_KEY, how="left")
    known = set(values[PAPER_KEY].itertuples(index=False, name=None))
    lacking = theirs[[key not in known for key in theirs[PAPER_KEY].itertuples(index=False, name=None)]]
    lacking = lacking.rename(columns={"mean_ours": "mean", "std_ours": "std"}).assign(ablation="none", best=False)
    return to_grid(pd.concat([both, lacking], ignore_index=True), folder)


def plain(folder: Folder) -> Grid:
    """Return the numbers of a table without published ones; of a sweep, what varies stands in the first columns."""
    values = folder.frame("table.csv")
    if "ablation" in values:
        return to_grid(values, folder, first="Switched")
    varied = values.columns[: values.columns.get_loc("task")]
    options = values[varied].to_dict("records")
    words = [" ".join(f"{name}={value}" for name, value in row.items() if not pd.isna(value)) for row in options]
    return to_grid(values.assign(ablation=[text or "–" for text in words]), folder, first="Varied")


def requests(folder: Folder) -> Grid:
    """Return one row per request and curve."""
    values = folder.frame("table.csv")
    rows = values.assign(ablation=values["request"].astype(str), method=values["curve"], target=values["newest"])
    return to_grid(rows, folder, first="Request")


def to_grid(values: pd.DataFrame, folder: Folder, *, first: str = HEADS["ablation"]) -> Grid:
    """Return the layout of `typeset.blocks` with the method first, names in every row and a column of runs."""
    row_key = [*BLOCK, "method"]
    values = values.assign(records=values.groupby(row_key)["records"].transform("first").fillna(""))
    runs = values.drop_duplicates(row_key).assign(metric=RUNS)
    grid = blocks(pd.concat([values, runs]), ABOUT, cell_of(folder), sweep=True)
    at, last = grid.head.index(HEADS["method"]), grid.head.index(RUNS)
    order = [at, *range(at), *(i for i in range(at + 1, len(grid.head)) if i != last), last]
    rows: list[list[str]] = []
    for row in grid.rows:
        above = rows[-1] if rows else row
        rows.append([name or above[i] if i < at else name for i, name in enumerate(row)])
    heads = [first if head == "Varied" else head for head in grid.head]
    moved = [[row[i] for i in order] for row in (heads, *rows)]
    return Grid(moved[0], moved[1:], "".join(grid.align[i] for i in order), grid.opens)


def without_same(grid: Grid) -> tuple[str, Grid]:
    """Return in words the names that are the same in every row, and the grid without their columns."""
    found = [(i, {row[i] for row in grid.rows}) for i, letter in enumerate(grid.align) if i and letter == "l"]
    same = {i: names.pop() for i, names in found if len(names) == 1}
    kept = [i for i in range(len(grid.head)) if i not in same]
    head, *rows = [[row[i] for i in kept] for row in (grid.head, *grid.rows)]
    note = ", ".join(f"{grid.head[i]} {name}" for i, name in same.items())
    return note, Grid(head, rows, "".join(grid.align[i] for i in kept), grid.opens)


def cell_of(folder: Folder) -> Cell:
    """Return how a row of values becomes a cell."""

    def cell(row: Mapping[str, Any]) -> Markup:
        run_ids = row["records"].split()
        if row["metric"] == RUNS:
            links = [run_link(folder.name, run_id, str(n)) for n, run_id in enumerate(run_ids, start=1)]
            return Markup(" ").join(links)
        ours = printed(row, ABOUT, bold=False)
        theirs = row.get("mean_published", math.nan)
        text = escape("–" if ours == "missing" else ours)
        if run_ids and not math.isnan(row["mean"]):
            text = run_link(folder.name, run_ids[0], ours)
        text = Markup("<strong>{}</strong>").format(text) if row["best"] else text
        if math.isnan(theirs):
            return text
        published = mean_and_spread(theirs, row["std_published"])
        return text + Markup(' <span class="theirs">paper {} {}</span>').format(published, badge(row["verdict"]))

    return cell


def counts(folders: Sequence[Folder]) -> pd.DataFrame:
    """Return the number of each verdict by folder, its title, protocol and profile."""
    rows = []
    for folder in folders:
        verdict = folder.frame("verdict.csv")
        found = verdict["verdict"].value_counts()
        names = folder.name, folder.title, *verdict[["protocol", "profile"]].iloc[0]
        rows.append([*names, *(int(found.get(x, 0)) for x in VERDICTS)])
    return pd.DataFrame(rows, columns=["folder", "title", "protocol", "profile", *VERDICTS])


def overview(found: pd.DataFrame) -> Grid:
    """Return the counts as a grid with a link to each table."""
    rows = [
        [LINK.format(name, name), title, protocol, profile, *map(str, numbers)]
        for name, title, protocol, profile, *numbers in found.itertuples(index=False)
    ]
    return Grid(["Folder", "Table", "Protocol", "Profile", *(badge(x) for x in VERDICTS)], rows, "llllrrrr")


def sentences(found: pd.DataFrame) -> list[str]:
    """Return, by profile, how many of the measured numbers match the published ones."""
    sums = found.groupby("profile")[list(VERDICTS)].sum()
    return [
        f"Profile {profile}: of {match + near + off} numbers beside a published one {match} match, {near} are near, "
        f"{off} are off."
        for profile, match, near, off, _ in sums.itertuples()
    ]


def csv_grid(path: Path) -> tuple[str, Grid]:
    """Return a CSV as it is, its fields unchanged; columns of one value, which go, stand in the text."""
    text = pd.read_csv(path, dtype=str, keep_default_na=False)
    same = [column for column in text if len(text) > 1 and text[column].nunique() == 1]
    note = "; ".join(f"{column}: {text[column].iloc[0]}" for column in same if text[column].iloc[0])
    shown = text.drop(columns=same)
    numeric = [pd.to_numeric(shown[column], errors="coerce").notna().any() for column in shown]
    return note, Grid(
        [str(name) for name in shown], shown.to_numpy().tolist(), "".join("r" if x else "l" for x in numeric)
    )
