"""The one writer of tables: Markdown, LaTeX (booktabs) and the terminal; the paper's layout of blocks."""

import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

import pandas as pd

from benchmark.report.about import About

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

BLOCK = ["ablation", "dataset", "model", "task", "target"]
KEY = ["ablation", "task", "dataset", "model", "target", "method", "metric"]
HEADS = {"ablation": "Switched", "dataset": "Data set", "model": "Model", "task": "Task", "target": "Target",
         "method": "Method", "metric": "Metric"}  # fmt: skip
ROWS_OF_A_PAGE = 45
MOST_COLUMNS = 10  # of methods, on a page
FITTED = r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}"  # smaller if it is too wide
LETTERS = str.maketrans({
    "\\": r"\textbackslash ", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": "$<$", ">": "$>$", "±": r"$\pm$", "≤": r"$\le$",
    "≥": r"$\ge$", "−": "$-$", "×": r"$\times$", "·": r"$\cdot$", "√": r"$\surd$", "α": r"$\alpha$",
    "λ": r"$\lambda$", "…": r"\ldots{}", "–": "--",
})  # fmt: skip
SYMBOLS = {r"D\_r": r"$\mathcal{D}_r$", r"D\_f": r"$\mathcal{D}_f$", r"I\_D": r"$I_{\mathcal{D}}$",
           r"I\_Df": r"$I_{\mathcal{D}_f}$", r"N\_f": "$N_f$"}  # fmt: skip
WIDTH = 100  # of a table on a terminal, in characters
VERDICTS = {"match": ("✓", "green"), "near": ("≈", "yellow"), "off": ("✗", "red"), "missing": ("○", "dim")}
PLUS_MINUS = r"{\scriptstyle\pm}"
Cell = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class Grid:
    """A table as text: a head, rows, one letter per column (l or r), and the rows that open a block."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str
    opens: frozenset[int] = frozenset()

    def markdown(self) -> str:
        """Return the head and the rows in Markdown."""
        rules = [{"l": "---", "r": "---:"}[letter] for letter in self.align]
        lines = [[cell.replace("|", r"\|") for cell in line] for line in (self.head, rules, *self.rows)]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

    def latex(self, title: str, caption: str, *, size: str = "small", above: str = "") -> str:
        r"""Return a LaTeX `table*` no wider than the page, or several of one number; needs booktabs and graphicx.

        Args:
            title: opens the caption, that of every part.
            caption: plain text; the cells are LaTeX already.
            above: a row above the head, in LaTeX.
        """
        parts, text = self.parts(), ""
        for number, rows in enumerate(parts, start=1):
            marked = [
                ["\\midrule\n" + row[0] if opens and n else row[0], *row[1:]] for n, (opens, row) in enumerate(rows)
            ]
            frame = pd.DataFrame(marked, columns=[above + self.head[0], *self.head[1:]], dtype=object)
            body = frame.style.hide(axis="index").to_latex(hrules=True, column_format=self.align)
            said = escape(f"{title}. {caption if number == 1 else f'Part {number} of {len(parts)}.'}")
            same = "" if number == 1 else "\\addtocounter{table}{-1}\n"
            text += f"\\begin{{table*}}\n{same}\\centering\n\\caption{{{said}}}\n\\smallskip\\{size}\n"
            text += f"{FITTED}{{%\n{body.rstrip()}}}\n\\end{{table*}}\n"
        return text

    def parts(self) -> list[list[tuple[bool, Sequence[str]]]]:
        """Return the rows, and whether each opens a block, in parts that fit a page; a part starts with a block."""
        ends = [*sorted(self.opens - {0}), len(self.rows)] if self.opens else range(1, len(self.rows) + 1)
        parts: list[list[tuple[bool, Sequence[str]]]] = [[]]
        for start, end in pairwise([0, *ends]):
            block = [(start + n in self.opens, row) for n, row in enumerate(self.rows[start:end])]
            if parts[-1] and len(parts[-1]) + len(block) > ROWS_OF_A_PAGE:
                parts.append([])
            parts[-1] += block
        return parts


def blocks(values: pd.DataFrame, about: About, cell: Cell, *, latex: bool = False, sweep: bool = False) -> Grid:
    """Return long-form values as a grid: one row per block and metric, one column per method, as in the paper.

    Of a sweep, and of more than `MOST_COLUMNS` methods, one row per block and method, one column per metric.

    Args:
        cell: the text for one row of `values`.
        sweep: the option `ablation` names what varies.
    """
    text = escape if latex else str
    is_long = sweep or values["method"].nunique() > MOST_COLUMNS
    down, across = ("method", "metric") if is_long else ("metric", "method")
    heads = HEADS | {"ablation": "Varied"} if sweep else HEADS
    order = {"method": about.sorted_methods, "metric": about.sorted_metrics}
    columns = order[across](values[across])
    shown = [name for name in BLOCK if name in ("model", "target") or values[name].nunique() > 1]

    def label(part: str, name: str) -> str:
        return label_of(about, name, latex=latex) if part == "metric" else text(about.method(name).label)

    rows: list[list[str]] = []
    opens = set()
    for _, block in values.groupby(BLOCK, sort=False):
        opens.add(len(rows))
        names = [text(str(block[name].iloc[0])) for name in shown]
        found = by(block, down, across)
        for row in order[down](block[down]):
            cells = [cell(found[row, column]) if (row, column) in found else "" for column in columns]
            rows.append([*names, label(down, row), *cells])
            names = [""] * len(shown)
    head = [*(heads[name] for name in (*shown, down)), *(label(across, column) for column in columns)]
    rules = opens if len(opens) < len(rows) else ()  # none between rows that are all blocks of their own
    return Grid(head, rows, "l" * (len(shown) + 1) + "r" * len(columns), frozenset(rules))


def by(values: pd.DataFrame, *names: str) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    """Return the rows of `values` by some of their columns."""
    rows: list[Any] = values.to_dict("records")
    return {tuple(row[name] for name in names): row for row in rows}


def label_of(about: About, metric: str, *, latex: bool = False) -> str:
    """Return the metric's name."""
    shown = about.metric(metric)
    if latex:
        return escape(shown.label) if shown.latex in ("", shown.label) else shown.latex
    return shown.label


