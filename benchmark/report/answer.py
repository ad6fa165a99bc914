"""Records -> one page: which method comes closest to the retrained model, how sure that is, and what changes it."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmark.cli import counted
from benchmark.composer import SEARCH_PATH
from benchmark.records import read_lines, to_lines
from benchmark.report.about import ABOUT
from benchmark.report.answer_page import HOW_TO_READ, origin_of, quirks, targets_and_tests, variances
from benchmark.report.contest import LOST, Contest, contests, listed, replicated, scopes
from benchmark.report.query import RECORDS, RESULTS, check_choice, write_files
from benchmark.report.statistics import LEAST_UNITS, half_width, sign, text
from benchmark.report.units import (
    ABLATION,
    CELL,
    EXPERIMENTS,
    FLOOR,
    NOTHING_SWITCHED,
    PROTOCOLS,
    QUANTITIES,
    SSD,
    committed,
    finished,
    is_news,
    runs_of,
    switched_units,
    targets_of,
    units_of,
)  # fmt: skip
from benchmark.report.verdict import REFERENCE, UNTOUCHED

COLUMNS = ["protocol", "switched", *CELL[2:], "method", "quantity", "mean", "half_width", "minus_ssd",
           "minus_ssd_half_width", "minus_floor", "minus_floor_half_width", "n", "originals"]  # fmt: skip


def write_answer(profile: str, overrides: Sequence[str], out: Path | None = None) -> str:
    """Write the page of a profile, from the records in results/ and OUTPUT_DIR/records; return its Markdown.

    `experiment=NAME` among the overrides: from the records of that experiment's table alone.
    """
    options = dict(word.partition("=")[::2] for word in overrides)
    taken = "experiment" if "experiment" in options else "output_dir"
    if others := [word for word in overrides if word.partition("=")[0] not in (taken, SEARCH_PATH)]:
        raise ValueError(f"Expected answer=PROFILE with out=… and {taken}=… alone, but got {others[0]!r}.")
    experiment = options.get("experiment")
    check_choice("answer", "profile", profile, overrides)
    if experiment is not None:
        check_choice("experiment", "experiment", experiment, overrides)
    output_dir = Path(options.get("output_dir", "runs")) if experiment is None else None
    files = answer_files(RESULTS, profile, output_dir, experiment=experiment)
    write_files(out or RESULTS / answer_folder(profile, experiment), files)
    return str(files["answer.md"])


def answer_files(
    results: Path, profile: str, output_dir: Path | None = None, *, experiment: str | None = None
) -> dict[str, str | bytes]:
    """Return answer.md, answer.csv, sentences.md, rank diagrams, and the records that no other folder holds.

    Args:
        output_dir: of runs that are in no table yet; None for the committed records alone.
        experiment: read the records of its table alone; the sentences then say which methods lie inside the floor.

    Raises:
        ValueError: if there is no record of SSD beside a retrained model.
    """
    folders = committed(results, profile, (*EXPERIMENTS, ABLATION) if experiment is None else [experiment])
    records = [record for records in folders.values() for record in records]
    known = {record.run_id: record for record in records}
    kept = read_lines(results / answer_folder(profile, experiment) / RECORDS)
    own = {record.run_id: record for record in kept if is_news(record, known)}
    own |= {x.run_id: x for x in finished(output_dir, profile, known | own)} if output_dir else {}
    runs = runs_of([*records, *own.values()])
    runs = runs[runs["ablation"] == NOTHING_SWITCHED]
    if (units := units_of(runs))["gap", SSD].isna().all():
        where, name, then = f"{results} or the output folder", "table3", ""
        if experiment is not None:
            where, name = f"{results}", experiment
            then = f" and run python -m benchmark.report table={name} profile={profile}"
        raise ValueError(
            f"Expected records of SSD and of the retrained model under profile={profile} in {where}, but there are "
            f"none; run python -m benchmark.run experiment={name} profile={profile}{then} first."
        )
    switched = switched_units(folders)
    sentences, page = "", []
    diagrams: dict[str, str | bytes] = {}
    for protocol in PROTOCOLS:
        ran, part = (frame.query(f"protocol == {protocol!r}") for frame in (runs, units))
        if (is_run := part["gap", SSD].notna().any()) or experiment is None:
            sentences += f"* {sentence(protocol, part, goal_of(ran))}\n"
        if is_run and experiment is not None:
            sentences += f"* {floor_sentence(protocol, part)}\n"
        if is_run:
            parts, diagram = targets_and_tests(part, f"protocol {protocol}, profile {profile}", f"ranks-{protocol}")
            page += [f"## Protocol {protocol}", origin_of(ran), *parts]
            diagrams |= diagram
    whose = f"Profile {profile}" + (f", experiment {experiment}" if experiment else "")
    head = [f"# Which method is closest to the retrained model? {whose}", sentences, HOW_TO_READ]
    page += ["## What changes the answer", *quirks(switched)] if experiment is None else []
    page += ["## Where the variance comes from", variances(runs)]
    return {
        RECORDS: to_lines(list(own.values())),
        "answer.csv": to_csv([*scopes(units), *(x for x in contests(switched, CELL) if x.key[1] != NOTHING_SWITCHED)]),
        "answer.md": "\n".join(f"{part.rstrip()}\n" for part in [*head, *page]),
        "sentences.md": sentences,
        **diagrams,
    }


def answer_folder(profile: str, experiment: str | None) -> str:
    """Return the name of an answer's folder."""
    return f"answer-{profile}" + (f"-{experiment}" if experiment else "")


