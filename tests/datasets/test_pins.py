import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import records_of, run_command
from kaggle_service import KEY, SIGNATURE, USER, serve
from PIL import Image

from datasets import pins
from datasets.pins import decode, load_pins, stratified_mask
from datasets.splits import class_split

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


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "faces")


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    """The real client with an empty home, a stand-in for the service, and no credentials yet."""
    for name in [name for name in os.environ if name.startswith("KAGGLE_") or name.startswith("VERBOSE")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / ".config"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    from kaggle.api.kaggle_api_extended import KaggleApi
    from kagglesdk import kaggle_env

    monkeypatch.setattr(KaggleApi, "config", str(tmp_path / "home" / ".kaggle" / "kaggle.json"))
    monkeypatch.setattr(pins, "N_IDENTITIES", len(COUNTS))
    monkeypatch.setattr(pins, "N_IMAGES", sum(COUNTS.values()))
    with serve() as service:
        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, service.address)
        service.archive = zipped(faces())
        yield service


@pytest.fixture
def credentials(monkeypatch):
    monkeypatch.setenv("KAGGLE_USERNAME", USER)
    monkeypatch.setenv("KAGGLE_KEY", KEY)


def check_silent(text):
    assert KEY not in text
    assert SIGNATURE not in text
    assert USER not in text


# A folder that the user has


def test_identities_are_classes_in_alphabetical_order(tmp_path, folder):
    (folder / "pins_Adam Ant" / "notes.txt").write_text("no image")
    (folder / "pins_").mkdir()
    (folder / "others").mkdir()
    data = load(tmp_path / "data", folder, "none")
    assert data.class_names == IN_ORDER
    assert data.fine_class_names is None
    assert data.train.fine_labels is None
    assert torch.bincount(data.train.labels).tolist() == [COUNTS[name] for name in IN_ORDER]
    assert data.train.storage.shape == (29, 32, 32, 3)
    first = decode(folder / "pins_Adam Ant" / "Adam Ant_000.png")
    np.testing.assert_array_equal(data.train.storage[0], first)


def test_two_bilinear_resizes(tmp_path):
    (tmp_path / "x.png").write_bytes(picture(0))
    with Image.open(tmp_path / "x.png") as image:
        twice = image.resize((36, 36), Image.BILINEAR).resize((32, 32), Image.BILINEAR)
    np.testing.assert_array_equal(decode(tmp_path / "x.png"), np.asarray(twice))
    assert (decode(tmp_path / "x.png") != np.asarray(Image.open(tmp_path / "x.png").resize((32, 32)))).any()


@pytest.mark.parametrize(("mode", "kind"), [("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG")])
def test_every_mode_becomes_rgb(mode, kind, tmp_path):
    (tmp_path / "x").write_bytes(picture(0, mode, kind))
    assert decode(tmp_path / "x").shape == (32, 32, 3)


def test_the_place_does_not_matter_but_the_content_does(tmp_path, folder):
    data = tmp_path / "data"
    here, nested = load(data, folder), load(data, folder.parent)
    moved = load(data, shutil.copytree(folder, tmp_path / "other" / "place"))
    assert here.fingerprint == nested.fingerprint == moved.fingerprint
    assert len(list(data.glob("*.npz"))) == 1
    (folder / "pins_Adam Ant" / "Adam Ant_000.png").write_bytes(picture(999))
    changed = load(data, folder)
    assert changed.fingerprint != here.fingerprint
    assert len(list(data.glob("*.npz"))) == 2
    (folder / "pins_Adam Ant").rename(folder / "pins_Adam Bee")
    assert load(data, folder).fingerprint not in (here.fingerprint, changed.fingerprint)


def test_the_array_file_of_kaggle_is_left_alone(tmp_path, folder, kaggle, credentials):
    official = load(tmp_path / "data")
    before = (tmp_path / "data" / "pins.npz").read_bytes()
    (folder / "pins_Adam Ant" / "Adam Ant_000.png").unlink()
    assert len(load(tmp_path / "data", folder, "none").train) == len(official.train) + len(official.test) - 1
    assert (tmp_path / "data" / "pins.npz").read_bytes() == before
    assert load(tmp_path / "data").fingerprint == official.fingerprint


def test_an_array_file_is_read_without_decoding(tmp_path, folder, monkeypatch):
    first = load(tmp_path / "data", folder)
    monkeypatch.setattr(pins, "decode", None)
    assert load(tmp_path / "data", folder).fingerprint == first.fingerprint


# Splits


def test_without_a_split_the_test_set_is_the_training_set(tmp_path, folder):
    data = load(tmp_path / "data", folder, "none")
    assert data.test is data.train
    moved = data.to("cpu")
    assert moved.test is moved.train
    assert len(data.train) == 29