def printed(row: Mapping[str, Any], about: About, *, bold: bool, latex: bool = False) -> str:
    """Return `mean ± std` of a row of values, the mean alone for n = 1; `n/a` or `missing` without a number.

    Ranks are whole numbers, and empty for the methods that are not compared.
    """
    is_rank = row["metric"] == "rank"
    if math.isnan(row["mean"]):
        return "" if is_rank else "n/a" if isinstance(row["skipped"], str) else "--" if latex else "missing"
    decimals = 0 if is_rank else about.metric(row["metric"]).decimals
    text = mean_and_spread(row["mean"], row["std"], PLUS_MINUS if latex else " ± ", decimals)
    if latex:
        return rf"$\mathbf{{{text}}}$" if bold else f"${text}$"
    return f"**{text}**" if bold else text


def mean_and_spread(mean: float, std: float, plus_minus: str = " ± ", decimals: int = 2) -> str:
    """Return `mean ± std`, the mean alone if there is no spread.

    >>> mean_and_spread(74.54, 0.1), mean_and_spread(2.0, math.nan)
    ('74.54 ± 0.10', '2.00')
    """
    return f"{mean:.{decimals}f}" + ("" if math.isnan(std) else f"{plus_minus}{std:.{decimals}f}")


def span(values: Sequence[float], decimals: int = 1) -> str:
    """Return one number, or the range.

    >>> span([1.0, 1.01]), span([1.0, 2.0]), span([3, 5], 0)
    ('1.0', '1.0 to 2.0', '3 to 5')
    """
    low, high = f"{min(values):.{decimals}f}", f"{max(values):.{decimals}f}"
    return low if low == high else f"{low} to {high}"


def ways(pairs: Iterable[tuple[str, str]]) -> str:
    """Return each pair of device and training precision once, for a caption.

    >>> ways([("B", "float32"), ("A", "bfloat16"), ("B", "float32")])
    'A, bfloat16; B, float32'
    """
    return "; ".join(", ".join(way) for way in sorted(set(pairs)))


