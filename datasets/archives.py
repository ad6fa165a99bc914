"""Unpack a zip archive that somebody else made: nothing outside the target folder, nothing without end."""

import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from glob import escape
from pathlib import Path, PurePosixPath, PureWindowsPath
from struct import error as StructError

from datasets.files import locked

DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, StructError, UnicodeError)


def extract_zip(archive: Path, target: Path, *, max_files: int, max_bytes: int) -> None:
    """Unpack `archive` as the folder `target`, which is there whole or not at all; an older one is replaced.

    Every entry is checked before the first is written: regular files and folders with relative names inside the
    target, at most `max_files` of them and `max_bytes` when unpacked.

    Raises:
        ValueError: the archive is damaged or breaks one of these rules.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.with_name(f"{target.name}.lock"), f"unpacking {archive.name}") as alone:
        for leftover in target.parent.glob(f"{escape(target.name)}.*.part") if alone else ():
            shutil.rmtree(leftover, ignore_errors=True)  # of a dead process: a living one has the lock
        unpack(archive, target, max_files=max_files, max_bytes=max_bytes)


def unpack(archive: Path, target: Path, *, max_files: int, max_bytes: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix=f"{target.name}.", suffix=".part", dir=target.parent))
    try:
        with zipfile.ZipFile(archive) as file:
            entries = file.infolist()
            check_entries(entries, max_files=max_files, max_bytes=max_bytes)
            for entry in entries:
                write_entry(file, entry, folder)
        if target.exists():
            shutil.rmtree(target)
        folder.rename(target)
    except (*DAMAGED, RefusedError) as error:
        raise ValueError(
            f"Expected {archive} to be a zip archive of plain files, but {error or type(error).__name__}; "
            f"delete it and run again to download it anew."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class RefusedError(Exception):
    """An archive that could be unpacked but must not be."""


def check_entries(entries: Sequence[zipfile.ZipInfo], *, max_files: int, max_bytes: int) -> None:
    """Raise RefusedError unless all entries are plain, stay inside the target and keep to the limits."""
    if len(entries) > max_files:
        raise RefusedError(f"it has {len(entries)} entries, more than {max_files}")
    total = sum(entry.file_size for entry in entries)  # zipfile never writes more than an entry declares
    if total > max_bytes:
        raise RefusedError(f"it unpacks to {total} bytes, more than {max_bytes}")
    for entry in entries:
        if not is_inside(entry.filename):
            raise RefusedError(f"its entry {entry.filename!r} would lie outside the folder")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise RefusedError(f"its entry {entry.filename!r} is a link or a device")
        if entry.flag_bits & 1:
            raise RefusedError(f"its entry {entry.filename!r} is encrypted")


def is_inside(name: str) -> bool:
    """Return whether an entry's name is relative and never climbs, read as a POSIX and as a Windows path."""
    paths = PurePosixPath(name), PureWindowsPath(name)
    return bool(paths[0].parts) and all(not path.anchor and ".." not in path.parts for path in paths)


def write_entry(file: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> None:
    path = folder / entry.filename
    try:
        if entry.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with file.open(entry) as source, path.open("xb") as copy:
            shutil.copyfileobj(source, copy)
    except (FileExistsError, NotADirectoryError) as error:
        raise RefusedError(f"its entry {entry.filename!r} is there twice") from error
