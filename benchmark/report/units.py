"""Records -> units: how far each method lies from the retrained model, per (train seed, split, target) and quantity."""

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.cell import Cell
from benchmark.cli import counted
from benchmark.compose import cells_of
from benchmark.files import content_hash
from benchmark.records import RunRecord, flatten, load_records, read_lines, to_frame
from benchmark.report.about import ABOUT
from benchmark.report.query import RECORDS, made_anew, read_memory, stored_query
from benchmark.report.select import SEEDS, check_records
from benchmark.report.statistics import pseudo_values
from benchmark.report.table import COMPARED
from benchmark.report.verdict import DRAWN, REFERENCE, UNTOUCHED
from benchmark.sources import changes

log = logging.getLogger(__name__)
TABLES, ABLATION = tuple(f"table{number}" for number in range(1, 7)), "ablation"  # experiments
EXPERIMENTS = (*TABLES, "demo")
PROTOCOLS = ("strict", "paper")
SSD, FLOOR = "ssd", "retrain_other"  # the second is the retrained model with another seed
CELL = ["protocol", "ablation", "dataset", "model", "task", "target"]
UNIT = ["train", "split", "original"]  # within a cell
QUANTITIES = [*COMPARED, "gap"]
FACTS = ["sizes.forget_train", "sizes.retain_train", "sizes.parameters", "original.test_accuracy",
         "provenance.device", "provenance.precision"]  # fmt: skip
SHORT = {"seeds.train_seed": "train", "seeds.split_seed": "split", "seeds.method_seed": "seed",
         "original.sha256": "original", "provenance.finished": "finished", "hyperparameters.reset": "fresh",
         "scientific.task.seed": "drawn",
         **{f"metrics.{name}": name for name in COMPARED}}  # fmt: skip
NOTHING_SWITCHED = "none"


def committed(results: Path, profile: str, experiments: Collection[str]) -> dict[Path, list[RunRecord]]:
    """Return the profile's records in `results` of the tables of these experiments, by folder."""
    found: dict[Path, list[RunRecord]] = {}
    for path in sorted(results.glob(f"*/{RECORDS}")):
        if read_memory(path.parent).get("experiment") in experiments:
            records = [x for x in read_lines(path) if x.labels["profile"] == profile]
            found |= {path.parent: records} if records else {}
    return found


def finished(output_dir: Path, profile: str, known: Mapping[str, RunRecord]) -> list[RunRecord]:
    """Return the profile's records of `output_dir` that are cells of `EXPERIMENTS` under any seeds, of today's code.

    Args:
        known: committed records by run id; a run counts again if it was made with other methods or metrics.
    """
    records = [x for x in load_records(output_dir / "records") if x.labels["profile"] == profile]
    records = [x for x in records if is_news(x, known)]
    protocols = {record.labels["protocol"] for record in records}
    cells = table_cells(profile, [name for name in PROTOCOLS if name in protocols])  # none of a plug-in's own
    today = {}
    for cell in cells:
        with suppress(ValueError):  # a profile may lack recipes for a data set
            today[seedless(cell)] = cell.code
    kept = [x for x in records if (name := seedless(x)) in today and not changes(x.code or {}, today[name])]
    if left := len(records) - len(kept):
        log.warning("%s of no table or of other code left out", counted(left, "record"))
    return kept


def is_news(record: RunRecord, known: Mapping[str, RunRecord]) -> bool:
    """Return whether a run is not among `known`, or was made again with other methods or metrics."""
    return record.run_id not in known or made_anew(known[record.run_id], [record])


def table_cells(profile: str, protocols: Sequence[str]) -> list[Cell]:
    """Return one cell for each that the experiments hold, whatever its seeds."""
    shared = [f"profile={profile}", "method_seed=0"]
    grids = [[f"experiment={name}", f"protocol={protocol}"] for protocol in protocols for name in EXPERIMENTS]
    return [cell for grid in grids for cell in cells_of([*grid, *shared])]


def seedless(item: Cell | RunRecord) -> str:
    """Return what names a cell or a record under any seeds, as far as it says how it was made."""
    return content_hash({x: y for x, y in flatten(item.scientific or {}).items() if x not in SEEDS})


