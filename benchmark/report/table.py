"""A table in long form: mean ± std with n per block, method and metric, ranks, bold, and the caption."""

import math
import shlex
from collections.abc import Mapping, Sequence

import pandas as pd

from benchmark.records import RunRecord
from benchmark.report.about import About
from benchmark.report.query import Query
from benchmark.report.select import Place, check_column
from benchmark.report.typeset import BLOCK, KEY, blocks, notes, printed, span, to_latex, to_markdown, ways
from benchmark.report.verdict import GAP_NOTE, UNTOUCHED, published, verdict_markdown, verdicts, with_gaps

COMPARED = ["retain_accuracy", "forget_accuracy", "mia"]  # with the retrained model, by bold numbers


def to_csv(values: pd.DataFrame, about: About) -> str:
    """Return the values of a table as CSV, numbers with the decimals of their metric."""
    text = values.copy()
    for part in ("mean", "std"):
        numbers = zip(values[part], values["metric"], strict=True)
        text[part] = [None if math.isnan(x) else f"{x:.{about.metric(name).decimals}f}" for x, name in numbers]
    return text.to_csv(index=False)


def with_varied(values: pd.DataFrame) -> pd.DataFrame:
    """Return the values of a sweep with a column for each option that varies."""
    words = [dict(word.partition("=")[::2] for word in shlex.split(text)) for text in values["ablation"]]
    return pd.concat([pd.DataFrame(words, index=values.index), values.drop(columns="ablation")], axis="columns")


def make_values(query: Query) -> pd.DataFrame:
    """Return the table in long form, one row per (block, metric, method).

    Columns: the key columns, `mean` and `std` (in the metric's unit; NaN if missing), `n`, `skipped`, `command` (fills
    a missing cell, one line per run), `records` (run ids) and `best` (closest to the retrained model).

    Raises:
        ValueError: for a metric that is none, or a column of more than seeds.
    """
    options, metrics = query.options.config.table, metrics_of(query)
    known = [*query.options.config.metric, "rank", "seconds"]
    if unknown := [name for name in metrics if name.partition(".")[0] not in known]:
        raise ValueError(f"Expected table.metrics from {', '.join(known)}, but got {', '.join(unknown)}.")
    rows = []
    for key, places in columns_of(query).items():
        check_column(" ".join(key), places, pooled=options.pool_targets)
        rows += [[*key, metric, *aggregate(metric, places, query.about)] for metric in metrics]
    values = pd.DataFrame(rows, columns=[*KEY, "mean", "std", "n", "skipped", "command", "records"])
    reference = references(query)
    ranked = {name for name in values["method"] if query.about.method(name).ranked} - reference
    return mark_best(with_ranks(values, ranked), ranked, reference)


def metrics_of(query: Query) -> list[str]:
    """Return the metrics of the table; that of a sweep shows the distance to the retrained model too, if it has one."""
    config = query.options.config
    metrics = list(config.table.metrics)
    with_gap = query.kind == "sweep" and "gap" in config.metric and config.get("reference") is not None
    return list(dict.fromkeys([*metrics, "gap"] if with_gap else metrics))


def references(query: Query) -> set[str]:
    """Return the name of the retrained model, if the table has one."""
    return {cell.labels["method"] for cell in query.cells if cell.is_reference}


def columns_of(query: Query) -> dict[tuple[str, ...], list[Place]]:
    """Return the places of each column of each block, by key without the metric; pooled targets are joined by `+`."""
    targets = "+".join(dict.fromkeys(place.labels["target"] for place in query.places))
    pooled = {"target": targets} if query.options.config.table.pool_targets else {}
    groups: dict[tuple[str, ...], list[Place]] = {}
    for place in query.places:
        groups.setdefault(tuple({**place.labels, **pooled}[part] for part in KEY[:-1]), []).append(place)
    return groups


def measured(record: RunRecord, metric: str, scale: float) -> float | None:
    """Return a metric in its unit, or `seconds`: loading, method and evaluation together, the paper's t.

    None if the metric is not defined for the record, as `rank` is for no single one.
    """
    if metric == "seconds":
        return sum(record.seconds[part] for part in ("load", "method", "evaluation")) if record.metrics else None
    value = record.metrics.get(metric)
    return None if value is None else scale * value


def aggregate(metric: str, places: Sequence[Place], about: About) -> list[object]:
    """Return mean, sample std, n, why the cell is empty, the commands that fill it, one per line, and the run ids."""
    command = "\n".join(place.command for place in places if place.command is not None) or None
    records = [place.record for place in places if place.record is not None]
    run_ids = " ".join(record.run_id for record in records)
    counted = records if metric == "seconds" else different(records)
    numbers = (measured(record, metric, about.metric(metric).scale) for record in counted)
    series = pd.Series([x for x in numbers if x is not None], dtype=float)
    skipped = None if len(series) else next((record.skipped for record in records if record.skipped), None)
    return [float(series.mean()), float(series.std(ddof=1)), len(series), skipped, command, run_ids]


