"""The landscape of a search: the objective over the first two parameters, a point per trial and nothing in between."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.report.style import COLUMN, INK, LIGHT, add_title, images, look, plain_log

SHOWN = {"alpha": "α", "lam": "λ"}
MARKS = {"configured": ("s", LIGHT[0]), "best": ("D", LIGHT[1])}
DECADES = 100  # a parameter whose largest value is so many times its least gets a log axis
CLIPPED = 100  # objectives below the worst one over this share a colour


def landscape_files(folder: Path) -> dict[str, str | bytes]:
    """Return the images of a finished search from the files in its folder."""
    return landscape((folder / "summary.md").read_text("utf-8"), pd.read_csv(folder / "trials.csv"))


def landscape(summary: str, trials: pd.DataFrame) -> dict[str, str | bytes]:
    """Return the images of a search; of a single parameter the height is the objective.

    Args:
        summary: as `benchmark.search.report.summarise` writes it: title, objective, configured and best values.
        trials: one row per trial; parameters stand between the columns `value` and `error`.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    rows = [line[2:-2].split(" | ") for line in summary.splitlines() if line.startswith("| ")]
    objective, direction = next(row[1].split(", ")[:2] for row in rows if row[0] == "objective")
    complete = trials[trials["state"] == "complete"]
    percent = 100 * complete["value"]
    names = [str(name) for name in trials.columns]
    x, y = [*names[names.index("value") + 1 : names.index("error")], objective][:2]
    head = next(row for row in rows if x in row)
    marked = {row[0].split()[0]: dict(zip(head, row, strict=True)) for row in rows[rows.index(head) + 1 :]}
    with look():
        figure = Figure(figsize=(COLUMN, 2.6), layout="constrained")
        axes = figure.subplots()
        least, most = percent.min(), percent.max()
        norm = LogNorm(max(least, most / CLIPPED), most) if 0 <= least < most and most > 0 else None
        shown = complete.assign(**{objective: percent})
        points = axes.scatter(
            shown[x], shown[y], 20, percent, norm=norm, cmap="cividis", edgecolors=INK, linewidths=0.4
        )
        for name, (marker, colour) in MARKS.items():
            at: list[Any] = [[as_number(marked[name][key])] for key in (x, y)] if name in marked else []
            if at and [""] not in at:  # the configured values may give no number
                axes.plot(*at, marker, ms=7, label=name, mfc="none", mec=colour, mew=1.4)
        for axis, key in ((axes.xaxis, x), (axes.yaxis, y)):
            axis.set_label_text(SHOWN.get(key, key))
            values = shown[key]
            if pd.api.types.is_numeric_dtype(values) and values.min() > 0 and values.max() >= DECADES * values.min():
                axes.set(**{f"{axis.axis_name}scale": "log"})
                plain_log(axis)
        bar = figure.colorbar(points, label=f"{objective} in percent, {direction}", extend="min" if norm else "neither")
        if norm:
            plain_log(bar.ax.yaxis)
        figure.legend(loc="outside lower center", ncols=2)
        add_title(figure, re.sub(r"\*\*", "", summary.splitlines()[0]))
        return images(figure, "landscape")


def as_number(text: str) -> float | str:
    """Return a value of a parameter; one of several choices is a text."""
    with suppress(ValueError):
        return float(text)
    return text
