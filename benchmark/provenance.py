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

from methods.training import Compute

CODE = ("--", ":/", ":(top,exclude)results")
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "hydra-core")


@cache
def commit() -> tuple[str, bool | None]:
    """Return (commit, whether tracked files outside results/ differ from it), as at the first call.

    ("unknown", None) without git. Tables are written to results/ and read by no run: they are not code.
    """

    def git(*arguments: str) -> str:
        root = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no", *CODE))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", None


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
