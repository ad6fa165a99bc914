"""Records -> one page: which method comes closest to the retrained model, how sure that is, and what changes it."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmark.cli import counted
from benchmark.compose import choices
from benchmark.records import to_lines
from benchmark.report.about import About
from benchmark.report.answer_page import (
    blocks_of,
    has_diagram,
    origin_of,
    quirks,
    sections,
    shown_methods,
    variances,
)  # fmt: skip
from benchmark.report.contest import QUANTITIES, SSD, Contest, Found, contests, label, replicated, scopes
from benchmark.report.query import RECORDS, RESULTS, write_files
from benchmark.report.ranks import rank_diagram
from benchmark.report.statistics import LEAST_UNITS, Estimate
from benchmark.report.style import images, look
from benchmark.report.units import (
    CELL,
    FLOOR,
    PROTOCOLS,
    committed,
    finished,
    is_switched,
    runs_of,
    switched_units,
    units_of,
)  # fmt: skip
from benchmark.report.verdict import GAP_NOTE, REFERENCE, UNTOUCHED

COLUMNS = ["protocol", "switched", "dataset", "model", "task", "target", "method", "quantity", "mean", "half_width",
           "minus_ssd", "minus_ssd_half_width", "minus_floor", "minus_floor_half_width", "n", "originals"]  # fmt: skip
HOW_TO_READ = f"""\
Every number is a distance to the retrained model in points: 0 is ideal, a sign says which way. The gap is the mean of
the absolute distances in D_r, D_f and MIA.

* {GAP_NOTE}
* A unit is one train seed, split and target; method seeds are averaged inside it, and differences are paired within
  units. Several targets count together per train seed, because targets share an original model.
* ± is half of a 95 % t-interval over units, from {LEAST_UNITS} units on. Two units show both values, one its own.
* **Bold**: the interval leaves out 0, so the two are told apart. Intervals are not widened for the number of methods.
* Floor: the gap between two retrained models of different seeds. A method that is not told apart from it is as close as
  another retrained model.
