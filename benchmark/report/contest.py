"""Methods compared over the same units: of one target, or of the targets of a task or a protocol together."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd

from benchmark.cli import counted
from benchmark.report.about import ABOUT
from benchmark.report.statistics import LEAST_UNITS, sign
from benchmark.report.units import CELL, FLOOR, SSD, targets_of
from benchmark.report.verdict import UNTOUCHED

MOST_NAMED = 3  # targets of several tasks that are named; of more, their number and their tasks
LOST = 5.0  # points of D_r below the retrained model's


class Contest(NamedTuple):
    """Distances of methods to the retrained model; see `contests`."""

    key: tuple[str, ...]  # the values of `CELL` that all targets share, `all` for the others
    targets: list[tuple[str, ...]]  # their keys
    label: str  # `cifar20 class rocket`, `cifar20 class, 2 targets` or `7 targets of … and … together`; see `label_of`
    n: str  # of units, or of train seeds if there are several targets
    originals: int  # the independent replications: the originals of one target, the train seeds of several
    table: pd.DataFrame  # one row per unit, one column per (quantity, method)
    ranked: list[str]  # the methods that have every unit SSD has, smallest mean gap first
    shown: list[str]  # the original, the ranked methods, the others that were run, and the noise floor last
    retained: pd.DataFrame  # the signed differences in D_r, one row per unit of each target, one column per method

    def values(self, method: str, quantity: str = "gap", minus: str | None = None) -> pd.Series:
        """Return a method's value in each unit, or that minus another one's; none at all minus its own."""
        own = self.table[quantity, method]
        if minus is None:
            return own
        return own.iloc[:0] if minus == method else own - self.table[quantity, minus]

    def lost(self, method: str) -> tuple[int, int]:
        """Return in how many units D_r lies more than `LOST` points below the retrained model's, and of how many."""
        values = self.retained[method].dropna()
        return int((values < -LOST).sum()), len(values)

    @property
    def rival(self) -> str | None:
        """The closest method but SSD; None if SSD is alone."""
        return next((name for name in self.ranked if name != SSD), None)

    def beside(self, method: str, wanted: int = 0) -> list[str]:
        """Return the other ranked methods whose gap is larger (1) or smaller (-1), or that are not told apart (0)."""
        return [name for name in self.ranked if name != method and sign(self.values(name, minus=method)) == wanted]


def contests(units: pd.DataFrame, by: Sequence[str]) -> list[Contest]:
    """Return a contest per group of units in which SSD was run, in the order of the units.

    Units without SSD do not count, nor do targets without any. Of several targets, the values are their means per train
    seed, which counts for a method if that has all units that SSD has: originals of one seed and several data sets make
    one replication of the whole, and targets of one original are not independent. The noise floor counts if each train
    seed that it has does: pseudo-values mean something together alone.
    """
    found, several_models = [], len(units.index.unique("model")) > 1
    for key, part in units[units["gap", SSD].notna()].groupby(list(by), sort=False):
        targets, originals = list(targets_of(part).unique()), part.index.unique("original").size
        whole = pd.DataFrame(part["retain_accuracy"])
        if several := len(targets) > 1:
            cells = part.groupby([*CELL, "train"])
            groups = cells.mean().where(cells.count().eq(cells.size(), axis="index")).groupby("train")
            table = groups.mean().where(groups.count() == len(targets)).dropna(subset=[("gap", SSD)])
        else:
            table = part.droplevel([*CELL, "original"])
        floor = units.loc[targets_of(units).isin(targets), [("gap", FLOOR)]].dropna()
        if not floor.index.unique("train").isin(table.index.unique("train")).all():
            table["gap", FLOOR] = math.nan
        n, originals = len(table), len(table) if several else originals
        n_text = counted(n, "train seed") if several else f"{n}, of {counted(originals, 'original')}"
        gaps = pd.DataFrame(table["gap"]).dropna(axis="columns", how="all")
        means = gaps.dropna(axis="columns").mean().sort_values(kind="stable")
        ranked = [name for name in means.index if ABOUT.method(name).ranked]
        others = ABOUT.sorted_methods({*gaps} - {UNTOUCHED, FLOOR, *ranked})
        found.append(Contest(
            key=(*map(str, key), *["all"] * (len(CELL) - len(key))),
            targets=targets,
            label=label_of(targets, several_models=several_models),
            n=n_text if several or originals < n else str(n),
            originals=originals,
            table=table,
            ranked=ranked,
            shown=[name for name in (UNTOUCHED, *ranked, *others, FLOOR) if name in gaps],
            retained=whole[whole.index.isin(table.index.unique("train"), level="train")],
        ))  # fmt: skip
    return [contest for contest in found if len(contest.table)]


def label_of(targets: Sequence[tuple[str, ...]], *, several_models: bool) -> str:
    """Return the names of targets (keys of `CELL`), with the model if there are several; of many, their data and tasks.

    Task and target of the same name stand once.
    """
    if len({key[:-1] for key in targets}) > 1:
        if len(targets) <= MOST_NAMED:
            return f"{enumerated(label_of([key], several_models=several_models) for key in targets)} together"
        of_data = []
        for dataset in dict.fromkeys(key[2] for key in targets):
            models, tasks = (dict.fromkeys(key[at] for key in targets if key[2] == dataset) for at in (3, 4))
            of_data.append(f"{dataset} {enumerated(tasks)}" + (f" ({enumerated(models)})" if several_models else ""))
        return f"{len(targets)} targets of {', '.join(of_data)} together"
    dataset, model, task, target = targets[0][2:]
    names = [dataset, *([model] if several_models else []), task]
    if len(targets) > 1:
        return f"{' '.join(names)}, {len(targets)} targets"
    return " ".join(dict.fromkeys([*names, target]))


def scopes(units: pd.DataFrame) -> list[Contest]:
    """Return a contest for every target, every task and every protocol with several; see `replicated`."""
    wider = [contest for by in (CELL[:-1], CELL[:1]) for contest in contests(replicated(units), by)]
    return [*contests(units, CELL), *(contest for contest in wider if len(contest.targets) > 1)]


def replicated(units: pd.DataFrame) -> pd.DataFrame:
    """Return the units of the targets on which SSD has enough train seeds for an interval; all if there is none.

    One target with fewer seeds would leave all targets together without an interval.
    """
    seeds = units["gap", SSD].dropna().reset_index("train").groupby(CELL)["train"].nunique()
    enough = seeds.index[seeds >= LEAST_UNITS]
    return units[targets_of(units).isin(enough)] if len(enough) else units


def listed(methods: Sequence[str]) -> str:
    """Return the labels of methods as a list in a sentence.

    >>> listed([]), listed(["ssd"]), listed(["ssd", "unsir", "finetune"])
    ('none', 'SSD', 'SSD, UNSIR and Finetune')
    """
    return enumerated([ABOUT.method(name).label for name in methods] or ["none"])


def enumerated(words: Iterable[str]) -> str:
    """Return words as a list in a sentence.

    >>> enumerated(["class", "subclass", "random"])
    'class, subclass and random'
    """
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
