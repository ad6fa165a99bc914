"""How a step is measured: alternating repeats, ceilings of the device, peak memory, agreement of the results."""

import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

Result = Mapping[str, Tensor]
Way = Callable[[], Result]
Row = dict[str, object]


@dataclass(frozen=True)
class Step:
    """One step of the suite and its textbook way.

    Attributes:
        amount: units (images, parameters, samples) that one call of `ours` handles.
        textbook_amount: the same for `textbook`; None: as many.
        agreement: returns both results where the timed ones cannot be compared (other random numbers or samples).
        moved_bytes: read and written by one call where the bandwidth is the ceiling; 0: arithmetic is.
    """

    name: str
    unit: str
    amount: int
    ours: Way
    textbook: Way | None = None
    textbook_amount: int | None = None
    agreement: Callable[[], tuple[Result, Result]] | None = None
    moved_bytes: int = 0
    dtype: torch.dtype = torch.float32


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def arithmetic_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating-point operations a second of a large matrix product."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.ones(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / min(seconds_of(lambda: a @ b, device) for _ in range(5))


def bandwidth_ceiling(device: torch.device) -> float:
    """Return the bytes a second that a large copy reads and writes."""
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(seconds_of(lambda: target.copy_(source), device) for _ in range(5))


def largest_difference(found: Result, expected: Result) -> float:
    """Return the largest ‖found − expected‖ / ‖expected‖ of any tensor; absolute where ‖expected‖ is 0."""
    differences = []
    for name, value in expected.items():
        reference = value.detach().double()
        norm = float(reference.norm())
        difference = float((found[name].detach().to(value.device).double() - reference).norm())
        differences.append(difference / norm if norm else difference)
    return max(differences)


def reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    peak = Path("/proc/self/clear_refs")
    if peak.exists():
        peak.write_text("5")


def host_peak_bytes() -> int:
    """Return the process's peak resident memory since the last reset (since its start where there is no /proc)."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(step: Step, *, repeats: int, device: torch.device) -> Row:
    """Return the step's row: both ways in turn, `repeats` times after a first call that is not timed."""
    with FlopCounterMode(display=False) as counter:
        found = step.ours()
    row: Row = {"step": step.name, "unit": step.unit, "amount": step.amount, "repeats": repeats}
    expected = None if step.textbook is None else step.textbook()
    reset_peak_memory(device)
    ours, theirs = [seconds_of(step.ours, device)], []
    row["host_peak_bytes"] = host_peak_bytes()
    row["device_peak_bytes"] = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    for k in range(repeats):
        if k:
            ours.append(seconds_of(step.ours, device))
        if step.textbook is not None:
            theirs.append(seconds_of(step.textbook, device))
    row |= {"seconds": statistics.median(ours), "seconds_min": min(ours), "seconds_max": max(ours)}
    row["per_second"] = step.amount / statistics.median(ours)
    if step.moved_bytes:
        row |= {"ceiling": "bandwidth", "ceiling_share": step.moved_bytes / min(ours) / bandwidth_ceiling(device)}
    elif counter.get_total_flops():
        share = counter.get_total_flops() / min(ours) / arithmetic_ceiling(device, step.dtype)
        row |= {"ceiling": f"{step.dtype}".removeprefix("torch."), "ceiling_share": share}
    if expected is not None:
        scale = step.amount / (step.textbook_amount or step.amount)
        textbook = [scale * s for s in theirs]
        ratios = [b / a for a, b in zip(ours, textbook, strict=True)]
        row |= {"textbook_seconds": statistics.median(textbook), "textbook_seconds_min": min(textbook)}
        row |= {"textbook_seconds_max": max(textbook), "ratio": statistics.median(textbook) / statistics.median(ours)}
        row |= {"ratio_min": min(ratios), "ratio_max": max(ratios)}
        pair = (found, expected) if step.agreement is None else step.agreement()
        row["largest_difference"] = largest_difference(*pair)
    return row
