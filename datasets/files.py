"""Files that are there whole or not at all, whatever ends the process or the machine while they are written."""

import hashlib
import os
import secrets
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

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


def synchronise(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove the `*.part` files in `folder` that killed processes left."""
    for part in folder.glob("*.part"):
        with suppress(OSError):  # another process was faster, or may and we may not
            if part.is_file() and time.time() - part.stat().st_mtime > STALE_SECONDS:
                part.unlink()


@cache
def sha256_of(path: Path, size: int, modified: int) -> str:
    """Return the SHA-256 of a file's bytes, read once as long as its size and its time (ns) are the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
