"""What a person is told of a grid, and which of its cells are still to do."""

import logging

import pytest
from grids import GRID, watch_of

from benchmark import work
from benchmark.claims import Claims
from benchmark.data import load_dataset
from benchmark.failures import Failure
from benchmark.grid import Plan
from benchmark.run import run_cell
from benchmark.watch import Pace


def with_a_hiccup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the data be loaded from the second time on."""
    errors = iter([RuntimeError("out of memory")])

    def fragile(*arguments):
        for error in errors:
            raise error
        return load_dataset(*arguments)

    monkeypatch.setattr("benchmark.cell.load_dataset", fragile)


@pytest.mark.parametrize("is_recorded", [False, True])
def test_data_that_could_not_be_loaded_at_first(is_recorded, tmp_path, monkeypatch):
    one = ["method=baseline", "method_seed=0"]
    if is_recorded:
        run_cell(next(iter(watch_of(tmp_path, *one).cells.values())))
    with_a_hiccup(monkeypatch)
    grid = watch_of(tmp_path, *one)
    (name,) = grid.pending() if not is_recorded else grid.cells
    tries = iter([run_cell])
    monkeypatch.setattr(work, "run_cell", lambda cell: next(tries, lambda _: pytest.fail("again"))(cell))
    work.drain(grid, Claims(tmp_path / "claims"))
    assert grid.done == {name}
    grid.end()


def test_a_record_of_data_that_could_not_be_loaded_at_first_is_noticed(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    one = ["method=baseline", "method_seed=0"]
    elsewhere = watch_of(tmp_path, *one)
    with_a_hiccup(monkeypatch)
    here = watch_of(tmp_path, *one)
    here.poll()
    assert len(here.pending()) == 1
    run_cell(next(iter(elsewhere.cells.values())))
    here.poll()
    assert here.pending() == []
    assert "[1/1] digits" in caplog.text


def test_a_note_by_scientific_hash_is_understood(tmp_path):
    grid = watch_of(tmp_path)
    name, *others = grid.pending()
    grid.notes.write(grid.cells[name].scientific_hash, Failure("a cell", "no memory"))  # as Hydra's launchers do
    grid.poll()
    assert grid.pending() == others


def test_a_quiet_watch_measures_no_plan(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("benchmark.watch.make_plan", pytest.fail)
    quiet = work.watch_of([*GRID, f"output_dir={tmp_path}"], quiet=True)
    assert len(quiet.pending()) == 4
    assert caplog.text == ""


def test_no_time_is_told_before_something_is_known():
    pace = Pace(Plan(3, 3, {"free": 0.0, "one": 1.0, "two": 1.0}, {}))
    assert pace.finish("free") == ""
    pace.start -= 10.0
    assert pace.finish("one") == "  10 s left"
    assert pace.finish("unknown") == ""
    assert pace.finish("two") == ""


def test_cells_of_one_hash_count_once():
    pace = Pace(Plan(2, 2, {"one": 1.0, "two": 3.0}, {}))
    pace.start -= 10.0
    assert pace.finish("one") == "  30 s left"
    assert pace.finish("one") == "  30 s left"
