"""Compile the committed LaTeX tables in the width of AAAI's page: every one must fit.

    python -m scripts.check_latex                                     # all in results/
    python -m scripts.check_latex results/table2-paper-narrow/table.tex
    python -m scripts.check_latex runs/tables/*/table.tex             # those of sweeps
    python -m scripts.check_latex results/ablation-*/table.tex
    make check-latex

Needs pdflatex (Debian: texlive-latex-base and texlive-latex-recommended); without it one line says that nothing was
checked.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmark.cli import counted, run_cli

PAGE = r"""\documentclass[10pt,letterpaper,twocolumn]{article}
\usepackage[textwidth=7in,textheight=9in,columnsep=0.375in]{geometry}
\usepackage{booktabs,graphicx}
\begin{document}
%s
\end{document}
"""
FAULT = re.compile(r"^(?:! .*|(?:Overfull|.*Float too large|.*Missing character|LaTeX Warning: .*undefined).*)$", re.M)


def faults_of(table: str) -> Iterator[str]:
    """Yield the errors, boxes and floats too large that pdflatex finds in a document of this table alone."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "page.tex").write_text(PAGE % table, "utf-8")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False)
        found = FAULT.findall(done.stdout.decode(errors="replace"))
        yield from found or (["pdflatex failed"] if done.returncode else [])


def main() -> None:
    """Check the named files, or all in results/; exit code 1 if one has a fault."""
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return
    if shutil.which("pdflatex") is None:
        print("nothing checked: there is no pdflatex; install texlive-latex-base and texlive-latex-recommended")
        return
    paths = [Path(word) for word in words] or sorted(Path("results").glob("*/*.tex"))
    faults = [f"{path}: {fault}" for path in paths for fault in faults_of(path.read_text("utf-8"))]
    print("\n".join(faults) or f"no fault in {counted(len(paths), 'file')}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    run_cli(main)
