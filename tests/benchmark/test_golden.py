"""The names of finished runs and of their artefacts stay: a change of the configuration orphans no training."""

import csv
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from benchmark.cell import Cell
from benchmark.compose import cells_of
from benchmark.device import device_name
from benchmark.files import content_hash
from benchmark.records import load_records

GOLDEN = Path(__file__).parents[1] / "golden"
COLUMNS = ("cell", "scientific", "run_id", "original", "reference", "outputs")
FAST = [
    ("demo", "full", "paper"),
    ("table2", "quick", "paper"),
    ("table6", "quick", "strict"),
    ("requests", "quick", "paper"),
]


def expected() -> dict[tuple[str, ...], list[tuple[str, ...]]]:
    """(experiment, profile, protocol) -> a row for each cell, hashes by their first eight digits."""
    rows = defaultdict(list)
    with (GOLDEN / "hashes.csv").open() as file:
        for row in csv.DictReader(file):
            rows[row["experiment"], row["profile"], row["protocol"]].append(tuple(row[name] for name in COLUMNS))
    return rows


EXPECTED = expected()


def names_of(cell: Cell) -> tuple[str, ...]:
    labels = [cell.labels[part] for part in ("dataset", "model", "task", "target", "ablation", "method")]
    reference = "" if cell.scientific["reference"] is None else content_hash(cell.reference_key)
    keys = content_hash(cell.original_key), reference, content_hash(cell.outputs_key)
    hashes = (cell.scientific_hash, cell.run_id, *keys)
    return " ".join([*labels, *(f"{k}={v}" for k, v in cell.seeds.items())]), *(hash_[:8] for hash_ in hashes)


@pytest.mark.parametrize(
    "key", [pytest.param(key, marks=[] if key in FAST else [pytest.mark.slow], id="-".join(key)) for key in EXPECTED]
)
def test_runs_and_artefacts_keep_their_names(key):
    experiment, profile, protocol = key
    overrides = [f"experiment={experiment}", f"profile={profile}", f"protocol={protocol}"]
    if experiment == "table4":  # the golden file stands for the faces by zeros
        overrides.append(f'dataset.fingerprint="{"0" * 64}"')
    assert [names_of(cell) for cell in cells_of(overrides)] == EXPECTED[key]


@pytest.mark.slow
def test_every_method_measures_what_it_measured(tmp_path):
    """The digits in every task, seed 0, digit by digit; another processor rounds in another order."""
    golden = json.loads((GOLDEN / "digits.json").read_text())
    here = device_name(torch.device("cpu")).partition(",")[0]
    if (here, torch.__version__.partition("+")[0]) != (golden["device"].partition(",")[0], golden["torch"]):
        pytest.skip(f"the golden numbers are those of {golden['device']}, torch {golden['torch']}, not of {here}")
    command = [sys.executable, "-m", "benchmark.run", "experiment=demo", "method_seed=0", "compute.threads=1"]
    subprocess.run([*command, f"output_dir={tmp_path}"], cwd=GOLDEN.parents[1], check=True)
    found = {
        f"{record.labels['task']} {record.labels['method']}": {"run_id": record.run_id, "metrics": record.metrics}
        for record in load_records(tmp_path / "records")
    }
    assert found == golden["cells"]
