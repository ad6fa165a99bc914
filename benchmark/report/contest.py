"""Who is closest to the retrained model: methods compared over the same units, told apart by intervals alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from benchmark.cli import counted
from benchmark.report.about import About
from benchmark.report.statistics import LEAST_UNITS, Estimate
from benchmark.report.table import COMPARED
from benchmark.report.units import CELL, FLOOR, UNIT
from benchmark.report.verdict import REFERENCE

SSD = "ssd"
QUANTITIES = [*COMPARED, "gap"]


@dataclass(frozen=True)
class Contest:
    """Gaps of methods to the retrained model over one target, or over several together.

    Attributes:
        units: rows of `units.distances_of`.
        about: which methods are ranked.
    """

    units: pd.DataFrame
    about: About

    @property
    def gaps(self) -> pd.DataFrame:
        return self.tables["gap"]

    @cached_property
    def n_targets(self) -> int:
        return len(self.units[CELL].drop_duplicates())

    @property
    def originals(self) -> int:
        """The number of independent replications: the originals of one target, the train seeds of several."""
        return int(self.units["original"].nunique()) if self.n_targets == 1 else len(self.gaps)

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """By quantity, one column per method and one row per unit; of several targets per train seed, their mean.

        A train seed counts for a method if that has all targets: originals of one seed and several data sets make one
        replication of the whole, and targets of one original are not independent. Units without SSD do not count.
        """
        if self.n_targets == 1:
            table = self.units.set_index([*UNIT, "method"])[QUANTITIES].unstack("method")
        else:
            groups = self.units.groupby([*CELL, "train", "method"])[QUANTITIES].mean().groupby(["train", "method"])
            table = groups.mean().where(groups.count() == self.n_targets).unstack("method")
        known = table["gap"].get(SSD, pd.Series(math.nan, table.index)).notna()
        return {quantity: table.loc[known, quantity] for quantity in QUANTITIES}

    @cached_property
    def ranked(self) -> list[str]:
        """The methods that have every unit SSD has, smallest mean gap first; the others are left out."""
        whole = self.gaps.dropna(axis="columns", how="any") if len(self.gaps) else self.gaps.iloc[:, :0]
        means = {str(name): float(mean) for name, mean in whole.mean().items()}
        names = [name for name in means if name not in (REFERENCE, FLOOR) and self.about.method(name).ranked]
        return sorted(names, key=lambda name: means[name])

    @property
    def closest(self) -> str:
        return self.ranked[0]

    @property
    def rival(self) -> str | None:
        """The closest method but SSD; None if SSD is alone."""
        return next((name for name in self.ranked if name != SSD), None)

    def gap(self, method: str) -> Estimate:
        return self.estimate(method, "gap")

    def estimate(self, method: str, quantity: str, minus: str | None = None) -> Estimate:
        """Return the method's mean, or that of its paired differences to another one; without values if one lacks."""
        table = self.tables[quantity]
        if method not in table or minus == method or (minus is not None and minus not in table):
            return Estimate(())
        return Estimate.of(table[method] if minus is None else table[method] - table[minus])

    def not_told_apart(self, method: str) -> list[str]:
        """Return the other ranked methods whose gap minus the method's has an interval that reaches 0, or none."""
        others = (name for name in self.ranked if name != method)
        return [name for name in others if self.estimate(name, "gap", minus=method).sign <= 0]

    @property
    def n_text(self) -> str:
        """Return the number of units, and that of originals if it is smaller."""
        n = len(self.gaps)
        return f"{n} ({counted(self.originals, 'original')})" if self.originals < n else str(n)


Found = tuple[tuple[str, ...], Contest]


def contests(units: pd.DataFrame, by: Sequence[str], about: About) -> list[Found]:
    """Return a contest per group of units in which SSD was run, in the order of the units."""
    found = [(key, Contest(part, about)) for key, part in units.groupby(list(by), sort=False)]
    return [(tuple(map(str, key)), contest) for key, contest in found if len(contest.gaps)]


def scopes(units: pd.DataFrame, about: About) -> list[Found]:
    """Return a contest for every target, every task and every protocol with several; see `replicated`."""
    wider = [*contests(units, CELL[:-1], about), *contests(replicated(units), CELL[:1], about)]
    return [*contests(units, CELL, about), *(found for found in wider if found[1].n_targets > 1)]


def replicated(units: pd.DataFrame) -> pd.DataFrame:
    """Return the units of the targets on which SSD has enough train seeds for an interval; all if there is none.

    One target with fewer seeds would leave all targets together without an interval.
    """
    seeds = units[units["method"] == SSD].groupby(CELL)["train"].nunique()
    enough = seeds[seeds >= LEAST_UNITS].reset_index()[CELL]
    return units.merge(enough, on=CELL) if len(enough) else units


def label(contest: Contest, *, model: bool = False) -> str:
    """Return the name of what is compared: `cifar20 class rocket`, `cifar20 class, 2 targets`, `7 targets together`.

    Args:
        model: whether it names the model, as it must if there are several.
    """
    if len(contest.units[CELL[:-1]].drop_duplicates()) > 1:
        return f"{contest.n_targets} targets together"
    first = contest.units.iloc[0]
    names = [first["dataset"], *([first["model"]] if model else []), first["task"]]
    if contest.n_targets > 1:
        return f"{' '.join(names)}, {contest.n_targets} targets"
    return " ".join(dict.fromkeys([*names, first["target"]]))
