from dataclasses import replace

import pytest
import torch

from datasets.base import ImageDataset, LabelledImages
from datasets.splits import (
    class_split,
    confusion_split,
    hold_out_per_class,
    indices_split,
    random_split,
    stratified_subset,
    subclass_split,
)
from datasets.targets import read_request


def pixelless(labels, name="cifar10"):
    """A data set of one pixel per sample, the same for training and test."""
    data = LabelledImages.from_tensors(torch.zeros(len(labels), 1, 1, 3, dtype=torch.uint8), labels)
    names = tuple("abcdefghij"[: int(labels.max()) + 1])
    return ImageDataset(name, data, data, names, names, "")


def unequal(counts):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return pixelless(labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))])


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
    [(class_split, "pet", [2, 3]), (subclass_split, 3, [3])],
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


@pytest.mark.usefixtures("global_rng_untouched")
def test_random_split_depends_on_name_n_and_seed_alone_and_measures_the_forgotten_on_themselves():
    dataset = pixelless(torch.arange(50_000) % 10)
    split = random_split(dataset, n=83, seed=0)
    assert_partition(dataset.train, split.forget_train, split.retain_train)
    assert (len(split.forget_train), len(split.forget_train) + len(split.retain_train)) == (83, 50_000)
    assert split.forget_test is split.forget_train
    assert split.forget_test_is_train
    assert split.retain_test is dataset.test
    # 83 of 50 000 uniform: the mean row has a standard error of 1 584
    assert abs(split.forget_train.index.double().mean() - 25_000) < 6_500
    relabelled = replace(dataset, train=dataset.train.relabelled(9 - dataset.train.labels))
    assert rows(random_split(relabelled, n=83, seed=0).forget_train) == rows(split.forget_train)
    for other, n, seed in ((replace(dataset, name="cifar100"), 83, 0), (dataset, 83, 1), (dataset, 84, 0)):
        assert len(rows(random_split(other, n=n, seed=seed).forget_train) & rows(split.forget_train)) < 10


def test_seeds_draw_from_the_same_pool_and_forget_each_image_alike():
    dataset = pixelless(torch.arange(1000) % 10)
    splits = [random_split(dataset, n=50, seed=seed, pool=100) for seed in range(64)]
    counts = torch.bincount(torch.cat([split.forget_train.index for split in splits]), minlength=1000)
    assert int((counts > 0).sum()) == 100
    assert abs(counts[counts > 0].double() - 32).max() < 4.5 * 4  # standard deviations of a binomial
    assert_partition(dataset.train, splits[0].forget_train, splits[0].retain_train)
    assert rows(splits[0].forget_train) != rows(splits[1].forget_train)
    whole = random_split(dataset, n=1, seed=0, pool=1)
    assert rows(whole.forget_train) == rows(random_split(dataset, n=1, seed=5, pool=1).forget_train)


@pytest.mark.parametrize("pool", [49, 1001])
def test_a_pool_holds_the_forget_set_and_lies_in_the_training_set(pool):
    with pytest.raises(ValueError, match=f"Expected task.pool to be in 50 … 1000 for cifar10, but got {pool}"):
        random_split(pixelless(torch.arange(1000) % 10), n=50, seed=0, pool=pool)


def drawn(dataset, n, seed=0, **options):
    return stratified_subset(dataset, **{"train_images": n, "test_images": None, "seed": seed} | options)


@pytest.mark.parametrize("n", [17, 119])
def test_stratified_subset_is_within_one_of_the_share(n):
    counts = [60, 37, 23]
    part = drawn(unequal(counts), n, test_images=3)
    assert len(part.train) == n
    for got, count in zip(torch.bincount(part.train.labels).tolist(), counts, strict=True):
        assert abs(got - n * count / 120) <= 1
    assert part.train.index.tolist() == sorted(rows(part.train))
    assert part.test is part.train  # one set for training and test stays one


def test_stratified_subset_goes_by_fine_class_and_shares_the_pixels(dataset):
    part = drawn(dataset, 12, test_images=6)
    assert torch.bincount(part.train.fine_labels).tolist() == [2] * 6
    assert torch.bincount(part.test.fine_labels).tolist() == [1] * 6
    assert part.train.storage is dataset.train.storage
    assert torch.equal(part.train.labels, dataset.train.labels[part.train.index])


