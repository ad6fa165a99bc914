"""The tasks of a grid: each artefact once, after what it rests on; what a worker does with one."""

import json
import sys
from pathlib import Path

import pytest
from command_line import TINY, composed, make_cells, records_of, run_command

from benchmark.cell import Cell, content
from benchmark.cli import Failure
from benchmark.compose import choices
from benchmark.launcher.engine import started
from benchmark.launcher.graph import Task, add_tasks, work
from benchmark.records import RunRecord

GRID = ["protocol=paper", "method=retrain,baseline,ssd", "method_seed=0,1", *TINY]


def cells(folder: Path, *overrides: str) -> list[Cell]:
    return make_cells(folder, *overrides, base=GRID)


def test_every_value_of_a_cell_can_be_sent():
    """A launcher sends a configuration whole, with the rows that other profiles and models have."""
    datasets = ",".join(name for name in choices("dataset") if name not in ("folder", "npz"))  # which name a place
    grid = composed(
        f"dataset={datasets}", f"profile={','.join(choices('profile'))}", "model=resnet18,vit", "recipe.epochs=1"
    )
    assert len(grid) > 20
    for cell in grid:
        assert content(cell.config)["dataset"]["name"] == cell.labels["dataset"]


def tasks_of(grid: list[Cell]) -> dict[str, Task]:
    tasks: dict[str, Task] = {}
    for cell in grid:
        assert add_tasks(tasks, cell) == f"cell/{cell.run_id}"
    return tasks


def kinds(tasks: dict[str, Task]) -> list[str]:
    return [name.partition("/")[0] for name in tasks]


def test_each_artefact_is_one_task_after_those_it_needs(tmp_path):
    tasks = tasks_of(cells(tmp_path))
    assert {kind: kinds(tasks).count(kind) for kind in kinds(tasks)} == {"original": 1, "outputs": 6, "cell": 6}
    seen: set[str] = set()
    for name, task in tasks.items():
        assert seen.issuperset(task.needs)
        seen.add(name)
    (original,) = (name for name in tasks if name.startswith("original/"))
    assert all(original in task.needs for name, task in tasks.items() if name != original)


def test_a_cell_waits_for_its_own_artefacts_alone(tmp_path):
    grid = cells(tmp_path, "method=ssd")
    tasks = tasks_of(grid)
    first, second = (set(tasks[f"cell/{cell.run_id}"].needs) for cell in grid)
    assert {name.partition("/")[0] for name in first & second} == {"original"}


def test_a_task_is_plain_data(tmp_path):
    task = next(iter(tasks_of(cells(tmp_path)).values()))
    assert json.loads(json.dumps(task.config)) == task.config


def test_tasks_one_after_the_other_give_the_records_of_a_plain_run(tmp_path, monkeypatch):
    results: dict[str, object] = {}
    one = ["method=baseline,ssd", "method_seed=0"]
    for name, task in tasks_of(cells(tmp_path / "tasks", *one)).items():
        results[name] = work(task, str(Path.cwd()))
    assert all(isinstance(result, RunRecord) for name, result in results.items() if name.startswith("cell/"))
    assert (
        tasks_of(cells(tmp_path / "tasks", *one, "metric=[accuracy]")).keys().isdisjoint(results)
    )  # no artefact is missing
    assert run_command(["-m", *GRID, *one, f"output_dir={tmp_path / 'plain'}"], monkeypatch) == 0
    assert metrics_of(tmp_path / "tasks") == metrics_of(tmp_path / "plain")


def metrics_of(folder: Path) -> dict[str, dict]:
    return {name: json.loads(text)["metrics"] for name, text in records_of(folder).items()}


def test_a_task_that_fails_says_why_in_one_line(tmp_path):
    original = next(iter(tasks_of(cells(tmp_path, "task.target=nobody")).values()))
    failure = work(original, str(Path.cwd()))
    assert isinstance(failure, Failure)
    assert failure.cell == original.name
    assert "'nobody'" in failure.reason
    assert "\n" not in failure.reason


def test_without_ray_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run_command(["-m", *GRID, "launcher=local", f"output_dir={tmp_path}"], monkeypatch) == 1
    errors = capsys.readouterr().err
    assert "error: Expected the package ray, but there is none; run pip install -e '.[cluster]'." in errors


@pytest.mark.parametrize("workers", [0, 1.5, "many", True])
def test_workers_are_counted(workers):
    with pytest.raises(ValueError, match=f"hydra.launcher.workers to be a whole number above 0, but got {workers}"):
        started(workers, {}, 1)


def test_a_finished_grid_starts_no_engine(tmp_path, monkeypatch, caplog):
    one = ["-m", *TINY, "method=baseline", "~method@reference", f"output_dir={tmp_path}"]
    assert run_command(one, monkeypatch) == 0
    monkeypatch.setattr("benchmark.launcher.engine.started", pytest.fail)
    caplog.set_level("INFO")
    assert run_command([*one, "launcher=local"], monkeypatch) == 0
    assert "1 done, 0 to run" in caplog.text
