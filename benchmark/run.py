"""Hydra entry: one (data set, model, task, method, seeds) -> one record.

python -m benchmark.run                                   # SSD on the embedded digits
python -m benchmark.run -m method=ssd,retrain method_seed=0,1,2
python -m benchmark.run experiment=table2 profile=quick
"""

import contextlib
import logging
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:
    sys.exit("error: start this from the root of the repository as `python -m benchmark.run`.")

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_original_cwd
from omegaconf import DictConfig

from benchmark import budget
from benchmark.budget import OutOfBudgetError
from benchmark.cell import Cell, check_added, content, with_name, without_about
from benchmark.cli import Failure, Left, describe, run_cli, wants_traceback
from benchmark.compose import CONFIGS, cells_of, guard_hydra, own_overrides
from benchmark.records import RunRecord, record_of
from datasets.files import replacing

if TYPE_CHECKING:
    from benchmark.workbench import Workbench

log = logging.getLogger(__name__)


def run_cell(cell: Cell) -> RunRecord | str:
    """Return the cell's record, read if it is there already, else measured and written.

    With `stage=original|retrained|outputs` nothing but that artefact is made, and its path returned. With
    `save_model=FILE` the unlearned model is written as well, whether the record is there already or not.
    """
    stage, file = cell.config.stage, cell.model_file
    found = record_of(cell) if stage == "record" else None
    if found is not None and file is None:
        return found
    if budget.left() <= 0:
        raise OutOfBudgetError("the time is over")
    from benchmark import device, pipeline  # torch and timm, only if there is something to do
    from benchmark.workbench import Workbench

    bench = Workbench(cell)
    device.set_up(cell.config.compute)
    bench.validate()
    if stage != "record":
        return pipeline.made(bench, pipeline.staged(bench))
    record = found or pipeline.make_record(bench)
    if file is not None and record.skipped is not None:
        log.info("no unlearned model in %s: the method skips the task", file)
    elif file is not None:
        copy_file(Path(pipeline.made(bench, pipeline.unlearned(bench))), file)
        log.info("unlearned model: %s; to load it, with this repository on PYTHONPATH:\n%s", file, lines_to_load(bench))
    return record


def run_siblings(cell: Cell, record: RunRecord) -> None:
    """Make the records that a single run is compared with, if no training is needed for them."""
    if record.skipped is None and cell.targets is None:
        wanted = ["baseline", *(["reference"] if "retrained" in cell.metric_needs else [])]
        for sibling in filter(None, map(cell.sibling, wanted)):
            run_cell(sibling)


def with_names(config: DictConfig, choices: Mapping[str, str]) -> DictConfig:
    """Write the names of the files of the method and of those it is compared with into the configuration."""
    for node, group in {"method": "method", "baseline": "method@baseline", "reference": "method@reference"}.items():
        if config.get(node) is not None and group in choices:
            with_name(config[node], choices[group])
    return config


def copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as part:
        shutil.copyfile(source, part)


def lines_to_load(bench: "Workbench") -> str:
    """Return the Python that loads the model that `save_model` wrote, in a process started in this repository."""
    config, images = bench.config.model, bench.preprocessing
    mean, std = ([round(value, 4) for value in values] for values in (images.mean, images.std))
    options = without_about(config.build) | content(config.untrained)
    module, _, builder = options.pop("_target_").rpartition(".")
    words = [str(len(bench.dataset.class_names)), *(f"{name}={value!r}" for name, value in options.items())]
    return "\n".join([
        "from safetensors.torch import load_model",
        f"from {module} import {builder}",
        f"model = {builder}({', '.join(words)}).eval()",
        f"load_model(model, {str(bench.cell.model_file)!r})  # RGB in [0, 1], mean {mean}, std {std}",
    ])  # fmt: skip


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="run")
def job(config: DictConfig) -> RunRecord | str | Failure:
    """Run one cell; Hydra calls this once per cell of a sweep; a failure must not stop the others."""
    name = "run"
    try:
        hydra_config = HydraConfig.get()
        choices = hydra_config.runtime.choices
        added = {word[1:].partition("=")[0] for word in hydra_config.overrides.task if re.match(r"\+[^+]", word)}
        check_added(config, added - set(choices))
        cell = Cell(with_names(config, choices), own_overrides(hydra_config))
        name = str(cell)
        with contextlib.chdir(get_original_cwd()):  # hydra.job.chdir changes no path: the callback sees the same ones
            is_new = record_of(cell, quiet=True) is None
            result = run_cell(cell)
            if is_new and hydra_config.mode == RunMode.RUN and isinstance(result, RunRecord):
                with contextlib.suppress(OutOfBudgetError):
                    run_siblings(cell, result)
            return result
    except OutOfBudgetError as error:
        return Left(name, str(error))
    except Exception as error:
        if wants_traceback():
            raise
        return Failure(name, describe(error))


def main() -> None:
    """Read the command line and run its cells."""
    guard_hydra()
    job()


if __name__ == "__main__":
    run_cli(main, cells_of=cells_of)
