"""Claims: one owner at a time, dead owners are found, lost claims are noticed."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark.claims import ClaimLost, Claims, start_time, this_process
from benchmark.failures import Failure, FailureNotes


def first_free(names):
    return lambda claimed: next((name for name in names if name not in claimed), None)


def claim_of(folder: Path, name: str, **changes) -> Path:
    """Write a claim by somebody else."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**this_process(), "beat": 0, **changes}))
    return path


def ended_process() -> dict:
    process = subprocess.Popen([sys.executable, "-c", ""])
    owner = {"pid": process.pid, "started": start_time(process.pid)}
    process.wait()
    return owner


def test_a_taken_name_is_not_taken_again(tmp_path):
    one, other = Claims(tmp_path), Claims(tmp_path)
    names = [claims.take(first_free("abc")) for claims in (one, other, one, other)]
    assert names == ["a", "b", "c", None]
    with one.hold("a"):
        assert other.take(first_free("a")) is None
    assert other.take(first_free("a")) == "a"


def test_choosing_a_claimed_name_is_refused(tmp_path):
    Claims(tmp_path).take(lambda claimed: "a")
    with pytest.raises(ValueError, match="not claimed, but got a"):
        Claims(tmp_path).take(lambda claimed: "a")


def test_a_claim_is_dropped_when_the_work_fails(tmp_path):
    claims = Claims(tmp_path)
    claims.take(first_free("a"))
    with pytest.raises(RuntimeError), claims.hold("a"):
        raise RuntimeError
    assert claims.take(first_free("a")) == "a"


def test_a_dead_owner_on_this_host(tmp_path):
    claim_of(tmp_path, "a", **ended_process())
    assert Claims(tmp_path).take(first_free("a")) == "a"


def test_a_zombie_is_dead():
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    process.stdout.read()  # ends when the process does; nobody has waited for it
    deadline = time.monotonic() + 10
    while start_time(process.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert start_time(process.pid) is None
    process.wait()


def test_a_reused_process_id_is_another_owner(tmp_path):
    claim_of(tmp_path, "a", pid=os.getppid(), started="1")
    assert Claims(tmp_path).take(first_free("a")) == "a"
    claim_of(tmp_path, "b", pid=os.getppid(), started=start_time(os.getppid()))
    assert Claims(tmp_path).take(first_free("b")) is None


def test_an_owner_on_another_host_lives_while_its_claim_changes(tmp_path):
    claims = Claims(tmp_path, expiry_seconds=0.2)
    for beat in range(4):
        claim_of(tmp_path, "a", host="elsewhere", beat=beat)
        assert claims.take(first_free("a")) is None
        time.sleep(0.1)
    time.sleep(0.2)
    assert claims.take(first_free("a")) == "a"


def test_a_damaged_claim_expires(tmp_path):
    claim_of(tmp_path, "a").write_text("{")
    claims = Claims(tmp_path, expiry_seconds=0.1)
    assert claims.take(first_free("a")) is None
    time.sleep(0.15)
    assert claims.take(first_free("a")) == "a"


def test_a_held_claim_changes(tmp_path):
    claims = Claims(tmp_path, beat_seconds=0.02)
    claims.take(first_free("a"))
    before = (tmp_path / "a.json").read_text()
    with claims.hold("a"):
        deadline = time.monotonic() + 10
        while (tmp_path / "a.json").read_text() == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / "a.json").read_text() != before


def test_a_lost_claim_stops_the_work_and_stays_with_its_new_owner(tmp_path):
    claims = Claims(tmp_path, beat_seconds=0.05)
    claims.take(first_free("a"))
    path = claim_of(tmp_path, "a", host="elsewhere")
    theirs = path.read_text()
    with pytest.raises(ClaimLost), claims.hold("a"):
        time.sleep(20)
    assert path.read_text() == theirs


def test_a_lost_claim_stops_a_background_job_too(tmp_path):
    """A shell without job control starts its background jobs with SIGINT ignored."""
    claims = Claims(tmp_path, beat_seconds=0.05)
    claims.take(first_free("a"))
    claim_of(tmp_path, "a", host="elsewhere")
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(ClaimLost), claims.hold("a"):
            time.sleep(5)
    finally:
        signal.signal(signal.SIGINT, previous)


def work_all(folder: Path, names: list[str], start) -> None:
    """Take names until none is left; a name that two hold at once, or take twice, ends the process with an error."""
    claims = Claims(folder / "claims")
    start.wait(timeout=20)

    def choose(claimed):
        return next((n for n in names if n not in claimed and not (folder / f"{n}.done").exists()), None)

    while not all((folder / f"{name}.done").exists() for name in names):
        name = claims.take(choose)
        if name is not None:
            with claims.hold(name):
                (folder / f"{name}.busy").touch(exist_ok=False)
                time.sleep(0.002)
                (folder / f"{name}.done").touch(exist_ok=False)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_share_the_work(tmp_path):
    processes = multiprocessing.get_context("fork")
    names, start = [f"n{i}" for i in range(20)], processes.Barrier(4)
    workers = [processes.Process(target=work_all, args=(tmp_path, names, start)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert {path.stem for path in tmp_path.glob("*.done")} == set(names)
    assert list((tmp_path / "claims").glob("*.json")) == []


def test_notes_from_before_count_for_nothing(tmp_path):
    FailureNotes(tmp_path).write("a", Failure("cell a", "old"))
    notes = FailureNotes(tmp_path)
    assert notes.read() == {}
    FailureNotes(tmp_path).write("b", Failure("cell b", "new"))
    assert notes.read() == {"b": Failure("cell b", "new")}
    notes.remove("b")
    assert notes.read() == {}
