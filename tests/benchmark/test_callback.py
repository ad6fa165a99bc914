"""What a person sees of a grid: the plan, a line per cell, the time left, the failures, the exit code."""

from pathlib import Path

import pytest
import torch
from command_line import TINY, make_cell, make_cells
from hydra import initialize_config_dir
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf

from benchmark import callback, pipeline
from benchmark.artefacts import Artefact
from benchmark.callback import GridCallback, is_done, summary
from benchmark.cell import Cell
from benchmark.cli import Failure
from benchmark.compose import CONFIGS
from benchmark.records import RunRecord
from benchmark.workbench import Workbench

GRID = ["method=baseline,finetune", "method_seed=0,1", "protocol=paper"]


def record_of(cell: Cell, skipped: str | None = None) -> RunRecord:
    """Return a record of the cell with invented numbers, written to its place."""
    record = RunRecord(
        run_id=cell.run_id, scientific_hash=cell.scientific_hash, labels=cell.labels, hyperparameters={},
        seeds=cell.seeds, metrics={"retain_accuracy": 0.5, "forget_accuracy": 0.25, "mia": None},
        seconds={"method": 1.5}, sizes={}, provenance={}, data_fingerprint=cell.fingerprint, original={},
        skipped=skipped,
    )  # fmt: skip
    record.write(cell.record_path.parent)
    return record


def started(folder: Path, *overrides: str, stage: str = "record") -> GridCallback:
    grid = GridCallback()
    task = [*TINY, f"output_dir={folder}", *overrides]
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        grid.on_multirun_start(OmegaConf.create({"stage": stage, "hydra": {"overrides": {"task": task, "hydra": []}}}))
    return grid


def started_with(monkeypatch: pytest.MonkeyPatch, cells: list[Cell], stage: str = "record") -> GridCallback:
    """Return the callback of a grid of these cells, without composing it again."""
    monkeypatch.setattr(callback, "cells_of", lambda overrides, like: cells)
    return started(Path(), stage=stage)


def end_job(grid: GridCallback, outcome) -> None:
    grid.on_job_end(OmegaConf.create(), JobReturn(_return_value=outcome))


def end(grid: GridCallback, stage="record") -> str:
    """Return the message of the exit, or nothing."""
    try:
        grid.on_multirun_end(OmegaConf.create({"stage": stage}))
    except SystemExit as exit:
        return str(exit.code)
    return ""


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level("INFO")


def test_what_is_there_is_not_planned(tmp_path, caplog, monkeypatch):
    baseline, *others = make_cells(tmp_path, *GRID)
    record_of(baseline)
    bench = Workbench(baseline)
    bench.store.get(pipeline.original(bench))
    grid = started_with(monkeypatch, [baseline, *others])
    assert caplog.messages == ["4 cells: 1 done, 3 to run; to make: 5 sets of outputs"]
    assert baseline.run_id not in grid.waiting


def test_the_models_of_requests_are_planned_once(tmp_path, caplog):
    started(tmp_path, "requests=sequence", "requests.n=1,2,3", "method=finetune", "~method@reference")
    assert caplog.messages == ["3 cells: 0 done, 3 to run; to make: 1 original, 3 unlearned models, 3 sets of outputs"]


def test_a_grid_that_cannot_be_planned_is_one_line(tmp_path):
    for overrides, expected in (
        (["method=sdd,ssd"], "error: .*method"),
        (["output_dir=a,b"], "error: Expected one output_dir for all cells, but got a, b"),
    ):
        with pytest.raises(SystemExit, match=expected) as exit:
            started(tmp_path, *overrides)
        assert "\n" not in str(exit.value.code)


