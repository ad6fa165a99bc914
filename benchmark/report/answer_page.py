"""The tables of an answer: an overview, each target by itself, tests, the effect of each quirk, variance by source."""

from collections.abc import Sequence

import pandas as pd

from benchmark.report.about import About
from benchmark.report.contest import SSD, Contest, contests, label, scopes
from benchmark.report.statistics import (
    LEAST_SEEDS,
    LEAST_UNITS,
    Estimate,
    balanced,
    enough_blocks,
    friedman,
    seeds_text,
    variance_by_source,
    wilcoxon_holm,
)  # fmt: skip
from benchmark.report.table import COMPARED, span
from benchmark.report.typeset import Grid
from benchmark.report.units import CELL, FLOOR, NOTHING_SWITCHED, distances_of
from benchmark.report.verdict import DRAWN, UNTOUCHED

OVERVIEW = ["n", "Closest", "SSD's gap", "SSD − closest other", "Original's gap"]


def origin_of(runs: pd.DataFrame) -> str:
    """Return what the numbers are of: images, network, accuracy of the originals, devices."""
    lines = []
    for (dataset, model), part in runs.groupby(["dataset", "model"]):
        first, accuracy = part.iloc[0], span((100 * part["original.test_accuracy"]).tolist())
        lines.append(
            f"{dataset}: {first['sizes.forget_train'] + first['sizes.retain_train']:.0f} training images, {model} of "
            f"{first['sizes.parameters'] / 1e6:.2f} M parameters, accuracy of the originals {accuracy} %."
        )
    ways = sorted(set(zip(runs["provenance.device"], runs["provenance.precision"], strict=True)))
    return " ".join([*lines, f"Device and training precision: {'; '.join(', '.join(way) for way in ways)}."])


def sections(units: pd.DataFrame, about: About) -> list[str]:
    """Return the tables of one protocol: an overview, all targets together, tests, each target by itself."""
    found = scopes(units, about)
    single = [contest for _, contest in found if contest.n_targets == 1]
    several = [contest for _, contest in found if contest.n_targets > 1]
    model = units["model"].nunique() > 1
    by_label = {label(x, model=model): x for x in (*single, *several)}  # a protocol may hold one task alone
    rows = [[name, *overview(x), marked(x.estimate(SSD, "gap", minus=FLOOR))] for name, x in by_label.items()]
    grid = Grid(["Target", *OVERVIEW, "SSD − floor"], rows, "lllrrrr")
    parts = ["### Target by target, task by task", grid.markdown()]
    if several:
        parts += [
            f"### {label(several[-1])}, n = {several[-1].n_text}",
            left_out(several[-1], single),
            detail(several[-1]),
        ]
    parts += ["### Tests", significance(blocks_of(units, about), about, str(units["protocol"].iloc[0]))]
    for contest in single:
        parts += [f"### {label(contest, model=model)}, n = {contest.n_text}", detail(contest)]
    return parts


def overview(contest: Contest) -> list[str]:
    """Return the cells under `OVERVIEW`: who is closest, and SSD beside the closest other method and the original."""
    name = contest.about.method(contest.closest).label
    told_apart = len(contest.ranked) > 1 and not contest.not_told_apart(contest.closest)
    return [
        contest.n_text,
        f"**{name}**" if told_apart else name,
        contest.gap(SSD).text(),
        marked(contest.estimate(SSD, "gap", minus=contest.rival)) if contest.rival else "",
        contest.gap(UNTOUCHED).text(),
    ]


def marked(difference: Estimate) -> str:
    """Return a signed difference, bold if its interval leaves out 0."""
    text = difference.text(signed=True)
    return f"**{text}**" if difference.sign else text


def detail(contest: Contest) -> str:
    """Return all methods over the same units: signed distances, gap, and the gap beside SSD's and the floor."""
    others = [other for other in (SSD, FLOOR) if other in contest.gaps]
    rows = []
    for method in shown_methods(contest):
        signed = [contest.estimate(method, metric).text(signed=True) for metric in COMPARED]
        beside = [marked(contest.estimate(method, "gap", minus=other)) for other in others]
        name = "Floor" if method == FLOOR else contest.about.method(method).label
        rows.append([name, *signed, contest.gap(method).text(), *beside])
    heads = {SSD: "Gap − SSD's", FLOOR: "Gap − floor"}
    metrics = [contest.about.metric(name).label for name in COMPARED]
    head = ["Method", *metrics, "Gap", *(heads[other] for other in others)]
    return Grid(head, rows, "l" + "r" * (len(head) - 1)).markdown()


def shown_methods(contest: Contest) -> list[str]:
    """Return the original first, then the ranked methods by gap, others, and the noise floor last."""
    columns = [str(name) for name in contest.gaps.dropna(axis="columns", how="all")]
    first, last = ([name for name in (wanted,) if name in columns] for wanted in (UNTOUCHED, FLOOR))
    rest = [name for name in columns if name not in (UNTOUCHED, FLOOR, *contest.ranked)]
    return [*first, *contest.ranked, *contest.about.sorted_methods(rest), *last]


def left_out(contest: Contest, targets: Sequence[Contest]) -> str:
    """Return which of all targets are not among these, and which methods were not run on each, or do not apply."""
    known = set(contest.units[CELL].itertuples(index=False, name=None))
    few = [label(x) for x in targets if not known & set(x.units[CELL].itertuples(index=False, name=None))]
    methods = set(contest.units["method"]) - {UNTOUCHED, FLOOR, *contest.ranked}
    names = [contest.about.method(name).label for name in contest.about.sorted_methods(methods)]
    notes = [f"Methods not on every target are left out: {', '.join(names)}."] if names else []
    notes += [f"Targets with fewer than {LEAST_UNITS} train seeds are left out: {', '.join(few)}."] if few else []
    return " ".join(notes) or "Every method, every target."


