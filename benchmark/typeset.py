"""A table's values as Markdown and as LaTeX (booktabs), in the paper's layout."""

import math
from collections.abc import Callable, Iterator, Sequence

import pandas as pd

BLOCK = ["ablation", "dataset", "model", "task", "target"]
METRICS = {
    "retain_accuracy": "D_r", "forget_accuracy": "D_f", "mia": "MIA", "gap": "gap", "rank": "rank",
    "changed_fraction": "changed", "newest_accuracy": "newest", "seconds": "t [s]",
}  # fmt: skip
LATEX_METRICS = METRICS | {"retain_accuracy": r"$\mathcal{D}_r$", "forget_accuracy": r"$\mathcal{D}_f$"}
TITLES = {
    "baseline": "Baseline", "retrain": "Retrain", "finetune": "Finetune", "bad_teacher": "Bad teacher",
    "amnesiac": "Amnesiac", "unsir": "UNSIR", "fisher": "Fisher", "ssd": "SSD",
}  # fmt: skip
ORDER = ["baseline", "retrain", "finetune", "bad_teacher", "unsir", "amnesiac", "fisher", "ssd"]
HEADS = {"ablation": "Switched", "dataset": "Data set", "model": "Model", "task": "Task", "target": "Target"}


def shown_columns(values: pd.DataFrame) -> list[int]:
    """Return the positions in BLOCK that a reader needs: model and target, the others where they vary."""
    return [i for i, name in enumerate(BLOCK) if name in ("model", "target") or values[name].nunique() > 1]


def methods_of(values: pd.DataFrame) -> list[str]:
    """Return the methods in the paper's order of columns; others follow by name."""
    present = list(dict.fromkeys(values["method"]))
    known = [name for name in ORDER if name in present]
    return known + sorted(name for name in present if name not in ORDER)


def lines_of(
    values: pd.DataFrame, cell: Callable[[pd.Series], str]
) -> Iterator[tuple[tuple[str, ...], str, list[str]]]:
    """Yield (block, metric, a cell for each method), block by block in the order of `values`."""
    methods = methods_of(values)
    for block, rows in values.groupby(BLOCK, sort=False):
        for metric in [name for name in METRICS if name in set(rows["metric"])]:
            by_method = {row["method"]: row for _, row in rows[rows["metric"] == metric].iterrows()}
            cells = [cell(by_method[name]) if name in by_method else "" for name in methods]
            yield tuple(map(str, block)), metric, cells


def number(row: pd.Series, plus_minus: str) -> str | None:
    """Return `mean ± std` with two decimals, the mean alone for n = 1, None for a missing cell.

    Ranks are whole numbers, and empty for the methods that are not compared.
    """
    if row["metric"] == "rank":
        return "" if math.isnan(row["mean"]) else f"{row['mean']:.0f}"
    if math.isnan(row["mean"]):
        return None
    return mean_and_spread(row["mean"], row["std"], plus_minus)


def mean_and_spread(mean: float, std: float, plus_minus: str) -> str:
    """Return `mean ± std` with two decimals, the mean alone where there is no spread.

    >>> mean_and_spread(74.54, 0.1, " ± "), mean_and_spread(2.0, math.nan, " ± ")
    ('74.54 ± 0.10', '2.00')
    """
    return f"{mean:.2f}" + ("" if math.isnan(std) else f"{plus_minus}{std:.2f}")


def to_markdown(values: pd.DataFrame, title: str, caption: str) -> str:
    """Return the table in Markdown; missing cells are named below it with the commands that fill them."""

    def cell(row: pd.Series) -> str:
        text = number(row, " ± ")
        if text is None:
            return "n/a" if isinstance(row["skipped"], str) else "missing"
        return f"**{text}**" if row["best"] else text

    return f"**{title}.** {caption}\n\n{markdown_rows(values, cell)}\n{notes(values)}"


def markdown_rows(values: pd.DataFrame, cell: Callable[[pd.Series], str]) -> str:
    """Return the head and the rows, one column a method, `cell` saying what stands for a row of `values`."""
    methods, shown = methods_of(values), shown_columns(values)
    head = [*(HEADS[BLOCK[i]] for i in shown), "Metric", *(TITLES.get(name, name) for name in methods)]
    lines = [head, ["---"] * (len(shown) + 1) + ["---:"] * len(methods)]
    previous: tuple[str, ...] = ()
    for block, metric, cells in lines_of(values, cell):
        lines.append([*(block[i] if block != previous else "" for i in shown), METRICS[metric], *cells])
        previous = block
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def notes(values: pd.DataFrame) -> str:
    """Return why cells are empty: methods that do not apply, commands for what is missing."""
    text = ""
    for method, reason in values[["method", "skipped"]].dropna().drop_duplicates().itertuples(index=False):
        text += f"\nn/a: {TITLES.get(method, method)}: {reason}.\n"
    commands = list(values["command"].dropna().drop_duplicates())
    if commands:
        text += "\nMissing cells, and what fills them:\n\n```\n" + "\n".join(commands) + "\n```\n"
    return text


def to_latex(values: pd.DataFrame, title: str, caption: str) -> str:
    r"""Return the table as a LaTeX `table*`; needs `\usepackage{booktabs}`."""

    def cell(row: pd.Series) -> str:
        text = number(row, r"{\scriptstyle\pm}")
        if not text:
            return text if text == "" else "n/a" if isinstance(row["skipped"], str) else "--"
        return rf"$\mathbf{{{text}}}$" if row["best"] else f"${text}$"

    methods, shown = methods_of(values), shown_columns(values)
    head = [*(HEADS[BLOCK[i]] for i in shown), "Metric", *(escape(TITLES.get(name, name)) for name in methods)]
    lines = [
        r"\begin{table*}", r"\centering", rf"\caption{{{escape(title)}. {escape(caption)}}}", r"\small",
        rf"\begin{{tabular}}{{{'l' * (len(shown) + 1)}{'r' * len(methods)}}}", r"\toprule", row_of(head),
    ]  # fmt: skip
    previous: tuple[str, ...] = ()
    for block, metric, cells in lines_of(values, cell):
        if block != previous:
            lines.append(r"\midrule")
        names = ["" if block == previous else escape(block[i]) for i in shown]
        lines.append(row_of([*names, LATEX_METRICS[metric], *cells]))
        previous = block
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table*}"]) + "\n"


def row_of(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def escape(text: str) -> str:
    """Return `text` with LaTeX's special characters escaped.

    >>> escape("D_r, 5 %")
    'D\\\\_r, 5 \\\\%'
    """
    for character in "\\&%$#_{}":
        text = text.replace(character, rf"\{character}" if character != "\\" else r"\textbackslash ")
    return text.replace("±", r"$\pm$").replace("≤", r"$\le$")