def to_markdown(values: pd.DataFrame, title: str, caption: str, about: About, *, sweep: bool = False) -> str:
    """Return the table in Markdown; missing cells are named below it with the commands that fill them."""
    grid = blocks(values, about, lambda row: printed(row, about, bold=row["best"]), sweep=sweep)
    return f"**{title}.** {caption}\n\n{grid.markdown()}{notes(values, about)}"


def notes(values: pd.DataFrame, about: About) -> str:
    """Return why cells are empty: methods that do not apply, commands for missing ones."""
    text = ""
    for method, reason in values[["method", "skipped"]].dropna().drop_duplicates().itertuples(index=False):
        text += f"\nn/a: {about.method(method).label}: {reason}.\n"
    commands = list(values["command"].dropna().drop_duplicates())
    if commands:
        text += "\nMissing cells, and what fills them:\n\n```\n" + "\n".join(commands) + "\n```\n"
    return text


def to_latex(values: pd.DataFrame, title: str, caption: str, about: About, *, sweep: bool = False) -> str:
    """Return the table as LaTeX; see `Grid.latex`."""
    grid = blocks(values, about, lambda row: printed(row, about, bold=row["best"], latex=True), latex=True, sweep=sweep)
    return grid.latex(title, caption)


def escape(text: str) -> str:
    r"""Return a text for LaTeX: special characters escaped, symbols typeset.

    >>> print(escape("D_r, I_Df, a_b, 5 % ± 1"))
    $\mathcal{D}_r$, $I_{\mathcal{D}_f}$, a\_b, 5 \% $\pm$ 1
    """
    return re.sub(r"\b[DIN]\\_\w+", lambda found: SYMBOLS.get(found[0], found[0]), text.translate(LETTERS))


def show(text: str) -> None:
    """Print Markdown: as it is into a pipe or file, on a terminal with tables of columns and verdicts in colour."""
    if not sys.stdout.isatty():
        print(text)
        return
    from rich.console import Console

    console = Console(highlight=False)
    console.width = min(WIDTH, console.width)
    for is_table, lines in groupby(text.splitlines(), key=lambda line: line.startswith("| ")):
        if is_table:
            console.print(on_terminal(list(lines)))
        else:
            for line in lines:
                console.print(styled(line), soft_wrap="python -m" in line)  # a command is copied


def on_terminal(lines: Sequence[str]) -> "Table":
    """Return a Markdown table for rich: what is below the other in a cell is ours, published, verdict.

    A column of words that holds one value stands above the table, and rich folds what is still too wide.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    head, rules, *rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines]
    columns = [(name, rule[-1], cells) for name, rule, *cells in zip(head, rules, *rows, strict=True)]
    once = [cells[0] for _, align, cells in columns if is_constant(align, cells)]
    kept = [column for column in columns if not is_constant(*column[1:])]
    look: dict[str, Any] = {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0), "show_edge": False, "pad_edge": False}
    table = Table(title=", ".join(once), title_justify="left", **look)
    for name, align, _ in kept:
        table.add_column(styled(name), justify="right" if align == ":" else "left", overflow="fold")
    stacked = [
        [re.sub(" / |, ", "\n", x.replace(" ± ", "±")) if a == ":" else x for x in cells] for _, a, cells in kept
    ]
    for row in zip(*stacked, strict=True):
        table.add_row(*(styled(x.replace(r"\|", "|")) for x in row))
    return table


def is_constant(align: str, cells: Sequence[str]) -> bool:
    """Return whether a column of words has several rows and a single value; an empty cell repeats the one above."""
    return align == "-" and len(cells) > 2 and len({*cells} - {""}) == 1


def styled(text: str) -> "Text":
    """Return a line or a cell for rich: `**bold**`, and a glyph and a colour for its verdict."""
    from rich.text import Text

    result = Text()
    for part in re.split(r"(\*\*.+?\*\*|\b(?:match|near|off|missing)$)", text):
        glyph, colour = VERDICTS.get(part, ("", ""))
        result.append(
            f"{glyph} {part}" if glyph else part.strip("*"), style=colour or ("bold" if part[:2] == "**" else "")
        )
    return result
