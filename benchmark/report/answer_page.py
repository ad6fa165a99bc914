"""The tables of an answer: an overview, each target by itself, tests, the effect of each quirk, variance by source."""

from typing import TYPE_CHECKING

import pandas as pd

from benchmark.report.about import ABOUT
from benchmark.report.contest import LOST, Contest, contests, listed, replicated, scopes
from benchmark.report.statistics import (
    LEAST_SEEDS,
    LEAST_UNITS,
    critical_difference,
    enough_blocks,
    friedman,
    sign,
    text,
    variance_by_source,
    wilcoxon_holm,
)  # fmt: skip
from benchmark.report.style import images, look
from benchmark.report.table import COMPARED
from benchmark.report.typeset import Grid, span, ways
from benchmark.report.units import CELL, FLOOR, NOTHING_SWITCHED, SSD, distances_of
from benchmark.report.verdict import DRAWN, GAP_NOTE, UNTOUCHED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEDS = "{train} train seeds, {split} splits and {seed} method seeds"
OVERVIEW = ["n", "Closest", "SSD's gap", "SSD − closest other", "Original's gap"]
HOW_TO_READ = f"""\
Every number is a distance to the retrained model in points: 0 is ideal, a sign says which way. The gap is the mean of
the absolute distances in D_r, D_f and MIA.

* {GAP_NOTE}
* A unit is one train seed, split and target; method seeds are averaged inside it, and differences are paired within
  units. Several targets count together per train seed, because targets share an original model.
* ± is half of a 95 % t-interval over units, from {LEAST_UNITS} units on. Two units show both values, one its own.
* **Bold**: the interval leaves out 0, so the two are told apart. Intervals are not widened for the number of methods.
* D_r lost: units in which D_r lies more than {LOST:g} points below the retrained model's, of all. A mean hides them.
* Floor: the gap between two retrained models of different seeds (under `paper` their originals differ too), the mean
  over all pairs of seeds with the jackknife's error; if each seed draws another forget set, that to a second model
  trained on the same draw. A method that is not told apart from it need not be as close: wide intervals hide much.
"""


def origin_of(runs: pd.DataFrame) -> str:
    """Return what the numbers are of: images, network, accuracy of the originals, devices."""
    lines = []
    for (dataset, model), part in runs.groupby(["dataset", "model"]):
        first, accuracy = part.iloc[0], span((100 * part["original.test_accuracy"]).tolist())
        lines.append(
            f"{dataset}: {first['sizes.forget_train'] + first['sizes.retain_train']:.0f} training images, {model} of "
            f"{first['sizes.parameters'] / 1e6:.2f} M parameters, accuracy of the originals {accuracy} %."
        )
    made_on = ways(zip(runs["provenance.device"], runs["provenance.precision"], strict=True))
    return " ".join([*lines, f"Device and training precision: {made_on}."])


def targets_and_tests(units: pd.DataFrame, title: str, picture: str) -> tuple[list[str], dict[str, str | bytes]]:
    """Return the tables of one protocol (an overview, all targets together, tests, each target), and a rank diagram."""
    found = scopes(units)
    by_label = {contest.label: contest for contest in found}  # a protocol may hold one task alone
    rows = [[name, *overview(x), *beside_floor(x)] for name, x in by_label.items()]
    single = [contest for contest in found if len(contest.targets) == 1]
    tested, files = significance(units, title, picture)
    parts = ["### Target by target, task by task"]
    parts += [Grid(["Target", *OVERVIEW, "SSD − floor", "Not told apart from the floor"], rows, "lllrrrrl").markdown()]
    if len((last := found[-1]).targets) > 1:
        parts += detail(last, left_out(last, single))
    parts += ["### Tests", tested, *(part for contest in single for part in detail(contest))]
    return parts, files


def overview(contest: Contest) -> list[str]:
    """Return the cells under `OVERVIEW`: who is closest, and SSD beside the closest other method and the original."""
    name, is_apart = ABOUT.method(contest.ranked[0]).label, contest.rival and not contest.beside(contest.ranked[0])
    beside = marked(contest.values(SSD, minus=contest.rival)) if contest.rival else ""
    closest = f"**{name}**" if is_apart else name
    return [contest.n, closest, text(contest.values(SSD)), beside, text(contest.values(UNTOUCHED))]


