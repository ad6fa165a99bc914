import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from datasets.arrays import NAMES, fingerprint, fingerprint_of, load_arrays, write_arrays

GOLDEN = "1d8de4cf0b4173c4a75069d42d9a62901ec77655b7eceb083bfbbcda43a6773e"  # of the arrays below


def arrays(**changes):
    rng = np.random.default_rng(0)
    values = {
        "train_images": rng.integers(0, 256, (20, 4, 4, 3), dtype=np.uint8),
        "train_labels": np.arange(20) % 3,
        "test_images": rng.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8),
        "test_labels": np.arange(6) % 3,
    }
    return values | changes


def load(folder):
    return load_arrays(folder, "x", 3, download=None)  # the file is there: nothing may be downloaded


def test_round_trip(tmp_path):
    write_arrays(tmp_path / "x.npz", arrays())
    loaded = load(tmp_path)
    for name in NAMES:
        np.testing.assert_array_equal(loaded.values[name], arrays()[name])
    assert loaded.fingerprint == fingerprint_of(tmp_path / "x.npz") == fingerprint(arrays())
    images, labels = loaded.part("test")
    assert images.shape == (6, 4, 4, 3)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_fingerprint_sees_values_types_and_shapes_but_not_memory_order():
    ours = arrays()
    same = {name: np.asfortranarray(ours[name]) for name in reversed(NAMES)}
    # Fixed for good: every finished run names its data by this function.
    assert fingerprint(same) == fingerprint(ours) == GOLDEN
    flipped = ours["train_images"].copy()
    flipped[3, 2, 1, 0] ^= 1
    others = [
        arrays(train_images=flipped),
        arrays(train_labels=ours["train_labels"].astype(np.int32)),
        arrays(test_images=ours["test_images"].reshape(6, 2, 8, 3)),
    ]
    assert len({fingerprint(other) for other in [ours, *others]}) == 4


def test_a_fingerprint_of_other_arrays_beside_the_four_ignores_them(tmp_path):
    np.savez(tmp_path / "x.npz", **arrays(notes=np.zeros(3)))
    assert fingerprint_of(tmp_path / "x.npz") == fingerprint(arrays())


def test_names_of_classes_need_neither_torch_nor_numpy():  # those of data no torch: tests/test_imports.py
    code = "import sys, datasets.seeding, datasets.targets, datasets.cifar_classes; "
    code += "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def rewritten(change):
    def damage(path):
        write_arrays(path, arrays())
        path.write_bytes(change(path.read_bytes()))

    return damage


def compressed_and_overwritten(path):
    np.savez_compressed(path, **arrays(train_images=np.zeros((20, 4, 4, 3), dtype=np.uint8)))
    whole = bytearray(path.read_bytes())
    start = whole.index(b"train_images.npy") + len(b"train_images.npy") + 20
    whole[start : start + 8] = b"\xff" * 8  # no valid block type: zlib gives up before any checksum
    path.write_bytes(whole)


def one_npy_array(path):
    with path.open("wb") as file:
        np.save(file, arrays()["train_images"])


DAMAGES = {
    "no zip": (rewritten(lambda whole: b"these are no arrays"), ""),
    "truncated": (rewritten(lambda whole: whole[: len(whole) // 2]), ""),
    "flipped": (rewritten(lambda whole: whole[:400] + bytes([whole[400] ^ 255]) + whole[401:]), ""),
    "bad compression": (compressed_and_overwritten, ""),
    "one array": (one_npy_array, ""),
    "a pipe": (os.mkfifo, "it is no regular file"),
    "pickled": (lambda path: np.savez(path, **arrays(train_labels=np.array([print] * 20))), "allow_pickle"),
    "one missing": (lambda path: np.savez(path, train_images=arrays()["train_images"]), "lacks train_labels"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_one_clear_error(tmp_path, name):
    write, reason = DAMAGES[name]
    write(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=rf"x\.npz to be an array file.*{reason}.*delete it and run again"):
        load(tmp_path)


def test_wrong_arrays_are_refused_when_read_and_when_downloaded(tmp_path):
    for changes, match in (
        ({"test_images": np.zeros((6, 3, 4, 4), np.uint8)}, "test_images .*to be uint8"),
        ({"train_labels": np.zeros(20, np.int32)}, "train_labels .*to be int64"),
        ({"train_images": np.zeros((20, 4, 4, 3), np.float32)}, "train_images .*to be uint8"),
        ({"train_images": np.zeros((0, 4, 4, 3), np.uint8)}, "train_images .*to be uint8"),
        ({"test_labels": np.zeros(5, np.int64)}, r"test_labels .*to be int64 \(6,\)"),
        ({"train_labels": np.full(20, 3)}, r"train_labels .*to lie in 0 … 2"),
        ({"test_labels": np.full(6, -1)}, r"test_labels .*to lie in 0 … 2"),
    ):
        with pytest.raises(ValueError, match=match):
            load_arrays(tmp_path, "new", 3, Mock(return_value=arrays(**changes)))
        assert not (tmp_path / "new.npz").exists()
        write_arrays(tmp_path / "x.npz", arrays(**changes))
        with pytest.raises(ValueError, match=match):
            load(tmp_path)


def test_a_failed_download_says_what_to_do(tmp_path):
    for error in (OSError("no network"), RuntimeError("file not found or corrupted")):
        fail = Mock(side_effect=error)
        with pytest.raises(FileNotFoundError, match=rf"data/x\.npz.*{error}.*UNLEARN_DATA_DIR"):
            load_arrays(tmp_path / "data", "x", 3, fail)
    with pytest.raises(FileNotFoundError, match=r"x\.npz, but there is none"):
        fingerprint_of(tmp_path / "data" / "x.npz")


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_arrays(tmp_path / "x.npz", arrays())
    monkeypatch.setattr("datasets.arrays.np.savez", lambda file, **values: (file.write(b"x"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        write_arrays(tmp_path / "x.npz", arrays(train_labels=np.zeros(20, np.int64)))
    assert load(tmp_path).fingerprint == fingerprint(arrays())
    assert list(tmp_path.iterdir()) == [tmp_path / "x.npz"]


def test_a_folder_that_takes_no_file_is_an_error():
    with pytest.raises(FileNotFoundError, match=r"Expected /proc/x\.npz, but it is not there and could not be made"):
        load(Path("/proc"))
