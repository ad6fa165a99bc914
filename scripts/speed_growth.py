"""Measure how the time of each step grows with samples, classes, parameters and batch size, and fit the exponents.

    python -m scripts.speed_growth repeats=5 out=results/speed

Runs on random images and weights, on the GPU where there is one; two CPU cores take about four minutes. The exponent is
the slope of the least-squares line through log(median seconds) over log(value). Values double; a width that doubles has
four times the parameters, and stays at 8 where something else grows. Other work on the machine spoils the numbers:
seconds_max shows it. Writes OUT/growth-<device>.csv, a row for each point, and its figure as .png and .pdf.
"""

import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from benchmark.cli import run_cli
from benchmark.compose import CONFIGS
from benchmark.evaluate import predict
from benchmark.models import build, resnet18
from benchmark.provenance import commit, device_name
from benchmark.reproducibility import resolve_device
from datasets.base import LabelledImages
from datasets.batches import Batches, Preprocessing
from datasets.seeding import generator
from methods.dampening.dampen import dampen
from methods.dampening.importance import parameter_importance
from methods.fisher_information import fisher_diagonal
from methods.training import Compute, Recipe, train
from metrics.membership import entropy, fit_attack
from scripts.speed_measure import Row, device_slug, seconds_of

PREPROCESSING = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
SHORTEST = 0.02  # seconds; a faster call is repeated until it takes as long
WIDTH = 8  # of ResNet18, where it does not grow
ERROR = 0.2  # random weights predict every class alike; then this leaves 6 of 7 columns, 24 of 127


@dataclass(frozen=True)
class Size:
    """The problem that a step is given; `width` is ResNet18's."""

    samples: int
    classes: int = 10
    width: int = WIDTH
    batch_size: int = 64

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in resnet18(self.classes, width=self.width).parameters())


FIELDS = {"samples": "samples", "classes": "classes", "parameters": "width", "batch size": "batch_size"}
POINTS = {"samples": 4, "classes": 5, "parameters": 4, "batch size": 5}
PLAN = {  # the smallest size of each step; the factor doubles from there
    "samples": {
        "training": Size(128), "importance batch_mean": Size(128), "importance per_sample": Size(64),
        "evaluation": Size(128), "fisher": Size(32, batch_size=32), "fisher exact": Size(32, batch_size=32),
        "attack": Size(64_000),
    },
    "classes": {
        "importance per_sample": Size(32, classes=8), "evaluation": Size(128, classes=8),
        "fisher": Size(8, classes=8), "fisher exact": Size(8, classes=8),
    },
    "parameters": {
        "training": Size(32), "importance batch_mean": Size(32), "importance per_sample": Size(16),
        "evaluation": Size(32), "fisher": Size(8), "fisher exact": Size(8), "dampening": Size(0),
    },
    "batch size": {
        step: Size(256, batch_size=8) for step in ("training", "importance batch_mean", "evaluation")
    },
}  # fmt: skip


