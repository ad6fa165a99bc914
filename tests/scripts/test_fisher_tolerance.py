"""The comparison of Fisher forgetting's ways."""

import re
import sys

import pytest
import torch

from datasets.batches import Batches
from methods.fisher_information import fisher_diagonal
from scripts.fisher_tolerance import literal_loop, main, relative_error

TINY = (
    "images=12", "literal=2", "dataset=digits", "dataset.subset.train_images=60", "dataset.subset.test_images=30",
    "model.width=2", "recipe.epochs=1", "compute.precision=float32", "compute.channels_last=true",
)  # fmt: skip


def test_the_literal_loop_is_the_exact_information(cnn, dataset, preprocessing):
    data = dataset.train.subset(torch.arange(6))
    exact = fisher_diagonal(cnn, Batches(data, 4, preprocessing), error=0.0, random=torch.Generator())
    assert relative_error(literal_loop(cnn, Batches(data, 4, preprocessing)), exact) < 1e-5


def test_the_relative_error_is_over_all_parameters():
    expected = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
    assert relative_error(expected, expected) == 0
    assert relative_error({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([[4.0]])}, expected) == pytest.approx(0.2)


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_command(monkeypatch, tmp_path, capsys, device):
    words = [*TINY, f"compute.device={device}", f"output_dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["fisher_tolerance", *words])
    main()
    lines = capsys.readouterr().out.splitlines()
    seconds = [float(s) for line in lines for s in re.findall(r": ([\d.]+) s[ ,]", line)]
    exact, found = (float(e) for line in lines for e in re.findall(r"relative error ([\d.e+-]+)", line))
    assert len(lines) == 5
    assert len(seconds) == 3
    assert 0 <= exact < 1e-3
    assert 0 < found < 0.5
