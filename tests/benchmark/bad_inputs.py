"""What the tests of bad inputs share: a small CIFAR-10 and what must hold after a failure."""

import json
from pathlib import Path

import numpy as np

from benchmark.store import file_sha256

CIFAR10 = {
    "train_images": np.zeros((20, 32, 32, 3), np.uint8),
    "train_labels": np.arange(20) % 10,
    "test_images": np.zeros((10, 32, 32, 3), np.uint8),
    "test_labels": np.arange(10),
}


def check_nothing_half_written(folder: Path) -> None:
    """No record, no leftovers, and every artefact that looks finished is."""
    assert not [path for path in folder.rglob("*") if path.suffix in (".part", ".pt")]
    assert not list(folder.rglob("records/*.json"))
    for card in folder.rglob("artefacts/*/*.json"):
        assert json.loads(card.read_text())["sha256"] == file_sha256(card.with_suffix(".safetensors"))


def check_one_line(code: int, stderr: str, expected: str) -> None:
    lines = [line for line in stderr.splitlines() if line.strip() and not line.startswith("  ")]
    assert code != 0
    assert len(lines) == 1, stderr
    assert lines[0].startswith("error: ")
    assert expected in lines[0]
    assert "Traceback" not in stderr
