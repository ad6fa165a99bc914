"""Tables and records of one grid that was run in different ways: are they the same, times aside?"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TABLES = ("table.csv", "table.tex", "table.md")


def make_tables(overrides: Sequence[str], folder: Path) -> None:
    """Write the demo's tables over the records in `folder`; they show no times."""
    grid = [override for override in overrides if not override.startswith("experiment=")]
    command = [sys.executable, "-m", "benchmark.tables", "table=demo", *grid, f"output_dir={folder}"]
    out = [f"out={folder / 'table'}"]
    subprocess.run([*command, *out], cwd=ROOT, check=True, capture_output=True)


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the records in `folder` without what depends on when and where they were made."""
    found = {path.name: json.loads(path.read_text()) for path in sorted((folder / "records").glob("*.json"))}
    varies = dict.fromkeys(("seconds", "provenance", "checksum"))  # the checksum covers the other two
    return {name: {**record, **varies} for name, record in found.items()}


def differences(expected: Path, got: Path) -> list[str]:
    """Return a line for each record or table in which two folders differ."""
    ours, theirs = records(expected), records(got)
    names = sorted(ours.keys() | theirs.keys())
    lines = [f"{got.name}: record {name} differs" for name in names if ours.get(name) != theirs.get(name)]
    for name in TABLES:
        if (expected / "table" / name).read_bytes() != (got / "table" / name).read_bytes():
            lines.append(f"{got.name}: {name} differs")
    return lines
