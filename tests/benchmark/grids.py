"""A small grid on the digits, watched."""

from pathlib import Path

from command_line import TINY
from hydra import initialize_config_dir

from benchmark.compose import CONFIGS
from benchmark.grid import cells_of
from benchmark.watch import GridWatch

GRID = ["method=baseline,finetune", "method_seed=0,1", "~method@reference", *TINY]  # strict: an original for each seed


def watch_of(folder: Path, *overrides: str) -> GridWatch:
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        return GridWatch(cells_of([*GRID, f"output_dir={folder}", *overrides]))
