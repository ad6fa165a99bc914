import re
import subprocess
import sys
from pathlib import Path

import pytest

# Prints the process's peak memory after the command.
COMMAND = """
import resource, sys
from benchmark.cli import run_cli
from benchmark.run import main
try:
    run_cli(main)
finally:
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
CELL = [
    "model=vit", "dataset=digits", "model.timm_name=vit_base_patch16_224", "model.image_size=224",
    "model.pretrained=false", "recipe.epochs=1", "dataset.subset.train_images=20", "dataset.subset.test_images=20",
    "compute.device=cpu", "compute.progress_seconds=null", "~method@reference",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count peak memory in other units")
@pytest.mark.parametrize("method", ["ssd", "bad_teacher", "fisher"])
def test_cell_of_a_vit_base_needs_less_than_4_gb(method, tmp_path):
    command = [sys.executable, "-c", COMMAND, *CELL, f"method={method}", "protocol=paper"]
    run = subprocess.run(
        [*command, f"output_dir={tmp_path}"], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert "D_r" in run.stderr
    peak = int(re.findall(r"peak (\d+)", run.stdout)[0]) / 1e9
    print(f"{method}: {peak:.2f} GB")
    assert 2 < peak < 4
