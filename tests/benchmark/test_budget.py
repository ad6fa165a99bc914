"""`budget=`: what fits is made, a training is kept, and the exit code and the last lines say what is left."""

import math
import re
import time
from datetime import timedelta
from pathlib import Path

import optuna
import pytest
import torch
from command_line import TINY, make_cell, make_cells, records_of, run_command

from benchmark import budget, pipeline
from benchmark.artefacts import Artefact, Store, Times
from benchmark.budget import OutOfBudgetError, seconds_of
from benchmark.cli import Left
from benchmark.launcher import engine
from benchmark.launcher.graph import Task, add_tasks, work
from benchmark.report.query import is_here
from benchmark.search.study import run_trials
from benchmark.training_state import StoredTraining
from benchmark.workbench import Workbench

GRID = ["-m", *TINY, "method=baseline,finetune", "method_seed=0,1", "protocol=paper", "~method@reference"]


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level("INFO")


def artefact(name: str, seed: int = 0, epochs: int = 0, seconds: float = 0.0, epochs_of_original: int = 1) -> Artefact:
    """Return the outputs of a method on an original of this size, which say that they took so long."""
    facts = {"seconds": {"method": seconds}}
    first = Artefact("original", {"train_seed": seed, "epochs": epochs_of_original}, lambda: ({}, {"seconds": 1.0}))
    key = {"original": first.hash, "method": {"_target_": name}, "seed": seed}
    return Artefact("outputs", key, lambda: ({"w": torch.ones(1)}, facts), (first,), epochs=epochs)


def test_a_budget_is_a_time_with_its_units():
    assert [seconds_of(text) for text in ("90s", "9m", "2h", "1h30m", "0.5h", "1h1m1s")] == [
        90, 540, 7200, 5400, 1800, 3661,
    ]  # fmt: skip
    assert seconds_of(None) == math.inf
    for wrong in ("", "9", 9, "9 m", "m", "0s", "-1h", "1m1h", "nan", True, "9min"):
        with pytest.raises(ValueError, match=r"^Expected budget to be a time such as 90s, 9m, 2h or 1h30m, but got "):
            seconds_of(wrong)


def test_a_budget_is_no_part_of_a_name(tmp_path):
    assert make_cell(tmp_path, "budget=9m").run_id == make_cell(tmp_path).run_id
    assert is_here("budget=9m")
    assert is_here("save_model=m.safetensors")


def test_what_would_not_end_in_time_is_not_started(tmp_path):
    store = Store(tmp_path)
    for seed in (0, 1):  # the facts of finished ones: 60 s on average
        for need in (node := artefact("slow", seed, seconds=50.0 + 20 * seed)).walk():
            store.get(need)
    budget.begin("30s")
    with pytest.raises(OutOfBudgetError, match="needs about 60 s, and 30 s are left"):
        store.get(artefact("slow", seed=2))
    store.get(artefact("another", seed=2))  # nobody knows
    store.get(artefact("slow", seed=3, epochs_of_original=9))  # that was on a smaller original
    store.get(artefact("slow", seed=4, epochs=3))  # one of its epochs ends in time
    assert store.get(node)[1]["seconds"] == {"method": 70.0}  # what is there costs nothing
    budget.begin("70s")
    store.get(artefact("slow", seed=2))
    budget.end_at(time.time())
    with pytest.raises(OutOfBudgetError):
        store.get(artefact("another", seed=5))


def test_the_most_alike_artefacts_tell_the_time(tmp_path):
    store = Store(tmp_path)
    for node in (artefact("a", seconds=10.0), artefact("b", seconds=100.0), artefact("a", 1, 0, 20.0)):
        store.get(node.needs[0])
        store.get(node)
    times = Times(store, ["outputs"])
    assert times.of(artefact("a", seed=2)) == times.like(artefact("a", seed=2)) == 15.0
    assert times.like(artefact("c")) is None
    assert times.of(artefact("c")) == pytest.approx(130 / 3)  # the mean of the kind
    other = artefact("a", seed=3)
    other.key["method"]["alpha"] = 3
    assert times.like(other) == 15.0
    assert Times(store, ["model"]).of(artefact("a")) is None


