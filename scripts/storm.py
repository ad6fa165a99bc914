"""Kill workers with `kill -9` again and again; the tables must come out as if nothing had happened.

    python -m scripts.storm                                  # 30 kills, 3 workers, the demo's grid
    python -m scripts.storm kills=3 workers=2 recipe.epochs=1 method=baseline,ssd

Options: kills, workers, seed, gap (seconds before a kill, at most), limit (seconds for all kills), out (folder, else a
scratch one); the rest are overrides. With a short gap all kills come before the first record. Exit code 1 where a
table differs, a record was written twice or too few kills found a worker.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmark.cli import run_cli
from scripts.same_tables import ROOT, differences, make_tables

Stamps = dict[str, tuple[int, int]]  # record -> (inode, time of its last change): another where it was written again


class Storm:
    """Some workers of one grid, those of them that are killed, and the records as each was first seen."""

    def __init__(self, overrides: Sequence[str], folder: Path, workers: int) -> None:
        self.command = [sys.executable, "-m", "benchmark.work", *overrides, f"output_dir={folder}"]
        self.folder = folder
        self.log = (folder / "log").open("w")
        self.first_seen: Stamps = {}
        self.workers = [self.start() for _ in range(workers)]

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command, cwd=ROOT, stderr=self.log)

    def look(self) -> Stamps:
        """Return the records as they are; remember the new ones."""
        paths = sorted((self.folder / "records").glob("*.json"))
        stamps = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}
        self.first_seen = stamps | self.first_seen
        return stamps

    def watch(self, seconds: float) -> None:
        """Look at the records twenty times a second."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.look()
            time.sleep(0.05)

    def busy(self) -> list[int]:
        """Return the workers that hold a claim now."""
        claims = []
        for path in (self.folder / "claims").glob("*.json"):
            try:
                claims.append(json.loads(path.read_text())["pid"])
            except FileNotFoundError:  # dropped between the two
                continue
        return [i for i, worker in enumerate(self.workers) if worker.pid in claims and worker.poll() is None]

    def kill_one(self, chance: random.Random) -> bool:
        """Kill a worker that is in the middle of a cell and start another in its place; False where there is none."""
        busy = self.busy()
        if not busy:
            return False
        i = chance.choice(busy)
        self.workers[i].kill()
        self.workers[i].wait()
        self.workers[i] = self.start()
        return True


def storm(
    overrides: Sequence[str], folder: Path, *, kills: int, workers: int, seed: int, gap: float, limit: float
) -> list[str]:
    """Run the grid in `folder` under `kills` kills; return what went wrong."""
    chance, start = random.Random(seed), time.monotonic()
    run, done, early = Storm(overrides, folder, workers), 0, 0
    while done < kills and any(worker.poll() is None for worker in run.workers) and time.monotonic() - start < limit:
        run.watch(chance.uniform(0.0, gap))
        hit = run.kill_one(chance)
        done += hit
        early += hit and not run.first_seen
    while any(worker.poll() is None for worker in run.workers):
        run.watch(0.5)
    run.log.flush()
    last = subprocess.run(run.command, cwd=ROOT, stderr=run.log, check=False)  # one more start: nothing is left to do
    now = run.look()
    problems = [f"{name} was written again" for name, stamp in now.items() if run.first_seen[name] != stamp]
    problems += [f"{done} of {kills} kills found a worker in a cell"] if done < kills else []
    problems += ["the last start failed"] if last.returncode else []
    taken_over = (folder / "log").read_text().count("taking over")
    print(
        f"{done} kills ({early} before the first record), {taken_over} claims taken over, {len(now)} records, "
        f"{len(problems)} problems, {time.monotonic() - start:.0f} s"
    )
    return problems


def main() -> None:
    """Read the command line, run both grids and compare their tables."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    options = {"kills": "30", "workers": "3", "seed": "0", "gap": "5", "limit": "3600", "out": ""}
    pairs = [a.partition("=") for a in sys.argv[1:]]
    options |= {name: value for name, _, value in pairs if name in options}
    overrides = [f"{name}={value}" for name, _, value in pairs if name not in options]
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(options["out"] or scratch).resolve()
        calm, stormy = out / "calm", out / "storm"
        stormy.mkdir(parents=True)
        grid = ["experiment=demo", "compute.threads=1", *overrides]
        counts = {name: int(options[name]) for name in ("kills", "workers", "seed")}
        problems = storm(grid, stormy, **counts, gap=float(options["gap"]), limit=float(options["limit"]))
        quiet = [sys.executable, "-m", "benchmark.run", *grid, f"output_dir={calm}"]
        subprocess.run(quiet, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
        for folder in (calm, stormy):
            make_tables(grid, folder)
        problems += differences(calm, stormy)
    print("\n".join(problems) or "the tables are the same, byte for byte")
    sys.exit(bool(problems))


if __name__ == "__main__":
    run_cli(main)
