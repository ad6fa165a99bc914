"""The objective over the first two hyper-parameters of a search, as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution

GREEK = {"alpha": "α", "lam": "λ"}


def draw_landscape(
    trials: pd.DataFrame, space: Mapping[str, BaseDistribution], default: Mapping[str, Any], best: Mapping[str, Any],
    title: str, *, minimize: bool, paths: Sequence[Path],
) -> None:  # fmt: skip
    """Draw trials, the configured and the best point over the first two parameters into every path.

    Colour is the objective in percent, interpolated linearly between trials; with one parameter the objective is the
    second axis. Crosses are failed trials.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    x, y = ([*space, "value"])[:2]
    data = trials.assign(value=100 * trials["value"]).dropna(subset=[x])
    complete, failed = data[data["state"] == "complete"], data[data["state"] != "complete"]
    figure, axes = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
    colours = "viridis_r" if minimize else "viridis"  # dark is bad in both
    low, high = complete["value"].min(), complete["value"].max()
    if y in space:
        fill_between(axes, complete, x, y, space, colours)
        dots = axes.scatter(
            complete[x], complete[y], c=complete["value"], cmap=colours, vmin=low, vmax=high, s=26,
            edgecolors="white", linewidths=0.6, zorder=3,
        )  # fmt: skip
        figure.colorbar(dots, label="objective in percent")
        axes.scatter(failed[x], failed[y], marker="x", color="black", s=18, zorder=3)
        points = {"configured": (default[x], default[y]), "best": (best[x], best[y])}
    else:
        axes.scatter(complete[x], complete["value"], s=26)
        points = {"best": (best[x], low if minimize else high)}
    for (name, (px, py)), marker in zip(points.items(), ("*", "D"), strict=False):
        values = ", ".join(f"{GREEK.get(p, p)} = {v:.3g}" if isinstance(v, float) else f"{p} = {v}"
                           for p, v in ((x, px), (y, py)) if p in space)  # fmt: skip
        axes.scatter(px, py, marker=marker, s=150 if marker == "*" else 70, color="#ee6677", edgecolors="black",
                     label=f"{name}: {values}", zorder=4)  # fmt: skip
    label_axes(axes, x, y, space)
    figure.suptitle(title, fontsize="medium")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    for path in paths:
        figure.savefig(path, dpi=150)
    plt.close(figure)


def fill_between(
    axes: Any, complete: pd.DataFrame, x: str, y: str, space: Mapping[str, BaseDistribution], colours: str
) -> None:
    """Fill the hull of the trials by linear interpolation on the parameters' own scales."""
    from matplotlib.tri import Triangulation

    if any(isinstance(space[name], CategoricalDistribution) for name in (x, y)):
        return
    scaled = [np.log(complete[name]) if getattr(space[name], "log", False) else complete[name] for name in (x, y)]
    try:
        triangles = Triangulation(*scaled).triangles
        axes.tricontourf(
            Triangulation(complete[x], complete[y], triangles), complete["value"], levels=14, cmap=colours, alpha=0.55
        )
    except (RuntimeError, ValueError):
        return  # too few trials, or all on one line: dots alone


def label_axes(axes: Any, x: str, y: str, space: Mapping[str, BaseDistribution]) -> None:
    for name, scale, label in ((x, axes.set_xscale, axes.set_xlabel), (y, axes.set_yscale, axes.set_ylabel)):
        if getattr(space.get(name), "log", False):
            scale("log")
        label(GREEK.get(name, name) if name in space else "objective in percent")
    axes.spines[["top", "right"]].set_visible(False)
