"""What is measured after each of several forget requests, and the request at which a model breaks."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from benchmark.oldcell import OldCell as Cell
from benchmark.tables import Table, unranked_methods
from benchmark.typeset import TITLES, methods_of


@dataclass(frozen=True)
class Curves:
    """What is measured after each request.

    Attributes:
        values: the long form of `benchmark.tables.Table` with three more columns: `request` (1, 2, …), `newest` (the
            target of that request) and `curve` (a name for people).
        original: the curve of the original model, measured on the same images.
        breaks: of every other curve the first request after which retained accuracy lies more than `points` below the
            original's; None where there is no such request.
    """

    values: pd.DataFrame
    original: str
    points: float
    breaks: dict[str, int | None]

    @property
    def names(self) -> list[str]:
        """In the paper's order of methods."""
        by_method = self.values.groupby("method", sort=False)["curve"].unique()
        return [str(name) for method in methods_of(self.values) for name in by_method[method]]


def make_curves(table: Table, cells: Sequence[Cell]) -> Curves:
    """Return the curves of a table over the cells of a sequence."""
    values = with_requests(table.values, cells)
    for part in ("dataset", "model", "task"):
        if values[part].nunique() != 1:
            raise ValueError(f"Expected one {part} for a sequence, but got {', '.join(values[part].unique())}.")
    unranked = values.loc[values["method"].isin(unranked_methods(cells)), "curve"].unique()
    if len(unranked) != 1:
        raise ValueError("Expected the original model's cells to compare a sequence with; add method=baseline,….")
    original, points = str(unranked[0]), float(cells[0].config.table.breaks_below)
    return Curves(values, original, points, breaking_points(values, original, points))


def with_requests(values: pd.DataFrame, cells: Sequence[Cell]) -> pd.DataFrame:
    """Add `request`, `newest` and `curve`; what an ablation does not concern stands there once."""
    request, newest, curve = {}, {}, {}
    for cell in cells:
        if cell.targets is None:
            raise ValueError(f"Expected a sequence of requests, but {cell} is a single one; use requests=sequence.")
        names = cell.labels
        request[names["target"]] = len(cell.targets)
        newest[names["target"]] = str(cell.targets[-1])
        source = cell.config.method.get("importance")
        title = TITLES.get(names["method"], names["method"])
        curve[names["ablation"], names["method"]] = title if source is None else f"{title}, I_D {source}"
    named = values.assign(
        request=values["target"].map(request),
        newest=values["target"].map(newest),
        curve=[curve[key] for key in zip(values["ablation"], values["method"], strict=True)],
    )
    return named.drop_duplicates(["curve", "request", "metric"]).sort_values(
        "request", kind="stable", ignore_index=True
    )


def breaking_points(values: pd.DataFrame, original: str, points: float) -> dict[str, int | None]:
    """Return, by curve, the first request after which D_r lies more than `points` below the original's, or None."""
    retained = values[values["metric"] == "retain_accuracy"]
    by_curve = retained.pivot(index="request", columns="curve", values="mean")
    loss = by_curve.rsub(by_curve[original], axis=0).drop(columns=original)
    return {str(name): next((int(n) for n in loss.index[loss[name] > points]), None) for name in loss}


def finding(curves: Curves) -> str:
    """Return the rule of the breaking point and where each curve breaks, in two sentences."""
    targets = dict(zip(curves.values["request"], curves.values["newest"], strict=True))
    last = max(targets)
    where = [
        f"{name}: not within {last} requests" if n is None else f"{name}: request {n} ({targets[n]})"
        for name, n in curves.breaks.items()
    ]
    return (
        f"Breaking point: the first request after which D_r lies more than {curves.points:g} points below the original "
        f"model's on the same images. {'; '.join(where)}."
    )
