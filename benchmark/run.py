"""Hydra entry: one (data set, model, task, method, seeds) -> one record.

python -m benchmark.run                                   # SSD on the embedded digits
python -m benchmark.run -m method=ssd,retrain method_seed=0,1,2
python -m benchmark.run experiment=table2 profile=quick
"""

import logging
import sys
from dataclasses import replace

if not __package__:
    sys.exit("error: start this from the root of the repository as `python -m benchmark.run`.")

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from benchmark.cell import without_about
from benchmark.checkpoints import load_original, load_outputs
from benchmark.cli import describe, run_cli, wants_traceback
from benchmark.compose import CONFIGS
from benchmark.evaluate import predict
from benchmark.failures import Failure
from benchmark.oldcell import OldCell as Cell
from benchmark.provenance import provenance
from benchmark.records import RunRecord
from datasets.seeding import derive_seed
from methods.base import skip_reason
from methods.timing import Stopwatch
from metrics.base import EvalOutputs

log = logging.getLogger(__name__)


def run_cell(cell: Cell) -> RunRecord:
    """Return the cell's record, read where it is there already, else measured and written."""
    cell.validate()
    stopwatch, path = Stopwatch(cell.device), cell.record_path
    if (found := RunRecord.find(path)) is not None:
        return found
    split = cell.split
    original, card = load_original(cell)
    skipped = skip_reason(cell.method, split)
    metrics: dict[str, float | None] = {}
    seconds = {"load": cell.load_seconds, "original": card["seconds"]}
    origin = provenance(cell.compute)
    if skipped is None:
        reference = None
        if cell.reference_method is not None:
            reference, _ = load_outputs(cell, cell.reference_method, cell.reference_key, original)
        outputs, outputs_card = load_outputs(cell, cell.method, cell.outputs_key, original)
        seconds |= outputs_card["seconds"]
        origin = outputs_card["provenance"]
        with stopwatch.phase("metrics"):
            metrics = measure(cell, outputs, reference)
        seconds["evaluation"] += stopwatch.seconds["metrics"]
    record = RunRecord(
        run_id=cell.run_id,
        scientific_hash=cell.scientific_hash,
        labels=cell.labels,
        hyperparameters=cell.scientific["method"],
        seeds=cell.seeds,
        metrics=metrics,
        seconds=seconds,
        sizes={
            "forget_train": len(split.forget_train),
            "retain_train": len(split.retain_train),
            "forget_test": len(split.forget_test),
            "retain_test": len(split.retain_test),
            "parameters": sum(p.numel() for p in original.parameters()),
        },
        provenance=origin,
        data_fingerprint=cell.dataset.fingerprint,
        original={name: card[name] for name in ("test_accuracy", "kept_epoch", "epochs", "sha256")}
        | {name: card["provenance"][name] for name in ("commit", "dirty")},
        skipped=skipped,
    )
    record.write(path.parent)
    return record


def measure(cell: Cell, outputs: EvalOutputs, reference: EvalOutputs | None) -> dict[str, float | None]:
    """Return every configured metric of the outputs."""
    untrained = cell.build_model(derive_seed(cell.seeds["method_seed"], "untrained"), pretrained=False).eval()
    untrained_logits = predict(untrained, cell.split.forget_train, cell.preprocessing, cell.eval_batch_size)
    complete = replace(outputs, reference=reference, untrained_logits=untrained_logits)
    return {name: instantiate(without_about(node))(complete) for name, node in cell.config.metric.items()}


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="run")
def main(config: DictConfig) -> RunRecord | Failure:
    """Run one cell; Hydra calls this once for each cell of a sweep, where a failure must not stop the others."""
    name = "run"
    try:
        cell = Cell(config)
        name = str(cell)
        return run_cell(cell)
    except Exception as error:
        if wants_traceback():
            raise
        return Failure(name, describe(error))


if __name__ == "__main__":
    run_cli(main)
