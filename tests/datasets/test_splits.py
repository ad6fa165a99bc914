from dataclasses import replace

import pytest
import torch

from datasets.base import ImageDataset, LabelledImages
from datasets.splits import class_split, random_split, stratified_subset, subclass_split


def pixelless(n, name="cifar10", n_test=100, offset=0):
    """As many samples as a real data set has, of one pixel each."""

    def part(count):
        return LabelledImages.from_tensors(
            torch.zeros(count, 1, 1, 3, dtype=torch.uint8), (torch.arange(count) + offset) % 10
        )

    return ImageDataset(name, part(n), part(n_test), tuple("abcdefghij"), None, "")


def rows(data):
    return set(data.index.tolist())


def assert_partition(whole, one, other):
    assert rows(one) | rows(other) == rows(whole)
    assert len(one) + len(other) == len(whole)
    for part in (one, other):
        assert torch.equal(part.labels, whole.labels[part.index])
        assert part.index.tolist() == sorted(part.index.tolist())


@pytest.mark.parametrize("target", ["pet", 1, "1"])
def test_class_split_is_a_partition_by_label(dataset, target):
    split = class_split(dataset, target=target)
    assert_partition(dataset.train, split.forget_train, split.retain_train)
    assert_partition(dataset.test, split.forget_test, split.retain_test)
    for forget, retain in ((split.forget_train, split.retain_train), (split.forget_test, split.retain_test)):
        assert set(forget.labels.tolist()) == {1}
        assert set(retain.labels.tolist()) == {0, 2}
    assert (split.forget_target, split.num_classes, split.level) == ("pet", 3, "class")
    assert not split.forget_test_is_train
    assert split.groups(split.retain_train) is split.retain_train.labels


def test_subclass_split_is_a_partition_by_fine_label(dataset):
    split = subclass_split(dataset, target="dog")
    assert_partition(dataset.train, split.forget_train, split.retain_train)
    assert_partition(dataset.test, split.forget_test, split.retain_test)
    for forget, retain in ((split.forget_train, split.retain_train), (split.forget_test, split.retain_test)):
        assert set(forget.fine_labels.tolist()) == {3}
        assert set(forget.labels.tolist()) == {1}
        assert 3 not in retain.fine_labels
        assert 1 in retain.labels  # the sibling stays
    assert (split.forget_target, split.num_classes, split.level) == ("dog", 3, "subclass")
    assert split.groups(split.retain_train) is split.retain_train.fine_labels


def test_random_split_of_50000_forgets_n_and_measures_them_on_themselves():
    dataset = pixelless(50_000)
    split = random_split(dataset, n=83, seed=0)
    assert_partition(dataset.train, split.forget_train, split.retain_train)
    assert len(split.forget_train) == 83
    assert split.forget_test is split.forget_train
    assert split.forget_test_is_train
    assert split.retain_test is dataset.test
    assert split.num_train == 50_000
    # 83 of 50 000 uniform: the mean row has a standard error of 1 584
    assert abs(split.forget_train.index.double().mean() - 25_000) < 6_500


@pytest.mark.usefixtures("global_rng_untouched")
def test_random_split_depends_on_name_n_and_seed_alone():
    def drawn(dataset, n=83, seed=0):
        return random_split(dataset, n=n, seed=seed).forget_train.index.tolist()

    same = drawn(pixelless(50_000))
    assert drawn(pixelless(50_000)) == same
    assert drawn(pixelless(50_000, n_test=7, offset=3)) == same
    others = [
        drawn(pixelless(50_000, name="cifar100")),
        drawn(pixelless(50_000), seed=1),
        drawn(pixelless(50_000), n=84),
    ]
    for other in others:
        assert len(set(other) & set(same)) < 10


def test_class_splits_ignore_the_pixels(dataset):
    blank = replace(dataset.train, storage=torch.zeros_like(dataset.train.storage))
    for make in (class_split, subclass_split):
        ours = make(dataset, target=2).forget_fingerprint
        assert make(replace(dataset, train=blank), target=2).forget_fingerprint == ours
        assert make(dataset, target=1).forget_fingerprint != ours


@pytest.mark.parametrize("target", ["whale", 3, -1, "-1", "1.5", ""])
def test_an_unknown_class_is_named_beside_the_known_ones(dataset, target):
    with pytest.raises(ValueError, match="insect, pet, wild"):
        class_split(dataset, target=target)


def test_a_fine_class_is_no_class(dataset):
    with pytest.raises(ValueError, match="but got 'dog'"):
        class_split(dataset, target="dog")
    with pytest.raises(ValueError, match="ant, bee, cat"):
        subclass_split(dataset, target="pet")


