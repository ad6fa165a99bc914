"""Bad files and places: full disks, weights that are none, archives that must not be unpacked; one line for each."""

import pickle
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_inputs import CIFAR10, check_nothing_half_written, check_one_line
from command_line import TINY, run_command

from datasets import pins


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 300 kB; skips where mounting is not permitted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small_disk, monkeypatch, capsys):
    arguments = [*TINY, "model.width=8", "~method@reference", "method=baseline", f"output_dir={small_disk}"]
    code = run_command(arguments, monkeypatch)
    check_one_line(code, capsys.readouterr().err, "No space left on device")
    check_nothing_half_written(small_disk)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


VIT = ["dataset=cifar10", "model=vit", "model.timm_name=test_vit", "model.image_size=32"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("none.npz", None, "there is none at"),
        ("w.ckpt", b"", "to end in .safetensors, .npz or .pth"),
        ("w.safetensors", b"no tensors", "to hold tensors by name"),
        ("w.npz", b"no tensors", "to hold tensors by name"),
        ("w.pth", pickle.dumps({"w": 1}, protocol=2), "to hold tensors by name"),
    ],
)
def test_bad_weights(name, content, expected, tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "cifar10.npz", **CIFAR10)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    arguments = [*VIT, f"model.weights={tmp_path / name}", f"data_dir={tmp_path}", f"output_dir={tmp_path / 'r'}"]
    code = run_command(arguments, monkeypatch)
    check_one_line(code, capsys.readouterr().err, expected)
    check_nothing_half_written(tmp_path)


def test_weights_that_are_a_program_are_not_run(tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "cifar10.npz", **CIFAR10)
    torch.save({"w": Evil(tmp_path / "executed")}, tmp_path / "w.pth")
    arguments = [*VIT, f"model.weights={tmp_path / 'w.pth'}", f"data_dir={tmp_path}", f"output_dir={tmp_path}"]
    check_one_line(run_command(arguments, monkeypatch), capsys.readouterr().err, "to hold tensors by name")
    assert not (tmp_path / "executed").exists()


def archive_of(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"../evil": b"x"}, "would lie outside the folder"),
        ({"/evil": b"x"}, "would lie outside the folder"),
        ({"bomb": bytes(200_000)}, "200000 bytes, more than 100000"),
        ({f"{i}": b"" for i in range(60)}, "60 entries, more than 50"),
        ({"notes.txt": b"no faces"}, "one folder with folders pins_<name>"),
        ({"pins_A/1.png": b"no image", "pins_B/1.png": b"no image"}, "105 identities and 17534 images"),
    ],
)
def test_bad_archive(files, expected, tmp_path, monkeypatch, capsys):
    archive = archive_of(tmp_path / "faces.zip", files)
    monkeypatch.setattr(pins, "download_archive", lambda *arguments, **options: archive)
    monkeypatch.setattr(pins, "MAX_BYTES", 100_000)
    monkeypatch.setattr(pins, "MAX_FILES", 50)
    arguments = ["dataset=pins", "model.width=2", "recipe.epochs=1", f"data_dir={tmp_path / 'data'}"]
    code = run_command([*arguments, f"output_dir={tmp_path / 'runs'}"], monkeypatch)
    check_one_line(code, capsys.readouterr().err, expected)
    check_nothing_half_written(tmp_path)
    assert not list(tmp_path.rglob("evil"))