def runs_of(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Return one row per run that gave numbers: `CELL`, method, seeds, original, `COMPARED` in points and `FACTS`.

    Runs of one (cell, train seed, split) rest on one original: that with the most runs, of equals the latest. Of two
    records of the same run the one finished last counts. A split seed counts in tasks that draw by it.

    Raises:
        ValueError: runs of one method in one cell differ in more than seeds.
    """
    records = [record for record in records if record.metrics]
    groups: dict[tuple[str, ...], list[RunRecord]] = {}
    for record in records:
        names = tuple(record.labels.get(name, NOTHING_SWITCHED) for name in [*CELL, "method"])
        groups.setdefault(names, []).append(record)
    for key, group in groups.items():
        check_records(" ".join(key), group, SEEDS, "keep one of them in another folder, or give it a name of its own")
    frame = to_frame(records).rename(columns=SHORT)
    frame = frame.reindex(columns=["finished", *CELL, *UNIT, "method", "seed", "fresh", "drawn", *COMPARED, *FACTS])
    scales = {metric: ABOUT.metric(metric).scale for metric in COMPARED}
    frame[COMPARED] = frame[COMPARED].astype(float) * pd.Series(scales)
    frame["ablation"] = frame["ablation"].fillna(NOTHING_SWITCHED)
    frame["split"] = frame["split"].where(frame["drawn"].notna() | (frame["task"] == DRAWN), 0)
    frame["fresh"] = frame["fresh"] == "all"  # a retrained model that starts from no original
    frame = frame.sort_values("finished").drop_duplicates([*CELL, *UNIT, "method", "seed"], keep="last")
    votes = frame.groupby([*CELL, *UNIT])["finished"].agg(["size", "max"]).sort_values(["size", "max"]).reset_index()
    best = votes.drop_duplicates([*CELL, "train", "split"], keep="last")[[*CELL, *UNIT]]
    one = frame.drop(columns=["finished", "drawn"]).merge(best)
    warn_of_lost(frame, one)
    return one.dropna(subset=COMPARED)


def warn_of_lost(before: pd.DataFrame, after: pd.DataFrame) -> None:
    """Warn of methods that a unit loses because they ran on another original than most of its methods."""
    run = [*CELL, "train", "split", "method"]
    lost = before.set_index(run).index.difference(after.set_index(run).index).to_frame(index=False)
    for cell, part in lost.groupby(CELL):
        log.warning(
            "%s: %s left out, because they rest on other originals than most methods there; run all on one machine",
            " ".join(map(str, cell[2:])), ", ".join(part["method"].unique()),
        )  # fmt: skip


def distances_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per run: signed differences to the retrained model of its seeds in `COMPARED`, and their `gap`.

    The gap is the mean absolute difference.
    """
    is_goal, seeds = runs["method"] == REFERENCE, [*CELL, *UNIT, "seed"]
    found = runs[~is_goal].merge(runs.loc[is_goal, [*seeds, *COMPARED]], on=seeds, suffixes=("", "_goal"))
    found[COMPARED] -= found[[f"{metric}_goal" for metric in COMPARED]].to_numpy()
    return found[[*seeds, "method", *COMPARED]].assign(gap=found[COMPARED].abs().mean(axis="columns"))


def units_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the distances as one row per unit (`CELL`, `UNIT`) and one column per (quantity, method).

    Method seeds are averaged. The noise floor is a method too (`FLOOR`): `floor_of` of a cell if that is defined, else
    its runs of such models. SSD, the original and the floor have columns even without a run.
    """
    floors = pd.concat([runs[[*CELL, *UNIT]].iloc[:0], *(floor_of(part) for _, part in runs.groupby(CELL))])
    far = distances_of(runs)
    far.loc[far["method"] == FLOOR, COMPARED] = math.nan  # a floor has no direction
    far = far[(far["method"] != FLOOR) | ~far.set_index(CELL).index.isin(floors.set_index(CELL).index)]
    means = pd.concat([far, floors]).groupby([*CELL, *UNIT, "method"])[QUANTITIES].mean()
    units: Any = means.unstack("method")
    methods = sorted({*units.columns.get_level_values("method"), SSD, UNTOUCHED, FLOOR})
    found: pd.DataFrame = units.reindex(columns=pd.MultiIndex.from_product([QUANTITIES, methods])).sort_index()
    return found


def targets_of(units: pd.DataFrame) -> pd.MultiIndex:
    """Return the target of each unit, by its values of `CELL`."""
    return pd.MultiIndex.from_frame(units.index.to_frame()[CELL])


def switched_units(folders: Collection[Path]) -> pd.DataFrame:
    """Return the units of the ablations among committed tables, `none` among them, so that their code is the same.

    Under a switched option that does not concern a method, its place holds the record of none.
    """
    tables = [stored_query(folder) for folder in folders if read_memory(folder).get("experiment") == ABLATION]
    found = [(place.labels, place.record) for table in tables for place in table.places]
    places = [(labels, record) for labels, record in found if record is not None and record.metrics]
    cell = itemgetter(*CELL)
    run = {cell(record.labels) for _, record in places}  # else no method is concerned
    return units_of(runs_of([replace(record, labels=labels) for labels, record in places if cell(labels) in run]))


def floor_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the gap between two retrained models of different seeds, a value per unit of one cell (`pseudo_values`).

    Over all pairs, because each model belongs to several: pairs of neighbouring seeds depend on how the seeds are
    numbered, and are not independent. No rows for fewer than three train seeds, or if each unit draws another forget
    set: then two models are a pair only if another one was trained on the same draw, which is a run of `FLOOR`.
    """
    models = runs[runs["method"] == REFERENCE]
    models = models if models["split"].nunique() == 1 else models.iloc[:0]
    units = models.drop_duplicates("train").set_index("train", drop=False).rename_axis(None)
    pairs = models.merge(models, how="cross", suffixes=("", "_other"))
    pairs = pairs[(pairs["train"] != pairs["train_other"]) & (pairs["seed"] != pairs["seed_other"])]
    others = pairs[[f"{metric}_other" for metric in COMPARED]].to_numpy()
    gaps = (pairs[COMPARED] - others).abs().mean(axis="columns").groupby([pairs["train"], pairs["train_other"]]).mean()
    matrix = gaps.unstack().reindex(index=units.index, columns=units.index)
    return units.assign(method=FLOOR, gap=pseudo_values(matrix.to_numpy()))[[*CELL, *UNIT, "method", "gap"]].dropna()