def test_subclass_needs_superclasses(dataset):
    with pytest.raises(ValueError, match="has none"):
        subclass_split(pixelless(100), target=1)
    fine = replace(
        dataset, train=dataset.train.relabelled(dataset.train.fine_labels),
        test=dataset.test.relabelled(dataset.test.fine_labels), class_names=dataset.fine_class_names,
    )  # fmt: skip
    with pytest.raises(ValueError, match="has none"):
        subclass_split(fine, target=1)


@pytest.mark.parametrize("n", [0, -1, 60, 61])
def test_random_split_refuses_nothing_and_everything(dataset, n):
    with pytest.raises(ValueError, match=r"in 1 … 59"):
        random_split(dataset, n=n, seed=0)


def test_a_class_without_samples_is_refused(dataset):
    train = dataset.train.subset(dataset.train.labels != 1)
    with pytest.raises(ValueError, match="forget_train of forget target 'pet'"):
        class_split(replace(dataset, train=train), target="pet")


def test_forgetting_the_only_class_is_refused(dataset):
    keep = replace(dataset, train=dataset.train.subset(dataset.train.labels == 1))
    with pytest.raises(ValueError, match="retain_train"):
        class_split(keep, target="pet")


def unequal(counts):
    labels = torch.cat([torch.full((count,), c) for c, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))]
    data = LabelledImages.from_tensors(torch.zeros(len(labels), 1, 1, 3, dtype=torch.uint8), labels)
    return ImageDataset("unequal", data, data, tuple("abcdefgh"[: len(counts)]), None, "")


def counts_of(data, classes):
    return torch.bincount(data.labels, minlength=classes).tolist()


def test_stratified_subset_gives_every_class_its_share():
    part = stratified_subset(unequal([60, 40, 20]), train_images=12, test_images=None, seed=0).train
    assert counts_of(part, 3) == [6, 4, 2]
    assert part.index.tolist() == sorted(set(part.index.tolist()))


@pytest.mark.parametrize("n", [10, 17, 50, 119])
def test_stratified_subset_is_within_one_of_the_share(n):
    counts = [60, 37, 23]
    part = stratified_subset(unequal(counts), train_images=n, test_images=None, seed=0).train
    assert len(part) == n
    for got, count in zip(counts_of(part, 3), counts, strict=True):
        assert abs(got - n * count / 120) <= 1


def test_stratified_subset_goes_by_fine_class(dataset):
    part = stratified_subset(dataset, train_images=12, test_images=6, seed=0)
    assert torch.bincount(part.train.fine_labels).tolist() == [2] * 6
    assert torch.bincount(part.test.fine_labels).tolist() == [1] * 6
    assert part.train.storage.data_ptr() == dataset.train.storage.data_ptr()
    assert torch.equal(part.train.labels, dataset.train.labels[part.train.index])


@pytest.mark.usefixtures("global_rng_untouched")
def test_stratified_subset_is_deterministic_and_nested(dataset):
    def drawn(n, seed=0):
        return stratified_subset(dataset, train_images=n, test_images=None, seed=seed).train.index.tolist()

    assert drawn(24) == drawn(24)
    assert drawn(24) != drawn(24, seed=1)
    assert set(drawn(12)) < set(drawn(24)) < set(drawn(48))


def test_stratified_subset_keeps_everything_for_none_or_plenty(dataset):
    for n in (None, 60, 10_000):
        assert stratified_subset(dataset, train_images=n, test_images=None, seed=0).train is dataset.train


def test_stratified_subset_keeps_one_set_for_training_and_test_one():
    part = stratified_subset(unequal([60, 40, 20]), train_images=12, test_images=3, seed=0)
    assert part.test is part.train


@pytest.mark.parametrize("n", [5, 0, -1])
def test_stratified_subset_refuses_less_than_one_a_class(dataset, n):
    with pytest.raises(ValueError, match=r"train_images to be at least one a class \(6\)"):
        stratified_subset(dataset, train_images=n, test_images=None, seed=0)


@pytest.mark.data
def test_splits_of_real_cifar(array_dir):
    from datasets.cifar import load_cifar100

    cifar20 = load_cifar100(array_dir, "coarse")
    rocket = subclass_split(cifar20, target="rocket")
    assert (len(rocket.forget_train), len(rocket.forget_test)) == (500, 100)
    vehicle2 = class_split(cifar20, target="vehicle2")
    assert (len(vehicle2.forget_train), len(vehicle2.forget_test)) == (2_500, 500)
    assert rows(rocket.forget_train) < rows(vehicle2.forget_train)
