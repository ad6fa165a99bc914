"""Write the CIFAR-10 and CIFAR-100 array files.

    python -m scripts.download_data                                   # into $UNLEARN_DATA_DIR, else into data/
    python -m scripts.download_data data                              # into a folder
    python -m scripts.download_data ../cifar
    UNLEARN_DATA_DIR=../cifar python -m scripts.download_data
    make data                                                         # sets up .venv first

A file that is there already stays.
"""

import os
import sys

from benchmark.cli import run_cli
from benchmark.resolvers import data_folder
from datasets.cifar import load_cifar10, load_cifar100


def main() -> None:
    """Load both data sets; a missing file is downloaded and written."""
    if any(word.startswith("-") for word in sys.argv[1:]):
        print(__doc__)
        return
    folder = data_folder(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("UNLEARN_DATA_DIR", "data"))
    for dataset in (load_cifar10(folder), load_cifar100(folder, "fine")):
        print(f"{folder}/{dataset.name}.npz: {len(dataset.train)} training and {len(dataset.test)} test images")


if __name__ == "__main__":
    run_cli(main)