def different(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the last record of each model: the seeds may not touch it, or two of them share it (`retrain_other`)."""
    return list({model_of(x): x for x in records}.values())


def model_of(record: RunRecord) -> tuple[object, ...]:
    """Return what a model is known by: its numbers; that of another seed by the seed and those that need no other."""
    seeds = (record.scientific or {}).get("method", {}).get("other")
    if seeds is None:
        return record.labels["target"], *sorted(record.metrics.items())
    return record.labels["target"], *sorted(seeds.items()), *(record.metrics.get(name) for name in COMPARED)


def with_ranks(values: pd.DataFrame, ranked: set[str]) -> pd.DataFrame:
    """Fill the rows of the metric `rank`: 1 for the smallest mean gap to the retrained model within a block.

    A method that lacks a seed has none.
    """
    compared = values["method"].isin(ranked) & (values["metric"] == "gap") & values["command"].isna()
    gaps = values[compared].set_index([*BLOCK, "method"])["mean"]
    ranks = gaps.groupby(level=BLOCK).rank(method="min")
    is_rank = values["metric"] == "rank"
    keys = pd.MultiIndex.from_frame(values.loc[is_rank, [*BLOCK, "method"]])
    values.loc[is_rank, "mean"] = ranks.reindex(keys).to_numpy()
    return values


def mark_best(values: pd.DataFrame, ranked: set[str], reference: set[str]) -> pd.DataFrame:
    """Add `best`: within block and metric, the ranked method closest to the retrained model; times have none.

    A retrained model that lacks a seed leaves a block without: that of another one does not stand for it. A method that
    lacks one is not compared.
    """
    values = values.assign(best=False)
    compared = values[values["metric"].isin(COMPARED)]
    for _, rows in compared.groupby([*BLOCK, "metric"], sort=False):
        goal = rows.loc[rows["method"].isin(reference) & rows["command"].isna(), "mean"]
        others = rows.loc[rows["method"].isin(ranked) & rows["command"].isna(), "mean"]
        if goal.notna().any() and others.notna().any():
            gaps = (others - goal.iloc[0]).abs().round(2)
            values.loc[gaps.index[gaps == gaps.min()], "best"] = True
    return values


def caption(query: Query) -> str:
    """Return all that a reader must know beside the numbers: protocol, profile, sizes, device, n, rules."""
    records = query.records
    gaps = "gap" in query.options.config.table.metrics and any(x.labels["method"] == UNTOUCHED for x in records)
    note = [GAP_NOTE] if gaps else []
    if query.caption:
        return " ".join([query.caption, images_of(records), *note])
    cells = {(cell.labels["dataset"], cell.labels["model"]): cell for cell in query.cells}
    names = [" and ".join(dict.fromkeys(x.labels[part] for x in query.places)) for part in ("protocol", "profile")]
    parts = ["Protocol {}, profile {}.".format(*names)]
    for dataset, model in dict.fromkeys((record.labels["dataset"], record.labels["model"]) for record in records):
        members = [x for x in records if (x.labels["dataset"], x.labels["model"]) == (dataset, model)]
        sizes, cell = members[0].sizes, cells.get((dataset, model), query.options)
        epochs = " and ".join(map(str, sorted({record.original["epochs"] for record in members})))
        accuracy = span([100 * record.original["test_accuracy"] for record in members])
        augmentation = cell.scientific["original"]["recipe"]["augmentation"]
        parts.append(
            f"{dataset}: {sizes['forget_train'] + sizes['retain_train']} training images, {model} of "
            f"{sizes['parameters'] / 1e6:.2f} M parameters, originals trained for {epochs} epochs "
            f"{'without' if augmentation is None else 'with'} augmentation "
            f"({cell.config.dataset.get('judged', 'test')} accuracy {accuracy} %). "
            f"{images_of(members)}"
        )
    parts.append(counts(query))
    parts.append(f"Device and training precision: {ways((x.device, x.provenance['precision']) for x in records)}.")
    if references(query) and set(COMPARED) & set(metrics_of(query)):
        parts.append("Bold: the unlearning method closest to the retrained model.")
    return " ".join([*parts, *filter(None, [query.options.config.table.note]), *note])


def counts(query: Query) -> str:
    """Return the unit of the numbers, and over how many seeds and targets they are."""
    columns = [[p.record for p in places if p.record is not None] for places in columns_of(query).values()]
    sizes = [len({record.run_id for record in records}) for records in columns if records]
    longest = max(columns, key=lambda records: (len(records), len(varied([x.seeds for x in records]))))
    seeds, targets = seed_names([record.seeds for record in longest]), len({x.labels["target"] for x in longest})
    over = f"{targets} targets and {seeds}" if targets > 1 else seeds
    spread = f"mean ± sample standard deviation over {over}" if max(sizes) > 1 else seeds
    metrics = [query.about.metric(name) for name in metrics_of(query) if name not in ("rank", "seconds")]
    others = [metric.label for metric in metrics if metric.unit != "percent"]
    but = f"{'Percent but for' if len(others) < len(metrics) else 'No percent:'} {', '.join(others)}"
    return f"{but if others else 'Percent'}, {spread} (n = {span(sizes, 0)})."


def repeated(values: pd.DataFrame, query: Query) -> str:
    """Return the notes on methods with the same values under several seeds, or nothing."""
    about, telling = query.about, [part for part in BLOCK if values[part].nunique() > 1]
    rows = values[(values["n"] > 0) & ~values["metric"].isin(["gap", "rank", "seconds"])]
    rows = rows.assign(block=[" ".join(dict.fromkeys(names)) for names in rows[telling].to_numpy().tolist()])
    labels = {name: about.method(name).label for name in rows["method"]}
    once = set()  # methods of which two records are one model's
    for key, places in columns_of(query).items():
        records = [place.record for place in places if place.record is not None and place.record.metrics]
        if len(different(records)) < len(records):
            once.add(key[-1])
    notes = [
        f"{labels[x]}: the same values under several seeds are one model's and count once." for x in labels if x in once
    ]
    same: dict[str, dict[str, list[str]]] = {}  # labels of metrics by where that is and method
    for (method, metric), part in rows[rows["n"] > 1].groupby(["method", "metric"], sort=False):
        blocks = part.loc[part["std"] < 1e-9, "block"].tolist()
        n = rows.loc[rows["method"] == method, "block"].nunique()
        where = f" ({blocks[0] if len(blocks) == 1 else f'{len(blocks)} of {n} blocks'})" if 0 < len(blocks) < n else ""
        if blocks:
            same.setdefault(where, {}).setdefault(labels[str(method)], []).append(about.metric(str(metric)).label)
    for where, by_method in same.items():
        found = "; ".join(f"{method} {', '.join(names)}" for method, names in by_method.items())
        notes.append(f"± 0.00, the same in every run{where}: {found}.")
    return "".join(f"\n{note}\n" for note in notes)


def seed_names(seeds: Sequence[Mapping[str, int]]) -> str:
    """Return how many seeds there are, and which of them vary.

    >>> seed_names([{"train_seed": 0, "method_seed": 0}, {"train_seed": 1, "method_seed": 0}])
    '2 train seeds'
    >>> seed_names([{"train_seed": 0, "method_seed": 0}, {"train_seed": 1, "method_seed": 1}])
    '2 combinations of train and method seed'
    """
    n, names = len({tuple(sorted(values.items())) for values in seeds}), varied(seeds)
    if len(names) > 1:
        return f"{n} combinations of {' and '.join(names)} seed"
    return f"{n} {names[0]} seeds" if names else "one seed"


def varied(seeds: Sequence[Mapping[str, int]]) -> list[str]:
    """Return which seeds have several values, without the ending `_seed`."""
    names = seeds[0] if seeds else ()
    return [name.removesuffix("_seed") for name in names if len({values[name] for values in seeds}) > 1]


def images_of(records: Sequence[RunRecord]) -> str:
    """Return over how many images D_f and MIA are, and how many points one of them is."""
    shares, attacks = ([record.sizes[part] for record in records] for part in ("forget_test", "forget_train"))
    (n, point), (m, other) = ((span(x, 0), span([100 / size for size in x], 2)) for x in (shares, attacks))
    return f"D_f is over {n} images (one is {point} points), MIA over {m} ({other})."


def block_markdown(values: pd.DataFrame, query: Query, text: str) -> str:
    """Return the first block, methods as rows, and where the others lie."""
    names = list(dict.fromkeys(zip(values["task"], values["target"], strict=True)))
    first, *rest = (task if task == target else f"{task} {target}" for task, target in names)
    block = next(rows for _, rows in values.groupby(BLOCK, sort=False))
    grid = blocks(block, query.about, lambda row: printed(row, query.about, bold=row["best"]), sweep=True).markdown()
    others = f"\n{query.folder}/table.md, .csv and .tex hold {', '.join(rest)} too.\n" if rest else ""
    return f"**{query.title}: {first}**\n\n{grid}{notes(block, query.about)}\n{text}\n{others}"


def table_files(query: Query) -> dict[str, str]:
    """Return table.csv, table.tex, table.md and, for a published table, verdict.csv and verdict.md.

    With `table.first_block`, block.md too: what the command prints.
    """
    values, title, about, names = make_values(query), query.title, query.about, query.options.labels
    text, sweep = caption(query), query.kind == "sweep"
    files = {
        "table.csv": to_csv(with_varied(values) if sweep else values, about),
        "table.tex": to_latex(values, title, text, about, sweep=sweep),
        "table.md": to_markdown(values, title, text, about, sweep=sweep) + repeated(values, query),
    }
    if query.options.config.table.first_block:
        files["block.md"] = block_markdown(values, query, text)
    paper = published()
    if len(theirs := paper[paper["table"] == query.name]):
        verdict = verdicts(theirs, values, query.records, protocol=names["protocol"], profile=names["profile"])
        files["verdict.csv"] = with_gaps(verdict).to_csv(index=False, float_format="%.2f")
        files["verdict.md"] = verdict_markdown(verdict, title, about, images_of(query.records))
    return files
