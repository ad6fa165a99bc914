"""Folders and archives of made-up faces, and what a run that fails on them says."""

import io
import zipfile

import numpy as np
from command_line import records_of, run_command
from kaggle_service import KEY, SIGNATURE, USER
from PIL import Image

from datasets.pins import load_pins

COUNTS = {"Zoe Zed": 12, "Adam Ant": 10, "alan lower": 7}  # capitals come first
IN_ORDER = ("Adam Ant", "Zoe Zed", "alan lower")
RUN = ["dataset=pins", "model.width=2", "recipe.epochs=1", "method=baseline", "~method@reference"]


def picture(seed, mode="RGB", kind="PNG"):
    noise = np.random.default_rng(seed).integers(0, 256, (30, 26, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(file, kind)
    return file.getvalue()


def faces(counts=COUNTS):
    """name in the archive -> bytes, in no particular order"""
    names = [(name, i) for name, count in counts.items() for i in reversed(range(count))]
    return {f"pins_{name}/{name}_{i:03}.png": picture(seed) for seed, (name, i) in enumerate(names)}


def write_folder(folder, files=None):
    for name, content in (files or faces()).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def zipped(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"classes_dataset/{name}", content)
    return file.getvalue()


def load(data_dir, folder=None, split="stratified", split_seed=0):
    return load_pins(data_dir, folder, split, split_seed)


def check_silent(text):
    assert KEY not in text
    assert SIGNATURE not in text
    assert USER not in text


def failing_run(tmp_path, monkeypatch, capfd, *arguments):
    code = run_command(
        [*RUN, f"data_dir={tmp_path / 'data'}", f"output_dir={tmp_path / 'runs'}", *arguments], monkeypatch
    )
    output = capfd.readouterr()
    check_silent(output.out + output.err)
    lines = [line for line in output.err.splitlines() if line.strip() and not line.startswith("  ")]
    assert code == 1
    assert len(lines) == 1, output.err
    assert lines[0].startswith("error: ")
    assert not records_of(tmp_path / "runs")
    return lines[0]