def test_the_stratified_split_is_a_partition(tmp_path, folder):
    data = load(tmp_path / "data", folder)
    together = torch.cat([data.train.index, data.test.index])
    assert sorted(together.tolist()) == list(range(29))
    assert data.train.storage is data.test.storage
    assert torch.bincount(data.test.labels).tolist() == [2, 2, 1]
    again, other = load(tmp_path / "data", folder), load(tmp_path / "data", folder, split_seed=1)
    assert torch.equal(again.test.index, data.test.index)
    assert not torch.equal(other.test.index, data.test.index)
    assert other.fingerprint == data.fingerprint


@pytest.mark.parametrize("count", [2, 3, 5, 10, 237])
def test_every_identity_is_in_both_parts(count):
    labels = torch.arange(3).repeat_interleave(count)
    mask = stratified_mask(labels, IN_ORDER, 0)
    held_out = torch.bincount(labels[mask], minlength=3)
    assert (held_out == max(1, round(0.2 * count))).all()
    assert (held_out < count).all()


def test_a_target_is_an_index_or_a_name(tmp_path, folder):
    data = load(tmp_path / "data", folder)
    assert class_split(data, target=1).forget_target == class_split(data, target="Zoe Zed").forget_target == "Zoe Zed"


# Kaggle


def test_from_kaggle_to_a_record(tmp_path, kaggle, credentials, monkeypatch, capfd, caplog):
    arguments = [*RUN, f"data_dir={tmp_path / 'data'}", f"output_dir={tmp_path / 'runs'}"]
    from kaggle.api.kaggle_api_extended import KaggleApi

    monkeypatch.setattr(KaggleApi, "args", ["--verbose"])  # the client would print its headers
    caplog.set_level("DEBUG")
    assert run_command([*arguments, "protocol=paper"], monkeypatch) == 0
    (record,) = records_of(tmp_path / "runs").values()
    assert (
        json.loads(record)["sizes"]["forget_train"] == json.loads(record)["sizes"]["forget_test"] == COUNTS["Zoe Zed"]
    )
    assert kaggle.requests == ["POST /v1/datasets.DatasetApiService/DownloadDataset", "GET /storage.zip"]
    assert kaggle.bodies[0]["ownerSlug"] == "hereisburak"
    assert kaggle.bodies[0]["datasetSlug"] == "pins-face-recognition"
    output = capfd.readouterr()
    check_silent(output.out + output.err)
    assert "Authorization" not in output.out + output.err
    for path in (path for path in (tmp_path / "runs").rglob("*") if path.is_file()):
        check_silent(path.read_bytes().decode("latin-1"))


def test_kaggle_and_a_folder_of_the_same_files_agree(tmp_path, folder, kaggle, credentials):
    assert load(tmp_path / "data").fingerprint == load(tmp_path / "other", folder).fingerprint


def test_credentials_in_a_file(tmp_path, kaggle):
    (tmp_path / "home" / ".kaggle").mkdir(parents=True)
    path = tmp_path / "home" / ".kaggle" / "kaggle.json"
    path.write_text(json.dumps({"username": USER, "key": KEY}))
    path.chmod(0o600)
    assert len(load(tmp_path / "data", split="none").train) == 29


def test_an_interrupted_download_is_continued(tmp_path, kaggle, credentials, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits between its attempts
    kaggle.archive = zipped(faces() | {"padding": bytes(3 * 1024**2)})  # the client keeps whole chunks of 1 MiB
    kaggle.interrupt = True
    assert len(load(tmp_path / "data", split="none").train) == 29
    assert kaggle.requests[1:] == ["GET /storage.zip", f"GET /storage.zip bytes={1024**2}-"]


# Errors: one line each


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


def test_missing_credentials(tmp_path, kaggle, monkeypatch, capfd):
    line = failing_run(tmp_path, monkeypatch, capfd)
    for way in ("KAGGLE_USERNAME", "KAGGLE_KEY", "~/.kaggle", "kaggle.json", "dataset.load.folder="):
        assert way in line
    assert kaggle.requests == []


def test_refused_credentials(tmp_path, kaggle, credentials, monkeypatch, capfd):
    monkeypatch.setenv("KAGGLE_KEY", KEY + "-old")
    line = failing_run(tmp_path, monkeypatch, capfd)
    assert "HTTP status 401" in line
    assert "KAGGLE_KEY" in line


@pytest.mark.parametrize("status", [403, 500])
def test_a_refused_download(status, tmp_path, kaggle, credentials, monkeypatch, capfd):
    kaggle.status = status
    assert f"HTTP status {status}" in failing_run(tmp_path, monkeypatch, capfd)


def test_no_service(tmp_path, kaggle, credentials, monkeypatch):
    from kagglesdk import kaggle_env

    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, "http://127.0.0.1:9")
    with pytest.raises(FileNotFoundError, match="ConnectionError") as caught:
        load(tmp_path / "data")
    assert caught.value.__cause__.__context__ is None  # a traceback shows nothing that the client said


