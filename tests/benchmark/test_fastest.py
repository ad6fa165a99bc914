import json
import time

import pytest
import torch
from omegaconf import OmegaConf

from benchmark.fastest import fastest, measured_speeds, name_of, training_speed, ways
from benchmark.oldcell import OldCell as Cell
from tests.methods.helpers import compose_config

CPU = torch.device("cpu")


def config(precision, channels_last):
    return OmegaConf.create({"precision": precision, "channels_last": channels_last})


@pytest.mark.parametrize(
    ("precision", "layout", "names"),
    [
        ("float32", True, ["float32, channels last"]),
        ("auto", False, ["float32, contiguous", "bfloat16, contiguous"]),
        ("bfloat16", "auto", ["bfloat16, channels last", "bfloat16, contiguous"]),
    ],
)
def test_what_is_fixed_stays_fixed(precision, layout, names):
    assert [name_of(way) for way in ways(config(precision, layout), CPU)] == names


def test_the_fastest_way_wins_by_more_than_the_noise():
    allowed = ways(config("auto", "auto"), CPU)
    speeds = {name_of(way): 100.0 for way in allowed}
    assert fastest(allowed, speeds | {"bfloat16, contiguous": 104.0}) == allowed[0]
    assert name_of(fastest(allowed, speeds | {"bfloat16, contiguous": 110.0})) == "bfloat16, contiguous"


def test_one_measurement_for_each_model_and_folder(tmp_path):
    allowed, calls = ways(config("auto", True), CPU), []

    def trial(way):
        calls.append(way)
        return float(len(calls))

    first = measured_speeds(tmp_path, {"model": 1}, allowed, trial)
    assert measured_speeds(tmp_path, {"model": 1}, allowed, trial) == first
    assert calls == allowed
    measured_speeds(tmp_path, {"model": 2}, allowed, trial)
    assert len(calls) == 4


def test_a_file_that_holds_no_speeds_is_named(tmp_path):
    allowed = ways(config("auto", True), CPU)
    measured_speeds(tmp_path, {}, allowed, lambda way: 1.0)
    (path,) = tmp_path.glob("*.json")
    path.write_text("{}")
    with pytest.raises(ValueError, match=f"{path.name} to hold measured speeds"):
        measured_speeds(tmp_path, {}, allowed, lambda way: 1.0)


def test_the_first_step_chooses_kernels_and_never_counts(monkeypatch):
    cell = Cell(compose_config("recipe.batch_size=50"))
    pauses = iter([0.7, 0.05])  # the first alone is longer than a trial need last
    monkeypatch.setattr("benchmark.fastest.train", lambda *args, **kwargs: time.sleep(next(pauses)))
    how = {"preprocessing": cell.preprocessing, "compute": cell.compute}
    assert 200 < training_speed(cell.build_model(seed=0), cell.dataset.train, cell.recipe, **how) <= 1000


def test_a_cell_keeps_the_choice_of_its_folder(tmp_path):
    def cell():
        options = ["compute.precision=auto", "compute.channels_last=auto", f"output_dir={tmp_path}"]
        return Cell(compose_config("model.width=2", "dataset.subset.train_images=60", *options))

    assert cell().compute == cell().compute
    (path,) = (tmp_path / "compute").glob("*.json")
    measured = json.loads(path.read_text())
    assert len(measured["images_per_second"]) == 4
    measured["images_per_second"]["bfloat16, contiguous"] = 1e9
    path.write_text(json.dumps(measured))
    assert (cell().compute.precision, cell().compute.channels_last) == ("bfloat16", False)
    pinned = Cell(compose_config(f"output_dir={tmp_path}")).compute
    assert (pinned.precision, pinned.channels_last) == ("float32", True)  # the digits' recipe