"""


def write_answer(profile: str, overrides: Sequence[str], out: Path | None = None) -> str:
    """Write the page of a profile, from the records in results/ and OUTPUT_DIR/records; return its Markdown."""
    options = {"output_dir": "runs"}
    for word in overrides:
        name, _, value = word.partition("=")
        if name not in options:
            raise ValueError(f"Expected answer=PROFILE with out=… and output_dir=… alone, but got {word!r}.")
        options[name] = value
    if profile not in (known := choices("profile")):
        raise ValueError(f"Expected answer={' or '.join(known)}, but got {profile!r}.")
    files = answer_files(RESULTS, profile, Path(options["output_dir"]))
    write_files(out or RESULTS / f"answer-{profile}", files)
    return str(files["answer.md"])


def answer_files(results: Path, profile: str, output_dir: Path | None = None) -> dict[str, str | bytes]:
    """Return answer.md, answer.csv, sentences.md, rank diagrams, and the records that no other folder holds.

    Args:
        output_dir: of runs that are in no table yet; None for the committed records alone.

    Raises:
        ValueError: if there is no record of SSD beside a retrained model.
    """
    own_folder = f"answer-{profile}"
    folders = committed(results, profile)
    kept = folders.pop(own_folder, [])
    known = {record.run_id for records in folders.values() for record in records}
    own = [record for record in kept if record.run_id not in known]
    if output_dir is not None:
        own += finished(output_dir, profile, known | {record.run_id for record in own})
    folders |= {own_folder: own} if own else {}
    runs = runs_of([record for records in folders.values() for record in records if not is_switched(record)])
    units, about = units_of(runs), About()
    if SSD not in set(units["method"]):
        raise ValueError(
            f"Expected records of SSD and of the retrained model under profile={profile} in {results} or the output "
            f"folder, but there are none; run python -m benchmark.run experiment=table3 profile={profile} first."
        )
    switched = switched_units(folders, profile)
    parts = {protocol: units[units["protocol"] == protocol] for protocol in PROTOCOLS}
    sentences = "".join(f"* {sentence(name, part, about, goal_of(runs, name))}\n" for name, part in parts.items())
    page = [f"# Which method is closest to the retrained model? Profile {profile}", sentences, HOW_TO_READ]
    for protocol, part in parts.items():
        if len(part):
            page += [f"## Protocol {protocol}", origin_of(runs[runs["protocol"] == protocol]), *sections(part, about)]
    page += ["## What changes the answer", *quirks(switched, about)]
    page += ["## Where the variance comes from", variances(runs, about)]
    diagrams: dict[str, str | bytes] = {}
    for protocol, part in parts.items():
        if has_diagram(blocks := blocks_of(part, about)):
            named = blocks.rename(columns=lambda name: about.method(name).label)
            title = f"Mean rank of the gap, protocol {protocol}, profile {profile}, n = {len(blocks)} originals"
            with look():
                diagrams |= images(rank_diagram(named, title), f"ranks-{protocol}")
    return {
        RECORDS: to_lines(own),
        "answer.csv": to_csv([*scopes(units, about), *contests(switched, CELL, about)]),
        "answer.md": "\n".join(f"{part.rstrip()}\n" for part in page),
        "sentences.md": sentences,
        **diagrams,
    }


def to_csv(found: Sequence[Found]) -> str:
    """Return one row per target (or several together, `all`), method and quantity; empty: no such number."""
    rows = []
    for key, contest in found:
        names = [*key, *["all"] * (len(CELL) - len(key))]
        for method in shown_methods(contest):
            for quantity in QUANTITIES:
                others = (None, SSD, FLOOR if quantity == "gap" else "")
                estimates = [contest.estimate(method, quantity, minus=other) for other in others]
                if n := estimates[0].n:
                    numbers = [x for estimate in estimates for x in (estimate.mean, estimate.half)]
                    rows.append([*names, method, quantity, *numbers, n, contest.originals])
    return pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False, float_format="%.2f")


def goal_of(runs: pd.DataFrame, protocol: str) -> str:
    """Return what the retrained model of a protocol is, as its runs say."""
    models = runs[(runs["protocol"] == protocol) & (runs["method"] == REFERENCE)]
    if models["fresh"].nunique() != 1:
        return "the retrained model"
    start = "from scratch" if models["fresh"].all() else "from the original with a new last layer"
    return f"the model retrained {start}"


def sentence(protocol: str, units: pd.DataFrame, about: About, goal: str) -> str:
    """Return whether SSD is closest under a protocol, composed by rule from numbers that the page holds.

    A claim needs intervals: `closest`, that the gap of every other method minus SSD's lies above 0; `not the closest`,
    that SSD's minus the smallest one does. Without an interval (n < 3) nothing is claimed.

    Args:
        goal: what the retrained model is.
    """
    contest = Contest(replicated(units), about)
    if units.empty or contest.gaps.empty:
        why = f"no train seed has all {contest.n_targets} targets" if len(units) else "no run is recorded"
        return f"Under `{protocol}` {why}, so whether SSD is closest to {goal} is open."
    lead, rival, k = contest.closest, contest.rival, len(contest.ranked)
    start = f"Under `{protocol}`, {extent(contest)},"
    own = f"SSD's gap is {contest.gap(SSD).text()} points"
    others = {UNTOUCHED: "the untouched original's", FLOOR: "another retrained model's"}
    end = "".join(f", {whose} {beside(contest, method)}" for method, whose in others.items() if method in contest.gaps)
    if rival is None:
        return f"{start} SSD alone was compared with {goal}: {own}{end}."
    name, difference = about.method(rival).label, contest.estimate(rival, "gap", minus=SSD)
    if difference.n < LEAST_UNITS:
        return (
            f"{start} {about.method(lead).label} has the smallest gap of {k} methods to {goal}, which decides nothing, "
            f"since n is too small for an interval: {own}, {name}'s {contest.gap(rival).text()}{end}."
        )
    if lead == SSD:
        equal = " and ".join(about.method(method).label for method in contest.not_told_apart(SSD))
        claim = "has the smallest mean gap" if equal else "is the closest"
        but = f", but is not told apart from {equal}" if equal else ""
        return f"{start} SSD {claim} of {k} methods to {goal}{but}: {own}, {name}'s is {difference.text()} larger{end}."
    claim = f"{name} has the smallest mean gap of {k} methods to {goal}, but SSD is not told apart from it"
    if difference.sign < 0:
        claim = f"SSD is not the closest of {k} methods to {goal}, {name} is closer"
    larger = Estimate(tuple(-x for x in difference.values)).text()
    return f"{start} {claim}: {own}, {larger} larger than {name}'s{end}."


def beside(contest: Contest, method: str) -> str:
    """Return the gap of a model that is not ranked, and whether SSD's is not told apart from it."""
    difference = contest.estimate(method, "gap", minus=SSD)
    note = " (not told apart)" if difference.n >= LEAST_UNITS and difference.sign == 0 else ""
    return contest.gap(method).text() + note


def extent(contest: Contest) -> str:
    """Return over what and how much a contest is: `over 7 targets (n = 3 train seeds)`."""
    if contest.n_targets > 1:
        return f"over {contest.n_targets} targets (n = {counted(len(contest.gaps), 'train seed')})"
    n, originals = len(contest.gaps), contest.originals
    of = f", of {counted(originals, 'original')}" if originals < n else ""
    return f"on {label(contest)} (n = {n}{of})"
