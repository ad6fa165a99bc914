"""Forget requests one after the other: curves, a table, and the request at which a model breaks."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from benchmark.report.about import About
from benchmark.report.figures import images
from benchmark.report.query import Query
from benchmark.report.table import COMPARED, caption, make_values, to_csv
from benchmark.report.typeset import Grid, by, escape, label_of, printed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOTHING = {"metric": "", "mean": math.nan, "skipped": None}  # of a request that nobody measured
COLOURS = ("#4477aa", "#ee6677", "#228833", "#aa3377", "#ccbb44", "#66ccee")
PANELS = {
    "retain_accuracy": "accuracy on what is retained, D_r [%]",
    "forget_accuracy": "accuracy on all forgotten so far, D_f [%]",
    "mia": "membership attack on all forgotten so far [%]",
    "changed_fraction": "parameters changed against the original [%]",
}


@dataclass(frozen=True)
class Curves:
    """All that is measured after each request.

    Attributes:
        values: those of `make_values` with three more columns: `request` (1, 2, …), `newest` (the target of that
            request) and `curve` (a name for people).
        names: of the curves, in the order of methods.
        original: the curve of the original model, measured on the same images.
        breaks: of every other curve the first request after which D_r lies more than `points` below the original's.
    """

    values: pd.DataFrame
    names: list[str]
    original: str
    points: float
    breaks: dict[str, int | None]

    def of(self, name: str, metric: str) -> pd.DataFrame:
        """Return the points of one curve."""
        return self.values[(self.values["curve"] == name) & (self.values["metric"] == metric)]


def request_files(query: Query) -> dict[str, str | bytes]:
    """Return table.csv, table.md, table.tex, figure.png and figure.pdf."""
    curves, about = make_curves(make_values(query), query), query.about
    text = caption(query) if query.caption else f"{caption(query)} {finding(curves)}"
    text = f"{text} Bold: where a curve breaks."
    names, n = query.options.labels, curves.values["n"].max()
    device = ", ".join(sorted({record.provenance["device"] for record in query.records}))
    setting = f"{names['model']}, protocol {names['protocol']}, profile {names['profile']}; {device}; n = {n}"
    columns = columns_of(curves, about)
    grid, latex = (to_grid(curves, columns, about, latex=latex) for latex in (False, True))
    widths = Counter(curve for curve, _ in columns)
    over = ["", "", *(rf"\multicolumn{{{width}}}{{c}}{{{escape(name)}}}" for name, width in widths.items())]
    above = " & ".join(over) + " \\\\\n"
    return {
        "table.csv": to_csv(curves.values, about),
        "table.md": f"**{query.title}.** {text}\n\n{grid.markdown()}",
        "table.tex": latex.latex(f"{query.title}. {text}", size="footnotesize", above=above),
        **images(draw(curves, f"{query.title}\n{setting}")),
    }


def make_curves(values: pd.DataFrame, query: Query) -> Curves:
    """Return the curves of a table over the requests of one data set, model and task."""
    values, about = with_requests(values, query), query.about
    for part in ("dataset", "model", "task"):
        if values[part].nunique() != 1:
            raise ValueError(f"Expected one {part} for requests, but got {', '.join(values[part].unique())}.")
    by_method = values.groupby("method", sort=False)["curve"].unique()
    unranked = [curve for method in by_method.index if not about.method(method).ranked for curve in by_method[method]]
    if len(unranked) != 1:
        raise ValueError("Expected the original model's cells to compare requests with; add method=baseline,….")
    names = [str(name) for method in about.sorted_methods(by_method.index) for name in by_method[method]]
    points = float(query.options.config.table.breaks_below)
    return Curves(values, names, unranked[0], points, breaking_points(values, unranked[0], points))


def with_requests(values: pd.DataFrame, query: Query) -> pd.DataFrame:
    """Add `request`, `newest` and `curve`; a curve that an ablation does not concern stands there once."""
    curve = {}
    for place in query.places:
        if place.cell and place.cell.targets is None:
            raise ValueError(f"Expected several requests, but {place.cell} has one; use requests=sequence.")
        method = place.cell.scientific["method"] if place.cell else place.record.hyperparameters if place.record else {}
        title, source = query.about.method(place.labels["method"]).label, method.get("importance")
        curve[place.labels["ablation"], place.labels["method"]] = title if source is None else f"{title}, I_D {source}"
    targets = [target.split("+") for target in values["target"]]
    named = values.assign(
        request=list(map(len, targets)),
        newest=[names[-1] for names in targets],
        curve=[curve[key] for key in zip(values["ablation"], values["method"], strict=True)],
    )
    once = named.drop_duplicates(["curve", "request", "metric"])
    return once.sort_values("request", kind="stable", ignore_index=True)


def breaking_points(values: pd.DataFrame, original: str, points: float) -> dict[str, int | None]:
    """Return, by curve, the first request after which D_r lies more than `points` below the original's, or None."""
    retained = values[values["metric"] == "retain_accuracy"]
    by_curve = retained.pivot(index="request", columns="curve", values="mean")
    loss = by_curve.rsub(by_curve[original], axis=0).drop(columns=original)
    return {str(name): next((int(n) for n in loss.index[loss[name] > points]), None) for name in loss}


