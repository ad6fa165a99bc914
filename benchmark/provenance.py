"""Which code, which libraries and which device produced a record."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmark.store import content_hash, file_sha256
from methods.training import Compute

TRACKED = ("--", ":/", ":(top,exclude)results")
FOLDERS = ("benchmark", "configs", "datasets", "methods", "metrics")  # what a run executes and reads
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "hydra-core")


@cache
def commit() -> tuple[str, bool | None]:
    """Return (commit, whether the code differs from it), as at the first call; ("unknown", None) without git.

    The code is every tracked file outside results/, where tables are written that no run reads, and every other file
    in `FOLDERS` that git does not ignore.
    """

    def git(*arguments: str) -> str:
        root = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", *TRACKED)
        new = git("ls-files", "--others", "--exclude-standard", "--", *(f":/{folder}" for folder in FOLDERS))
        return git("rev-parse", "HEAD"), bool(changed or new)
    except (OSError, subprocess.CalledProcessError):
        return "unknown", None


@cache
def code_hash() -> str:
    """Return a hash of the Python and YAML files in `FOLDERS`, committed or not, as at the first call."""
    root = Path(__file__).parents[1]
    paths = [path for folder in FOLDERS for kind in ("*.py", "*.yaml") for path in (root / folder).rglob(kind)]
    return content_hash({str(path.relative_to(root)): file_sha256(path) for path in paths if path.is_file()})


def device_name(device: torch.device) -> str:
    """Return the model of the GPU, or of the processor with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        name = next(
            (x.split(":")[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")),
            name,
        )
    return f"{name}, {torch.get_num_threads()} threads"


def provenance(compute: Compute) -> dict[str, Any]:
    """Return commit, dirty flag, versions, device and the resolved way of computing."""
    revision, dirty = commit()
    return {
        "commit": revision,
        "dirty": dirty,
        "python": platform.python_version(),
        **{name.replace("-", "_"): version(name) for name in PACKAGES},
        "device": device_name(compute.device),
        "precision": compute.precision,
        "channels_last": compute.channels_last,
        "compile": compute.compile,
        "tf32": torch.backends.cudnn.allow_tf32,
        "cpu_count": os.cpu_count(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
