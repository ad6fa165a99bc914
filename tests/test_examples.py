"""The scripts in examples/ are short, and run as they stand."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from methods import dampening

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """As after `pip install .`."""
    monkeypatch.setitem(sys.modules, "dampening", dampening)


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_examples_are_short(path):
    assert len(path.read_text().splitlines()) <= 40


def test_requests_in_turn_forget_one_class_after_the_other(capsys):
    runpy.run_path(str(EXAMPLES / "requests_in_turn.py"))
    lines = capsys.readouterr().out.splitlines()
    before, first, second, undone = ([float(x) for x in re.findall(r"\d: (\d\.\d\d)", line)] for line in lines)
    assert min(before) > 0.9
    assert max(first[0], second[0], second[1]) < 0.1
    assert min(*first[1:], *second[2:]) > 0.9
    assert undone == first


def write_photos(root, n):
    """A folder for each of three colours, with noisy photos of it."""
    noise = np.random.default_rng(n)
    for c, colour in enumerate(("blue", "green", "red")):
        (root / colour).mkdir(parents=True)
        for i in range(n):
            pixels = noise.integers(0, 120, (16, 16, 3))
            pixels[..., c] += 100
            Image.fromarray(pixels.astype("uint8")).save(root / colour / f"{i}.png")


def test_photos_are_forgotten_by_a_timm_model(tmp_path, capsys):
    write_photos(tmp_path / "train", 8)
    write_photos(tmp_path / "unseen", 4)
    (tmp_path / "forget.txt").write_text("red/0.png\nred/1.png\n")
    model = timm.create_model("test_resnet", num_classes=3)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    main = runpy.run_path(str(EXAMPLES / "photos.py"))["main"]
    arguments = [str(tmp_path / name) for name in ("train", "forget.txt", "unseen", "model.pth")]
    main(*arguments, "test_resnet")
    out = capsys.readouterr().out
    assert [int(n) for n in re.findall(r"accuracy, \w+: .* of (\d+)", out)] == 2 * [2, 22, 12]
    changed = torch.load(tmp_path / "model.pth.unlearned", weights_only=True)
    selected = int(re.search(r"^all +([\d,]+)", out, re.MULTILINE)[1].replace(",", ""))
    moved = sum(int((value != changed[name]).sum()) for name, value in model.state_dict().items())
    assert 0 < moved <= selected
    (tmp_path / "forget.txt").write_text("red/9.png\n")
    with pytest.raises(SystemExit, match=r"Expected 1 photos .* but got 0"):
        main(*arguments, "test_resnet")


def test_sentences_are_forgotten_by_a_hugging_face_model(capsys):
    pytest.importorskip("transformers")
    runpy.run_path(str(EXAMPLES / "sentences.py"))
    out = capsys.readouterr().out
    before, after = (float(x) for x in re.findall(r"accuracy, unseen: +([\d.]+)%", out))
    assert before > 90
    assert after > 80
    assert int(re.search(r"^all +([\d,]+)", out, re.MULTILINE)[1].replace(",", "")) > 0
