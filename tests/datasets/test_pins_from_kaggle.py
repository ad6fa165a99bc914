import json
import os
import traceback

import pytest
from faces import COUNTS, faces, load, zipped
from kaggle_service import KEY, SIGNATURE, USER, serve

from benchmark.compose import cells_of
from benchmark.run import run_cell
from datasets import pins


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    """The real client with an empty home, a stand-in for the service, and no credentials yet."""
    for name in [name for name in os.environ if name.startswith(("KAGGLE_", "VERBOSE"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / ".config"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    from kaggle.api.kaggle_api_extended import KaggleApi
    from kagglesdk import kaggle_env

    monkeypatch.setattr(KaggleApi, "config", str(tmp_path / "home" / ".kaggle" / "kaggle.json"))
    monkeypatch.setattr(KaggleApi, "args", ["--verbose"])  # the client would print its headers
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
    for secret in (KEY, SIGNATURE, USER, "Authorization"):
        assert secret not in text


def refused(data_dir, kind, capfd):
    """The message of the error; neither it, nor its traceback, nor the output names a credential."""
    with pytest.raises(kind, match=r"^Expected") as caught:
        load(data_dir)
    check_silent("".join(traceback.format_exception(caught.value)) + "".join(capfd.readouterr()))
    assert not (data_dir / "pins.npz").exists()
    return str(caught.value)


def test_from_kaggle_to_a_record(tmp_path, kaggle, credentials, capfd, caplog):
    caplog.set_level("DEBUG")
    arguments = ["dataset=pins", "model.width=2", "recipe.epochs=1", "method=baseline", "~method@reference"]
    arguments += ["protocol=paper", f"data_dir={tmp_path / 'data'}", f"output_dir={tmp_path / 'runs'}"]
    (cell,) = cells_of(arguments)
    sizes = run_cell(cell).sizes
    assert sizes["forget_train"] == sizes["forget_test"] == COUNTS["Zoe Zed"]
    assert cell.record_path.is_file()
    assert kaggle.requests == ["POST /v1/datasets.DatasetApiService/DownloadDataset", "GET /storage.zip"]
    assert kaggle.bodies[0]["ownerSlug"] == "hereisburak"
    assert kaggle.bodies[0]["datasetSlug"] == "pins-face-recognition"
    check_silent("".join(capfd.readouterr()))
    for path in (path for path in (tmp_path / "runs").rglob("*") if path.is_file()):
        check_silent(path.read_bytes().decode("latin-1"))


def test_the_array_file_of_kaggle_is_left_alone(tmp_path, folder, kaggle, credentials):
    official = load(tmp_path / "data")
    before = (tmp_path / "data" / "pins.npz").read_bytes()
    assert load(tmp_path / "data", folder).fingerprint == official.fingerprint  # the same files
    (folder / "pins_Adam Ant" / "Adam Ant_000.png").unlink()
    assert len(load(tmp_path / "data", folder, "none").train) == len(official.train) + len(official.test) - 1
    assert (tmp_path / "data" / "pins.npz").read_bytes() == before
    assert pins.fingerprint_of(tmp_path / "data", None) == official.fingerprint


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


def test_missing_credentials(tmp_path, kaggle, capfd):
    message = refused(tmp_path / "data", FileNotFoundError, capfd)
    for way in ("KAGGLE_USERNAME", "KAGGLE_KEY", "~/.kaggle", "kaggle.json", "dataset.load.folder="):
        assert way in message
    assert kaggle.requests == []


@pytest.mark.parametrize(
    ("key", "status", "expected"),
    [(f"{KEY}-old", 401, "401 (set KAGGLE_USERNAME"), (KEY, 500, "500;")],
)
def test_a_refused_download(key, status, expected, tmp_path, kaggle, credentials, monkeypatch, capfd):
    monkeypatch.setenv("KAGGLE_KEY", key)  # a wrong one is refused in any case
    kaggle.status = status
    assert f"HTTP status {expected}" in refused(tmp_path / "data", FileNotFoundError, capfd)


def test_no_service(tmp_path, kaggle, credentials, monkeypatch, capfd):
    from kagglesdk import kaggle_env

    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, "http://127.0.0.1:9")
    assert "ConnectionError" in refused(tmp_path / "data", FileNotFoundError, capfd)


def test_a_corrupt_archive_and_one_of_something_else(tmp_path, kaggle, credentials, monkeypatch, capfd):
    whole = kaggle.archive
    kaggle.archive = whole[:-100]
    message = refused(tmp_path / "corrupt", ValueError, capfd)
    assert "pins-face-recognition.zip to be a zip archive" in message
    assert "delete it and run again" in message
    kaggle.archive = whole
    monkeypatch.setattr(pins, "N_IMAGES", 17_534)
    message = refused(tmp_path / "other", ValueError, capfd)
    assert "3 identities and 17534 images" in message
    assert "got 3 and 29" in message
