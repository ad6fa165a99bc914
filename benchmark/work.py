"""Drain a grid with many processes, here or on machines that share the folder; start this as often as you like.

    python -m benchmark.work experiment=table2 profile=quick              # one worker; it joins those that are there
    python -m benchmark.work experiment=table2 profile=quick workers=3    # three workers, with one progress line

Every worker takes a cell that is neither recorded nor claimed, runs it and takes the next. It ends when every cell has
a record or has failed, with exit code 1 where some failed. A killed worker's cell is taken over by the others: at once
on the same machine, after three minutes from another one. Options: workers=N; every other key=value is an override, as
for `python -m benchmark.run -m`. Local workers share the GPUs, and the processors unless OMP_NUM_THREADS is set.
"""

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence, Set
from multiprocessing.process import BaseProcess

import torch
from hydra import initialize_config_dir

from benchmark.claims import ClaimLost, Claims
from benchmark.cli import describe, run_cli, wants_traceback
from benchmark.compose import CONFIGS
from benchmark.failures import Failure
from benchmark.grid import cells_of, missing_artefacts
from benchmark.oldcell import OldCell as Cell
from benchmark.run import run_cell
from benchmark.watch import GridWatch

log = logging.getLogger(__name__)
SECONDS_BETWEEN_LOOKS = 1.0


def drain(watch: GridWatch, claims: Claims) -> None:
    """Run cells until all of the grid have a record or have failed, here or elsewhere."""
    while watch.pending():
        name = claims.take(lambda claimed: choose(watch, claimed))
        if name is None:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        else:
            run_claimed(watch, claims, name)
        watch.poll()


def choose(watch: GridWatch, claimed: Set[str]) -> str | None:
    """Return a cell to run: none that is claimed, recorded or waits for an artefact that a claimed one is making."""
    done = watch.recorded()  # looked at after the claims: a claim is dropped when the record is there
    open_cells = [name for name in watch.pending() if name not in done and name not in claimed]
    in_progress = {path for name in claimed if name in watch.cells for path in needs(watch.cells[name])}
    return next((name for name in open_cells if in_progress.isdisjoint(needs(watch.cells[name]))), None)


def needs(cell: Cell) -> set[str]:
    """Return the artefacts that the cell still needs; none where its data cannot be loaded."""
    try:
        return {str(path) for path in missing_artefacts(cell)}
    except Exception:  # running it says why
        return set()


def run_claimed(watch: GridWatch, claims: Claims, name: str) -> None:
    """Run a claimed cell; leave a note where it fails."""
    cell = watch.cells[name]
    try:
        with claims.hold(name):
            try:
                run_cell(cell)
                watch.find_path(name)
                watch.notes.remove(name)
            except Exception as error:
                if wants_traceback():
                    raise
                watch.notes.write(name, Failure(str(cell), describe(error)))
    except ClaimLost:
        log.warning("%s was taken over by another process; going on with the next cell", cell)


def watch_of(overrides: Sequence[str], *, quiet: bool = False) -> GridWatch:
    """Return the watch over the grid of these overrides, and print its plan unless `quiet`."""
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        return GridWatch(cells_of(overrides), quiet=quiet)


def work(overrides: Sequence[str], *, quiet: bool = False) -> None:
    """Be one worker; `quiet` where another process prints the progress."""
    if quiet:
        logging.getLogger("benchmark.watch").setLevel(logging.CRITICAL)
    watch = watch_of(overrides, quiet=quiet)
    drain(watch, Claims(watch.folder / "claims"))
    if not quiet:
        watch.end()


def exit_on_sigterm() -> None:
    """End on SIGTERM as on an error: claims are dropped, and worker processes end with this one."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; run the same command again to continue."))


def work_quietly(overrides: Sequence[str]) -> None:
    exit_on_sigterm()
    run_cli(lambda: work(overrides, quiet=True))


def start(overrides: Sequence[str], number: int) -> list[BaseProcess]:
    """Start `number` workers on this machine; each sees one of the GPUs."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // number)))
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count())))).split(",")
    context = multiprocessing.get_context("spawn")
    processes: list[BaseProcess] = []
    for i in range(number):
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[i % len(gpus)]
        processes.append(context.Process(target=work_quietly, args=(overrides,), daemon=True))
        processes[-1].start()
    return processes


def main() -> None:
    """Read the command line; work, or start workers and print what they do."""
    arguments = [a for a in sys.argv[1:] if a not in ("-m", "--multirun")]
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    wanted = [a.partition("=")[2] for a in arguments if a.startswith("workers=")]
    overrides = [a for a in arguments if not a.startswith("workers=")]
    number = wanted[-1] if wanted else "1"
    if not (number.isdigit() and int(number) > 0):
        raise ValueError(f"Expected workers to be a whole number above 0, but got {number!r}.")
    exit_on_sigterm()
    if int(number) == 1:
        work(overrides)
        return
    watch = watch_of(overrides)
    processes = start(overrides, int(number))
    while any(process.is_alive() for process in processes):
        watch.poll()
        time.sleep(SECONDS_BETWEEN_LOOKS)
    watch.end()


if __name__ == "__main__":
    run_cli(main)
