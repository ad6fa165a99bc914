import numpy as np
import pytest

from datasets.arrays import NAMES, fingerprint, load_arrays, write_arrays


def arrays(**changes):
    rng = np.random.default_rng(0)
    values = {
        "train_images": rng.integers(0, 256, (20, 4, 4, 3), dtype=np.uint8),
        "train_labels": np.arange(20) % 3,
        "test_images": rng.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8),
        "test_labels": np.arange(6) % 3,
    }
    return values | changes


def no_download(folder):
    raise AssertionError("the file is there: nothing may be downloaded")


def load(folder):
    return load_arrays(folder, "x", 3, no_download)


def test_round_trip(tmp_path):
    write_arrays(tmp_path / "x.npz", arrays())
    loaded = load(tmp_path)
    for name in NAMES:
        np.testing.assert_array_equal(loaded.values[name], arrays()[name])
    assert loaded.fingerprint == fingerprint(arrays())
    images, labels = loaded.split("test")
    assert images.shape == (6, 4, 4, 3)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_fingerprint_sees_values_types_and_shapes_but_not_memory_order():
    ours = arrays()
    same = {name: np.asfortranarray(ours[name]) for name in reversed(NAMES)}
    assert fingerprint(same) == fingerprint(ours)
    flipped = ours["train_images"].copy()
    flipped[3, 2, 1, 0] ^= 1
    others = [
        arrays(train_images=flipped),
        arrays(train_labels=ours["train_labels"].astype(np.int32)),
        arrays(test_images=ours["test_images"].reshape(6, 2, 8, 3)),
    ]
    assert len({fingerprint(other) for other in [ours, *others]}) == 4


def damaged_bytes(name):
    def damage(path):
        write_arrays(path, arrays())
        whole = path.read_bytes()
        cut = {
            "empty": b"",
            "no zip": b"these are no arrays",
            "truncated": whole[: len(whole) // 2],
            "last bytes missing": whole[:-5],
            "flipped": whole[:400] + bytes([whole[400] ^ 255]) + whole[401:],
        }
        path.write_bytes(cut[name])

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


def pickled_objects(path):
    np.savez(path, **arrays(train_labels=np.array([print] * 20, dtype=object)))


def one_missing(path):
    np.savez(path, **{name: value for name, value in arrays().items() if name != "test_labels"})


@pytest.mark.parametrize(
    "write",
    [
        *(
            pytest.param(damaged_bytes(name), id=name)
            for name in ("empty", "no zip", "truncated", "last bytes missing", "flipped")
        ),
        compressed_and_overwritten,
        one_npy_array,
        pickled_objects,
        one_missing,
    ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path, write):
    write(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=r"x\.npz to be an array file.*delete it and run again") as caught:
        load(tmp_path)
    if write is one_missing:
        assert "lacks test_labels" in str(caught.value)
    if write is pickled_objects:
        assert "allow_pickle" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"train_images": np.zeros((20, 4, 4, 3), np.float32)}, "train_images .*to be uint8"),
        ({"test_images": np.zeros((6, 4, 4), np.uint8)}, "test_images .*to be uint8"),
        ({"test_images": np.zeros((6, 3, 4, 4), np.uint8)}, "test_images .*to be uint8"),
        ({"train_images": np.zeros((0, 4, 4, 3), np.uint8)}, "train_images .*to be uint8"),
        ({"train_labels": np.zeros(20, np.int32)}, "train_labels .*to be int64"),
        ({"test_labels": np.zeros(5, np.int64)}, r"test_labels .*to be int64 \(6,\)"),
        ({"train_labels": np.full(20, 3)}, r"train_labels .*to lie in 0 … 2"),
        ({"test_labels": np.full(6, -1)}, r"test_labels .*to lie in 0 … 2"),
    ],
)
def test_wrong_arrays_are_refused_when_read_and_when_downloaded(tmp_path, changes, match):
    with pytest.raises(ValueError, match=match):
        load_arrays(tmp_path, "new", 3, lambda folder: arrays(**changes))
    assert not (tmp_path / "new.npz").exists()
    write_arrays(tmp_path / "x.npz", arrays(**changes))
    with pytest.raises(ValueError, match=match):
        load(tmp_path)


@pytest.mark.parametrize("error", [OSError("no network"), RuntimeError("file not found or corrupted")])
def test_a_failed_download_says_what_to_do(tmp_path, error):
    def fail(folder):
        raise error

    with pytest.raises(FileNotFoundError, match=r"UNLEARN_DATA_DIR") as caught:
        load_arrays(tmp_path / "data", "x", 3, fail)
    assert str(tmp_path / "data" / "x.npz") in str(caught.value)
    assert str(error) in str(caught.value)
    assert not (tmp_path / "data" / "x.npz").exists()


def test_a_download_happens_once(tmp_path):
    calls = []

    def download(folder):
        calls.append(folder)
        return arrays()

    first = load_arrays(tmp_path / "deep" / "data", "x", 3, download)
    again = load_arrays(tmp_path / "deep" / "data", "x", 3, download)
    assert calls == [tmp_path / "deep" / "data" / "download"]
    assert first.fingerprint == again.fingerprint


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def stop_half_way(file, **values):
        file.write(b"PK half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr("datasets.arrays.np.savez", stop_half_way)
    with pytest.raises(OSError, match="no space"):
        write_arrays(tmp_path / "x.npz", arrays())
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    write_arrays(path, arrays())
    before = path.read_bytes()
    monkeypatch.setattr("datasets.arrays.np.savez", lambda file, **values: (file.write(b"x"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        write_arrays(path, arrays())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
