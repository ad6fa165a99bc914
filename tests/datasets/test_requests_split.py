from functools import partial

import pytest
import torch

from datasets.splits import class_split, confusion_split, random_split, requests_split, subclass_split
from datasets.targets import find_class, first_targets

CLASS, SUBCLASS = partial(class_split, target=0), partial(subclass_split, target=0)


def rows(data):
    return set(data.index.tolist())


@pytest.mark.parametrize(("make", "targets"), [(CLASS, ["pet", 0]), (SUBCLASS, ["dog", "ant", 5, "bee"])])
def test_partition_laws_of_every_prefix(dataset, make, targets):
    gone: dict[str, set[int]] = {"train": set(), "test": set()}
    for n, target in enumerate(targets, start=1):
        split = requests_split(dataset, make, targets[:n])
        newest = split.requests[-1]
        for part, whole in (("train", dataset.train), ("test", dataset.test)):
            forget, retain = getattr(split, f"forget_{part}"), getattr(split, f"retain_{part}")
            alone = getattr(make(dataset, target=target), f"forget_{part}")  # the ordinary split
            assert rows(getattr(newest, f"forget_{part}")) == rows(alone)
            assert rows(getattr(newest, f"retain_{part}")) == rows(retain) == rows(whole) - gone[part] - rows(alone)
            gone[part] |= rows(alone)
            assert rows(forget) == gone[part]
            assert len(forget) + len(retain) == len(whole)
            assert torch.equal(forget.index[-len(alone) :], alone.index)  # the newest stands last
        assert len(split.requests) == n
        assert split.level == newest.level


@pytest.mark.parametrize(
    ("make", "targets", "expected"),
    [
        (CLASS, ["pet", 1], "'pet' twice"),
        (CLASS, [0, 1, 2], "retain_train"),
        (CLASS, [], "at least one"),
        (partial(random_split, n=3, seed=0), [0], "task=class or task=subclass"),
        (partial(confusion_split, target=[0, 1], n=3, seed=0), [[0, 1]], "task=class or task=subclass"),
    ],
)
def test_bad_requests(dataset, make, targets, expected):
    with pytest.raises(ValueError, match=expected):
        requests_split(dataset, make, targets)


def test_first_targets():
    assert first_targets(["a", 1, "b"], 2) == ["a", 1]
    assert first_targets(["a", 1], None) == ["a", 1]
    for n in (0, 3, -1):
        with pytest.raises(ValueError, match=r"1 … 2"):
            first_targets(["a", 1], n)


def test_a_class_is_a_name_an_index_or_its_text():
    assert {find_class(("insect", "pet"), target, what="class") for target in ("pet", 1, "1")} == {1}
    for target in ("whale", 2, -1, "-1", "1.5", "", "²"):
        with pytest.raises(ValueError, match=r"to be a class \(0 … 1, or one of insect, pet\)"):
            find_class(("insect", "pet"), target, what="class")
