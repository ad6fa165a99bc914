"""Files that are there whole or not at all, whatever ends the process or the machine while they are written."""

import errno
import hashlib
import logging
import os
import platform
import secrets
import time
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)  # of a file system that has none
WAIT_SECONDS = 30.0  # between two lines about a lock that another process holds
MACOS = "__MACOSX"  # a folder of macOS' archives: no content
STALE_SECONDS = 600.0  # a file under another name that nobody has touched for so long has no writer any more


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield another name in the folder of `path`; after the body the file moves to `path`, replacing an older one.

    Before it moves it is on the disk, not only in the cache: a crash of the machine leaves the old file or the new
    one. Files that killed processes left in the folder are removed once they are ten minutes old.

    Raises:
        OSError: the file cannot be written; the message names it and the remedy. Nothing is left then.
    """
    remove_leftovers(path.parent)
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        yield part
        synchronise(part)
        part.replace(path)
        with suppress(OSError):  # not every file system can do this for a folder
            synchronise(path.parent)
    except OSError as error:
        raise OSError(
            f"Expected to write {path}, but could not ({error.strerror or error}); free space there or choose another "
            f"folder, then run again."
        ) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, purpose: str) -> Iterator[bool]:
    """Hold the lock file `path` and yield True; every 30 s say that `purpose` waits for it, and who holds it.

    On a file system without locks yield False, after one warning: two processes may do the same work then.

    Raises:
        OSError: the lock file cannot be made.
    """
    path.touch()  # says at once why it cannot be made; filelock would try for ever
    lock, held = FileLock(path), False
    while not held:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "flock not supported")  # else filelock waits until the file is gone
                lock.acquire(timeout=WAIT_SECONDS)
            held = True
        except Timeout:
            log.warning("%s waits for the lock %s of %s", purpose, path, holder(path))
        except UserWarning:
            say_without_locks(path.parent, os.strerror(errno.ENOSYS))
            break
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            say_without_locks(path.parent, str(error.strerror))
            break
    if held:
        with suppress(OSError):
            path.write_text(f"process {os.getpid()} on {platform.node()}\n", "utf-8")
    try:
        yield held
    finally:
        if held:
            lock.release()


def holder(path: Path) -> str:
    """Return who holds a lock, as its file says."""
    try:
        return path.read_text("utf-8").strip() or "another process"
    except OSError:
        return "another process"


@cache
def say_without_locks(folder: Path, reason: str) -> None:
    """Say once per folder that its file system has no locks."""
    log.warning("no locks in %s (%s): several processes may do the same work there", folder, reason)


def synchronise(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove the files of killed processes in `folder`, by the names that `replacing` gives: no other `*.part`."""
    for part in folder.glob(f"*.{'[0-9a-f]' * 16}.part"):
        with suppress(OSError):  # another process was faster, or may and we may not
            if part.is_file() and time.time() - part.stat().st_mtime > STALE_SECONDS:
                part.unlink()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def sha256_of(path: Path, size: int, modified: int) -> str:
    """Return the SHA-256 of a file, read once as long as its size and its time (ns) are the same."""
    return file_sha256(path)


def content_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes; a file that did not change is read once per process."""
    state = path.stat()
    return sha256_of(path, state.st_size, state.st_mtime_ns)


def same_name(name: str) -> str:
    """Return the one spelling (NFC) of a name: `é` is one character or two, as the machine that wrote it has it."""
    return unicodedata.normalize("NFC", name)


def listed(folder: Path) -> dict[str, Path]:
    """Return name -> path of all in a folder that is not hidden, in alphabetical order (capitals first).

    Raises:
        ValueError: two names are spelt differently and mean the same.
    """
    found: dict[str, Path] = {}
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name == MACOS:
            continue
        if (name := same_name(path.name)) in found:
            raise ValueError(
                f"Expected the names in {folder} to differ, but {name!r} is there twice, in two Unicode forms; rename."
            )
        found[name] = path
    return dict(sorted(found.items()))
