"""Run one small grid under every launcher that is installed and compare the tables, byte for byte.

    python -m scripts.verify_launchers                       # sequential, work, joblib, submitit_slurm, ray
    python -m scripts.verify_launchers steps=work,ray out=/tmp/launchers method=baseline,ssd

Slurm is started here, on this machine alone, where munged, slurmctld and slurmd are installed and we are root; it is
stopped again. A step whose packages are missing is skipped and says so. Other key=value are overrides of the grid.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path

from benchmark.cli import run_cli
from scripts.same_tables import ROOT, differences, make_tables

GRID = ["experiment=demo", "compute.threads=1", "case=digits_class", "method=retrain,baseline,finetune,ssd"]
STEPS = {
    "sequential": ["benchmark.run"],
    "work": ["benchmark.work", "workers=3"],
    "joblib": ["benchmark.run", "launcher=joblib"],
    "submitit_slurm": ["benchmark.run", "launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1"],
    "ray": ["benchmark.run", "launcher=ray"],
}
PLUGINS = {"joblib": "hydra_joblib_launcher", "submitit_slurm": "hydra_submitit_launcher", "ray": "hydra_ray_launcher"}
SLURM_CONF = """ClusterName=one
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not(step: str) -> str | None:
    """Return why a step cannot be run here, or None."""
    plugin = PLUGINS.get(step)
    try:
        if plugin and find_spec(f"hydra_plugins.{plugin}") is None:
            return f"no {plugin}"
    except ModuleNotFoundError:
        return f"no {plugin}"
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]
    if step == "submitit_slurm" and (missing or os.geteuid()):
        return f"no {', '.join(missing)}" if missing else "starting Slurm needs root"
    return None


@contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """Run a Slurm cluster of one node; jobs see it through $SLURM_CONF."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    cpus = os.cpu_count()
    conf = folder / "slurm.conf"
    conf.write_text(SLURM_CONF.format(host=socket.gethostname(), folder=folder, cpus=cpus))
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    os.environ["SLURM_CONF"] = str(conf)
    subprocess.run(["install", "-d", "-o", "munge", "-g", "munge", "/run/munge"], check=True)
    daemons = [
        subprocess.Popen(["runuser", "-u", "munge", "--", "munged", "--foreground"], stderr=subprocess.DEVNULL),
        *(subprocess.Popen([name, "-D"], stderr=subprocess.DEVNULL) for name in ("slurmctld", "slurmd")),
    ]
    try:
        deadline = time.monotonic() + 60
        while b"idle" not in subprocess.run(["sinfo", "-h"], capture_output=True).stdout:
            if time.monotonic() > deadline:
                raise OSError(f"Expected a Slurm node that is idle, but got none; look at {folder}/*.log.")
            time.sleep(1)
        yield
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()


def run_step(step: str, grid: list[str], out: Path) -> float:
    """Run the grid in one way; return the seconds it took, and leave what it printed in `<step>.log`."""
    folder = out / step
    module, *options = STEPS[step]
    command = [sys.executable, "-m", module, *grid, *options, f"output_dir={folder}"]
    start = time.monotonic()
    with (out / f"{step}.log").open("w") as log, slurm(out / "cluster") if "slurm" in step else nullcontext():
        subprocess.run(command, cwd=ROOT, check=True, stdout=log, stderr=log)
    make_tables(grid, folder)
    return time.monotonic() - start


def main() -> None:
    """Read the command line and run the steps; exit code 1 where one of them gives another table."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    options = {"steps": ",".join(STEPS), "out": ""}
    pairs = [a.partition("=") for a in sys.argv[1:]]
    options |= {name: value for name, _, value in pairs if name in options}
    grid = [*GRID, "method_seed=0", *(f"{name}={value}" for name, _, value in pairs if name not in options)]
    problems = []
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(options["out"] or scratch).resolve()
        out.mkdir(parents=True, exist_ok=True)
        for step in dict.fromkeys(["sequential", *options["steps"].split(",")]):
            if reason := why_not(step):
                print(f"{step}: skipped, {reason}")
                continue
            seconds = run_step(step, grid, out)
            found = differences(out / "sequential", out / step)
            problems += found
            same = "what the others are compared with" if step == "sequential" else "the same tables, byte for byte"
            print(f"{step}: {seconds:.0f} s, {'; '.join(found) or same}", flush=True)
    sys.exit(bool(problems))


if __name__ == "__main__":
    run_cli(main)
