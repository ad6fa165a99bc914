"""Typesetting and the choice of bold, on values made by hand."""

import math

import pandas as pd

from benchmark.tables import KEY, mark_best, with_ranks
from benchmark.typeset import to_latex, to_markdown

NAN = math.nan


def values(rows: list[tuple]) -> pd.DataFrame:
    """rows: (method, metric, mean, std, n, skipped, command, best)."""
    block = ("none", "class", "cifar100", "resnet18", "rocket")
    return pd.DataFrame([block + row for row in rows], columns=[*KEY, "mean", "std", "n", "skipped", "command", "best"])


EXAMPLE = values(
    [
        ("ssd", "retain_accuracy", 74.54, 0.0, 3, None, None, True),
        ("retrain", "retain_accuracy", 72.834, 0.424, 3, None, None, False),
        ("unsir", "retain_accuracy", NAN, NAN, 0, "the random task has no class", None, False),
        ("finetune", "retain_accuracy", NAN, NAN, 0, None, "python -m benchmark.run method=finetune", False),
        ("ssd", "mia", 2.2, NAN, 1, None, None, False),
    ]
)


def test_golden_latex():
    assert to_latex(EXAMPLE, "CIFAR-100 & more", "5 % of it.") == "\n".join(
        [
            r"\begin{table*}",
            r"\centering",
            r"\caption{CIFAR-100 \& more. 5 \% of it.}",
            r"\small",
            r"\begin{tabular}{lllrrrr}",
            r"\toprule",
            r"Model & Target & Metric & Retrain & Finetune & UNSIR & SSD \\",
            r"\midrule",
            r"resnet18 & rocket & $\mathcal{D}_r$ & $72.83{\scriptstyle\pm}0.42$ & -- & n/a & "
            r"$\mathbf{74.54{\scriptstyle\pm}0.00}$ \\",
            r" &  & MIA &  &  &  & $2.20$ \\",
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table*}",
            "",
        ]
    )


def test_markdown_names_what_is_missing():
    text = to_markdown(EXAMPLE, "Title", "Caption.")
    assert "| resnet18 | rocket | D_r | 72.83 ± 0.42 | missing | n/a | **74.54 ± 0.00** |" in text
    assert "n/a: UNSIR: the random task has no class." in text
    assert "```\npython -m benchmark.run method=finetune\n```" in text


class FakeCell:
    def __init__(self, method: str, ranked: bool = True) -> None:
        self.labels = {"method": method}
        self.is_reference = method == "retrain"
        self.method = type("Method", (), {"ranked": ranked})()


def best_of(means: dict[str, float]) -> set[str]:
    rows = [(name, "mia", mean, 0.0, 3, None, None) for name, mean in means.items()]
    block = ("none", "class", "cifar100", "resnet18", "rocket")
    frame = pd.DataFrame([block + row for row in rows], columns=[*KEY, "mean", "std", "n", "skipped", "command"])
    cells = [FakeCell(name, ranked=name != "baseline") for name in means]
    marked = mark_best(frame, cells)
    return set(marked.loc[marked["best"], "method"])


def test_bold_is_closest_to_the_retrained_model():
    assert best_of({"retrain": 10.0, "baseline": 10.0, "ssd": 12.0, "finetune": 7.0}) == {"ssd"}


def test_ties_are_both_bold():
    assert best_of({"retrain": 10.0, "ssd": 12.0, "finetune": 8.0}) == {"ssd", "finetune"}


def test_nothing_is_bold_without_the_retrained_model():
    assert best_of({"ssd": 12.0, "finetune": 8.0}) == set()
    assert best_of({"retrain": NAN, "ssd": 12.0}) == set()


def test_rank_1_is_the_smallest_gap_within_a_block():
    gaps = {"retrain": 0.0, "baseline": 0.5, "ssd": 2.0, "finetune": 3.0, "unsir": NAN, "amnesiac": 1.0}
    rows = [
        (ablation, "class", "cifar20", "resnet18", "veg", method, metric, value, NAN, 1, None, None)
        for ablation, sign in (("none", 1), ("accuracy", -1))
        for method, gap in gaps.items()
        for metric, value in (("gap", 5 + sign * gap), ("rank", NAN))
    ]
    frame = pd.DataFrame(rows, columns=[*KEY, "mean", "std", "n", "skipped", "command"])
    ranked = with_ranks(frame, [FakeCell(name, ranked=name != "baseline") for name in gaps])
    ranks = ranked[ranked["metric"] == "rank"].set_index(["ablation", "method"])["mean"]
    assert ranks["none"].dropna().to_dict() == {"amnesiac": 1, "ssd": 2, "finetune": 3}
    assert ranks["accuracy"].dropna().to_dict() == {"finetune": 1, "ssd": 2, "amnesiac": 3}
