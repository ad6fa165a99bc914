"""Hydra's sweep handed to the launcher."""

from pathlib import Path

import pytest
from command_line import TINY, run_command
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from benchmark.cli import Failure
from benchmark.launcher import engine, launch

SWEEP = ["-m", "launcher=local", "method=ssd,finetune", "method_seed=0,1", *TINY]


def test_a_job_is_composed_once(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    again = []
    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", lambda *_, **__: again.append("by Hydra's sweeper"))
    monkeypatch.setattr(launch, "Composer", lambda *_: again.append("by the launcher"))
    monkeypatch.setattr(launch, "run_tasks", lambda tasks, **_: [(name, Failure(name, "no Ray")) for name in tasks])
    assert run_command([*SWEEP, f"output_dir={tmp_path}"], monkeypatch) == 1
    assert again == []
    lines = [message for message in caplog.messages if message.startswith("[")]
    assert [line.partition(": ")[2] for line in lines] == ["failed: no Ray"] * 4
    assert [line.partition(" seed ")[2][:1] for line in lines] == ["0", "1", "0", "1"]


def test_a_sweeper_may_make_up_jobs(tmp_path, monkeypatch):
    made_up = ("method=ssd", f"output_dir={tmp_path}", *TINY)
    cells = []
    original = launch.cells_of_jobs

    def with_one_more(context, config, overrides):
        cells.extend(original(context, config, [*overrides, made_up]))
        return cells[:-1]

    monkeypatch.setattr(launch, "cells_of_jobs", with_one_more)
    monkeypatch.setattr(launch, "run_tasks", lambda tasks, **_: [(name, Failure(name, "no Ray")) for name in tasks])
    assert run_command([*SWEEP, f"output_dir={tmp_path}"], monkeypatch) == 1
    assert [cell.labels["method"] for cell in cells] == ["ssd", "ssd", "finetune", "finetune", "ssd"]
    assert Path(cells[-1].config.output_dir) == tmp_path


def test_a_task_that_no_worker_has_room_for_is_refused():
    with pytest.raises(ValueError, match=r"num_cpus to be at most hydra.launcher.workers=2, .* but got 4"):
        next(engine.run_tasks({}, workers=2, num_cpus=4, num_gpus=None, init={}))
