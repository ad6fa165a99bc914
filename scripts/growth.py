"""Draw how the time of each step grows, from the CSV file of an earlier measurement.

    python -m scripts.growth                                               # each results/speed/growth-*.csv
    python -m scripts.growth results/speed/growth-amd-epyc-2-threads.csv   # one of them
    python -m scripts.growth results/speed/growth-*-2-threads.csv          # some
    python -m scripts.growth FOLDER/growth-mine.csv                        # another measurement
    python -m scripts.verify_results results/speed                         # whether the images follow from the files

The images lie beside the file, under its name.
"""

import sys
from pathlib import Path

import pandas as pd

from benchmark.cli import run_cli
from benchmark.report.query import write_files
from benchmark.report.style import GREY, PAGE, add_title, images, label_ends, look, plain_log, style_of

SPEED = Path("results/speed")
STEPS = {
    "training": "training", "importance batch_mean": "importance, mean of a batch",
    "importance per_sample": "importance, per sample (Eq. 1)", "evaluation": "evaluation",
    "fisher": "Fisher, to a tolerance", "fisher exact": "Fisher, exact", "attack": "membership attack",
    "dampening": "dampening",
}  # fmt: skip


def growth_files(path: Path) -> dict[str, str | bytes]:
    """Return the images of one file: a panel per factor, seconds over its value, and the exponent beside each curve."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import EngFormatter

    table = pd.read_csv(path)
    looks = {step: style_of(place) for place, step in enumerate(STEPS)}
    with look():
        figure = Figure(figsize=(PAGE, 4.4), layout="constrained")
        for axes, (factor, part) in zip(figure.subplots(2, 2).flat, table.groupby("factor", sort=False), strict=True):
            for step, rows in part.groupby("step", sort=False):
                error = [rows["seconds"] - rows["seconds_min"], rows["seconds_max"] - rows["seconds"]]
                axes.errorbar(rows["value"], rows["seconds"], yerr=error, **looks[str(step)])
            axes.set(xscale="log", yscale="log", xlabel=f"number of {factor}" if factor != "batch size" else factor)
            limits = axes.axis()
            once = part["seconds"].median() / part["value"].median()
            axes.plot(limits[:2], [once * x for x in limits[:2]], color=GREY, linestyle=":", zorder=0)
            axes.axis(limits)
            ends = part.groupby("step", sort=False).last()
            exponents = (ends["exponent"].round(2) + 0).map("{:.2f}".format)  # + 0: no minus before 0.00
            label_ends(axes, zip(exponents, ends["value"], ends["seconds"], strict=True))
            plain_log(axes.xaxis)
            plain_log(axes.yaxis)
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        figure.supylabel("seconds", fontsize=7)
        device, torch = table[["device", "torch"]].iloc[0]
        add_title(figure, f"Time of each step, and its exponent beside the curve; {device}, torch {torch}")
        handles = [Line2D([], [], label=STEPS[step], **style) for step, style in looks.items()]
        handles.append(Line2D([], [], color=GREY, linestyle=":", label="exponent 1"))
        figure.legend(handles=handles, loc="outside lower center", ncols=5)
        return images(figure, path.stem)


def main() -> None:
    """Read the command line and draw."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    for path in [Path(word) for word in sys.argv[1:]] or sorted(SPEED.glob("growth-*.csv")):
        write_files(path.parent, growth_files(path))


if __name__ == "__main__":
    run_cli(main)
