"""Hydra entry: one (data set, model, task, method, seeds) -> one record.

python -m benchmark.run                                   # SSD on the embedded digits
python -m benchmark.run -m method=ssd,retrain method_seed=0,1,2
python -m benchmark.run experiment=table2 profile=quick
"""

import contextlib
import logging
import sys

if not __package__:
    sys.exit("error: start this from the root of the repository as `python -m benchmark.run`.")

import hydra
from hydra.utils import get_original_cwd
from omegaconf import DictConfig

from benchmark.cell import Cell
from benchmark.cli import Failure, describe, run_cli, wants_traceback
from benchmark.compose import CONFIGS, own_overrides
from benchmark.records import RunRecord

log = logging.getLogger(__name__)


def run_cell(cell: Cell) -> RunRecord | str:
    """Return the cell's record, read if it is there already, else measured and written.

    With `stage=original|retrained|outputs` nothing but that artefact is made, and its path returned. With `save=model`
    the unlearned model is kept as well, whether the record is there already or not.
    """
    stage, save = cell.config.stage, cell.config.save
    if save not in (None, "model"):
        raise ValueError(f"Expected save to be null or model, but got {save!r}.")
    found = RunRecord.find(cell.record_path) if stage == "record" else None
    if found is not None and save is None:
        return found
    from benchmark import device, pipeline  # torch and timm, only if there is something to do
    from benchmark.workbench import Workbench

    bench = Workbench(cell)
    device.set_up(cell.config.compute)
    bench.validate()
    if stage != "record":
        return pipeline.made(bench, pipeline.staged(bench))
    record = found or pipeline.make_record(bench)
    if save is not None:
        log.info("unlearned model: %s", pipeline.made(bench, pipeline.unlearned(bench)))
    return record


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="run")
def main(config: DictConfig) -> RunRecord | str | Failure:
    """Run one cell; Hydra calls this once per cell of a sweep; a failure must not stop the others."""
    name = "run"
    try:
        cell = Cell(config, own_overrides())
        name = str(cell)
        with contextlib.chdir(get_original_cwd()):  # hydra.job.chdir changes no path: the callback sees the same ones
            return run_cell(cell)
    except Exception as error:
        if wants_traceback():
            raise
        return Failure(name, describe(error))


if __name__ == "__main__":
    run_cli(main)
