"""Search a method's hyper-parameters with Optuna's TPE; a killed search continues, several processes may share one.

    python -m benchmark.search search=ssd                     # α and λ of SSD on the embedded digits
    python -m benchmark.search search=ssd dataset=cifar20 task=class task.target=vehicle2 profile=quick protocol=paper
    python -m benchmark.search search=finetune search/objective=score search.n_trials=20
    python -m benchmark.search search=ssd budget=9m           # as many trials as fit; the same command goes on
    python -m benchmark.search -m search=scrub,salun case=digits_class,digits_random out=results/searches-NAME
    python -m benchmark.search landscape=results/search-…     # draws the figure again from the files in the folder

search=NAME             parameters and ranges, from configs/search/NAME.yaml
search/objective=NAME   gap (to the retrained model, smaller is better) | score (weighted; needs no retrained model)
search.n_trials=50      complete trials in all: of earlier starts, and of every process on the same storage, each of
                        which may add one at the end
search.storage=…        default: SQLite below output_dir; a file name: a journal; URL://…: a database for many machines
                        (SQLite and journals: a new file, or one with a search of this suite)
search.seeds=3          judge a trial on the mean over so many method seeds (strict: as many originals)
budget=9m               stop before a trial that would not end in time, with exit code 3; the same command goes on
search.held_out=0.2     share of the training images to judge on (default under strict); null: the test images (paper)
out=FOLDER              default: results/search-<settings>; it never replaces another search or a larger one
-m                      every combination, one after the other; out=FOLDER gets one table of the values found and of the
                        range of values that are as good

Every other key=value is one of `python -m benchmark.run`. FOLDER gets trials.csv, importances.csv, summary.md,
the figure landscape.*, and best.yaml, which any run takes:

    python -m benchmark.run --config-dir results +search-<settings>=best dataset=… task=…

`optuna-dashboard STORAGE` shows the study while it runs; the command prints STORAGE.
"""

import sys
from pathlib import Path

from benchmark.cli import run_cli, with_search_path


def main() -> None:
    """Read the command line and run one search."""
    arguments = with_search_path(sys.argv[1:])
    if {"-h", "--help"} & set(arguments) or not arguments:
        print(__doc__)
        return
    if arguments[0].startswith("landscape="):
        from benchmark.report.query import write_files
        from benchmark.search.landscape import landscape_files

        folder = Path(arguments[0].removeprefix("landscape="))
        write_files(folder, landscape_files(folder))
        return
    from benchmark.report.typeset import show
    from benchmark.search.run import run_search, search_cell, search_cells  # after the help, which needs no torch
    from benchmark.search.several import run_searches

    is_sweep = bool({"-m", "--multirun"} & set(arguments))
    out = [argument.removeprefix("out=") for argument in arguments if argument.startswith("out=")]
    words = [word for word in arguments if not word.startswith("out=") and word not in ("-m", "--multirun")]
    if not is_sweep:
        show(run_search(search_cell(words), out[-1] if out else None))
    elif out:
        show(run_searches(search_cells(words), Path(out[-1]).expanduser()))
    else:
        raise ValueError("Expected out=FOLDER for the table of several searches, but got none.")


if __name__ == "__main__":
    run_cli(main)
