"""A rank diagram: mean ranks of methods on an axis, with bars over those that Nemenyi's test does not tell apart."""

from typing import TYPE_CHECKING

import pandas as pd

from benchmark.report.statistics import cliques, critical_difference
from benchmark.report.style import COLUMN, GREY, INK, LIGHT, add_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def rank_diagram(values: pd.DataFrame, title: str) -> "Figure":
    """Draw mean ranks (1: smallest value) and the critical difference (Demšar 2006).

    Args:
        values: one row per independent block, one column per method, by the name to print.
    """
    from matplotlib.figure import Figure

    ranks = values.rank(axis="columns").mean().sort_values()
    n, k = values.shape
    difference = critical_difference(k, n)
    bars = cliques(ranks, difference)
    figure = Figure(figsize=(COLUMN, 0.8 + 0.15 * (k / 2 + len(bars))), layout="constrained")
    axes = figure.subplots()
    for row, (low, high) in enumerate(bars, start=1):
        axes.plot([low - 0.04, high + 0.04], [-0.3 * row, -0.3 * row], color=INK, linewidth=3)
    lowest = -0.3 * (len(bars) + 1)
    for place, (name, rank) in enumerate(ranks.items()):
        left = place < (k + 1) // 2
        height = lowest - 0.4 * (place if left else k - 1 - place)
        edge = 0.7 if left else k + 0.3
        axes.plot([rank, rank, edge], [0, height, height], color=GREY, linewidth=0.8)
        axes.text(edge, height, f" {name} {rank:.2f} ", va="center", ha="right" if left else "left", fontsize=6)
    axes.plot([1, 1 + difference], [0.5, 0.5], color=LIGHT[1], linewidth=2)
    axes.text(1, 0.6, f"critical difference {difference:.2f}", fontsize=6)
    axes.set(xlim=(-0.6, k + 1.6), ylim=(lowest - 0.2 * k, 1.1), yticks=[])
    axes.set_xticks(range(1, k + 1))
    axes.spines[["left", "right", "bottom"]].set_visible(False)
    axes.spines["top"].set(position=("data", 0), bounds=(1, k))
    axes.xaxis.tick_top()
    add_title(figure, title)
    return figure
