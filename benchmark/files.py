"""Hashes of content and of files, and files that are there whole or not at all."""

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path

from datasets.files import replacing

log = logging.getLogger(__name__)


def content_hash(value: object) -> str:
    """Return 16 hex digits of the SHA-256 of `value` as canonical JSON; 10 and 10.0 are the same number."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def canonical(value: object) -> object:
    """Return `value` with whole floats as integers, in nested lists and mappings too."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {str(name): canonical(item) for name, item in value.items()}
    return [canonical(item) for item in value] if isinstance(value, list | tuple) else value


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to another name and rename it: the file is there whole or not at all; see `replacing`."""
    with replacing(path) as part:
        part.write_text(text)


def set_aside(*paths: Path, reason: object) -> None:
    """Rename damaged files to `*.damaged-<time>` and say so in one line: what they held is computed again."""
    log.warning("set aside the damaged %s (%s); computing it again", paths[0].name, reason)
    for path in paths:
        if path.exists():
            path.replace(path.with_name(f"{path.name}.damaged-{time.time_ns()}"))
