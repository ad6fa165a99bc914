"""The device: set up once per process, and the facts of a record about code, libraries and device."""

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from joblib import cpu_count
from omegaconf import DictConfig

from benchmark.sources import FOLDERS, suite_hash
from methods.norm_relu import can_compile
from methods.training import Compute

TRACKED = ("--", ":/", ":(top,exclude)results")
CHANGES = ("commit", "dirty", "finished", "cpu_count")  # parts of the provenance in which two processes may differ
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "hydra-core")


def set_up(config: DictConfig) -> Compute:
    """Fix threads and determinism of this process as `config` (the group `compute`) says; return how to compute.

    Torch takes deterministic kernels if there are any; the backward pass of attention on a GPU has none.
    """
    compute = compute_of(config)
    torch.set_flush_denormal(True)  # memorised training sets leave subnormal gradients: slow on a CPU
    if config.threads is not None:
        if config.threads > (most := os.cpu_count() or 1):
            raise ValueError(
                f"Expected compute.threads to be at most {most}, as there are processors, but got {config.threads}."
            )
        torch.set_num_threads(config.threads)
    elif "OMP_NUM_THREADS" not in os.environ and (usable := cpu_count()) < torch.get_num_threads():
        torch.set_num_threads(usable)  # torch does not know the limits of a container
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.tf32
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a memset per operation
    torch.backends.cudnn.benchmark = False
    return compute


def compute_of(config: DictConfig) -> Compute:
    """Return device, precision and memory layout; `auto` takes a GPU if there is one. ValueError for no device."""
    device = find_device(str(config.device))
    compiles = device.type == "cuda" if config.compile == "auto" else config.compile
    pays = device.type == "cpu" and config.precision == "bfloat16" and config.channels_last and can_compile()
    fused = pays if config.fused == "auto" else config.fused
    if fused and not pays:
        raise ValueError(
            "Expected gcc, compute.device=cpu, compute.precision=bfloat16 and compute.channels_last=true beside "
            "compute.fused=true, but one is missing; set compute.fused=auto."
        )
    return Compute(device, config.precision, config.channels_last, compiles, fused)


def find_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"Expected compute.device to be auto, cpu or cuda[:i], but got {name!r}.") from error
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(f"Expected compute.device to be one of {count} CUDA devices, but got {name}; use cpu or auto.")
    return device


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


def device_name(device: torch.device) -> str:
    """Return the model of the GPU, or of the processor with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        name = next(
            (x.split(":")[1].strip() for x in info.read_text("utf-8").splitlines() if x.startswith("model name")),
            name,
        )
    n = torch.get_num_threads()
    return f"{name}, {n} thread{'s' * (n > 1)}"


def provenance(compute: Compute) -> dict[str, Any]:
    """Return commit, dirty flag, hash of the suite, versions, device, and precision and memory layout as resolved."""
    revision, dirty = commit()
    return {
        "commit": revision,
        "dirty": dirty,
        "suite": suite_hash(),
        "python": platform.python_version(),
        **{name.replace("-", "_"): version(name) for name in PACKAGES},
        "device": device_name(compute.device),
        "precision": compute.precision,
        "channels_last": compute.channels_last,
        "compile": compute.compile,
        "fused": compute.fused,
        "tf32": torch.backends.cudnn.allow_tf32,
        "cpu_count": os.cpu_count(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def repeatable(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a provenance on which equal results rest, bit for bit: code, libraries, device."""
    return {name: value for name, value in provenance.items() if name not in CHANGES}