@pytest.mark.usefixtures("global_rng_untouched")
def test_stratified_subset_is_deterministic_and_nested(dataset):
    assert rows(drawn(dataset, 24).train) == rows(drawn(dataset, 24).train) != rows(drawn(dataset, 24, seed=1).train)
    assert rows(drawn(dataset, 12).train) < rows(drawn(dataset, 24).train) < rows(drawn(dataset, 48).train)
    for everything in (None, 60, 10_000):
        assert drawn(dataset, everything).train is dataset.train


def test_a_held_out_share_is_a_stratified_partition_of_the_training_images(dataset):
    part = drawn(dataset, 48, held_out=0.25)
    assert rows(part.train) | rows(part.test) == rows(drawn(dataset, 48).train)
    assert len(part.train) + len(part.test) == 48
    assert torch.bincount(part.test.fine_labels).tolist() == [2] * 6
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"held_out to be a finite number in \(0, 1\)"):
            drawn(dataset, 48, held_out=share)


@pytest.mark.parametrize("count", [2, 237])
def test_every_class_gives_its_share_and_is_in_both_parts(count):
    whole = unequal([count] * 3).train
    stays, held = hold_out_per_class(whole, ("a", "b", "c"), share=0.2, dataset="x", seed=0)
    assert_partition(whole, stays, held)
    assert torch.bincount(held.labels).tolist() == [max(1, round(0.2 * count))] * 3


def test_what_is_refused(dataset):
    pets = dataset.train.labels == 1
    without_pets, only_pets = (replace(dataset, train=dataset.train.subset(kept)) for kept in (~pets, pets))
    for expected, make in (
        (r"class of tiny .*insect, pet, wild.* but got 'dog'", lambda: class_split(dataset, target="dog")),
        (r"fine class of tiny .*ant, bee, cat", lambda: subclass_split(dataset, target="pet")),
        ("cifar10 has none; use dataset=cifar20", lambda: subclass_split(unequal([1, 1]), target=1)),
        ("forget_train of forget target 'pet'", lambda: class_split(without_pets, target="pet")),
        ("retain_train", lambda: class_split(only_pets, target="pet")),
        (r"in 1 … 59", lambda: random_split(dataset, n=0, seed=0)),
        (r"in 1 … 59", lambda: random_split(dataset, n=60, seed=0)),
        (r"train_images to be at least one per class \(6\)", lambda: drawn(dataset, 5)),
        (
            r"held_out=0.1 to set at least one .*\(6\), but it gives 5 of 48; .* search.held_out",
            lambda: drawn(dataset, 48, held_out=0.1),
        ),
        (r"test_images to be at least one per class \(6\), but got 0", lambda: drawn(dataset, 6, test_images=0)),
    ):
        with pytest.raises(ValueError, match=expected):
            make()


def test_several_classes_are_forgotten_at_once(dataset):
    both = class_split(dataset, target=["wild", 0])
    assert both.forget_target == "insect+wild"
    assert_partition(dataset.train, both.forget_train, both.retain_train)
    assert_partition(dataset.test, both.forget_test, both.retain_test)
    assert both.forget_train.labels.unique().tolist() == [0, 2]
    assert rows(subclass_split(dataset, target=["eel", "fox"]).forget_train) == {
        *rows(class_split(dataset, target="wild").forget_train)
    }
    for targets in ([], [1, "pet"]):
        with pytest.raises(ValueError, match="at least one class, and each once"):
            class_split(dataset, target=targets)


def confused(dataset, n=5, seed=0, target=("insect", "wild")):
    return confusion_split(dataset, target=list(target), n=n, seed=seed)


@pytest.mark.usefixtures("global_rng_untouched")
def test_n_images_of_each_of_two_classes_swap_their_labels_and_are_forgotten(dataset):
    split, train = confused(dataset), dataset.train
    forget, labels = split.forget_train, train.labelled_as(split.forget_train).labels
    assert torch.bincount(forget.labels).tolist() == [5, 0, 5]
    assert (forget.labels + train.labels[forget.index]).tolist() == [2] * 10
    assert set(train.index[labels != train.labels].tolist()) == rows(forget)  # all others keep theirs
    assert rows(forget) | rows(split.retain_train) == rows(train)
    assert torch.equal(split.retain_train.labels, train.labels[split.retain_train.index])
    assert split.forget_test is forget
    assert split.retain_test is dataset.test
    assert split.forget_target == "insect+wild"