def test_a_line_per_finished_cell(tmp_path, caplog, monkeypatch):
    grid = started_with(monkeypatch, make_cells(tmp_path, *GRID))
    end_job(grid, record_of(grid.cells[0]))
    end_job(grid, Failure("digits resnet18 class upright_2 baseline seed 1", "no memory"))
    end_job(grid, "/somewhere/original.safetensors")
    assert caplog.messages[1:] == [
        "[1/4] digits resnet18 class upright_2 baseline seed 0: D_r 50.0 %, D_f 25.0 %, method 1.5 s",
        "[2/4] digits resnet18 class upright_2 baseline seed 1: failed: no memory",
        "[3/4] /somewhere/original.safetensors",
    ]
    skipped = record_of(grid.cells[0], skipped="no superclasses")
    assert summary(skipped) == "digits resnet18 class upright_2 baseline seed 0: skipped, no superclasses"


def test_the_time_left_follows_from_finished_artefacts_of_the_same_kind(tmp_path, caplog, monkeypatch):
    cells = make_cells(tmp_path, *GRID, "~method@reference")
    grid = started_with(monkeypatch, cells)
    benches = [Workbench(cell) for cell in cells]

    def put(node: Artefact, seconds: object) -> None:
        benches[0].store.get(Artefact(node.kind, node.key, lambda: ({"w": torch.ones(1)}, {"seconds": seconds})))

    put(pipeline.original(benches[0]), 100.0)
    end_job(grid, record_of(cells[0]))
    assert "left" not in caplog.messages[-1]  # nobody knows how long outputs take
    for bench, seconds in ((benches[0], 10.0), (benches[2], 60.0)):
        put(pipeline.outputs(bench), {"method": seconds - 1.0, "evaluation": 1.0})
    end_job(grid, record_of(cells[2]))
    assert caplog.messages[-1].endswith("  about 1 min 10 s left")  # each method as long as with the other seed
    end_job(grid, record_of(cells[1]))
    assert caplog.messages[-1].endswith("  about 1 min 0 s left")
    end_job(grid, record_of(cells[3]))
    assert "left" not in caplog.messages[-1]


def test_failed_cells_are_named_at_the_end_and_the_exit_code_says_so(tmp_path, monkeypatch):
    cells = make_cells(tmp_path, *GRID)
    grid = started_with(monkeypatch, cells)
    for cell in cells[:2]:
        end_job(grid, record_of(cell))
    end_job(grid, Failure(str(cells[2]), "no memory"))
    assert end(grid).split("\n") == [
        "error: 2 of 4 cells failed:",
        "  digits resnet18 class upright_2 finetune seed 0: no memory",
        "  digits resnet18 class upright_2 finetune seed 1: its process ended before it was done",
    ]


def test_a_stage_plans_its_artefacts_alone_and_fails_by_its_failures(tmp_path, caplog, monkeypatch):
    cells = make_cells(tmp_path, *GRID, "stage=original")
    for cell in cells:
        record_of(cell)
    grid = started_with(monkeypatch, cells, stage="original")
    assert caplog.messages == ["4 cells: 0 done, 4 to run; to make: 1 original"]
    assert end(grid, stage="original") == ""
    end_job(grid, Failure(str(grid.cells[0]), "no memory"))
    assert end(grid, stage="original").startswith("error: 1 of 4 cells failed:")


def test_a_failed_single_run_ends_with_its_reason():
    grid = GridCallback()
    end_job(grid, Failure("a cell", "no memory"))
    with pytest.raises(SystemExit, match="error: no memory"):
        grid.on_run_end(OmegaConf.create())
    GridCallback().on_run_end(OmegaConf.create())


def test_a_cell_whose_model_is_to_be_saved_is_done_with_the_model(tmp_path):
    cell = make_cell(tmp_path, "method=baseline", "save=model")
    assert not is_done(cell)
    record_of(cell)
    assert not is_done(cell)
    bench = Workbench(cell)
    bench.store.get(pipeline.unlearned(bench))
    assert is_done(cell)
    skipped = make_cell(tmp_path, "save=model", "method_seed=1")
    record_of(skipped, skipped="no superclasses")
    assert is_done(skipped)