def prepared(step: str, size: Size, device: torch.device) -> Callable[[], object]:
    """Return one call of a step on random images, labels and weights."""
    random = generator("growth", device=device)
    if step == "attack":
        members, others = torch.rand(2, size.samples // 2, generator=random, dtype=torch.float64, device=device)
        return lambda: fit_attack(members.square(), others, c=2.0)
    compute = Compute(device, "float32", channels_last=True)
    model = compute.place(build(partial(resnet18, width=size.width), size.classes, 0)).eval()
    if step == "dampening":  # λ so large that β is 1: the same work, and the weights stay for the next call
        full, forget = (
            {name: torch.zeros_like(p).uniform_(generator=random) for name, p in model.named_parameters()}
            for _ in range(2)
        )
        return lambda: dampen(model, full, forget, alpha=1.0, lam=1e9)
    images = torch.randint(256, (size.samples, 32, 32, 3), generator=random, dtype=torch.uint8, device=device)
    labels = torch.randint(size.classes, (size.samples,), generator=random, device=device)
    return on_images(step, model, LabelledImages.from_tensors(images, labels), size.batch_size, compute, random)


def on_images(
    step: str, model: nn.Module, data: LabelledImages, batch_size: int, compute: Compute, random: torch.Generator
) -> Callable[[], object]:
    batches = Batches(data, batch_size, PREPROCESSING)
    recipe = Recipe.constant("sgd", lr=0.01, momentum=0.9, epochs=1, batch_size=batch_size)
    return {
        "training": lambda: train(model, data, recipe, preprocessing=PREPROCESSING, random=random, compute=compute),
        "importance batch_mean": lambda: parameter_importance(model, batches, reduction="batch_mean"),
        "importance per_sample": lambda: parameter_importance(model, batches, reduction="per_sample"),
        "evaluation": lambda: entropy(predict(model, data, PREPROCESSING, batch_size)),
        "fisher": lambda: fisher_diagonal(model, batches, error=ERROR, random=random),
        "fisher exact": lambda: fisher_diagonal(model, batches, error=0.0, random=random),
    }[step]


def mean_seconds(call: Callable[[], object], number: int, device: torch.device) -> float:
    """Return the mean seconds of `number` calls."""

    def calls() -> None:
        for _ in range(number):
            call()

    return seconds_of(calls, device) / number


def fitted_exponent(values: Sequence[float], seconds: Sequence[float]) -> float:
    """Return b of the least-squares fit seconds = a·valueᵇ in logarithms."""
    if len(values) < 4:
        raise ValueError(f"Expected at least 4 points to fit an exponent to, but got {len(values)}; measure more.")
    return float(np.polyfit(np.log(values), np.log(seconds), 1)[0])


def grow(step: str, factor: str, *, repeats: int, device: torch.device) -> list[Row]:
    """Return a row for each size; the repeats take the sizes in turn, so that a slow minute hits all of them."""
    base, field = PLAN[factor][step], FIELDS[factor]
    sizes = [replace(base, **{field: getattr(base, field) * 2**k}) for k in range(POINTS[factor])]
    values = [getattr(size, "parameters" if field == "width" else field) for size in sizes]
    calls = [prepared(step, size, device) for size in sizes]
    for call in calls:
        call()
    numbers = [math.ceil(SHORTEST / seconds_of(call, device)) for call in calls]
    pairs = list(zip(calls, numbers, strict=True))
    rounds = [[mean_seconds(call, number, device) for call, number in pairs] for _ in range(repeats)]
    times = list(zip(*rounds, strict=True))
    exponent = fitted_exponent(values, [statistics.median(t) for t in times])
    return [
        {"step": step, "factor": factor, "value": value, "seconds": statistics.median(t), "seconds_min": min(t),
         "seconds_max": max(t), "exponent": exponent, "repeats": repeats, **setting(step, size)}
        for value, size, t in zip(values, sizes, times, strict=True)
    ]  # fmt: skip


def setting(step: str, size: Size) -> Row:
    """Return what a step runs on, as columns; the attack knows no network."""
    if step == "attack":
        return {"model": None, "width": None, "precision": "float64", "inputs": "random"}
    return {"model": "resnet18", "width": size.width, "precision": "float32", "inputs": "random weights and images"}


def draw(frame: pd.DataFrame, title: str, paths: Sequence[Path]) -> None:
    """Draw a log-log panel for each factor, with the range of the repeats, into every path."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    factors, steps = list(dict.fromkeys(frame["factor"])), list(dict.fromkeys(frame["step"]))
    figure, panels = plt.subplots(math.ceil(len(factors) / 2), 2, figsize=(10, 6), layout="constrained", squeeze=False)
    for axes, factor in zip(panels.flat, factors, strict=False):
        panel = frame[frame["factor"] == factor]
        for step, line in panel.groupby("step", sort=False):
            spread = [line["seconds"] - line["seconds_min"], line["seconds_max"] - line["seconds"]]
            label, colour = f"{step}: {line['exponent'].iloc[0]:.2f}", f"C{steps.index(str(step))}"
            axes.errorbar(line["value"], line["seconds"], spread, label=label, color=colour, marker=".", linewidth=1)
        x = np.geomspace(panel["value"].min(), panel["value"].max(), 3)
        middle = np.sqrt(panel["seconds"].min() * panel["seconds"].max())
        axes.set(xscale="log", yscale="log", xlabel=factor, ylabel="seconds")
        limits = axes.get_ylim()
        axes.plot(x, middle * x / x[1], color="0.75", linewidth=0.8, label="slope 1", zorder=0)
        axes.set_ylim(limits)  # those of the measurements
        axes.xaxis.set_major_formatter(lambda v, _: f"{v / 1e6:.2g} M" if v >= 1e5 else f"{v:g}")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        if panel["value"].nunique() <= 6:
            axes.set_xticks(sorted(set(panel["value"])))
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_locator(LogLocator(numticks=8))
        axes.tick_params(labelsize="small")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize="medium")
    for path in paths:
        figure.savefig(path, dpi=150)
    plt.close(figure)


def write(rows: Sequence[Row], folder: Path, device: torch.device) -> Path:
    """Write the CSV and the figure; return the former's path."""
    name, (revision, dirty) = device_name(device), commit()
    frame = pd.DataFrame(rows).assign(device=name, torch=torch.__version__, commit=revision, dirty=dirty)
    path = folder / f"growth-{device_slug(device)}.csv"
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False, float_format="%.6g")
    title = (
        f"time and its exponent; {name}, torch {torch.__version__}\n"
        f"ResNet18 of width {WIDTH} (wider where parameters grow), random weights and images, float32; "
        f"median of n = {frame['repeats'].max()}, bars: fastest to slowest"
    )
    draw(frame, title, [path.with_suffix(kind) for kind in (".png", ".pdf")])
    return path


def suite_device() -> torch.device:
    """Return the device, set up as for a run of the suite."""
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        return resolve_device(compose("run").compute)


def main() -> None:
    """Read the command line, measure every line, print its exponent and write the files."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    options = {"repeats": "5", "out": "results/speed"}
    given = {name: value for name, _, value in (a.partition("=") for a in sys.argv[1:])}
    if unknown := given.keys() - options:
        raise ValueError(f"Expected options to be some of {', '.join(options)}, but got {', '.join(sorted(unknown))}.")
    options |= given
    device = suite_device()
    rows: list[Row] = []
    for factor, steps in PLAN.items():
        for step in steps:
            rows += grow(step, factor, repeats=int(options["repeats"]), device=device)
            print(f"{step}, {factor}: exponent {rows[-1]['exponent']:.2f}", flush=True)
    print(f"wrote {write(rows, Path(options['out']), device)} and its figure")


if __name__ == "__main__":
    run_cli(main)