def to_csv(found: Sequence[Contest]) -> str:
    """Return one row per target (or several together, `all`), method and quantity; empty: no such number."""
    rows = []
    for contest, method in [(each, method) for each in found for method in each.shown]:
        for quantity in QUANTITIES:
            others = (None, SSD, FLOOR if quantity == "gap" else method)  # a floor has no direction
            values = [contest.values(method, quantity, minus=other) for other in others]
            numbers = [number for series in values for number in (series.mean(), half_width(series))]
            if n := values[0].count():
                rows.append([*contest.key, method, quantity, *numbers, n, contest.originals])
    return pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False, float_format="%.2f")


def goal_of(runs: pd.DataFrame) -> str:
    """Return what the retrained model is, as its runs under one protocol say."""
    starts = set(runs.loc[runs["method"] == REFERENCE, "fresh"])
    names = {True: "model retrained from scratch", False: "model retrained from the original with a new last layer"}
    return f"the {names[starts.pop()] if len(starts) == 1 else 'retrained model'}"


def sentence(protocol: str, units: pd.DataFrame, goal: str) -> str:
    """Return whether SSD is closest to `goal` under a protocol, composed by rule from numbers that the page holds.

    A claim needs intervals: `closest`, that the gap of every other method minus SSD's lies above 0; `not the closest`,
    that SSD's minus the smallest one does. Without an interval (n < 3) nothing is claimed.
    """
    if not (found := contests(units := replicated(units), CELL[:1])):
        n = targets_of(units).nunique()
        why = f"no train seed has all {n} targets" if n else "no run is recorded"
        return f"Under `{protocol}` {why}, so whether SSD is closest to {goal} is open."
    contest, gap = found[0], found[0].values
    labels = {name: ABOUT.method(name).label for name in contest.ranked}
    first, rival, of = labels[contest.ranked[0]], contest.rival or SSD, f"of {len(labels)} methods to {goal}"
    difference, equal = gap(rival, minus=SSD), listed(contest.beside(SSD))
    if rival == SSD:
        claim, beside = f"SSD alone was compared with {goal}", ""
    elif difference.count() < LEAST_UNITS:
        claim = f"{first} has the smallest gap {of}, which decides nothing, since n is too small for an interval"
        beside = f", {labels[rival]}'s {text(gap(rival))}"
    elif contest.ranked[0] == SSD:
        claim = f"SSD has the smallest mean gap {of}, but is not told apart from {equal}"
        claim = claim if contest.beside(SSD) else f"SSD is the closest {of}"
        beside = f", {labels[rival]}'s is {text(difference)} larger"
    else:
        claim = f"{first} has the smallest mean gap {of}, but SSD is not told apart from it"
        claim = f"SSD is not the closest {of}, {first} is closer" if sign(difference) < 0 else claim
        beside = f", {text(-difference)} larger than {first}'s"
    for method, whose in ((UNTOUCHED, "the untouched original's"), (FLOOR, "another retrained model's")):
        difference = gap(method, minus=SSD)
        note = " (not told apart from SSD's)" if difference.count() >= LEAST_UNITS and not sign(difference) else ""
        beside += f", {whose} is {text(gap(method))}{note}" if method in contest.shown else ""
    lost = [(labels[name], *contest.lost(name)) for name in dict.fromkeys([SSD, rival])]
    if below := [f"in {some} of {n} units {label}'s" for label, some, n in lost if some]:
        beside += f"; {' and '.join(below)} D_r lies more than {LOST:g} points below the retrained model's"
    start = f"Under `{protocol}`, on {contest.label} (n = {contest.n})"
    return f"{start}, {claim}: SSD's gap is {text(gap(SSD))} points{beside}."


def floor_sentence(protocol: str, units: pd.DataFrame) -> str:
    """Return which methods are not told apart from another retrained model, over all targets together."""
    found = [contest for contest in contests(replicated(units), CELL[:1]) if FLOOR in contest.shown]
    if not found:
        return f"Under `{protocol}` two retrained models were not compared, so the noise floor is open."
    contest = found[0]
    smaller, equal, larger = (contest.beside(FLOOR, wanted) for wanted in (-1, 0, 1))
    claims = [f"between two retrained models is {text(contest.values(FLOOR))} points"]
    if contest.values(FLOOR).count() < LEAST_UNITS:
        claims, equal = [f"{claims[0]}, and n is too small to tell a method from it"], []
    claims += [f"that of {listed(smaller)} is smaller"] if smaller else []
    claims += [f"that of {listed(equal)} is not told apart from it"] if equal else []
    if larger:
        by = [f"{text(contest.values(x, minus=FLOOR))} ({ABOUT.method(x).label})" for x in larger]
        whose = f"the other {len(by)}" if claims[1:] else f"all {counted(len(by), 'method')}"
        claims.append(f"that of {whose} is larger, by {' to '.join(dict.fromkeys([by[0], by[-1]]))}")
    return f"Under `{protocol}`, on {contest.label} (n = {contest.n}), the gap {'; '.join(claims)}."
