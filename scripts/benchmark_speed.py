"""Measure every step beside the textbook way, in one process on one checkpoint.

    python -m scripts.benchmark_speed dataset=cifar100 images=10000 test_images=2000 width=64 repeats=5

Options: images, test_images (a stratified subset), width (of ResNet18), repeats, sample (images of the steps that need
no whole data set), literal (images of Fisher's literal loop), workers (of the textbook DataLoader),
steps=training,evaluation,… and out=FOLDER. Every other key=value is an override, as for `python -m benchmark.run`.
Writes OUT/<device>-<precision>[-tf32]-torch<version>.csv, over an earlier one of that name, and the same as a Markdown
table, after each step. A step that fails is named and the others go on; the exit code is then 1.
"""

import logging
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from benchmark.cli import describe, run_cli, wants_traceback
from benchmark.compose import CONFIGS
from benchmark.oldcell import OldCell as Cell
from benchmark.provenance import commit, device_name
from scripts.speed_measure import Row, Step, device_slug, measure
from scripts.speed_steps import Steps

log = logging.getLogger(__name__)
OPTIONS = {
    "images": "10000", "test_images": "2000", "width": "64", "repeats": "5", "sample": "320", "literal": "4",
    "workers": "0", "steps": "", "out": "results/speed",
}  # fmt: skip
PEAKS = {"Host peak": "host_peak_bytes", "Device peak": "device_peak_bytes"}
DEFAULTS = ["dataset=cifar100", "protocol=paper", "method=ssd"]


def arguments(given: list[str]) -> tuple[dict[str, str], list[str]]:
    """Split key=value arguments into this script's options and overrides of the configuration."""
    pairs = [a.partition("=") for a in given]
    options = OPTIONS | {name: value for name, _, value in pairs if name in OPTIONS}
    return options, [a for a, (name, _, _) in zip(given, pairs, strict=True) if name not in OPTIONS]


def composed(options: dict[str, str], overrides: list[str], folder: str) -> tuple[Cell, float]:
    """Return the SSD cell and the tolerance of Fisher's configuration."""
    subset = [
        f"dataset.subset.{name}_images={options[key]}" for name, key in (("train", "images"), ("test", "test_images"))
    ]
    own = [*DEFAULTS, *overrides, *subset, f"output_dir={folder}"]
    if not any(a == "model=vit" for a in overrides):
        own.append(f"model.width={options['width']}")
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        fisher = compose("run", [*own, "method=fisher"]).method.tolerance
        return Cell(compose("run", own)), float(fisher)


def caption(cell: Cell, options: Mapping[str, str], frame: pd.DataFrame) -> str:
    parameters = sum(p.numel() for p in cell.build_model(0).parameters()) / 1e6
    text = (
        f"{device_name(cell.device)}, torch {torch.__version__}; {cell.labels['model']} of {parameters:.1f} M "
        f"parameters, {cell.labels['dataset']}, {len(cell.dataset.train)} training and "
        f"{len(cell.dataset.test)} test images; "
        f"training in {cell.compute.precision}{', TF32' if cell.config.compute.tf32 else ''}, "
        f"{'channels last' if cell.compute.channels_last else 'contiguous'}. "
        f"Median [min, max] of n = {options['repeats']}; ratio: textbook time over ours."
    )
    seconds = frame.set_index("step")["seconds"]
    if {"trial", "evaluation"} <= set(seconds.index):
        text += f" A search trial takes {seconds['trial'] / seconds['evaluation']:.2f} evaluations."
    if "training compiled" in seconds.index:
        text += " Compiled training is timed once it is compiled."
    return text


