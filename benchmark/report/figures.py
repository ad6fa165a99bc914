"""Figures over records: Figure 2, where each method's time goes, and how the figure of an experiment is written.

A figure is a function `(records, *, title, about) -> (figure, {file: text})` that an experiment's YAML names:

    figure: {_target_: benchmark.report.figures.time_by_phase}

`records` is a frame with one row per record (`benchmark.records.RunRecord.row` names its columns), the figure one of
matplotlib, and the texts are the files of numbers behind it. `benchmark.report.style` gives all figures one look.
"""

from typing import TYPE_CHECKING, Any

import pandas as pd
from hydra.utils import instantiate

from benchmark.records import to_frame
from benchmark.report.about import About
from benchmark.report.query import Query
from benchmark.report.style import BAND, COLUMN, INK, LIGHT, PAPER, add_title, images, look, plain_log, typeset
from benchmark.report.typeset import mean_and_spread, span

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Each phase of a run with its name, colour and hatch; the importance of D is the one that later requests use again.
PHASES = {
    "load": ("loading", PAPER, ""),
    "importance_full": ("importance of D (reusable)", PAPER, "////"),
    "importance_forget": ("importance of D_f", LIGHT[2], ""),
    "rest": ("the method itself", LIGHT[0], ""),
    "evaluation": ("evaluation", BAND, "\\\\"),
}


def figure_files(query: Query) -> dict[str, str | bytes]:
    """Return the images of the figure and the numbers behind them."""
    node = query.options.config.get("figure")
    if node is None:
        raise ValueError(f"Expected a figure in experiment={query.name}, but got none; add figure._target_.")
    names, records = query.options.labels, query.records
    devices = ", ".join(sorted({record.device for record in records}))
    title = f"{query.title}: {names['protocol']}, {names['profile']} profile, {devices}"
    draw = instantiate(node, _partial_=True)
    with look():
        figure, numbers = draw(to_frame(records), title=title, about=query.about)
    return {**images(figure), **numbers}


def time_by_phase(records: pd.DataFrame, *, title: str, about: About) -> tuple["Figure", dict[str, str | bytes]]:
    """Draw each method's time by phase: shares, and its whole seconds with their standard deviation."""
    from matplotlib.figure import Figure

    seconds, saving, whole = time_shares(records, about), precomputing_saves(records), totals(records)
    shares = 100 * seconds.div(seconds.sum(axis=1), axis=0)
    figure = Figure(figsize=(COLUMN, 1.0 + 0.2 * len(shares)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(5, 4))
    start = pd.Series(0.0, index=shares.index)
    labels = [about.method(name).label for name in shares.index]
    for phase, (label, colour, hatch) in PHASES.items():
        bar = {"color": colour, "hatch": hatch, "edgecolor": INK, "linewidth": 0.5}
        left.barh(labels, shares[phase], left=start, label=typeset(label), **bar)
        start += shares[phase]
    left.set(xlim=(0, 100), xlabel="share of the time in %")
    left.invert_yaxis()
    left.tick_params(left=False)
    for row, name in enumerate(shares.index):
        mean, std, n = whole.loc[name]
        right.errorbar(mean, row, xerr=None if n < 2 else std, fmt="o", color=INK, capsize=2, ms=2)
        right.annotate(mean_and_spread(mean, std, " ± ", 1), (mean, row), (0, 3), textcoords="offset points",
                       ha="center", fontsize=5)  # fmt: skip
    right.set(xscale="log", xlabel=f"seconds, n = {span(whole['count'].tolist(), 0)}")
    right.set_xlim(whole["mean"].min() / 2.5, whole["mean"].max() * 2.5)
    plain_log(right.xaxis)
    right.tick_params(left=False)
    add_title(figure, title)
    figure.legend(loc="outside lower center", ncols=2)
    return figure, {
        "seconds.csv": seconds.to_csv(float_format="%.3f"),
        "saving.csv": saving.to_csv(index=False, float_format="%.2f"),
    }


def totals(records: pd.DataFrame) -> pd.DataFrame:
    """Return mean, sample standard deviation and number of the seconds of a whole run, by method."""
    done = records[records["skipped"].isna()]
    seconds = done[[f"seconds.{phase}" for phase in PHASES]].sum(axis=1)
    return seconds.groupby(done["method"]).agg(["mean", "std", "count"])


def time_shares(records: pd.DataFrame, about: About) -> pd.DataFrame:
    """Return mean seconds by method (rows) and phase (columns), in the order of methods."""
    done = records[records["skipped"].isna()].rename(columns={f"seconds.{phase}": phase for phase in PHASES})
    means: Any = done.groupby("method")[list(PHASES)].mean()
    return pd.DataFrame(means.loc[about.sorted_methods(means.index)])


def precomputing_saves(records: pd.DataFrame) -> pd.DataFrame:
    """Return the share of a method's own time that goes into I_D, for each method that computes it, in percent.

    The paper gives 84.32 ± 0.21 % for SSD. If seeds share an I_D, it was measured once, and the spread is not one of
    measurements.
    """
    done = records[records["skipped"].isna() & (records["seconds.importance_full"] > 0)]
    saving = 100 * done["seconds.importance_full"] / done["seconds.method"]
    return saving.groupby(done["method"]).agg(["mean", "std", "count"]).reset_index()
