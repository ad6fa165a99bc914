"""Relearn time: when it ends, that it can be continued, and what the cells of a grid share."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from command_line import killed_in_epoch, make_cell, make_cells

from benchmark import pipeline, relearn
from benchmark.relearn import accuracy_on
from benchmark.training_state import StoredTraining
from benchmark.workbench import Workbench
from methods.training import Recipe

RECIPE = Recipe.constant("adam", lr=1e-3, epochs=10, batch_size=16)  # 4 steps of 60 images per epoch
STEPS = "relearn=steps"


@dataclass
class Fresh:
    """A training that nobody began."""

    extra: dict[str, Any] = field(default_factory=dict)

    def resume(self, model, optimizer, random):
        return 0

    def keep(self, epoch, model, optimizer, random):
        pass


@pytest.fixture
def learn(dataset, split, preprocessing, compute):
    """(model, goal) -> the steps and the looks."""

    def call(model, goal, *, every=10, state=None, data=dataset.train):
        return relearn.relearn(
            model, data, split.forget_train, goal, RECIPE, every=every, preprocessing=preprocessing, compute=compute,
            random=torch.Generator().manual_seed(3), batch_size=7, state=state or Fresh(),
        )  # fmt: skip

    return call


def test_a_model_that_knows_the_forget_set_takes_no_step(make_cnn, learn, split, preprocessing):
    model = make_cnn()
    known = accuracy_on(split.forget_train, model, preprocessing, 7)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert learn(model, known) == (0, [known])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_first_look_at_which_the_goal_is_reached_ends_the_training(make_cnn, learn):
    steps, looks = learn(make_cnn(), 2.0, every=3)
    assert (steps, len(looks)) == (40, 14)  # the longest: before the first step, then after 3, 6, … 39
    goal = max(looks)
    found, fewer = learn(make_cnn(), goal, every=3)
    assert fewer == looks[: looks.index(goal) + 1]
    assert found == 3 * looks.index(goal)


def test_a_continued_training_takes_the_same_looks(make_cnn, learn, tmp_path, monkeypatch):
    whole = learn(make_cnn(), 2.0, every=3)
    killed_in_epoch(5, lambda: learn(make_cnn(), 2.0, every=3, state=StoredTraining(tmp_path, 0)), monkeypatch)
    assert len(list(tmp_path.rglob("000004-*.pt"))) == 1
    assert learn(make_cnn(), 2.0, every=3, state=StoredTraining(tmp_path, 0)) == whole


def test_a_run_without_it_has_the_name_that_it_had():
    plain, other = (make_cell("runs", *more) for more in ([], [STEPS]))
    assert "relearn" not in plain.scientific
    assert "metrics.relearn" not in plain.code
    assert plain.scientific | {"relearn": other.scientific["relearn"]} == other.scientific
    assert plain.outputs_key == other.outputs_key
    hashes = {make_cell("runs", STEPS, f"relearn.{word}").run_id for word in ("every=5", "margin=0.1", "recipe.lr=0.1")}
    assert len({*hashes, plain.run_id, other.run_id}) == 5


def test_the_retrained_model_relearns_once_for_all_methods(tmp_path, monkeypatch):
    calls, orders = [], []

    def counted(model, data, forget, goal, recipe, *, random, **options):
        calls.append(model)
        orders.append(torch.randperm(9, generator=random).tolist())
        return 10 * len(calls), [0.0, 1.0]

    monkeypatch.setattr(pipeline, "relearn", counted)
    records = {}
    for cell in make_cells(tmp_path, "method=ssd,baseline,retrain", STEPS):
        records[cell.labels["method"]] = pipeline.make_record(Workbench(cell)).metrics
    assert len(calls) == 3
    assert orders[0] == orders[1] == orders[2]
    assert {name: metrics["relearn.retrained_steps"] for name, metrics in records.items()} == {
        "ssd": 20, "baseline": 20, "retrain": 20
    }  # fmt: skip
    assert [records[name]["relearn.ain"] for name in ("ssd", "baseline", "retrain")] == [0.5, 1.5, 1.0]
    kinds = Counter(path.parent.name for path in tmp_path.glob("artefacts/*/*.json"))
    assert (kinds["original"], kinds["model"], kinds["outputs"], kinds["relearn"]) == (1, 3, 3, 3)


def test_without_a_forgotten_class_nothing_is_relearnt(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "relearn", None)
    cell = make_cell(tmp_path, "method=baseline", "task=random", "task.n=5", STEPS)
    metrics = pipeline.make_record(Workbench(cell)).metrics
    assert {name: value for name, value in metrics.items() if "relearn" in name} == dict.fromkeys(
        ("relearn.ain", "relearn.steps", "relearn.retrained_steps", "relearn.at_least", "relearn.at_most")
    )
