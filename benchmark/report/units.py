"""Records -> units: which runs count, how far each lies from the retrained model of its unit, and the noise floor."""

import logging
from collections.abc import Collection, Mapping, Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.cell import Cell
from benchmark.cli import counted
from benchmark.compose import cells_of
from benchmark.files import content_hash
from benchmark.records import RunRecord, flatten, load_records, read_lines
from benchmark.report.about import About
from benchmark.report.query import RECORDS, read_memory
from benchmark.report.select import SEEDS
from benchmark.report.statistics import pseudo_values
from benchmark.report.table import COMPARED
from benchmark.report.verdict import DRAWN, REFERENCE
from benchmark.sources import changes

log = logging.getLogger(__name__)
EXPERIMENTS = (*(f"table{number}" for number in range(1, 7)), "ablation", "demo")
PROTOCOLS = ("strict", "paper")
FLOOR = "retrain_other"  # the retrained model with another seed
CELL = ["protocol", "ablation", "dataset", "model", "task", "target"]
UNIT = ["train", "split"]  # within a cell
FACTS = ["sizes.forget_train", "sizes.retain_train", "sizes.parameters", "original.test_accuracy",
         "provenance.device", "provenance.precision"]  # fmt: skip
SHORT = {"seeds.train_seed": "train", "seeds.split_seed": "split", "seeds.method_seed": "seed",
         "original.sha256": "original", "provenance.finished": "finished"}  # fmt: skip
NOTHING_SWITCHED = "none"


def committed(results: Path, profile: str) -> dict[str, list[RunRecord]]:
    """Return the profile's records in `results`, by folder: those of tables, and those that an answer keeps itself."""
    found: dict[str, list[RunRecord]] = {}
    for path in sorted(results.glob(f"*/{RECORDS}")):
        name = read_memory(path.parent).get("experiment")
        if name in EXPERIMENTS or path.parent.name == f"answer-{profile}":
            records = [x for x in read_lines(path) if x.labels["profile"] == profile]
            found |= {path.parent.name: records} if records else {}
    return found


def finished(output_dir: Path, profile: str, known: Collection[str]) -> list[RunRecord]:
    """Return the profile's records of `output_dir` that are cells of `EXPERIMENTS` under any seeds, of today's code.

    Args:
        known: run ids that are committed already.
    """
    records = [x for x in load_records(output_dir / "records") if x.labels["profile"] == profile]
    if not (records := [x for x in records if x.run_id not in known]):
        return []
    today = {seedless(cell): cell.code for cell in table_cells(profile)}
    cells = [x for x in records if seedless(x) in today]
    current = [x for x in cells if not changes(x.code or {}, today[seedless(x)])]
    for what, n in (("of no table", len(records) - len(cells)), ("of other code", len(cells) - len(current))):
        if n:
            log.warning("%s %s left out", counted(n, "record"), what)
    return current


def is_switched(record: RunRecord) -> bool:
    return record.labels.get("ablation", NOTHING_SWITCHED) != NOTHING_SWITCHED


def table_cells(profile: str, names: Sequence[str] = EXPERIMENTS, protocols: Sequence[str] = PROTOCOLS) -> list[Cell]:
    """Return one cell for each that the experiments hold, whatever its seeds."""
    shared = [f"profile={profile}", "method_seed=0"]
    return [
        cell
        for protocol in protocols
        for name in names
        for cell in cells_of([f"experiment={name}", f"protocol={protocol}", *shared])
    ]


def seedless(item: Cell | RunRecord) -> str:
    """Return what names a cell or a record under any seeds; nothing for a record that does not say how it was made."""
    if item.scientific is None:
        return ""
    return content_hash({name: value for name, value in flatten(item.scientific).items() if name not in SEEDS})


