import os
import platform
import subprocess
import sys
import time

import pytest

from datasets import atomic
from datasets.atomic import replacing


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_replaces_the_older_one(tmp_path):
    for text in ("old", "new"):
        with replacing(tmp_path / "x") as part:
            part.write_text(text)
            assert names(tmp_path) == (["x", part.name] if text == "new" else [part.name])
    assert (tmp_path / "x").read_text() == "new"
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("a bug"), KeyboardInterrupt()])
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
    monkeypatch.setattr(atomic, "synchronise", lambda path: happened.append((path.name, (tmp_path / "x").exists())))
    with replacing(tmp_path / "x") as part:
        part.write_text("new")
    assert happened == [(part.name, False), (tmp_path.name, True)]


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    host = platform.node()
    for name in (
        f"a.{host}-{dead.stdout.strip()}.part",
        f"b.{host}-{os.getppid()}.part",
        "c.elsewhere-1.part",
        "d.part",
    ):
        (tmp_path / name).write_text("half")
    (tmp_path / "folder.part").mkdir()
    os.utime(tmp_path / "d.part", (0, time.time() - 2 * atomic.STALE_SECONDS))
    with replacing(tmp_path / "x") as part:
        part.write_text("whole")
    assert names(tmp_path) == [f"b.{host}-{os.getppid()}.part", "c.elsewhere-1.part", "folder.part", "x"]
