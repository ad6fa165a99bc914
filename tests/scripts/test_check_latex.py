"""LaTeX tables that fit a page, and those that do not."""

import shutil

import pytest

from benchmark.report.typeset import Grid
from scripts import check_latex
from scripts.check_latex import faults_of

needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
WIDE = Grid(["D_r"] * 30, [["12.34"] * 30] * 3, "r" * 30)
LONG = Grid(["a"], [[str(n)] for n in range(100)], "l")


@needs_latex
@pytest.mark.parametrize("grid", [WIDE, LONG], ids=["wide", "long"])
def test_tables_of_the_writer_fit(grid):
    grid = Grid([r"$\mathcal{D}_r$"] * len(grid.head), grid.rows, grid.align)
    assert list(faults_of(grid.latex("D_f & I_Df", "5 % ± 1, α ≥ 2, a\\b_c^d~e <f> …"))) == []


@needs_latex
@pytest.mark.parametrize(
    ("table", "fault"),
    [
        (WIDE.latex("T", "C").replace(r"\resizebox{\ifdim", r"\resizebox{2\textwidth}{!}{\ifdim").split("%\n")[0], "!"),
        (r"\begin{table*}" + "x" * 300 + r"\end{table*}", "Overfull"),
        (r"\begin{table*}\vspace*{12in}x\end{table*}", "too large"),
        (r"\undefined", "Undefined control sequence"),
    ],
)
def test_a_fault_is_named(table, fault):
    assert any(fault in line for line in faults_of(table))


def test_without_pdflatex_one_line_says_that_nothing_was_checked(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.argv", ["check_latex"])
    check_latex.main()
    assert capsys.readouterr().out.startswith("nothing checked: there is no pdflatex")
