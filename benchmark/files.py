"""Names by content, and small files that are there whole or not at all."""

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write `values` with their checksum, atomically; numbers that are not finite are refused."""
    text = json.dumps({**values, "checksum": content_hash(values)}, indent=1, allow_nan=False)
    with replacing(path) as part:
        part.write_text(text + "\n", "utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Return the values that `write_json` wrote; ValueError if the file holds others, see `checked`."""
    return checked(path.read_text("utf-8"))


def checked(text: str) -> dict[str, Any]:
    """Return the JSON object in `text` without its checksum.

    Raises:
        ValueError: there is no object, or its checksum differs or is missing.
    """
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError(f"it holds a {type(values).__name__}, no mapping")
    if "checksum" not in values:
        raise ValueError("it has no checksum")
    if values.pop("checksum") != content_hash(values):
        raise ValueError("its content does not fit its checksum")
    return values


def set_aside(*paths: Path, reason: object) -> None:
    """Rename damaged files to `*.damaged-<time>` and say so in one line: their content is made again."""
    log.warning("set aside the damaged %s (%s); making it again", paths[0].name, reason)
    for path in paths:
        if path.exists():
            path.replace(path.with_name(f"{path.name}.damaged-{time.time_ns()}"))
