"""The objects that a configuration describes, and that consecutive cells share their data."""

from pathlib import Path

import pytest
import torch
from command_line import make_cell, make_cells

from benchmark.workbench import Workbench
from datasets.batches import channel_statistics


def test_consecutive_cells_share_their_data(tmp_path):
    one, other = make_cells(tmp_path, "method=baseline,ssd")
    assert Workbench(one).dataset is Workbench(other).dataset
    smaller = make_cell(tmp_path, "dataset.subset.train_images=50")
    assert len(Workbench(smaller).dataset.train) == 50
    assert len(Workbench(one).dataset.train) == 60
    assert Workbench(one).load_seconds > 0


def test_the_split_follows_the_task(tmp_path):
    single, several = make_cell(tmp_path), make_cell(tmp_path, "requests=sequence", "requests.n=2")
    assert single.targets is None
    assert Workbench(single).split.requests == ()
    split = Workbench(several).split
    assert [request.forget_target for request in split.requests] == ["upright_6", "upright_3"]
    assert set(split.forget_train.labels.tolist()) == {3, 6}
    assert len(split.forget_train) + len(split.retain_train) == 60


def test_normalisation_is_that_of_the_training_images_unless_it_is_given(tmp_path):
    own, given = make_cells(tmp_path, "protocol=strict", "preprocessing.mean=null,[0.1,0.2,0.3]")
    mean, _ = channel_statistics(Workbench(own).dataset.train)
    assert Workbench(own).preprocessing.mean == pytest.approx(mean)
    given.config.preprocessing.std = [0.5, 0.5, 0.5]
    assert Workbench(given).preprocessing.mean == (0.1, 0.2, 0.3)


def test_a_cpu_measures_in_small_batches_unless_told(tmp_path):
    cells = make_cells(tmp_path, "compute.eval_batch_size=null,7", "compute.device=cpu")
    assert [Workbench(cell).eval_batch_size for cell in cells] == [100, 7]


def test_a_model_belongs_to_its_seed(tmp_path):
    bench = Workbench(make_cell(tmp_path))
    one, same, other = (bench.build_model(seed).conv1.weight for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert bench.build_model(5, pretrained=False).fc.out_features == 20
    assert one.is_contiguous(memory_format=torch.channels_last) == bench.compute.channels_last


def test_only_a_pretrained_model_reads_weights(tmp_path):
    model = ["model=vit", "model.timm_name=test_vit", "model.image_size=32", "model.weights=none.pth"]
    cell = make_cell(tmp_path, *model, base=["dataset.subset.train_images=60"])
    assert Workbench(cell).build_model(0, pretrained=False)(torch.zeros(1, 3, 32, 32)).shape == (1, 20)
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        Workbench(cell).build_model(0)


def test_validation_reads_options_and_writes_nothing(tmp_path):
    cell = make_cell(tmp_path / "new" / "runs", "method=finetune")
    Workbench(cell).validate()
    assert list((tmp_path / "new" / "runs").iterdir()) == []


def test_an_output_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    for folder in (tmp_path / "runs", Path("/proc/runs")):
        with pytest.raises(ValueError, match=f"output_dir to be a writable folder, but {folder} is not"):
            Workbench(make_cell(folder)).validate()
