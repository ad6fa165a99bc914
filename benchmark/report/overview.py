"""Two figures over all tables of a profile: how far each method is from the retrained model, and in which direction."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from benchmark.report.about import ABOUT, in_repository
from benchmark.report.claims import protocol_and_profile
from benchmark.report.query import RESULTS, write_files
from benchmark.report.statistics import LEAST_UNITS, half_width
from benchmark.report.style import BAND, COLUMN, GREY, INK, LIGHT, PAGE, PAPER, images, look, style_of, typeset
from benchmark.report.table import COMPARED
from benchmark.report.typeset import blocks, span, ways
from benchmark.report.units import CELL, FLOOR, NOTHING_SWITCHED, QUANTITIES, TABLES, UNIT, committed, runs_of, units_of
from benchmark.report.verdict import GAP_NOTE, REFERENCE, published

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLOCK = ["dataset", "model", "task", "target"]
SIGNED = ["retain_accuracy", "forget_accuracy"]  # drawn against each other
TITLES = {
    "distance": "Distance to the retrained model",
    "tradeoff": "Retained and forgotten data against the retrained model",
}
READ = {
    "distance": (
        "Mean of the absolute differences in D_r, D_f and MIA, in points, on an axis that is linear up to 1. Filled: "
        "ours, mean over units (train seed, split, target) of differences in single runs; line: 95 % t-interval, from "
        f"{LEAST_UNITS} units on. Bar: between our means, which have less chance in them than single runs{{hollow}}."
        "{band}"
    ),
    "tradeoff": (
        "Difference to the retrained model, the cross, in accuracy on forgotten (D_f) and retained data (D_r), in "
        "points, on axes that are linear up to 1. Filled: ours, mean over units (train seed, split, target){hollow}."
    ),
}
HOLLOW = {
    "distance": "; hollow: between the printed means, to set beside the bar",
    "tradeoff": "; hollow: between the printed means",
}
FLOOR_SHOWN = " Band: two retrained models of different seeds."


def write_overview(name: str, overrides: Sequence[str], out: Path | None = None) -> str:
    """Write a figure of `[protocol=…] [profile=…] [experiment=…]` and its numbers; return its caption.

    Args:
        name: `distance` or `tradeoff`.
    """
    names = protocol_and_profile(overrides, f"figure={name}", "experiment")
    files = overview_files(RESULTS, name, **names)
    write_files(out or RESULTS / "-".join([name, *names.values()]), files)
    return str(files["figure.md"])


def overview_files(
    results: Path, name: str, protocol: str, profile: str, experiment: str | None = None
) -> dict[str, str | bytes]:
    """Return the images, figure.csv and figure.md (the caption and a table); ValueError if there are no tables.

    Args:
        experiment: draw its table; None: the paper's.
    """
    found = committed(results, profile, TABLES if experiment is None else [experiment])
    runs = runs_of([x for records in found.values() for x in records if x.labels["protocol"] == protocol])
    runs = runs[runs["ablation"] == NOTHING_SWITCHED]
    values = with_published(values_of(units_of(runs)))
    if values.empty:
        first = f"make reproduce-table2 PROTOCOL={protocol} PROFILE={profile} or another"
        if experiment is not None:
            first = f"python -m benchmark.report table={experiment} protocol={protocol} profile={profile}"
        raise ValueError(
            f"Expected tables with a retrained model in {results}/{experiment or 'table*'}-{protocol}-{profile}, but "
            f"there are none; run {first} first."
        )
    with look():
        figure = {"distance": draw_distances, "tradeoff": draw_tradeoff}[name](values)
    made_on = ways(zip(runs["provenance.device"], runs["provenance.precision"], strict=True))
    hollow, band = HOLLOW[name] if has_published(values) else "", FLOOR_SHOWN if FLOOR in set(values["method"]) else ""
    originals = runs.groupby(BLOCK)["original"].nunique().tolist()
    several = "" if max(originals) == 1 else "s"
    rest = f" of {span(originals, 0)} original{several}" if min(originals) < values["n"].max() else ""
    caption = (
        f"**{TITLES[name]}.** Protocol {protocol}, profile {profile}, n = {span(values['n'].tolist(), 0)} units{rest} "
        f"per method and block; {made_on}. "
        f"{READ[name].format(hollow=hollow, band=band)} {GAP_NOTE}"
    )
    shown, theirs = values.assign(ablation="none", metric="gap"), " / published" if has_published(values) else ""
    table = blocks(shown, ABOUT, lambda row: " / ".join(f"{row[x]:.2f}" for x in ("gap", "published") if row[x] >= 0))
    return {
        **images(figure),
        "figure.csv": values.to_csv(index=False, float_format="%.2f"),
        "figure.md": f"{caption}\n\nThe gap, ours{theirs}:\n\n{table.markdown()}",
    }


def values_of(units: pd.DataFrame) -> pd.DataFrame:
    """Return, by block and method, the gap over units with its interval, that between means, and the differences.

    Targets that the paper pools are one block; those of one train seed share an original and are one unit.
    """
    long: Any = units.stack(1, future_stack=True)
    units = long.dropna(subset=["gap"]).rename_axis([*CELL, *UNIT, "method"]).reset_index()
    pools = {tuple(key) for *key, target in published()[BLOCK].drop_duplicates().to_numpy().tolist() if "+" in target}
    is_pooled = pd.Series(
        [tuple(key) in pools for key in units[BLOCK[:-1]].to_numpy().tolist()], units.index, dtype=bool
    )
    together = units.groupby(BLOCK[:-1])["target"].transform(lambda part: "+".join(dict.fromkeys(part)))
    units = units.assign(target=units["target"].mask(is_pooled, together))
    units = units.groupby([*BLOCK, *UNIT, "method"], sort=False)[QUANTITIES].mean().reset_index()
    rows = []
    for key, part in units.groupby([*BLOCK, "method"], sort=False):
        gap, means = part["gap"], part[COMPARED].mean()
        rows.append([*key, gap.mean(), half_width(gap), len(gap), means.abs().mean(), *means[SIGNED]])
    return pd.DataFrame(rows, columns=[*BLOCK, "method", "gap", "half_width", "n", "between_means", *SIGNED])


def with_published(values: pd.DataFrame) -> pd.DataFrame:
    """Add the table's name and the published differences, in the order of tables; Table 1 repeats blocks of others."""
    paper = published()
    paper = paper[paper["metric"].isin(COMPARED)].sort_values("table", key=lambda x: x == "table1", kind="stable")
    tables = {tuple(key): table for *key, table in reversed(paper[[*BLOCK[:-1], "table"]].to_numpy().tolist())}
    wide = paper.drop_duplicates([*BLOCK, "method", "metric"]).pivot(
        index=[*BLOCK, "method"], columns="metric", values="mean"
    )
    reference = wide.xs(REFERENCE, level="method").reindex(wide.reset_index("method").index)
    signed: pd.DataFrame = wide - reference.to_numpy()
    names = {name: f"published_{name}" for name in SIGNED}
    theirs = signed[SIGNED].rename(columns=names).assign(published=signed.abs().mean(axis="columns", skipna=False))
    both = values.merge(theirs.reset_index(), on=[*BLOCK, "method"], how="left")
    both.insert(0, "table", [tables.get(tuple(key), "") for key in both[BLOCK[:-1]].to_numpy().tolist()])
    return both.sort_values("table", kind="stable", ignore_index=True)