def test_a_confusion_depends_on_data_set_classes_and_seed_and_grows_with_n(dataset):
    ours = rows(confused(dataset).forget_train)
    assert ours == rows(confused(dataset, target=(2, "0")).forget_train) < rows(confused(dataset, n=9).forget_train)
    for other in (confused(dataset, seed=1), confused(replace(dataset, name="other"))):
        assert ours != rows(other.forget_train)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"target": ("pet",)}, "to name two classes"),
        ({"target": ("pet", 1)}, "to name two classes"),
        ({"target": (0, 1, 2)}, "to name two classes"),
        ({"n": 20}, r"task\.n to be in 1 … 19, so that some images of 'insect'"),
        ({"n": 0}, r"task\.n to be in 1 … 19"),
    ],
)
def test_a_confusion_that_cannot_be_is_refused(dataset, options, expected):
    with pytest.raises(ValueError, match=expected):
        confused(dataset, **options)


def test_images_set_apart_are_in_no_other_part_and_of_the_distribution_of_the_forget_set(dataset):
    part = drawn(dataset, 48, validation=0.25)
    assert rows(part.train) | rows(part.validation) == rows(drawn(dataset, 48).train)
    assert len(part.train) + len(part.validation) == 48
    assert part.test is dataset.test
    both = drawn(dataset, 48, validation=0.25, held_out=0.25)
    assert rows(both.validation) == rows(part.validation)
    assert rows(both.train) | rows(both.test) == rows(part.train)
    assert part.to("cpu").validation.storage is part.to("cpu").train.storage
    assert class_split(part, target="pet").validation.labels.unique().tolist() == [1]
    assert random_split(part, n=3, seed=0).validation is part.validation
    unseen = confused(part, n=2).validation
    assert (unseen.labels + dataset.train.labels[unseen.index]).unique().tolist() == [2]
    assert class_split(dataset, target="pet").validation is random_split(dataset, n=3, seed=0).validation is None
    itself = drawn(pixelless(torch.arange(40) % 4), None, validation=0.5)  # training images are the test images
    assert itself.test is itself.train


def request(tmp_path, text):
    (tmp_path / "ids.txt").write_text(text)
    return tmp_path / "ids.txt"


def test_a_request_forgets_the_rows_that_its_lines_name(dataset, tmp_path):
    named = replace(dataset, file_names=tuple(f"{'ab'[i % 2]}/{i - i % 2}.png" for i in range(60)))
    path = request(tmp_path, "# the customer of last week\n\n7\n b/10.png  # and this\n3\n")
    split = indices_split(named, file=str(path))
    assert split.forget_train.index.tolist() == [3, 7, 11]
    assert_partition(dataset.train, split.forget_train, split.retain_train)
    assert split.forget_test is split.forget_train
    assert split.retain_test is dataset.test
    unique = tuple(f"{i % 2}/{i}.png" for i in range(60))
    assert list(read_request(request(tmp_path, "59.png\n4.png"), unique)) == [4, 59]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3\n\n# a\ncat.png", "line 4 of .*ids.txt to be an index from 0 on .*but got 'cat.png'"),
        ("-1", "line 1 .*but got '-1'"),
        ("3\n4\n3", "line 3 .*each once, but got '3', which line 1 names too"),
        ("a/0.png\n0", "line 2 .*which line 1 names too"),
        ("0.png", "line 1 .*the name of 2 files; add its folder"),
        ("1\n60", "line 2 .*60 is more than the last index, 59"),
        ("99999999999999999999", "more than the last index"),
        ("1\n58\n", "line 2 .*a/58.png is a test image, or dataset.subset.train_images"),
        ("58\n59\n57", r"line 3 .* So for lines 1, 2\."),
        ("# nothing\n", "names none"),
    ],
)
def test_a_wrong_line_of_a_request_is_named(text, expected, dataset, tmp_path):
    named = replace(dataset, file_names=tuple(f"{'ab'[i % 2]}/{i - i % 2}.png" for i in range(60)))
    part = replace(named, train=named.train.subset(torch.arange(50)))
    with pytest.raises(ValueError, match=expected):
        indices_split(part, file=str(request(tmp_path, text)))


@pytest.mark.parametrize("kept", ["held_out", "validation"])
def test_a_request_for_an_image_that_is_held_out_is_not_to_lose_its_line(kept, dataset, tmp_path):
    part = drawn(dataset, None, **{kept: 0.25})
    row = (rows(dataset.train) - rows(part.train)).pop()
    with pytest.raises(ValueError, match=r"or \.validation holds it out of training; set that to null"):
        indices_split(part, file=str(request(tmp_path, str(row))))


def test_a_request_that_is_no_text_is_refused(dataset, tmp_path):
    (tmp_path / "ids.txt").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "ids.txt", tmp_path / "none.txt", tmp_path):
        with pytest.raises(ValueError, match=r"task\.file to be a text file"):
            indices_split(dataset, file=str(path))
