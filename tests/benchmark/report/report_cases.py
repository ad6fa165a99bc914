"""Cells of small experiments, and records of them without any run."""

from functools import cache
from pathlib import Path

from benchmark.cell import Cell
from benchmark.compose import cells_of
from benchmark.files import content_hash
from benchmark.records import RunRecord

ROOT = Path(__file__).parents[3]
GRID = ("protocol=paper", "case=digits_class", "method=retrain,baseline,ssd", "method_seed=0,1")
DEMO = Path("results/demo-paper-quick")
VALUES = {"retrain": 0.5, "baseline": 0.9, "ssd": 0.6, "finetune": 0.55}


@cache
def compose(*overrides: str) -> tuple[Cell, ...]:
    """The same overrides give the same cells; composing them takes most of a test's time."""
    return tuple(cells_of(overrides))


def demo_cells(method: str = "") -> list[Cell]:
    return [cell for cell in compose("experiment=demo", *GRID) if method in ("", cell.labels["method"])]


def record_of(cell: Cell, fingerprint: str = "d" * 64, **metrics: float | None) -> RunRecord:
    """Return a record of `cell`; its accuracies depend on method and seed."""
    value = VALUES.get(cell.labels["method"], 0.4) + 0.01 * cell.seeds["method_seed"]
    return RunRecord(
        run_id=content_hash([cell.scientific_hash, fingerprint]),
        scientific_hash=cell.scientific_hash,
        labels=cell.labels,
        hyperparameters=cell.scientific["method"],
        seeds=cell.seeds,
        metrics=dict.fromkeys(cell.config.metric, value) | {"js_distance": 0.25, "zrf": 0.75} | metrics,
        seconds={"load": 1.0, "importance_full": 3.0, "importance_forget": 0.5, "rest": 0.5, "method": 4.0,
                 "evaluation": 2.0},
        sizes={"forget_train": 83, "retain_train": 900, "forget_test": 20, "retain_test": 180, "parameters": 700_000},
        provenance={"device": "A CPU, 2 threads", "precision": "float32", "dirty": False},
        data_fingerprint=fingerprint,
        original={"test_accuracy": 0.9, "epochs": 4, "sha256": "0"},
        scientific=cell.scientific,
        code=cell.code,
        overrides=list(cell.overrides),
    )  # fmt: skip


def write_records(*overrides: str, folder: Path = Path("runs")) -> None:
    """Write a record for every cell of `experiment=demo` with these overrides."""
    for cell in compose("experiment=demo", *overrides):
        record_of(cell).write(folder / "records")


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
