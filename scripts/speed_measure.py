"""How a step is measured: alternating repeats, ceilings of the device, peak memory, agreement of the results."""

import ctypes
import gc
import re
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmark.provenance import device_name

T = TypeVar("T")
Result = Mapping[str, Tensor]
Way = Callable[[], Result]
Row = dict[str, object]

LONG_SECONDS = 10.0  # a first call of the textbook way that takes longer counts: there is nothing left to warm up


@dataclass(frozen=True)
class Step:
    """One step of the suite and its textbook way.

    Attributes:
        amount: units (images, parameters, samples) that one call of `ours` handles.
        textbook_amount: the same for `textbook`; None: as many.
        borrowed: instead of `textbook`: the times and the result of it that an earlier step measured.
        agreement: returns both results where the timed ones cannot be compared (other random numbers or samples).
        exact: returns both results in float64, where rounding turns a unit on or off and so hides what the ways share.
        counted: a call of as many operations, counted instead of those of `ours`: compiled code hides its own.
        moved_bytes: read and written by one call where the bandwidth is the ceiling; 0: arithmetic is.
        dtype: of the arithmetic.
    """

    name: str
    unit: str
    amount: int
    ours: Way
    textbook: Way | None = None
    textbook_amount: int | None = None
    borrowed: Callable[[], tuple[list[float], Result]] | None = None
    agreement: Callable[[], tuple[Result, Result]] | None = None
    exact: Callable[[], tuple[Result, Result]] | None = None
    counted: Way | None = None
    moved_bytes: int = 0
    dtype: torch.dtype = torch.float32


def measure(step: Step, *, repeats: int, device: torch.device) -> Row:
    """Return the step's row: both ways in turn, `repeats` times each.

    A first call of ours does what is done once, such as compiling; a second one counts the operations, which slows it
    down; neither is timed.
    """
    found = step.ours()
    with FlopCounterMode(display=False) as counter:
        (step.counted or step.ours)()
    ours, theirs, expected = list[float](), list[float](), None
    if step.textbook is not None:
        expected, first = timed(step.textbook, device)
        theirs = [first] if first > LONG_SECONDS else []
    host_peak = device_peak = 0
    for _ in range(repeats):
        reset_peak_memory(device)
        found, seconds = timed(step.ours, device)
        ours.append(seconds)
        host_peak = max(host_peak, host_peak_bytes())
        device_peak = max(device_peak, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0)
        if step.textbook is not None and len(theirs) < repeats:
            theirs.append(timed(step.textbook, device)[1])
    if step.borrowed is not None:
        theirs, expected = step.borrowed()
    row: Row = {"step": step.name, "unit": step.unit, "amount": step.amount, "repeats": repeats}
    row |= spread("seconds", ours) | {"per_second": step.amount / statistics.median(ours)}
    row |= {"host_peak_bytes": host_peak, "device_peak_bytes": device_peak}
    row |= share_of_ceiling(step, counter.get_total_flops() / min(ours), min(ours), device)
    if theirs and expected is not None:
        scale = step.amount / (step.textbook_amount or step.amount)
        textbook = [scale * seconds for seconds in theirs[-repeats:]]
        row |= spread("textbook_seconds", textbook)
        ratios = [b / a for a, b in zip(ours, textbook, strict=False)]
        row |= spread("ratio", ratios) | {"ratio": statistics.median(textbook) / statistics.median(ours)}
        row["largest_difference"] = largest_difference(*(step.agreement() if step.agreement else (found, expected)))
    if step.exact is not None:
        row["largest_difference_float64"] = largest_difference(*step.exact())
    return row


def spread(name: str, values: list[float]) -> Row:
    return {name: statistics.median(values), f"{name}_min": min(values), f"{name}_max": max(values)}


def share_of_ceiling(step: Step, flops: float, seconds: float, device: torch.device) -> Row:
    """Return the share of what the device can do at best, measured now: bytes or floating-point operations a second."""
    if step.moved_bytes:
        return {"ceiling": "bandwidth", "ceiling_share": step.moved_bytes / seconds / bandwidth_ceiling(device)}
    if not flops:
        return {}
    name = f"{step.dtype}".removeprefix("torch.")
    return {"ceiling": name, "ceiling_share": flops / arithmetic_ceiling(device, step.dtype)}


def timed(call: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """Return the result of `call` and its seconds, the device being synchronised."""
    synchronize(device)
    start = time.perf_counter()
    result = call()
    synchronize(device)
    return result, time.perf_counter() - start


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    return timed(call, device)[1]


def device_slug(device: torch.device) -> str:
    """Return the device's name as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def arithmetic_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating-point operations a second of a large matrix product or convolution, whichever is better."""
    n, size = (8192, 512) if device.type == "cuda" else (2048, 64)
    a, b = (torch.ones(n, n, device=device, dtype=dtype) for _ in range(2))
    images = torch.ones(size, 256, 16, 16, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    kernels = torch.ones(256, 256, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    product = 2 * n**3 / min(seconds_of(lambda: a @ b, device) for _ in range(5))
    flops = 2 * images.numel() * kernels[0].numel()
    with torch.inference_mode():
        convolution = flops / min(seconds_of(lambda: F.conv2d(images, kernels, padding=1), device) for _ in range(9))
    return max(product, convolution)


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
    """Forget earlier peaks, and give back what glibc kept of them: counting operations alone leaves gigabytes."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
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
