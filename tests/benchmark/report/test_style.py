"""The palette in numbers, and that a figure is the same bytes whenever it is drawn."""

import re
from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure

from benchmark.report.style import DARK, GREY, IN_DARK, INK, LIGHT, PAPER, images, label_ends, look, style_of, typeset

# Machado, Oliveira, Fernandes (2009): "A physiologically-based model for simulation of color vision deficiency", linear
# RGB, severity 1.
SIGHT = {
    "full": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def linear(colour: str) -> np.ndarray:
    """Return linear RGB of `#rrggbb` (IEC 61966-2-1)."""
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    ratio = XYZ @ rgb / XYZ.sum(axis=1)
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def delta_e(one: str, other: str, sight: str) -> float:
    """Return the CIE76 difference of two colours as somebody with this sight sees them."""
    seen = [lab((SIGHT[sight] @ linear(colour)).clip(0, 1)) for colour in (one, other)]
    return float(np.linalg.norm(seen[0] - seen[1]))


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of WCAG 2."""
    low, high = sorted(float(XYZ[1] @ linear(colour)) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def test_known_differences_and_contrasts():
    assert contrast("#000000", "#ffffff") == pytest.approx(21, abs=1e-3)
    assert delta_e("#000000", "#ffffff", "full") == pytest.approx(100, abs=0.01)
    assert delta_e("#ff0000", "#00ff00", "full") == pytest.approx(170.6, abs=0.1)
    assert delta_e("#ff0000", "#00ff00", "deuteranopia") < 90


@pytest.mark.parametrize(("palette", "paper"), [(LIGHT, PAPER), (DARK, IN_DARK[PAPER])])
def test_every_colour_stands_out_from_the_paper_and_from_the_others(palette, paper):
    assert min(contrast(colour, paper) for colour in palette) >= 3
    for sight in SIGHT:
        assert min(delta_e(one, other, sight) for one, other in combinations(palette, 2)) >= 35, sight


def test_text_can_be_read():
    assert min(contrast(INK, PAPER), contrast(IN_DARK[INK], IN_DARK[PAPER])) >= 7
    assert min(contrast(GREY, PAPER), contrast(IN_DARK[GREY], IN_DARK[PAPER])) >= 4.5


def test_no_two_methods_look_alike():
    assert len({tuple(style_of(place).values()) for place in range(30)}) == 30


def draw() -> Figure:
    with look():
        figure = Figure(figsize=(2, 1), layout="constrained")
        axes = figure.subplots()
        axes.bar(["a", "b"], [1, 2], hatch="//", label=typeset("of D_f"))
        axes.plot([0, 1], [1, 2])
        axes.set_xlabel("two words")
        axes.legend()
    return figure


def test_the_same_figure_gives_the_same_bytes_without_a_date():
    files = images(draw())
    assert list(files) == ["figure.png", "figure.pdf", "figure.svg", "figure-dark.svg"]
    assert files == images(draw())
    assert not any(re.search(rb"CreationDate|<dc:date>", bytes(files[name])) for name in ("figure.pdf", "figure.svg"))


def test_text_stays_text_and_the_dark_file_holds_no_light_colour():
    files = images(draw())
    svg, dark = files["figure.svg"].decode(), files["figure-dark.svg"]
    assert ">two words<" in svg
    assert LIGHT[0] in svg
    assert not any(colour in dark for colour in IN_DARK)
    assert len(dark) == len(svg)


def test_labels_at_the_ends_of_curves_keep_apart():
    axes = Figure().subplots()
    axes.set(xlim=(1, 10), ylim=(1, 1000), yscale="log")
    label_ends(axes, [("high", 10, 10.0), ("low", 10, 9.9), ("top", 10, 1000)])
    at = {text.get_text().strip(): text.get_position()[1] for text in axes.texts}
    assert at["low"] < at["high"] - 0.06
    assert at["top"] == pytest.approx(1)