def beside_floor(contest: Contest) -> list[str]:
    """Return SSD's gap minus the noise floor, and the methods that do not lie beyond that."""
    is_known = contest.values(FLOOR).count() >= LEAST_UNITS
    equal, smaller = contest.beside(FLOOR), contest.beside(FLOOR, -1)
    names = listed(equal) + (f"; smaller: {listed(smaller)}" if smaller else "")
    return [marked(contest.values(SSD, minus=FLOOR)), names if is_known else ""]


def marked(difference: pd.Series) -> str:
    """Return a signed difference, bold if its interval leaves out 0."""
    return f"**{text(difference, signed=True)}**" if sign(difference) else text(difference, signed=True)


def detail(contest: Contest, *notes: str) -> list[str]:
    """Return all methods over the same units: signed distances, gap, and the gap beside SSD's and the floor."""
    others = {SSD: "Gap − SSD's"} | ({FLOOR: "Gap − floor"} if FLOOR in contest.shown else {})
    rows = []
    for method in contest.shown:
        signed = [text(contest.values(method, metric), signed=True) for metric in COMPARED]
        beside = [marked(contest.values(method, minus=other)) for other in others]
        name = "Floor" if method == FLOOR else ABOUT.method(method).label
        lost, n = contest.lost(method)
        rows.append([name, *signed, text(contest.values(method)), *beside, f"{lost} of {n}" if n else ""])
    head = ["Method", *(ABOUT.metric(name).label for name in COMPARED), "Gap", *others.values(), "D_r lost"]
    return [f"### {contest.label}, n = {contest.n}", *notes, Grid(head, rows, "l" + "r" * (len(head) - 1)).markdown()]


def left_out(together: Contest, single: list[Contest]) -> str:
    """Return which of all targets are not among these, and which methods were not run on each, or do not apply."""
    few = [contest.label for contest in single if contest.targets[0] not in together.targets]
    run = {method for contest in single if contest.targets[0] in together.targets for method in contest.shown}
    names = [ABOUT.method(x).label for x in ABOUT.sorted_methods(run - {UNTOUCHED, FLOOR, *together.ranked})]
    notes = [f"Methods not on every target are left out: {', '.join(names)}."] if names else []
    notes += [f"Targets with fewer than {LEAST_UNITS} train seeds are left out: {', '.join(few)}."] if few else []
    return " ".join(notes) or "Every method, every target."


def significance(units: pd.DataFrame, title: str, picture: str) -> tuple[str, dict[str, str | bytes]]:
    """Return tests over independent blocks, or how many of them they need, and a picture of ranks if any.

    A block is a data set, a model and a train seed: the mean gap over its targets, of the methods that have all blocks.
    """
    found = contests(replicated(units), ["dataset", "model"])
    if not found:
        return "No test: no train seed has all targets.", {}
    blocks = pd.concat([x.table["gap"][x.ranked].groupby("train").mean() for x in found]).dropna(axis="columns")
    n, comparisons = len(blocks), blocks.shape[1] - 1
    if comparisons < 1:
        return "No test: no other method was run on every data set with SSD.", {}
    if not enough_blocks(n, comparisons):
        needed = next(m for m in range(99) if enough_blocks(m, comparisons))
        least = f"{comparisons} comparisons with SSD need {needed} (2/2ⁿ ≤ 0.05/{comparisons})"
        return f"No test and no p-value: independent blocks (data set, model, train seed): {n}; {least}.", {}
    p, ranks = wilcoxon_holm(blocks, SSD), blocks.rank(axis="columns").mean().sort_values()
    rows = [[ABOUT.method(x).label, f"{ranks[x]:.2f}", "" if x == SSD else f"{p[x]:.4f}"] for x in ranks.index]
    start = f"{n} independent blocks (data set, model, train seed); of each the mean gap over its targets."
    files: dict[str, str | bytes] = {}
    end = f"\n\n{Grid(['Method', 'Mean rank', 'p'], rows, 'lrr').markdown()}"
    if comparisons > 1:
        f, of_all = friedman(blocks)
        start += f" Friedman's test in the form of Iman and Davenport: F = {f:.2f}, p {probability(of_all)}."
        end += f"\n![Mean ranks]({picture}.png)\n\nThe picture compares all pairs, so it may tell fewer apart than p.\n"
        named = ranks.rename(lambda name: ABOUT.method(name).label)
        with look():
            files = images(rank_diagram(named, n, f"{title}, n = {n} blocks"), picture)
    return f"{start} p: Wilcoxon's signed-rank test against SSD, corrected by Holm.{end}", files


