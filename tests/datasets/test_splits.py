from dataclasses import replace

import pytest
import torch

from datasets.base import ImageDataset, LabelledImages
from datasets.splits import class_split, hold_out_per_class, random_split, stratified_subset, subclass_split


def pixelless(n, name="cifar10", n_test=100, offset=0):
    """As many samples as a real data set has, of one pixel each."""

    def part(count):
        return LabelledImages.from_tensors(
            torch.zeros(count, 1, 1, 3, dtype=torch.uint8), (torch.arange(count) + offset) % 10
        )

    return ImageDataset(name, part(n), part(n_test), tuple("abcdefghij"), tuple("abcdefghij"), "")


def rows(data):
    return set(data.index.tolist())


def assert_partition(whole, one, other):
    assert rows(one) | rows(other) == rows(whole)
    assert len(one) + len(other) == len(whole)
    for part in (one, other):
        assert torch.equal(part.labels, whole.labels[part.index])
        assert part.index.tolist() == sorted(part.index.tolist())


@pytest.mark.parametrize(
    ("make", "target", "forgotten"),
    [(class_split, "pet", [2, 3]), (class_split, "1", [2, 3]), (subclass_split, 3, [3])],
)
def test_a_split_is_a_partition_by_label(dataset, make, target, forgotten):
    split = make(dataset, target=target)
    for whole, forget, retain in (
        (dataset.train, split.forget_train, split.retain_train),
        (dataset.test, split.forget_test, split.retain_test),
    ):
        assert_partition(whole, forget, retain)
        assert forget.fine_labels.unique().tolist() == forgotten
        assert retain.fine_labels.unique().tolist() == [fine for fine in range(6) if fine not in forgotten]
        assert forget.labels.unique().tolist() == [1]
    level, name = ("class", "pet") if make is class_split else ("subclass", "dog")
    assert (split.forget_target, split.num_classes, split.level) == (name, 3, level)
    assert not split.forget_test_is_train
    retain = split.retain_train
    assert split.groups(retain) is (retain.labels if level == "class" else retain.fine_labels)


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


def test_a_fine_class_is_no_class(dataset):
    with pytest.raises(ValueError, match=r"class of tiny .*insect, pet, wild.* but got 'dog'"):
        class_split(dataset, target="dog")
    with pytest.raises(ValueError, match=r"fine class of tiny .*ant, bee, cat"):
        subclass_split(dataset, target="pet")


def test_subclass_needs_superclasses():
    with pytest.raises(ValueError, match="cifar10 has none; use dataset=cifar20"):
        subclass_split(pixelless(100), target=1)


@pytest.mark.parametrize("n", [0, 60, 1.5])
def test_random_split_refuses_nothing_and_everything(dataset, n):
    with pytest.raises(ValueError, match=r"in 1 … 59"):
        random_split(dataset, n=n, seed=0)


def test_a_class_without_samples_and_the_only_class_are_refused(dataset):
    pets = dataset.train.labels == 1
    for rows, match in ((~pets, "forget_train of forget target 'pet'"), (pets, "retain_train")):
        with pytest.raises(ValueError, match=match):
            class_split(replace(dataset, train=dataset.train.subset(rows)), target="pet")


def unequal(counts):
    labels = torch.cat([torch.full((count,), c) for c, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))]
    data = LabelledImages.from_tensors(torch.zeros(len(labels), 1, 1, 3, dtype=torch.uint8), labels)
    names = tuple("abcdefgh"[: len(counts)])
    return ImageDataset("unequal", data, data, names, names, "")


def counts_of(data, classes):
    return torch.bincount(data.labels, minlength=classes).tolist()


def test_stratified_subset_gives_every_class_its_share():
    part = stratified_subset(unequal([60, 40, 20]), train_images=12, test_images=3, seed=0)
    assert counts_of(part.train, 3) == [6, 4, 2]
    assert part.train.index.tolist() == sorted(set(part.train.index.tolist()))
    assert part.test is part.train  # one set for training and test stays one


@pytest.mark.parametrize("n", [10, 17, 119])
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


def test_a_held_out_share_is_a_partition_of_the_training_images(dataset):
    part = stratified_subset(dataset, train_images=48, test_images=None, seed=0, held_out=0.25)
    whole = stratified_subset(dataset, train_images=48, test_images=None, seed=0).train
    assert rows(part.train) | rows(part.test) == rows(whole)
    assert len(part.train) + len(part.test) == 48
    assert torch.bincount(part.test.fine_labels).tolist() == [2] * 6


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_held_out_share_is_neither_nothing_nor_everything(dataset, share):
    with pytest.raises(ValueError, match="held_out to be a share between 0 and 1"):
        stratified_subset(dataset, train_images=None, test_images=None, seed=0, held_out=share)


@pytest.mark.parametrize("count", [2, 3, 5, 237])
def test_every_class_gives_its_share_and_is_in_both_parts(count):
    names = tuple("abc")
    stays, held = hold_out_per_class(unequal([count] * 3).train, names, share=0.2, dataset="x", seed=0)
    assert counts_of(held, 3) == [max(1, round(0.2 * count))] * 3
    assert counts_of(stays, 3) == [count - max(1, round(0.2 * count))] * 3
    assert not rows(held) & rows(stays)


@pytest.mark.parametrize("n", [5, -1])
def test_stratified_subset_refuses_less_than_one_per_class(dataset, n):
    with pytest.raises(ValueError, match=r"train_images to be at least one per class \(6\)"):
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