def significance(blocks: pd.DataFrame, about: About, protocol: str) -> str:
    """Return Friedman's test and Wilcoxon's against SSD over independent originals, or how many of them they need."""
    n, comparisons = len(blocks), blocks.shape[1] - 1
    if comparisons < 1:
        return "No test: no other method was run on every data set with SSD."
    if not enough_blocks(n, comparisons):
        needed = next(m for m in range(99) if enough_blocks(m, comparisons))
        return (
            f"No test and no p-value: independent originals: {n}; {comparisons} comparisons with SSD need {needed} "
            f"(2/2ⁿ ≤ 0.05/{comparisons})."
        )
    p, ranks = wilcoxon_holm(blocks, SSD), blocks.rank(axis="columns").mean().sort_values()
    text = f"{n} independent originals; of each the mean gap over its targets."
    if has_diagram(blocks):
        text += " Friedman's test in the form of Iman and Davenport: F = {:.2f}, p = {:.4f}.".format(*friedman(blocks))
    rows = [[about.method(x).label, f"{ranks[x]:.2f}", "" if x == SSD else f"{p[x]:.4f}"] for x in ranks.index]
    grid = Grid(["Method", "Mean rank", "p"], rows, "lrr").markdown()
    picture = f"\n![Mean ranks](ranks-{protocol}.png)\n" if has_diagram(blocks) else ""
    return f"{text} p: Wilcoxon's signed-rank test against SSD, corrected by Holm.\n\n{grid}{picture}"


def has_diagram(blocks: pd.DataFrame) -> bool:
    """Return whether ranks of these blocks are worth a diagram: three methods or more, and blocks enough for a test."""
    return blocks.shape[1] > 2 and enough_blocks(len(blocks), blocks.shape[1] - 1)


def blocks_of(units: pd.DataFrame, about: About) -> pd.DataFrame:
    """Return the mean gap over all targets of each original (rows), of the methods that have every original."""
    found = [contest for _, contest in contests(units, ["dataset", "model"], about)]
    parts = [contest.gaps.groupby("train")[contest.ranked].mean() for contest in found]
    return pd.concat(parts).dropna(axis="columns") if parts else pd.DataFrame()


def quirks(units: pd.DataFrame, about: About) -> list[str]:
    """Return a table per case: the gap of SSD under each switched option, paired with that under none."""
    if units.empty:
        return ["No record of experiment=ablation yet."]
    parts = [
        "One option of the protocol at a time as in `strict` (configs/switches.yaml). Change: SSD's gap minus that "
        "under none, paired within units."
    ]
    case = [name for name in CELL if name != "ablation"]
    for _, part in units.groupby(case):
        found = {key[1]: contest for key, contest in contests(part, CELL, about)}
        if NOTHING_SWITCHED not in found or len(found) < 2:
            continue
        none = found.pop(NOTHING_SWITCHED)
        rows = [
            [NOTHING_SWITCHED, *overview(none), ""],
            *([name, *overview(x), change(x, none)] for name, x in found.items()),
        ]
        changed = [
            f"{name} ({about.method(x.closest).label})" for name, x in found.items() if x.closest != none.closest
        ]
        finding = f"Smallest mean gap under none: {about.method(none.closest).label}. "
        finding += f"Another method has it under {', '.join(changed)}." if changed else "No switch changes that."
        title = f"### {label(none)}, protocol {part['protocol'].iloc[0]}"
        parts += [title, Grid(["Switched", *OVERVIEW, "Change"], rows, "lllrrrr").markdown(), finding]
    return parts


def change(contest: Contest, none: Contest) -> str:
    """Return how a switched option moves SSD's gap, paired within units."""
    return marked(Estimate.of(contest.gaps[SSD] - none.gaps[SSD]))


def variances(runs: pd.DataFrame, about: About) -> str:
    """Return the standard deviation of the gap by source on the random task, or which seeds it lacks."""
    drawn = distances_of(runs[runs["task"] == DRAWN]).rename(
        columns={"method": "name", "seed": "method", "gap": "value"}
    )
    rows, most = [], dict.fromkeys(LEAST_SEEDS, 0)
    for key, part in drawn.groupby(["protocol", "dataset", "model", "name"]):
        protocol, *names, method = map(str, key)
        values, sizes = balanced(part)
        most = max(most, sizes, key=lambda found: sum(found.values()))
        if all(sizes[name] >= least for name, least in LEAST_SEEDS.items()):
            found = [f"{variance**0.5:.2f}" for variance in variance_by_source(values).values()]
            rows.append([protocol, " ".join(names), about.method(method).label, seeds_text(sizes), *found])
    if not rows:
        needed = f"the random task needs {seeds_text(LEAST_SEEDS)} in each"
        return f"Not known: {needed}. The most there are: {seeds_text(most)}."
    head = ["Protocol", "Data", "Method", "Seeds", "Train", "Split", "Method seed"]
    return (
        "Standard deviation of the gap on the random task by source, in points: nested sums of squares, a negative "
        f"estimate is 0.\n\n{Grid(head, rows, 'llllrrr').markdown()}"
    )
