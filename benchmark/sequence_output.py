"""The curves of a sequence of forget requests as Markdown, LaTeX and a figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.curves import Curves
from benchmark.tables import COMPARED
from benchmark.typeset import LATEX_METRICS, METRICS, escape, number, row_of

COLOURS = ("#4477aa", "#ee6677", "#228833", "#aa3377", "#ccbb44", "#66ccee")
PANELS = {
    "retain_accuracy": "accuracy on what is retained, D_r [%]",
    "forget_accuracy": "accuracy on all forgotten so far, D_f [%]",
    "mia": "membership attack on all forgotten so far [%]",
    "changed_fraction": "parameters changed against the original [%]",
}


def columns_of(curves: Curves) -> list[tuple[str, str]]:
    """Return (curve, metric) of each column; of the original only what the paper's tables show."""
    metrics = [name for name in METRICS if name in set(curves.values["metric"])]
    return [(c, m) for c in curves.names for m in metrics if c != curves.original or m in COMPARED]


def lines_of(curves: Curves, plus_minus: str) -> list[tuple[list[str], list[tuple[str, bool]]]]:
    """Return for each request its number and newest target, and the cells with whether the curve breaks there."""
    lines = []
    for request, rows in curves.values.groupby("request"):
        by_column = {(row["curve"], row["metric"]): row for _, row in rows.iterrows()}
        cells = []
        for curve, metric in columns_of(curves):
            row = by_column.get((curve, metric))
            text = None if row is None else number(row, plus_minus)
            breaks = metric == "retain_accuracy" and curves.breaks.get(curve) == request
            cells.append((text or "missing", breaks))
        lines.append(([str(request), str(rows["newest"].iloc[0])], cells))
    return lines


def to_markdown(curves: Curves, title: str, caption: str) -> str:
    """Return one row per request; bold where a curve breaks."""
    head = ["Request", "Newest", *(f"{curve}: {METRICS[metric]}" for curve, metric in columns_of(curves))]
    lines = [head, ["---:", "---", *["---:"] * (len(head) - 2)]]
    for names, cells in lines_of(curves, " ± "):
        lines.append([*names, *(f"**{text}**" if breaks else text for text, breaks in cells)])
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"**{title}.** {caption} Bold: where a curve breaks.\n\n{body}\n"


def to_latex(curves: Curves, title: str, caption: str) -> str:
    r"""Return the same as a LaTeX `table*`; needs `\usepackage{booktabs}`."""
    columns = columns_of(curves)
    text = f"{title}. {caption} Bold: where a curve breaks."
    groups = [(name, sum(curve == name for curve, _ in columns)) for name in curves.names]
    over = ["", "", *(rf"\multicolumn{{{width}}}{{c}}{{{escape(name)}}}" for name, width in groups)]
    head = ["Request", "Newest", *(LATEX_METRICS[metric] for _, metric in columns)]
    lines = [
        r"\begin{table*}", r"\centering", rf"\caption{{{escape(text)}}}", r"\footnotesize",
        rf"\begin{{tabular}}{{rl{'r' * len(columns)}}}", r"\toprule", row_of(over), row_of(head),
        r"\midrule",
    ]  # fmt: skip
    for names, cells in lines_of(curves, r"{\scriptstyle\pm}"):
        shown = ["--" if text == "missing" else rf"$\mathbf{{{text}}}$" if b else f"${text}$" for text, b in cells]
        lines.append(row_of([*map(escape, names), *shown]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table*}"]) + "\n"


def draw(curves: Curves, title: str, paths: Sequence[Path]) -> None:
    """Draw one panel per metric over the number of requests, a band of one standard deviation where n > 1."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    others = [name for name in curves.names if name != curves.original]
    colours = {curves.original: "#777777"} | {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(others)}
    figure, grid = plt.subplots(2, 2, figsize=(9, 6.4), sharex=True, layout="constrained")
    for axes, (metric, label) in zip(grid.flat, PANELS.items(), strict=True):
        for name, colour in colours.items():
            plot(axes, rows_of(curves, name, metric), colour, "--" if name == curves.original else "-", marker="o")
            if metric == "forget_accuracy" and name in others:
                plot(axes, rows_of(curves, name, "newest_accuracy"), colour, ":", marker="x")
            if (broken := curves.breaks.get(name)) is not None:
                axes.axvline(broken, color=colour, linewidth=0.8, alpha=0.6)
        axes.set_ylabel(label, fontsize="small")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    limit = rows_of(curves, curves.original, "retain_accuracy")
    grid[0, 0].plot(limit["request"], limit["mean"] - curves.points, color="#777777", linestyle=":", linewidth=1)
    for axes in grid[1]:
        axes.set_xlabel("number of forget requests")
    handles = [
        *(Line2D([], [], color=c, linestyle="--" if name == curves.original else "-", marker="o", markersize=3,
                 label=legend_of(curves, name)) for name, c in colours.items()),
        Line2D([], [], color="black", linestyle=":", marker="x", markersize=4, label="the newest request alone"),
        Line2D([], [], color="#777777", linestyle=":", linewidth=1,
               label=f"original − {curves.points:g} points: broken below"),
    ]  # fmt: skip
    figure.suptitle(title, fontsize="medium")
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    for path in paths:
        figure.savefig(path, dpi=150)
    plt.close(figure)


def rows_of(curves: Curves, name: str, metric: str) -> pd.DataFrame:
    return curves.values[(curves.values["curve"] == name) & (curves.values["metric"] == metric)]


def plot(axes: Any, rows: pd.DataFrame, colour: str, style: str, *, marker: str) -> None:
    axes.plot(rows["request"], rows["mean"], style, color=colour, marker=marker, markersize=3, linewidth=1.3)
    if rows["std"].notna().any():
        low, high = rows["mean"] - rows["std"], rows["mean"] + rows["std"]
        axes.fill_between(rows["request"], low, high, color=colour, alpha=0.15, linewidth=0)


def legend_of(curves: Curves, name: str) -> str:
    """Return the curve's name and where it breaks."""
    if name == curves.original:
        return f"{name}: the original model, nothing forgotten"
    broken = curves.breaks[name]
    return f"{name}: " + ("does not break" if broken is None else f"breaks at request {broken} (vertical line)")
