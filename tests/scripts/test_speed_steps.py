"""The measured steps: listed without computing, compiled once, dampened without copying."""

import copy

import pytest
import torch
from torch import nn

from scripts import speed_cells, speed_steps
from scripts.speed_measure import measure
from scripts.speed_steps import Steps, can_compile

CPU = torch.device("cpu")
EAGER = [
    "training", "training float32 channels last", "training float32 contiguous", "training bfloat16 channels last",
    "training bfloat16 contiguous", "importance_batch_mean", "importance_per_sample", "fisher", "attack_fit",
    "dampening", "cell_cold", "cell_cached", "evaluation", "trial",
]  # fmt: skip


@pytest.fixture
def steps(tiny, monkeypatch):
    monkeypatch.setattr("scripts.speed_measure.arithmetic_ceiling", lambda device, dtype: 1e12)
    monkeypatch.setattr("scripts.speed_measure.bandwidth_ceiling", lambda device: 1e12)
    cell, options = tiny
    return Steps(cell, sample=int(options["sample"]), literal=1, tolerance=0.1, workers=0)


def test_listing_the_steps_computes_no_importance_and_the_compiled_one_is_last(steps, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("computed")

    monkeypatch.setattr(speed_steps, "can_compile", lambda device: True)
    for module in (speed_steps, speed_cells):
        monkeypatch.setattr(module, "parameter_importance", fail)
    assert list(steps.all()) == [*EAGER, "training compiled"]


@pytest.mark.parametrize(("sample", "compiler"), [(40, False), (15, True)])
def test_nothing_is_compiled_without_a_compiler_or_a_whole_batch(tiny, monkeypatch, caplog, sample, compiler):
    monkeypatch.setattr(speed_steps, "can_compile", lambda device: compiler)
    with caplog.at_level("INFO"):
        found = Steps(tiny[0], sample=sample, literal=1, tolerance=0.1, workers=0).all()
    assert list(found) == EAGER
    assert "training compiled: left out" in caplog.text


def test_a_gpu_needs_a_c_compiler_and_headers(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/g++" if name == "g++" else None)
    assert can_compile(CPU)
    assert not can_compile(torch.device("cuda"))
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/gcc" if name == "gcc" else None)
    monkeypatch.setattr("sysconfig.get_path", lambda name: "/nowhere")
    assert not can_compile(torch.device("cuda"))
    assert not can_compile(CPU)


class Counting(nn.Module):
    """Stands for a compiled network."""

    def __init__(self, model):
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, images):
        self.calls += 1
        return self.model(images)


def test_the_compiled_step_trains_one_model_that_is_compiled_once(steps, monkeypatch):
    compiled, trained, train = [], [], speed_steps.train
    monkeypatch.setattr(speed_steps, "COMPILED_EPOCHS", 2)
    monkeypatch.setattr(speed_steps, "can_compile", lambda device: True)
    monkeypatch.setattr(torch, "compile", lambda model, **_: compiled.append(Counting(model)) or compiled[-1])
    monkeypatch.setattr(speed_steps, "train", lambda model, *a, **k: trained.append(model) or train(model, *a, **k))
    row = measure(steps.all()["training compiled"], repeats=2, device=CPU)
    (network,) = compiled
    # The first training makes the checkpoint, the third one counts the operations.
    assert [model is network.model for model in trained] == [False, True, False, True, True]
    assert network.calls == 3 * 2 * 2  # trainings, epochs, whole batches
    assert row["amount"] == 2 * 32
    assert 0 < row["ceiling_share"] < 1


def test_dampening_copies_nothing_once_it_is_warm(steps, monkeypatch):
    step = steps.all()["dampening"]
    step.ours()
    step.textbook()
    monkeypatch.setattr(copy, "deepcopy", lambda *_: pytest.fail("copied"))
    step.ours()
    step.textbook()


def test_dampening_and_evaluation_agree_with_the_textbook(steps):
    found = steps.all()
    rows = {name: measure(found[name], repeats=2, device=CPU) for name in ("dampening", "cell_cold", "evaluation")}
    assert rows["dampening"]["largest_difference"] < 1e-6
    assert rows["evaluation"]["largest_difference"] == rows["cell_cold"]["largest_difference"] == 0
    assert rows["evaluation"]["textbook_seconds"] < rows["cell_cold"]["textbook_seconds"]