def has_published(values: pd.DataFrame) -> bool:
    return bool(values["published"].notna().any())


def draw_distances(values: pd.DataFrame) -> "Figure":
    """Draw a panel per block with a row per method: ours with its interval, the published distance, the noise floor."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    methods = ABOUT.sorted_methods(set(values["method"]) - {FLOOR})
    figure, grid, parts = panels(values, COLUMN, 2, 0.2 + 0.13 * len(methods))
    looks: dict[str, dict[str, Any]] = {
        "ours": {"ls": "", "marker": "o", "color": LIGHT[0]},
        "published": {"ls": "", "marker": "o", "mfc": PAPER, "mec": LIGHT[1]},
        "ours, between means": {"ls": "", "marker": "|", "color": INK, "ms": 5},
    }
    for axes, part in zip(grid, parts, strict=False):
        axes.grid(axis="y", color=BAND, linewidth=0.5)
        axes.axvline(0, color=GREY, linewidth=0.6)
        for name, row in part.set_index("method").iterrows():
            if name == FLOOR:
                axes.axvspan(0, row["gap"], color=BAND, zorder=0)
                continue
            y, half = methods.index(name), row["half_width"]
            low, high = max(0, row["gap"] - half), row["gap"] + half
            axes.plot([low, high], [y - 0.18] * 2, color=LIGHT[0])  # nothing if the interval is NaN
            axes.plot(row["gap"], y - 0.18, **looks["ours"])
            axes.plot(row["between_means"] if row["n"] > 1 else math.nan, y + 0.18, **looks["ours, between means"])
            axes.plot(row["published"], y + 0.18, **looks["published"])
        axes.set_yticks(range(len(methods)), [ABOUT.method(name).label for name in methods])
    grid[0].set_ylim(len(methods) - 0.4, -0.6)
    grid[0].set_xscale("symlog", linthresh=1)
    grid[0].set(xlim=(-0.12, 130), xticks=[0, 1, 3, 10, 30, 100], xticklabels=[0, 1, 3, 10, 30, 100])
    figure.supxlabel("mean distance to the retrained model [points]", fontsize=7)
    drawn = {"ours": True, "published": has_published(values), "ours, between means": values["n"].max() > 1}
    handles: list[Any] = [Line2D([], [], label=name, **looks[name]) for name in looks if drawn[name]]
    if values["half_width"].notna().any():
        handles.append(Line2D([], [], color=LIGHT[0], label="95 % interval of ours"))
    floor = [Patch(color=BAND, label="two retrained models")] if FLOOR in set(values["method"]) else []
    figure.legend(handles=handles + floor, loc="outside upper center", ncols=2)
    return figure


def draw_tradeoff(values: pd.DataFrame) -> "Figure":
    """Draw a panel per block with a point per method: differences to the retrained model, ours and published."""
    from matplotlib.lines import Line2D

    values = values.dropna(subset=SIGNED)  # but for the noise floor
    looks = styles(values["method"])
    many = len(values[BLOCK].drop_duplicates()) > 1
    figure, grid, parts = panels(values, PAGE if many else COLUMN, 5, 1.35 if many else 2.2)
    for axes, part in zip(grid, parts, strict=False):
        axes.axhline(0, color=GREY, linewidth=0.6)
        axes.axvline(0, color=GREY, linewidth=0.6)
        for name, row in part.set_index("method").iterrows():
            mark = looks[str(name)] | {"ls": "", "mew": 0.7, "ms": 4.5, "clip_on": False}
            axes.plot(row["forget_accuracy"], row["retain_accuracy"], **mark)
            axes.plot(row["published_forget_accuracy"], row["published_retain_accuracy"], mfc="none", **mark)
    ticks = [-30, -3, 0, 3, 30]
    for axis in ("x", "y"):
        grid[0].set(**{f"{axis}scale": "symlog", f"{axis}lim": (-130, 130), f"{axis}ticks": ticks})
        grid[0].set(**{f"{axis}ticklabels": [f"{tick:+d}".replace("-", "−") if tick else "0" for tick in ticks]})
    grid[0].minorticks_off()
    figure.supxlabel(typeset("difference in D_f [points]"), fontsize=7)
    figure.supylabel(typeset("difference in D_r [points]"), fontsize=7)
    marks = {ABOUT.method(name).label: look for name, look in looks.items() if name in set(values["method"])}
    if has_published(values):
        marks["published: hollow"] = {"marker": "o", "color": INK, "markerfacecolor": "none"}
    handles = [Line2D([], [], ls="", label=name, **mark) for name, mark in marks.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=5 if many else 3)
    return figure


def panels(values: pd.DataFrame, width: float, columns: int, height: float) -> tuple["Figure", list["Axes"], list[Any]]:
    """Return a figure with a panel per block, its panels and the blocks; panels that are left over are empty."""
    from matplotlib.figure import Figure

    parts = [part for _, part in values.groupby(["table", *BLOCK], sort=False)]
    rows = math.ceil(len(parts) / columns)
    columns = math.ceil(len(parts) / rows)
    figure = Figure(figsize=(width, 0.6 + rows * height), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for number, axes in enumerate(grid):
        axes.set_axis_on() if number < len(parts) else axes.set_axis_off()
        axes.tick_params(labelbottom=number + columns >= len(parts))
    usual = values["model"].mode()[0]
    for axes, part in zip(grid, parts, strict=False):
        axes.set_title(block_name(part.iloc[0], usual), loc="left", pad=2, fontsize=6)
    return figure, grid, parts


def styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return colour and marker by method; those of the repository are the same in every figure."""
    return {
        name: style_of(place) for place, name in enumerate(ABOUT.sorted_methods([*in_repository("method"), *names]))
    }


def block_name(row: Any, usual: str) -> str:
    """Return a short name of a block: `Table 3: cifar20 vehicle2`; the usual model goes without saying."""
    n = row["target"].count("+") + 1
    names = [row["dataset"], f"{n} targets" if n > 1 else row["target"], *({row["model"]} - {usual})]
    return (f"Table {row['table'].removeprefix('table')}: " if row["table"] else "") + " ".join(names)
