import pytest
import torch
from safetensors.torch import save_file

from benchmark.evaluate import SPLITS, evaluate, from_tensors, predict, to_tensors
from datasets.splits import random_split, subclass_split

FACTS = {"changed_fraction": 0.25}


@pytest.fixture
def outputs(cnn, split, preprocessing):
    return evaluate(cnn, split, preprocessing, batch_size=7, facts=FACTS)


def test_predictions_are_in_the_order_of_the_data(cnn, dataset, preprocessing):
    data = dataset.train.subset(torch.tensor([5, 3, 59, 0]))
    expected = cnn(preprocessing(data.storage[data.index])).detach()
    for size in (1, 3, 100):
        torch.testing.assert_close(predict(cnn, data, preprocessing, size), expected)


def test_logits_that_are_not_finite_are_an_error(cnn, dataset, preprocessing):
    cnn.fc.bias.data[0] = float("nan")
    with pytest.raises(FloatingPointError, match="finite logits"):
        predict(cnn, dataset.train, preprocessing, 8)


def test_every_split_is_measured_in_eval_mode(cnn, split, preprocessing, outputs):
    cnn.train()
    before = {name: value.clone() for name, value in cnn.state_dict().items()}
    again = evaluate(cnn, split, preprocessing, batch_size=60, facts=FACTS)
    assert not cnn.training
    assert all(torch.equal(value, before[name]) for name, value in cnn.state_dict().items())
    for name in SPLITS:
        data = getattr(split, name)
        assert torch.equal(outputs.labels[name], data.labels)
        assert outputs.logits[name].shape == (len(data), 3)
        assert outputs.logits[name].dtype == torch.float32
        torch.testing.assert_close(outputs.logits[name], again.logits[name])
    assert outputs.facts == FACTS
    assert not outputs.forget_test_is_train
    assert outputs.newest_test is None


def test_groups_are_the_classes_among_which_one_is_forgotten(cnn, dataset, preprocessing):
    split = subclass_split(dataset, target="dog")
    outputs = evaluate(cnn, split, preprocessing, batch_size=16, facts=FACTS)
    assert torch.equal(outputs.groups["retain_test"], split.retain_test.fine_labels)


def test_the_forgotten_training_samples_are_looked_at_once(cnn, dataset, preprocessing):
    seen = []
    cnn.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    outputs = evaluate(cnn, random_split(dataset, n=7, seed=0), preprocessing, batch_size=16, facts=FACTS)
    assert sum(seen) == 60 + 30
    assert outputs.forget_test_is_train
    assert outputs.logits["forget_test"] is outputs.logits["forget_train"]


@pytest.mark.parametrize("is_random", [False, True])
def test_taking_apart_and_putting_together(is_random, cnn, split, dataset, preprocessing, tmp_path):
    split = random_split(dataset, n=7, seed=0) if is_random else split
    outputs = evaluate(cnn, split, preprocessing, batch_size=16, facts=FACTS)
    tensors = to_tensors(outputs)
    save_file(tensors, tmp_path / "x.safetensors")  # refuses tensors that share memory
    assert len(tensors) == 8
    back = from_tensors(tensors, split, FACTS)
    for name in SPLITS:
        assert torch.equal(back.logits[name], outputs.logits[name])
        assert torch.equal(back.labels[name], outputs.labels[name])
        assert torch.equal(back.groups[name], getattr(split, name).labels)
    assert (back.facts, back.forget_test_is_train) == (FACTS, is_random)
