"""Claims: files in a shared folder that say which process works on what, so that no two work on the same.

A claim counts while its owner lives. An owner on this host is looked up among its processes, by id and start time; a
claim of another host must change within `expiry_seconds`, by this host's own clock: owners rewrite theirs every
`beat_seconds`. All changes are made under one file lock.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Set
from pathlib import Path

from filelock import FileLock

from benchmark.store import write_atomically
from datasets.files import host_name

log = logging.getLogger(__name__)
Owner = dict[str, str | int]
LOST = signal.SIGUSR1  # not SIGINT: a shell starts its background jobs with that one ignored


class ClaimLost(BaseException):
    """This process was silent for too long, and another one has taken over; no error that a run could handle."""


def start_time(pid: int) -> str | None:
    """Return when process `pid` of this host started, in the system's own words; None where there is none."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    state, _, started = subprocess.run(command, capture_output=True, text=True).stdout.strip().partition(" ")
    return None if state[:1] in ("", "Z") else started.strip()


def this_process() -> Owner:
    return {"host": host_name(), "pid": os.getpid(), "started": start_time(os.getpid()) or ""}


class Claims:
    """The claims below one folder, as this process sees them."""

    def __init__(self, folder: Path, *, beat_seconds: float = 15.0, expiry_seconds: float = 180.0) -> None:
        self.folder = folder
        self.beat_seconds = beat_seconds
        self.expiry_seconds = expiry_seconds
        self.owner = this_process()
        self._changed: dict[str, tuple[str, float]] = {}  # claims of other hosts: text, and when it was new to us
        folder.mkdir(parents=True, exist_ok=True)

    def take(self, choose: Callable[[Set[str]], str | None]) -> str | None:
        """Claim the name that `choose` picks, given the names under a live claim; None where it picks none.

        No claim changes while `choose` runs; claims of dead owners are removed before.
        """
        with self._lock():
            held = {path.stem for path in sorted(self.folder.glob("*.json")) if self._is_live(path)}
            name = choose(held)
            if name in held:
                raise ValueError(f"Expected a name that is not claimed, but got {name}.")
            if name is not None:
                self._write(name, beat=0)
            return name

    @contextlib.contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Keep a taken claim alive inside the `with` block and drop it at its end; for the main thread.

        Raises:
            ClaimLost: another process has taken over.
        """
        stop = threading.Event()
        thread = threading.Thread(target=self._beat, args=(name, stop), daemon=True)

        def give_up(*_: object) -> None:
            raise ClaimLost(name)

        previous = signal.signal(LOST, give_up)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            try:
                thread.join()
                with self._lock():
                    if self._is_mine(name):
                        self._path(name).unlink()
            finally:
                signal.signal(LOST, previous)

    def _beat(self, name: str, stop: threading.Event) -> None:
        beat = 0
        while not stop.wait(self.beat_seconds):
            beat += 1
            with self._lock():
                if self._is_mine(name):
                    self._write(name, beat=beat)
                    continue
            signal.pthread_kill(threading.main_thread().ident or 0, LOST)  # ends a wait too
            return

    def _is_live(self, path: Path) -> bool:
        """Return whether the claim's owner lives; remove the claim where not."""
        text = path.read_text()
        owner = parse(text)
        if owner.get("host") == self.owner["host"]:
            live = start_time(int(owner["pid"])) == owner["started"]
        else:
            now = time.monotonic()
            if self._changed.get(path.stem, ("", 0.0))[0] != text:
                self._changed[path.stem] = (text, now)
            live = now - self._changed[path.stem][1] < self.expiry_seconds
        if not live:
            log.warning("  taking over from process %s on %s, which is gone", owner.get("pid"), owner.get("host"))
            path.unlink()
        return live

    def _is_mine(self, name: str) -> bool:
        path = self._path(name)
        return path.exists() and self.owner.items() <= parse(path.read_text()).items()

    def _write(self, name: str, *, beat: int) -> None:
        write_atomically(self._path(name), json.dumps({**self.owner, "beat": beat}) + "\n")

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _lock(self) -> FileLock:
        return FileLock(self.folder / ".lock")


def parse(text: str) -> Owner:
    """Return a claim's owner; of a damaged claim nobody, so that it expires."""
    try:
        owner = json.loads(text)
        return {"host": str(owner["host"]), "pid": int(owner["pid"]), "started": str(owner["started"])}
    except (ValueError, KeyError, TypeError):
        return {}
