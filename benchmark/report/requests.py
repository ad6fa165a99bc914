"""Forget requests one after the other: curves, a table, and the request at which a model breaks."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
from omegaconf import OmegaConf

from benchmark.cell import named_classes
from benchmark.report.about import About
from benchmark.report.query import Query
from benchmark.report.style import GREY, LINES, PAGE, add_title, images, label_ends, look, style_of, typeset
from benchmark.report.table import COMPARED, caption, make_values, to_csv
from benchmark.report.typeset import Grid, by, escape, label_of, notes, printed, span
from datasets.targets import joined

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOTHING = {"metric": "", "mean": math.nan, "skipped": None}  # of a request that nobody measured
PANELS = {
    "retain_accuracy": "accuracy on retained data, D_r [%]",
    "forget_accuracy": "accuracy on all that is forgotten, D_f [%]",
    "mia": "attack on all that is forgotten, MIA [%]",
    "changed_fraction": "parameters changed [%]",
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
    """Return table.csv, table.md, table.tex and the images of the figure."""
    curves, about = make_curves(make_values(query), query), query.about
    text = caption(query) if query.caption else f"{caption(query)} {finding(curves)}"
    text = f"{text} Bold: where a curve breaks."
    names, n = query.options.labels, span([n for n in curves.values["n"] if n] or [0], 0)
    device = ", ".join(sorted({record.device for record in query.records}))
    setting = f"{names['model']}, protocol {names['protocol']}, profile {names['profile']}; {device}; n = {n}"
    columns = columns_of(curves, about)
    grid, latex = (to_grid(curves, columns, about, latex=latex) for latex in (False, True))
    widths = Counter(curve for curve, _ in columns)
    with look():
        figure = draw(curves, f"{query.title}\n{setting}", chance=100 / n_classes(query))
    over = ["", "", *(rf"\multicolumn{{{width}}}{{c}}{{{escape(name)}}}" for name, width in widths.items())]
    above = " & ".join(over) + " \\\\\n"
    return {
        "table.csv": to_csv(curves.values, about),
        "table.md": f"**{query.title}.** {text}\n\n{grid.markdown()}{notes(curves.values, about)}",
        "table.tex": latex.latex(query.title, text, size="footnotesize", above=above),
        **images(figure),
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
    curve, requests = {}, {}
    for place in query.places:
        if place.cell and place.cell.targets is None:
            raise ValueError(f"Expected several requests, but {place.cell} has one; use requests=sequence.")
        method = place.cell.scientific["method"] if place.cell else place.record.hyperparameters if place.record else {}
        title, source = query.about.method(place.labels["method"]).label, method.get("importance")
        curve[place.labels["ablation"], place.labels["method"]] = title if source is None else f"{title}, I_D {source}"
        task = (place.record.scientific or {}).get("task", {}) if place.record else {}
        targets = (place.cell.targets if place.cell else task.get("target")) or place.labels["target"].split("+")
        requests[place.labels["target"]] = list(map(joined, targets))
    targets = [requests[target] for target in values["target"]]
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
    last = curves.values.dropna(subset=["mean"]).groupby("curve")["request"].max()
    ends = {name: f"not within {n} requests" for name, n in last.items()}
    where = [
        f"{name}: {ends.get(name, 'no run') if n is None else f'request {n} ({targets[n]})'}"
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


def n_classes(query: Query) -> float:
    """Return the number of classes; NaN if they are found in the data, which no report reads."""
    node = OmegaConf.select(query.options.config, "dataset.classes.class")
    return len(named_classes(node)) if isinstance(node, str) else math.nan


def draw(curves: Curves, title: str, *, chance: float) -> "Figure":
    """Draw one panel per metric over the number of requests, a band of one standard deviation if n > 1.

    Args:
        chance: the accuracy of a guess, in percent.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    looks = {
        name: {"linestyle": LINES[place % len(LINES)], "ms": 2.5, **style_of(place)}
        for place, name in enumerate(curves.names)
    }
    last = int(curves.values["request"].max())
    ticks = [1, *range(5, last + 1, 5)] if last > 6 else range(1, last + 1)
    figure = Figure(figsize=(PAGE, 4.2), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True)
    for axes, (metric, label) in zip(grid.flat, PANELS.items(), strict=True):
        guess = {"mia": 50.0, "changed_fraction": math.nan}.get(metric, chance)
        axes.axhline(guess, color=GREY, linewidth=0.6, linestyle=":")
        for name, style in looks.items():
            plot(axes, curves.of(name, metric), style)
            if metric == "forget_accuracy" and name != curves.original:
                plot(axes, curves.of(name, "newest_accuracy"), style | {"linestyle": "", "markerfacecolor": "none"})
            if (broken := curves.breaks.get(name)) is not None:
                axes.axvline(broken, color=style["color"], linewidth=0.6, linestyle=style["linestyle"])
        axes.set_title(typeset(label), loc="left", pad=3)
        high = axes.get_ylim()[1]
        axes.set(ylim=(-0.06 * high, high), xticks=ticks)
        ends = curves.values[curves.values["metric"] == metric].groupby("curve", sort=False).last()
        label_ends(axes, zip(map(str, ends.index), ends["request"], ends["mean"], strict=True))
        axes.spines["bottom"].set_bounds(1, last)
    for axes in grid[1]:
        axes.set_xlabel("number of forget requests")
    limit = curves.of(curves.original, "retain_accuracy")
    grid[0, 0].plot(limit["request"], limit["mean"] - curves.points, color=GREY, linestyle=(0, (1, 3)))
    handles: list[Any] = [
        Line2D([], [], color=GREY, linewidth=0.6, linestyle=":", label="chance"),
        Line2D([], [], color=GREY, linestyle=(0, (1, 3)), label=f"original − {curves.points:g} points: broken below"),
        Line2D([], [], color=GREY, linewidth=0.6, label="vertical: where a curve breaks, in its colour and dashes"),
        Line2D([], [], color=GREY, linestyle="", marker="s", markerfacecolor="none", label="the newest request alone"),
    ]
    if curves.values["std"].notna().any():
        handles.append(Patch(color=GREY, alpha=0.15, linewidth=0, label="band: ± one standard deviation"))
    add_title(figure, title)
    figure.legend(handles=handles, loc="outside lower center", ncols=3 if len(handles) > 4 else 4)
    return figure


def plot(axes: "Axes", rows: pd.DataFrame, style: Mapping[str, Any]) -> None:
    """Plot one curve, with its band if there is a spread."""
    axes.plot(rows["request"], rows["mean"], clip_on=False, **style)
    if rows["std"].notna().any():
        low, high = rows["mean"] - rows["std"], rows["mean"] + rows["std"]
        axes.fill_between(rows["request"], low, high, color=style["color"], alpha=0.15, linewidth=0)