def markdown(frame: pd.DataFrame) -> str:
    """Return the table for people."""
    peaks = {title: name for title, name in PEAKS.items() if frame[name].any()}
    titles = ["Throughput", "Seconds", "Textbook", "Ratio", "Largest difference", "Share of ceiling", *peaks]
    lines = [f"| Step | {' | '.join(titles)} |", f"| --- |{' ---: |' * len(titles)}"]
    for row in frame.to_dict("records"):
        seconds = f"{row['seconds']:.3g} [{row['seconds_min']:.3g}, {row['seconds_max']:.3g}]"
        plain = ratio = difference = share = "–"
        if pd.notna(row.get("ratio")):
            plain = (
                f"{row['textbook_seconds']:.3g} [{row['textbook_seconds_min']:.3g}, {row['textbook_seconds_max']:.3g}]"
            )
            ratio = f"{row['ratio']:.1f} [{row['ratio_min']:.1f}, {row['ratio_max']:.1f}]"
            difference = f"{row['largest_difference']:.0e}"
        if pd.notna(row.get("largest_difference_float64")):
            difference += f", in float64 {row['largest_difference_float64']:.0e}"
        if pd.notna(row.get("ceiling_share")):
            share = f"{100 * row['ceiling_share']:.0f} % of {row['ceiling']}"
        speed = f"{row['per_second']:,.0f} {row['unit']}/s"
        memory = [f"{row[name] / 2**30:.2f} GiB" for name in peaks.values()]
        cells = [row["step"], speed, seconds, plain, ratio, difference, share, *memory]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the command line, measure and write both files."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    options, overrides = arguments(sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        cell, tolerance = composed(options, overrides, folder)
        numbers = {name: int(options[name]) for name in ("sample", "literal", "workers")}
        steps = Steps(cell, tolerance=tolerance, **numbers).all()
        wanted = options["steps"].split(",") if options["steps"] else list(steps)
        if unknown := [name for name in wanted if name not in steps]:
            raise ValueError(f"Expected steps to be some of {', '.join(steps)}, but got {', '.join(unknown)}.")
        failed = measure_all(
            {name: steps[name] for name in wanted}, repeats=int(options["repeats"]), device=cell.device,
            keep=lambda rows: write(pd.DataFrame(rows), cell, options),
        )  # fmt: skip
    if failed:
        sys.exit(f"error: {len(failed)} of {len(wanted)} steps failed: {', '.join(failed)}")


def measure_all(
    steps: Mapping[str, Step], *, repeats: int, device: torch.device, keep: Callable[[list[Row]], None]
) -> list[str]:
    """Measure one step after the other, hand the rows so far to `keep` after each; return the names of the failed."""
    rows: list[Row] = []
    failed = []
    for name, step in steps.items():
        try:
            rows.append(measure(step, repeats=repeats, device=device))
        except Exception as error:
            failed.append(name)
            log.error("%s: failed: %s", name, describe(error), exc_info=wants_traceback())
            continue
        log.info(markdown(pd.DataFrame(rows[-1:])).splitlines()[-1])
        keep(rows)
    return failed


def write(frame: pd.DataFrame, cell: Cell, options: Mapping[str, str]) -> None:
    """Write the CSV and the Markdown table."""
    revision, dirty = commit()
    frame = frame.assign(
        device=device_name(cell.device), precision=cell.compute.precision, torch=torch.__version__, commit=revision,
        dirty=dirty, **conditions(cell, options),
    )  # fmt: skip
    path = Path(options["out"]) / f"{file_name(cell)}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False, float_format="%.6g")
    path.with_suffix(".md").write_text(f"{caption(cell, options, frame)}\n\n{markdown(frame)}")


def conditions(cell: Cell, options: Mapping[str, str]) -> dict[str, Any]:
    """Return what else the numbers depend on, as columns."""
    return {
        **{name: cell.labels[name] for name in ("dataset", "model", "protocol")},
        "images": len(cell.dataset.train),
        "test_images": len(cell.dataset.test),
        "width": OmegaConf.select(cell.config, "model.width"),
        **{name: int(options[name]) for name in ("sample", "literal", "workers")},
        "channels_last": cell.compute.channels_last,
        "tf32": cell.config.compute.tf32,
    }


def file_name(cell: Cell) -> str:
    """Return the name of the files without their suffix."""
    precision = f"{cell.compute.precision}{'-tf32' if cell.config.compute.tf32 else ''}"
    return f"{device_slug(cell.device)}-{precision}-torch{torch.__version__.partition('+')[0]}"


if __name__ == "__main__":
    run_cli(main)
