import errno
import os
import platform
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from datasets import files
from datasets.files import locked, replacing


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_replaces_the_older_one(tmp_path):
    for text in ("old", "new"):
        with replacing(tmp_path / "x") as part:
            part.write_text(text)
            assert names(tmp_path) == (["x", part.name] if text == "new" else [part.name])
    assert (tmp_path / "x").read_text() == "new"
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_leaves_the_older_file_alone(tmp_path, error):
    (tmp_path / "x").write_text("old")
    with pytest.raises(type(error)) as caught, replacing(tmp_path / "x") as part:  # noqa: PT012
        part.write_text("half")
        raise error
    assert names(tmp_path) == ["x"]
    assert (tmp_path / "x").read_text() == "old"
    if isinstance(error, OSError):
        assert str(caught.value).startswith(f"Expected to write {tmp_path / 'x'}, but could not (No space left")


def test_the_content_is_on_the_disk_before_it_gets_the_name(tmp_path, monkeypatch):
    happened = []
    monkeypatch.setattr(files, "synchronise", lambda path: happened.append((path.name, (tmp_path / "x").exists())))
    with replacing(tmp_path / "x") as part:
        part.write_text("new")
    assert happened == [(part.name, False), (tmp_path.name, True)]


def test_leftovers_of_killed_processes_go_and_files_in_the_making_stay(tmp_path):
    left, young, folder = (f"x.{digit * 16}.part" for digit in "abc")
    for name in (left, young, "film.mkv.part"):  # the last is no file of ours
        (tmp_path / name).write_text("half")
    (tmp_path / folder).mkdir()
    for name in (left, folder, "film.mkv.part"):
        os.utime(tmp_path / name, (0, time.time() - 2 * files.STALE_SECONDS))
    with replacing(tmp_path / "x") as part:
        part.write_text("whole")
    assert names(tmp_path) == ["film.mkv.part", "x", young, folder]


def test_two_writers_at_once_do_not_share_a_file(tmp_path):
    with replacing(tmp_path / "x") as one, replacing(tmp_path / "x") as other:
        one.write_text("one")
        other.write_text("other")
    assert names(tmp_path) == ["x"]
    assert (tmp_path / "x").read_text() == "one"  # whoever ends last


def test_a_lock_that_another_holds_says_who_and_what_waits(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(files, "WAIT_SECONDS", 0.02)
    path, start = tmp_path / "x.lock", threading.Barrier(2)

    def wait():
        start.wait(timeout=30)
        with locked(path, "making original/1"):
            pass

    waiting = threading.Thread(target=wait)
    waiting.start()
    with locked(path, "making it") as alone:
        assert alone
        start.wait(timeout=30)
        deadline = time.monotonic() + 30
        while not caplog.messages and time.monotonic() < deadline:
            time.sleep(0.01)
    waiting.join(timeout=30)
    me = f"process {os.getpid()} on {platform.node()}"
    assert caplog.messages[0] == f"making original/1 waits for the lock {path} of {me}"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_work_is_done_twice_after_one_warning(number, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(number, os.strerror(number))))
    for name in ("a.lock", "b.lock"):
        with locked(tmp_path / name, "making it") as alone:
            assert not alone
    reason = os.strerror(number)
    assert caplog.messages == [f"no locks in {tmp_path} ({reason}): several processes may do the same work there"]


def test_another_error_of_a_lock_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="Input/output error"), locked(tmp_path / "x.lock", "making it"):
        pytest.fail("not locked")


@pytest.mark.parametrize("place", ["/proc", "{}/none", "{}/file"])
def test_a_lock_that_cannot_be_made_is_an_error_at_once(place, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"x\.lock"), locked(Path(place.format(tmp_path)) / "x.lock", "making it"):
        pytest.fail("not locked")
