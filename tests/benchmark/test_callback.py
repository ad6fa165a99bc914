"""What a person sees of a grid: the plan, a line per cell, the time left, the failures, the exit code."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import TINY, make_cell, make_cells
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf

from benchmark import callback, pipeline
from benchmark.artefacts import Artefact
from benchmark.callback import GridCallback, comparison, is_done, summary
from benchmark.cell import Cell
from benchmark.cli import Failure
from benchmark.compose import initialised
from benchmark.records import RunRecord
from benchmark.sources import suite_hash
from benchmark.workbench import Workbench

GRID = ["method=baseline,finetune", "method_seed=0,1", "protocol=paper"]


def record_of(cell: Cell, skipped: str | None = None) -> RunRecord:
    """Return a record of the cell with invented numbers, written to its place."""
    record = RunRecord(
        run_id=cell.run_id, scientific_hash=cell.scientific_hash, labels=cell.labels, hyperparameters={},
        seeds=cell.seeds, metrics={"retain_accuracy": 0.5, "forget_accuracy": 0.25, "mia": None},
        seconds={"method": 1.5}, sizes={},
        provenance={"suite": suite_hash(), "device": "A CPU, 2 threads", "precision": "float32",
                    "finished": "2026-11-28T10:20:30+00:00"},
        data_fingerprint=cell.fingerprint, original={},
        skipped=skipped, code=cell.code,
    )  # fmt: skip
    record.write(cell.record_path.parent)
    return record


def started(folder: Path, *overrides: str, stage: str = "record") -> GridCallback:
    grid = GridCallback()
    task = [*TINY, f"output_dir={folder}", *overrides]
    with initialised():
        grid.on_multirun_start(OmegaConf.create({"stage": stage, "hydra": {"overrides": {"task": task, "hydra": []}}}))
    return grid


def started_with(monkeypatch: pytest.MonkeyPatch, cells: list[Cell], stage: str = "record") -> GridCallback:
    """Return the callback of a grid of these cells, without composing it again."""
    monkeypatch.setattr(callback, "cells_of", lambda overrides, like: cells)
    return started(Path(), stage=stage)


def end_job(grid: GridCallback, outcome, number: int = 0) -> None:
    config = grid.cells[number].config if grid.cells else None
    grid.on_job_end(OmegaConf.create(), JobReturn(cfg=config, _return_value=outcome))


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
    end_job(grid, Failure("digits resnet18 class upright_2 baseline seed 1", "no memory"), 1)
    end_job(grid, "/somewhere/original.safetensors")
    assert caplog.messages[1:] == [
        "[1/4] digits resnet18 class upright_2 baseline seed 0: D_r 50.0 %, D_f 25.0 %, method 1.5 s",
        "[2/4] digits resnet18 class upright_2 baseline seed 1: failed: no memory",
        "[3/4] /somewhere/original.safetensors",
    ]
    skipped = record_of(grid.cells[0], skipped="no superclasses")
    assert summary(skipped) == "digits resnet18 class upright_2 baseline seed 0: skipped, no superclasses"


def test_every_line_of_a_sweep_names_what_varies(tmp_path, caplog, monkeypatch):
    sweep = ["method=ssd", "method.alpha=1,3", "train_seed=0,1", "~method@reference"]
    grid = started_with(monkeypatch, make_cells(tmp_path, *sweep))
    end_job(grid, record_of(grid.cells[2]), 2)
    end_job(grid, Failure(str(grid.cells[3]), "no memory"), 3)
    end_job(grid, Failure(str(grid.cells[0]), "no disk"), 0)
    name = "digits resnet18 class upright_2 ssd seed 0 method.alpha={} train_seed={}: "
    assert caplog.messages[1].startswith("[1/4] " + name.format(3, 0) + "D_r 50.0 %")
    assert caplog.messages[2:] == [
        "[2/4] " + name.format(3, 1) + "failed: no memory",
        "[3/4] " + name.format(1, 0) + "failed: no disk",
    ]
    assert end(grid).split("\n")[1:] == [
        "  " + name.format(1, 0) + "no disk",
        "  " + name.format(1, 1) + "its process ended before it was done",
        "  " + name.format(3, 1) + "no memory",
    ]


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


def test_a_cell_that_fails_with_its_outdated_record_still_there_is_named(tmp_path, monkeypatch):
    (cell,) = make_cells(tmp_path, "method=baseline", "method_seed=0")
    replace(record_of(cell), code={"methods.baseline": "before the edit"}).write(cell.record_path.parent)
    grid = started_with(monkeypatch, [cell])
    end_job(grid, Failure(str(cell), "no memory"), 0)
    assert end(grid).split("\n") == ["error: 1 of 1 cell failed:", f"  {cell}: no memory"]


def test_failed_cells_are_named_at_the_end_and_the_exit_code_says_so(tmp_path, monkeypatch):
    cells = make_cells(tmp_path, *GRID)
    grid = started_with(monkeypatch, cells)
    for cell in cells[:2]:
        end_job(grid, record_of(cell))
    end_job(grid, Failure(str(cells[2]), "no memory"), 2)
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


def test_a_cell_whose_model_is_to_be_saved_says_every_time_where_it_is(tmp_path):
    cell = make_cell(tmp_path, "method=baseline", "save_model=m.safetensors")
    record_of(cell)
    assert not is_done(cell)
    record_of(cell, skipped="no superclasses")
    assert is_done(cell)


def test_models_of_several_cells_need_names_of_their_own(tmp_path):
    hint = r"2 models, but got a/m.safetensors; .* 'save_model=a/m-\$\{method.about.name\}.safetensors'"
    with pytest.raises(SystemExit, match=hint):
        started(tmp_path, "method=baseline,finetune", "save_model=a/m.safetensors")
    started(tmp_path, "method=baseline,finetune", "save_model='m-${method.about.name}.safetensors'")


def test_a_random_target_is_named_once(tmp_path):
    cell = make_cell(tmp_path, "task=random", "task.n=5")
    assert str(cell) == "digits resnet18 random ssd seed 0"
    assert summary(record_of(cell)).startswith("digits resnet18 random ssd seed 0: D_r")


def test_what_a_single_run_is_compared_with_may_not_be_there(tmp_path):
    cell = Cell(make_cell(tmp_path, "method=finetune").config, ("task=class", "method=finetune", "seed=$x"))
    record_of(cell)
    OmegaConf.update(cell.config, "reference.about.name", "retrain", force_add=True)  # as in a single run
    OmegaConf.update(cell.config, "baseline.about.name", "baseline", force_add=True)
    record_of(cell.sibling("baseline"))
    lines = comparison(cell).splitlines()
    assert lines[0].split() == ["D_r", "D_f", "MIA", "gap"]
    assert lines[1].split() == ["original", "50.0", "%", "25.0", "%", "–", "–"]
    assert lines[2] == "retrained  not made; python -m benchmark.run task=class 'seed=$x' method=retrain"
    assert lines[3].startswith("Finetune ")
    assert lines[-2:] == [
        f"record: {cell.record_path}, made 2026-11-28 10:20 on A CPU, 2 threads, float32",
        "table: python -m benchmark.report -m task=class 'seed=$x' method=baseline,retrain,finetune",
    ]


def test_an_outdated_neighbour_is_not_shown_beside_a_new_record(tmp_path):
    cell = Cell(make_cell(tmp_path, "method=finetune").config, ("method=finetune",))
    OmegaConf.update(cell.config, "baseline.about.name", "baseline", force_add=True)  # as in a single run
    old = record_of(cell.sibling("baseline"))
    replace(record_of(cell), metrics=old.metrics).write(cell.record_path.parent)
    assert comparison(cell).splitlines()[1].split()[:2] == ["original", "50.0"]
    replace(old, code={}).write(cell.record_path.parent)
    assert comparison(cell).splitlines()[1].endswith("not made; python -m benchmark.run method=baseline")


def test_the_error_of_a_callback_shows_its_traceback_if_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.delenv("BENCHMARK_ONE_LINE_ERRORS", raising=False)
    with pytest.raises(SystemExit, match="error: Expected one output_dir"):
        started(tmp_path, "output_dir=a,b")
    assert "Traceback" in capsys.readouterr().err


def test_a_long_name_of_a_metric_has_a_wide_column(tmp_path):
    cell = make_cell(tmp_path, "method=baseline")
    OmegaConf.update(cell.config, "metric.mia.about.label", "MIA of the retrained")
    record_of(cell)
    head, numbers, *_ = comparison(cell).splitlines()
    assert "  MIA of the retrained  " in head
    assert len(head) == len(numbers)


def test_a_run_says_how_much_the_method_changed(tmp_path):
    """With few classes SSD's α can be so large that it selects next to nothing."""
    cell = make_cell(tmp_path, "method=ssd")
    record = record_of(cell)
    assert "changed" not in comparison(cell)
    replace(record, metrics={**record.metrics, "changed_fraction": 0.00091}).write(cell.record_path.parent)
    assert "\nSSD changed 0.091 % of the parameters\n" in comparison(cell)


def test_a_search_is_sent_to_its_command(tmp_path):
    with pytest.raises(SystemExit, match=r"got search=ssd; run python -m benchmark\.search search=ssd"):
        started(tmp_path, "search=ssd")


def test_the_cells_beside_one_are_those_of_a_sweep(tmp_path):
    cells = make_cells(tmp_path, "method=ssd,baseline,retrain", "protocol=paper")
    beside = [cells[0].sibling(name) for name in ("baseline", "reference")]
    assert [cell.run_id for cell in beside] == [cell.run_id for cell in cells[1:]]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-m", "method.alpha=1,3", "budget=9m", "force=true"], "python -m benchmark.report -m method.alpha=1,3"),
        (["-m", "experiment=table2"], ""),  # its name is the table's
        (["-m", "stage=original"], ""),
    ],
)
def test_the_command_for_the_table_of_a_sweep_is_named(words, expected, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr("sys.argv", ["run", *words])
    callback.say_table()
    assert caplog.messages == ([f"table: {expected}"] if expected else [])