def test_a_corrupt_archive(tmp_path, kaggle, credentials, monkeypatch, capfd):
    kaggle.archive = kaggle.archive[:-100]
    line = failing_run(tmp_path, monkeypatch, capfd)
    assert "pins-face-recognition.zip to be a zip archive" in line
    assert "delete it and run again" in line


def test_an_archive_of_something_else(tmp_path, kaggle, credentials, monkeypatch, capfd):
    monkeypatch.setattr(pins, "N_IMAGES", 17_534)
    line = failing_run(tmp_path, monkeypatch, capfd)
    assert "3 identities and 17534 images" in line
    assert "got 3 and 29" in line
    assert not (tmp_path / "data" / "pins.npz").exists()


BAD_FOLDERS = {
    "missing": (lambda folder: shutil.rmtree(folder), "to be a folder, but"),
    "no identities": (lambda folder: [path.rename(folder / path.name[5:]) for path in folder.iterdir()], "make 0"),
    "two sets": (lambda folder: shutil.copytree(folder, folder / "copy"), "make 2"),
    "empty identity": (lambda folder: (folder / "pins_Nobody").mkdir(), "pins_Nobody, but it holds none"),
    "one identity": (
        lambda folder: [shutil.rmtree(folder / f"pins_{name}") for name in IN_ORDER[:2]],
        "two identities",
    ),
    "one image": (lambda folder: write_folder(folder, {"pins_Once/1.png": picture(0)}), "2 images of 'Once'"),
    "no image": (lambda folder: (folder / "pins_Adam Ant" / "bad.jpg").write_text("<html>"), "bad.jpg to be an image"),
    "empty file": (lambda folder: (folder / "pins_Adam Ant" / "bad.png").touch(), "bad.png to be an image"),
    "truncated": (
        lambda folder: (folder / "pins_Adam Ant" / "bad.jpg").write_bytes(picture(0, kind="JPEG")[:-200]),
        "bad.jpg to be an image",
    ),
    "truncated PNG": (
        lambda folder: (folder / "pins_Adam Ant" / "bad.png").write_bytes(picture(0)[:500]),
        "bad.png to be an image",
    ),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_bad_folder(name, tmp_path, folder):
    damage, expected = BAD_FOLDERS[name]
    damage(folder)
    with pytest.raises(ValueError, match=r"^Expected") as caught:
        load(tmp_path / "data", folder)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("dataset.load.split=half", "none or stratified"),
        ("task.target=3", "0 … 2, or one of Adam Ant"),
        ("dataset.load.folder=nowhere", "but nowhere is none"),
    ],
)
def test_bad_argument(argument, expected, tmp_path, folder, monkeypatch, capfd):
    assert expected in failing_run(tmp_path, monkeypatch, capfd, f"dataset.load.folder={folder}", argument)


def test_no_subclasses(tmp_path, folder, monkeypatch, capfd):
    arguments = [f"dataset.load.folder={folder}", "task=subclass", "task.target=1"]
    assert "use dataset=cifar20" in failing_run(tmp_path, monkeypatch, capfd, *arguments)


def test_a_damaged_array_file(tmp_path, monkeypatch, capfd):
    (tmp_path / "data").mkdir()
    images, labels = np.zeros((4, 32, 32, 3), np.uint8), np.arange(4) % 2
    np.savez(tmp_path / "data" / "pins.npz", all_images=images, all_labels=labels, class_names=np.array(["a", "a"]))
    assert "distinct texts" in failing_run(tmp_path, monkeypatch, capfd)


@pytest.mark.data
def test_real_faces(tmp_path):
    source = Path(os.environ.get("UNLEARN_DATA_DIR", "")) / "faces"
    if not os.environ.get("UNLEARN_DATA_DIR") or not source.is_dir():
        pytest.skip("$UNLEARN_DATA_DIR holds no folder faces with folders pins_<name>")
    people = sorted(source.glob("pins_*"))
    for person in people[:4]:
        (tmp_path / "faces" / person.name).mkdir(parents=True)
        for file in sorted(person.iterdir())[:10]:
            shutil.copy(file, tmp_path / "faces" / person.name)
    data = load(tmp_path / "data", tmp_path / "faces")
    assert data.class_names == tuple(person.name.removeprefix("pins_") for person in people[:4])
    assert torch.bincount(data.train.labels).tolist() == [8] * 4
    assert data.train.storage.float().std() > 10
