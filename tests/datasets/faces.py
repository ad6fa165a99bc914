"""Folders and archives of made-up faces."""

import io
import zipfile

import numpy as np
from PIL import Image

from datasets.pins import load_pins

COUNTS = {"Zoe Zed": 12, "Adam Ant": 10, "alan lower": 7}  # capitals come first
IN_ORDER = ("Adam Ant", "Zoe Zed", "alan lower")


def picture(seed, mode="RGB", kind="PNG"):
    noise = np.random.default_rng(seed).integers(0, 256, (30, 26, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(file, kind)
    return file.getvalue()


def faces():
    """name in the archive -> bytes, in no particular order"""
    names = [(name, i) for name, count in COUNTS.items() for i in reversed(range(count))]
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
