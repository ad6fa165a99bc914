import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datasets import files
from datasets.files import host_hash, replacing


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


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path):
    host, dead, alive = host_hash(), ended_process(), os.getppid()
    for name in (f"a.{host}-{dead}.part", f"b.{host}-{alive}.part", "c.elsewhere-1.part", "d.part"):
        (tmp_path / name).write_text("half")
    (tmp_path / "folder.part").mkdir()
    os.utime(tmp_path / "d.part", (0, time.time() - 2 * files.STALE_SECONDS))
    with replacing(tmp_path / "x") as part:
        part.write_text("whole")
    assert names(tmp_path) == [f"b.{host}-{alive}.part", "c.elsewhere-1.part", "folder.part", "x"]


@pytest.mark.skipif(not Path("/proc/self/ns/pid").is_symlink(), reason="no process namespaces here")
def test_the_file_of_another_container_stays(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Path, "readlink", lambda path: Path("pid:[1]"))
        theirs = tmp_path / f"a.{host_hash()}-{ended_process()}.part"
    theirs.write_text("half")
    with replacing(tmp_path / "x") as part:
        part.write_text("whole")
    assert names(tmp_path) == [theirs.name, "x"]