def finding(curves: Curves) -> str:
    """Return the rule of the breaking point and where each curve breaks, in two sentences."""
    targets = dict(zip(curves.values["request"], curves.values["newest"], strict=True))
    where = [
        f"{name}: not within {max(targets)} requests" if n is None else f"{name}: request {n} ({targets[n]})"
        for name, n in curves.breaks.items()
    ]
    return (
        f"Breaking point: the first request after which D_r lies more than {curves.points:g} points below the original "
        f"model's on the same images. {'; '.join(where)}."
    )


def columns_of(curves: Curves, about: About) -> list[tuple[str, str]]:
    """Return (curve, metric) of each column; of the original only what the paper's tables show."""
    metrics = about.sorted_metrics(curves.values["metric"])
    return [(c, m) for c in curves.names for m in metrics if c != curves.original or m in COMPARED]


def to_grid(curves: Curves, columns: Sequence[tuple[str, str]], about: About, *, latex: bool) -> Grid:
    """Return one row per request; bold where a curve breaks."""
    rows = []
    for request, lines in curves.values.groupby("request"):
        found, newest = by(lines, "curve", "metric"), str(lines["newest"].iloc[0])
        row = [str(request), escape(newest) if latex else newest]
        for curve, metric in columns:
            breaks = metric == "retain_accuracy" and curves.breaks.get(curve) == request
            row.append(printed(found.get((curve, metric), NOTHING), about, bold=breaks, latex=latex))
        rows.append(row)
    labels = [label_of(about, m, latex=latex) if latex else f"{c}: {label_of(about, m)}" for c, m in columns]
    return Grid(["Request", "Newest", *labels], rows, "rl" + "r" * len(columns))


def draw(curves: Curves, title: str) -> "Figure":
    """Draw one panel per metric over the number of requests, a band of one standard deviation if n > 1."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    others = [name for name in curves.names if name != curves.original]
    colours = {curves.original: "#777777"} | {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(others)}
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True)
    for axes, (metric, label) in zip(grid.flat, PANELS.items(), strict=True):
        for name, colour in colours.items():
            plot(axes, curves.of(name, metric), colour, "--" if name == curves.original else "-", marker="o")
            if metric == "forget_accuracy" and name in others:
                plot(axes, curves.of(name, "newest_accuracy"), colour, ":", marker="x")
            if (broken := curves.breaks.get(name)) is not None:
                axes.axvline(broken, color=colour, linewidth=0.8, alpha=0.6)
        axes.set_ylabel(label, fontsize="small")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    limit = curves.of(curves.original, "retain_accuracy")
    grid[0, 0].plot(limit["request"], limit["mean"] - curves.points, color="#777777", linestyle=":", linewidth=1)
    for axes in grid[1]:
        axes.set_xlabel("number of forget requests")
    ends = {
        name: "does not break" if n is None else f"breaks at request {n} (vertical line)"
        for name, n in curves.breaks.items()
    } | {curves.original: "the original model, nothing forgotten"}
    handles = [
        *(Line2D([], [], color=c, linestyle="--" if name == curves.original else "-", marker="o", markersize=3,
                 label=f"{name}: {ends[name]}") for name, c in colours.items()),
        Line2D([], [], color="black", linestyle=":", marker="x", markersize=4, label="the newest request alone"),
        Line2D([], [], color="#777777", linestyle=":", linewidth=1,
               label=f"original − {curves.points:g} points: broken below"),
    ]  # fmt: skip
    figure.suptitle(title, fontsize="medium")
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return figure


def plot(axes: "Axes", rows: pd.DataFrame, colour: str, style: str, *, marker: str) -> None:
    """Plot one curve, with its band if there is a spread."""
    axes.plot(rows["request"], rows["mean"], style, color=colour, marker=marker, markersize=3, linewidth=1.3)
    if rows["std"].notna().any():
        low, high = rows["mean"] - rows["std"], rows["mean"] + rows["std"]
        axes.fill_between(rows["request"], low, high, color=colour, alpha=0.15, linewidth=0)