def test_facts_are_read_once(tmp_path, monkeypatch):
    store = Store(tmp_path)
    node = artefact("a", seconds=10.0)
    store.get(node)
    assert [facts["seconds"] for facts in store.facts("outputs")] == [{"method": 10.0}]
    monkeypatch.setattr("benchmark.artefacts.read_json", lambda path: pytest.fail("read again"))
    assert len(list(store.facts("outputs"))) == 1


@pytest.mark.parametrize("checkpoint", ["last", "best_test"])
def test_a_training_stops_after_an_epoch_and_the_same_command_ends_as_if_undisturbed(tmp_path, monkeypatch, checkpoint):
    options = ["recipe.epochs=3", f"original.checkpoint={checkpoint}"]
    whole, parts = (Workbench(make_cell(tmp_path / name, *options)) for name in ("whole", "parts"))
    keep = StoredTraining.keep

    def out_of_time(self, epoch, *state):
        budget.end_at(time.time())
        keep(self, epoch, *state)

    with monkeypatch.context() as patch:
        patch.setattr(StoredTraining, "keep", out_of_time)
        for n_done in (1, 2):
            budget.begin("1h")
            with pytest.raises(OutOfBudgetError, match="a training is kept"):
                parts.store.get(pipeline.original(parts))
            assert parts.store.share_left(pipeline.original(parts)) == pytest.approx(1 - n_done / 3)
    budget.begin(None)
    found, expected = (bench.store.get(pipeline.original(bench))[0] for bench in (parts, whole))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_training_without_a_kept_state_is_not_stopped(tmp_path):
    bench = Workbench(make_cell(tmp_path, "compute.progress_seconds=null", "method=finetune"))
    assert [node.epochs for node in pipeline.wanted(bench)] == [0, 0, 0]
    assert [node.epochs for node in pipeline.wanted(Workbench(make_cell(tmp_path, "method=finetune")))] == [1, 1, 5]
    budget.end_at(time.time())
    network = torch.nn.Linear(1, 1)
    training = StoredTraining(tmp_path / "state", every=None)
    training.keep(1, network, torch.optim.SGD(network.parameters()), torch.Generator())


def test_later_requests_keep_nothing(tmp_path):
    bench = Workbench(make_cell(tmp_path, "requests=sequence", "requests.n=2", "method=finetune"))
    assert [pipeline.unlearned(bench, n).epochs for n in (1, 2)] == [5, 0]


def test_a_grid_says_what_is_left_and_the_same_command_goes_on(tmp_path, monkeypatch, caplog):
    grid = [*GRID, f"output_dir={tmp_path}"]
    assert run_command([*grid, "method=baseline", "method_seed=0"], monkeypatch) == 0
    monkeypatch.setattr("benchmark.artefacts.seconds_of", lambda facts: 100.0)  # of the baseline's outputs
    caplog.clear()
    assert run_command([*grid, "budget=1m"], monkeypatch) == 3
    assert "[2/4] digits resnet18 class upright_2 finetune seed 0: " in caplog.text  # nobody knew its time
    *_, head, hint, command = caplog.messages[-1].splitlines()
    assert head == "left by budget=1m: 1 of 4 cells, about 1 min 40 s; to make: 1 set of outputs"
    assert hint == "one of them takes about 1 min 40 s, more than the budget: give more"
    assert command.startswith("to go on: python -m benchmark.run -m ")
    assert command.endswith(" budget=1m")
    assert len(records_of(tmp_path)) == 3
    assert run_command([*grid, "budget=1h"], monkeypatch) == 0
    assert len(records_of(tmp_path)) == 4


def test_a_grid_whose_time_is_over_ends_at_once(tmp_path, monkeypatch, caplog):
    assert run_command([*GRID, f"output_dir={tmp_path}", "budget=0.000001s"], monkeypatch) == 3
    assert "left by budget=1e-06s" not in caplog.text
    assert "left by budget=0.000001s: 4 of 4 cells; to make: 1 original, 4 sets of outputs" in caplog.text
    assert not records_of(tmp_path)


def test_failures_come_before_that_which_is_left(tmp_path, monkeypatch, caplog, capsys):
    begin = budget.begin

    def fail(cell):
        if cell.labels["method"] == "baseline":
            raise ValueError("no memory")
        raise OutOfBudgetError("no time")

    monkeypatch.setattr("benchmark.run.run_cell", fail)
    assert run_command([*GRID, f"output_dir={tmp_path}", "budget=1h"], monkeypatch) == 1
    assert "left by budget=1h: 2 of 4 cells" in caplog.text
    assert "error: 2 of 4 cells failed" in capsys.readouterr().err
    assert budget.begin is begin


