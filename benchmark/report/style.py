"""The look of every figure: palette, markers and hatches, sizes in print, and the files that it is saved in."""

import io
import re
import textwrap
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLUMN, PAGE = 3.3125, 7.0  # inches: one and both columns of AAAI's page
# Searched for contrast and for distance under colour blindness; a test holds both. Nothing is told by colour alone.
LIGHT = ("#218dfa", "#ea570c", "#1d021a", "#a67088", "#6b1e07", "#1703b0")
DARK = ("#8757ae", "#f32505", "#a6ffdb", "#fcf108", "#ad4f61", "#4e59fa")
INK, GREY, BAND, PAPER = "#202124", "#6e7378", "#e3e5e8", "#ffffff"
IN_DARK = dict(zip(LIGHT, DARK, strict=True)) | {INK: "#e6e8ea", GREY: "#9aa0a6", BAND: "#33373c", PAPER: "#101214"}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">")
LINES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
LOOK = {
    "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.facecolor": PAPER, "figure.facecolor": PAPER, "savefig.facecolor": PAPER, "hatch.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "font.size": 7, "axes.titlesize": 7, "axes.labelsize": 7, "figure.titlesize": 7,
    "legend.fontsize": 6, "xtick.labelsize": 6, "ytick.labelsize": 6,
    "axes.linewidth": 0.6, "hatch.linewidth": 0.5, "lines.linewidth": 1.1, "lines.markersize": 3.5,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5, "ytick.major.size": 2.5,
    "savefig.dpi": 300, "pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "unlearning",
}  # fmt: skip
SYMBOL = re.compile(r"\b([DIN])_(Df|[Drf])\b")  # sets, importances, sizes: D_f, I_Df, N_f
METADATA: Mapping[str, Mapping[str, None]] = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


def look() -> AbstractContextManager[None]:
    """Return the context in which every figure is made."""
    import matplotlib as mpl
    from matplotlib.rcsetup import cycler

    found: AbstractContextManager[None] = mpl.rc_context({**LOOK, "axes.prop_cycle": cycler(color=LIGHT)})
    return found


def images(figure: "Figure", name: str = "figure") -> dict[str, str | bytes]:
    """Return the figure as PNG, PDF and SVG, the last in light and dark; the same figure gives the same bytes."""
    files: dict[str, str | bytes] = {}
    with look():
        for kind, metadata in METADATA.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, metadata=metadata)
            files[f"{name}.{kind}"] = buffer.getvalue()
    files[f"{name}-dark.svg"] = dark(buffer.getvalue().decode())
    return files


def dark(svg: str) -> str:
    """Return an SVG of `images` in the dark palette.

    >>> dark('<path style="fill: #218dfa"/>')
    '<path style="fill: #8757ae"/>'
    """
    return re.sub("|".join(IN_DARK), lambda found: IN_DARK[found[0]], svg)


def style_of(place: int) -> dict[str, Any]:
    """Return colour and marker of the method at this place: no two of 30 places are equal."""
    return {"color": LIGHT[place % len(LIGHT)], "marker": MARKERS[place % len(MARKERS)]}


def typeset(text: str) -> str:
    r"""Return a text with its symbols in italics, for matplotlib.

    >>> typeset("I_D, D_f; 3 $")
    '$I_{D}$, $D_{f}$; 3 \\$'
    """
    return SYMBOL.sub(r"$\1_{\2}$", text.replace("$", r"\$"))


def plain_log(axis: "Axis") -> None:
    """Give a log axis ticks at 1, 3, 10, 30, … in plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def add_title(figure: "Figure", text: str) -> None:
    """Put a title on top, in as many lines as it needs."""
    characters = int(figure.get_figwidth() * 72 / 3.6)  # of 7 points
    figure.suptitle("\n".join(textwrap.fill(typeset(line), characters) for line in text.splitlines()))


def label_ends(axes: "Axes", ends: Iterable[tuple[str, float, float]]) -> None:
    """Write beside the last point (x, y) of each curve, none over another; call it when the limits are set."""
    to_axes = axes.transScale + axes.transLimits  # in shares of the panel, on log axes too
    at = -float("inf")
    for text, x, y in sorted(ends, key=lambda end: end[2]):
        left, height = to_axes.transform((x, y))
        at = max(height, at + 0.07)
        axes.text(left, at, f"  {typeset(text)}", va="center", fontsize=6, transform=axes.transAxes)
