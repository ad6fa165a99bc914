"""Figures over records: Figure 2, where each method's time goes, and how any figure is drawn and written.

A figure is a function `(records, *, title, about) -> (figure, {file: text})` that an experiment's YAML names:

    figure: {_target_: benchmark.report.figures.time_by_phase}

`records` is a frame with one row per record (`benchmark.records.RunRecord.row` names its columns), the figure one of
matplotlib, and the texts are the files of numbers behind it.
"""

import io
from typing import TYPE_CHECKING, Any

import pandas as pd
from hydra.utils import instantiate

from benchmark.records import to_frame
from benchmark.report.about import About
from benchmark.report.query import Query

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PHASES = {
    "load": "loading",
    "importance_full": "importance of D",
    "importance_forget": "importance of D_f",
    "rest": "the method itself",
    "evaluation": "evaluation",
}
COLOURS = ("#bbbbbb", "#4477aa", "#66ccee", "#ee6677", "#ccbb44")


def figure_files(query: Query) -> dict[str, str | bytes]:
    """Return figure.png, figure.pdf and the numbers behind them."""
    node = query.options.config.get("figure")
    if node is None:
        raise ValueError(f"Expected a figure in experiment={query.name}, but got none; add figure._target_.")
    names, records = query.options.labels, query.records
    devices = ", ".join(sorted({record.provenance["device"] for record in records}))
    title = f"{query.title}: {names['protocol']}, {names['profile']} profile, {devices}"
    draw = instantiate(node, _partial_=True)
    figure, numbers = draw(to_frame(records), title=title, about=query.about)
    return {**images(figure), **numbers}


def images(figure: "Figure") -> dict[str, str | bytes]:
    """Return the figure as figure.png and figure.pdf; the same figure gives the same bytes."""
    files: dict[str, str | bytes] = {}
    for kind, metadata in (("png", {}), ("pdf", {"CreationDate": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
        files[f"figure.{kind}"] = buffer.getvalue()
    return files


def time_by_phase(records: pd.DataFrame, *, title: str, about: About) -> tuple["Figure", dict[str, str | bytes]]:
    """Draw stacked shares of each method's time, with its total in seconds."""
    from matplotlib.figure import Figure

    seconds, saving = time_shares(records, about), precomputing_saves(records)
    shares = 100 * seconds.div(seconds.sum(axis=1), axis=0)
    figure = Figure(figsize=(7, 0.6 + 0.42 * len(shares)), layout="constrained")
    axes = figure.subplots()
    left = pd.Series(0.0, index=shares.index)
    labels = [about.method(name).label for name in shares.index]
    for (phase, label), colour in zip(PHASES.items(), COLOURS, strict=True):
        axes.barh(labels, shares[phase], left=left, label=label, color=colour)
        left += shares[phase]
    for row, total in enumerate(seconds.sum(axis=1)):
        axes.text(101, row, f"{total:.1f} s", va="center")
    axes.set(xlim=(0, 100), xlabel="share of the time in %")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize="medium")
    figure.legend(loc="outside lower center", ncols=len(PHASES), fontsize="small", frameon=False)
    return figure, {
        "seconds.csv": seconds.to_csv(float_format="%.3f"),
        "saving.csv": saving.to_csv(index=False, float_format="%.2f"),
    }


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