def runs_of(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Return one row per run that gave numbers: `CELL`, method, seeds, original, `COMPARED` in points and `FACTS`.

    Runs of one (cell, train seed, split) rest on one original: that with the most runs, of equals the latest. Of two
    records of the same run the one finished last counts. A split seed counts in the random task alone.
    """
    about, unit = About(), [*CELL, *UNIT]
    rows = [{"ablation": NOTHING_SWITCHED} | record.row() for record in records if record.metrics]
    if not rows:
        return pd.DataFrame(columns=[*unit, "original", "method", "seed", "fresh", *COMPARED, *FACTS])
    frame = pd.DataFrame(rows).rename(columns=SHORT)
    for metric in COMPARED:
        frame[metric] = about.metric(metric).scale * frame[f"metrics.{metric}"].astype(float)
    frame["split"] = frame["split"].where(frame["task"] == DRAWN, 0)
    frame["fresh"] = [record.hyperparameters.get("reset") == "all" for record in records if record.metrics]
    frame = frame.sort_values("finished").drop_duplicates([*unit, "original", "method", "seed"], keep="last")
    sizes = frame.groupby([*unit, "original"])["finished"].agg(["size", "max"]).sort_values(["size", "max"])
    best = sizes.reset_index().drop_duplicates(unit, keep="last")[[*unit, "original"]]
    kept = frame.merge(best, on=[*unit, "original"])
    return kept[[*unit, "original", "method", "seed", "fresh", *COMPARED, *FACTS]].dropna(subset=[*COMPARED])


def with_unconcerned(runs: pd.DataFrame, cells: Sequence[Cell]) -> pd.DataFrame:
    """Return the runs, and under each switched option those of `none` that it does not concern: they share a record.

    Args:
        cells: of the ablation; that of a method under a switch may be the same as under none.
    """
    names = pd.DataFrame([{**cell.labels, "made": seedless(cell)} for cell in cells])[[*CELL, "method", "made"]]
    is_none = names["ablation"] == NOTHING_SWITCHED
    same = [name for name in names if name != "ablation"]
    shared = names[~is_none].merge(names.loc[is_none, same], on=same).drop(columns="made")
    shared = shared.merge(runs[CELL].drop_duplicates(), on=CELL)  # switches that were run
    none = runs[runs["ablation"] == NOTHING_SWITCHED].drop(columns="ablation")
    more = none.merge(shared, on=[name for name in same if name != "made"])
    return pd.concat([runs, more[runs.columns]]).drop_duplicates([*CELL, *UNIT, "method", "seed"], ignore_index=True)


def distances_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per run: signed differences to the retrained model of its seeds in `COMPARED`, and their `gap`.

    The gap is the mean absolute difference.
    """
    seeds = [*CELL, *UNIT, "original", "seed"]
    reference = runs[runs["method"] == REFERENCE].set_index(seeds)[[*COMPARED]]
    others = runs[runs["method"] != REFERENCE].set_index([*seeds, "method"])[[*COMPARED]]
    of_same_seeds = reference.reindex(others.reset_index("method").index).to_numpy()
    signed: pd.DataFrame = (others - of_same_seeds).dropna()
    signed["gap"] = signed.abs().mean(axis="columns")
    return signed.reset_index()


def units_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Return `distances_of`, averaged over method seeds: one row per unit and method, sorted by cell.

    The noise floor is a method too (`FLOOR`): the rows of such models if they were trained, else those of `floor_of`.
    """
    units = distances_of(runs).groupby([*CELL, *UNIT, "original", "method"])[[*COMPARED, "gap"]].mean().reset_index()
    measured = units.loc[units["method"] == FLOOR, CELL].drop_duplicates()
    missing = runs.merge(measured, on=CELL, how="left", indicator=True)
    floors = [floor_of(part) for _, part in missing[missing["_merge"] == "left_only"].groupby(CELL, sort=False)]
    return pd.concat([units, *(floor for floor in floors if len(floor))]).sort_values(CELL, ignore_index=True)


def switched_units(folders: Mapping[str, Sequence[RunRecord]], profile: str) -> pd.DataFrame:
    """Return the units of ablations, `none` among them: of the folders that hold one, so that their code is the same.

    Args:
        folders: records by folder.
    """
    runs = runs_of([x for records in folders.values() if any(map(is_switched, records)) for x in records])
    if runs.empty:
        return units_of(runs)
    return units_of(with_unconcerned(runs, table_cells(profile, ["ablation"], sorted(set(runs["protocol"])))))


def floor_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the gap between two retrained models of different seeds, a value per unit of one cell (`pseudo_values`).

    Only models that start afresh on the same retain set tell: no rows if they start from originals of their own, if
    each unit draws another forget set, or for fewer than three units.
    """
    models = runs[(runs["method"] == REFERENCE) & runs["fresh"]]
    units = [part for _, part in models.groupby([*CELL, *UNIT])]
    heads = pd.DataFrame([part.iloc[0] for part in units], columns=models.columns)
    if heads["split"].nunique() != 1:
        return heads.iloc[:0]
    distances = np.zeros((len(units), len(units)))
    for i, j in permutations(range(len(units)), 2):
        pairs = units[i].merge(units[j], how="cross", suffixes=("", "_other"))
        pairs = pairs[pairs["seed"] != pairs["seed_other"]]  # the same seed is the same model
        gaps = [(pairs[metric] - pairs[f"{metric}_other"]).abs() for metric in COMPARED]
        distances[i, j] = pd.concat(gaps).mean()
    floor = heads[[*CELL, *UNIT, "original"]].assign(method=FLOOR, gap=pseudo_values(distances))
    return floor.dropna(subset="gap")