def probability(p: float) -> str:
    """Return p to four digits.

    >>> probability(0.03519), probability(1e-9)
    ('= 0.0352', '< 0.0001')
    """
    return f"= {p:.4f}" if p >= 0.0001 else "< 0.0001"


def rank_diagram(ranks: pd.Series, n: int, title: str) -> "Figure":
    """Draw mean ranks over n blocks (1: smallest gap), each with half of the critical difference to both sides."""
    from matplotlib.figure import Figure

    difference = critical_difference(len(ranks), n)
    figure = Figure(figsize=(7, 1.4 + 0.3 * len(ranks)), layout="constrained")
    axes = figure.subplots()
    axes.errorbar(ranks, ranks.index, xerr=difference / 2, fmt="o", capsize=4)
    axes.set(xlim=(0.5, len(ranks) + 0.5), xticks=range(1, len(ranks) + 1))
    axes.set_xlabel(f"mean rank; bars overlap: not told apart by Nemenyi's test (critical difference {difference:.2f})")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize="medium")
    return figure


def quirks(units: pd.DataFrame) -> list[str]:
    """Return a table per case: the gap of SSD under each switched option, paired with that under none."""
    if units.empty:
        return ["No record of experiment=ablation yet."]
    parts = [
        "One option of the protocol at a time as in `strict`, `importance_order` as in neither (configs/switches.yaml)."
        " Change: SSD's gap minus that under none, paired within units."
    ]
    for key, part in units.groupby([name for name in CELL if name != "ablation"]):
        found = {contest.key[1]: contest for contest in contests(part, CELL)}
        if (none := found.pop(NOTHING_SWITCHED, None)) is None or not found:
            continue
        change = {name: marked(contest.values(SSD) - none.values(SSD)) for name, contest in found.items()}
        rows = [[NOTHING_SWITCHED, *overview(none), ""], *([x, *overview(found[x]), change[x]] for x in found)]
        both = {name: [x for x in contest.ranked if x in none.ranked] for name, contest in found.items()}
        first = {name: names[0] for name, names in both.items() if names[0] != min(names, key=none.ranked.index)}
        changed = ", ".join(f"{name} ({ABOUT.method(method).label})" for name, method in first.items())
        same = "No switch changes that." if max(map(len, both.values())) > 1 else "No other method was run under one."
        finding = f"Another method has it under {changed}." if changed else same
        parts += [f"### {none.label}, protocol {key[0]}"]
        parts += [Grid(["Switched", *OVERVIEW, "Change"], rows, "lllrrrr").markdown()]
        parts += [f"Smallest mean gap under none: {ABOUT.method(none.ranked[0]).label}. {finding}"]
    return parts


def variances(runs: pd.DataFrame) -> str:
    """Return the standard deviation of the gap by source on the random task, or which seeds it lacks."""
    drawn = distances_of(runs[runs["task"] == DRAWN])
    rows, most = [], dict.fromkeys(LEAST_SEEDS, 0)
    for key, part in drawn.groupby(["protocol", "dataset", "model", "method"]):
        protocol, dataset, model, name = map(str, key)
        sizes, variance = variance_by_source(part)
        most = max(most, sizes, key=lambda found: sum(found.values()))
        if variance:
            found = [f"{variance[source] ** 0.5:.2f}" for source in LEAST_SEEDS]
            rows.append([protocol, f"{dataset} {model}", ABOUT.method(name).label, SEEDS.format(**sizes), *found])
    if not rows:
        needed = f"the random task needs {SEEDS.format(**LEAST_SEEDS)} in each"
        return f"Not known: {needed}. The most there are: {SEEDS.format(**most)}."
    head = ["Protocol", "Data", "Method", "Seeds", "Train", "Split", "Method seed"]
    return (
        "Standard deviation of the gap on the random task by source, in points: nested sums of squares, a negative "
        f"estimate is 0.\n\n{Grid(head, rows, 'llllrrr').markdown()}"
    )