def test_a_single_run_ends_with_its_budget(tmp_path, monkeypatch, caplog):
    arguments = [*TINY, "method=baseline", "~method@reference", f"output_dir={tmp_path}"]
    assert run_command([*arguments, "budget=0.000001s"], monkeypatch) == 3
    assert caplog.messages[-1].startswith("left by budget=0.000001s: ")
    assert run_command([*arguments, "budget=1h"], monkeypatch) == 0
    (table,) = re.findall("table: .*", caplog.text)
    assert "budget" not in table


@pytest.mark.parametrize(("arguments", "expected"), [
    (["budget=9"], "Expected budget to be a time such as 90s, 9m, 2h or 1h30m, but got 9."),
    (["-m", "budget=soon"], "Expected budget to be a time such as 90s, 9m, 2h or 1h30m, but got 'soon'."),
    (["-m", "budget=1h,2h"], "Expected one budget for all cells, but got 1h, 2h."),
])  # fmt: skip
def test_a_wrong_budget_is_named_before_anything_starts(arguments, expected, tmp_path, monkeypatch, capsys):
    assert run_command([*arguments, *TINY, f"output_dir={tmp_path}/new"], monkeypatch) == 1
    assert capsys.readouterr().err == f"error: {expected}\n"
    assert not (tmp_path / "new").exists()


def test_a_worker_ends_with_the_commands_budget(tmp_path):
    budget.end_at(time.time() - 1)
    tasks: dict[str, Task] = {}
    add_tasks(tasks, make_cell(tmp_path, "method=baseline", "~method@reference"))
    budget.begin(None)
    for task in tasks.values():
        assert isinstance(work(task, str(Path.cwd())), Left)
    assert not list(tmp_path.rglob("*.json"))


def test_an_engine_starts_nothing_after_the_end(monkeypatch):
    class Machine:
        @staticmethod
        def nodes():
            return [{"Alive": True, "Resources": {"CPU": 1}}]

        def remote(self, **options):
            return lambda function: pytest.fail if callable(function) else None

        def shutdown(self):
            pass

    monkeypatch.setattr(engine, "started", lambda workers, init, num_cpus: Machine())
    budget.end_at(time.time() - 1)
    tasks = {name: Task(name, {}, ()) for name in "ab"}
    results = dict(engine.run_tasks(tasks, workers=1, num_cpus=1, num_gpus=0, init={}))
    assert results == {name: Left(name, "the time is over") for name in "ab"}


def test_a_search_stops_before_a_trial_that_would_not_end():
    study, parameters, trials = optuna.create_study(), [{"name": "x", "low": 0.0, "high": 1.0}], []
    for seconds in (100, 1):
        trial = study.ask()
        study.tell(trial, 0.0)
        stored = study._storage._get_trial(trial._trial_id)
        stored.datetime_start = stored.datetime_complete - timedelta(seconds=seconds)

    def evaluate(values):
        trials.append(values)
        return 0.0, {}

    budget.begin("1s")
    with pytest.raises(OutOfBudgetError, match="3 of 5 trials; one takes about 1 s"):  # not even like the shortest
        run_trials(study, parameters, evaluate, n_trials=5, max_failures=1)
    assert trials == []
    budget.begin("1m")
    with pytest.raises(OutOfBudgetError, match="2 of 5 trials; one takes about 1 min 40 s"):  # after one, the longest
        run_trials(study, parameters, evaluate, n_trials=5, max_failures=1)
    assert len(trials) == 1
    budget.begin("1h")
    run_trials(study, parameters, evaluate, n_trials=5, max_failures=1)
    assert len(trials) == 3


def test_outputs_that_a_method_skips_are_not_planned(tmp_path):
    random = ["task=random", "task.n=5", "method=unsir,baseline"]
    kinds = [[node.kind for node in pipeline.planned(Workbench(cell))] for cell in make_cells(tmp_path, *random)]
    assert kinds == [["original", "outputs"], ["original", "outputs", "outputs"]]  # the retrained model's and its own
    (cell,) = make_cells(tmp_path, "method=unsir")
    assert len(pipeline.planned(Workbench(cell))) == 3
