"""Annotations decide which values are taken."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pytest

from datasets.batches import Augmentation
from datasets.values import check_value, expected, fits

Share = Annotated[float, "(0, 1]"]


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (int, [0, -3], [1.0, True, "1", math.nan, None]),
        (float, [0, 0.5, -1e300], [True, "1", math.nan, math.inf]),
        (bool, [True, False], [0, 1, "true"]),
        (str, ["", "a"], [1, None]),
        (Share, [1, 0.1], [0, 1.1, True, math.nan]),
        (Share | None, [1, None], [0, "none"]),
        (Annotated[str, "[1, inf)"], ["a"], ["", 1]),
        (Literal["a", 1], ["a", 1], ["b", True, 1.0]),
        (tuple[float, float], [[1, 2], (1, 2)], [[1], [1, 2, 3], "12", 1]),
        (tuple[Annotated[int, "[1, inf)"], ...], [[], [1, 2]], [[0], [1.5], 3]),
        (Sequence[str], [["a"]], ["a", ["a", 1]]),
        (list[str] | str, ["a", ["a"]], [1, [1]]),
        (Mapping[str, float], [{}, {"a": 1}], [{"a": "b"}, [1]]),
        (Augmentation, [Augmentation(1, True, 0), {"_target_": "x"}], [None, {}, "yes"]),
        (Any, [None, 1, math.nan], []),
    ],
)
def test_values_and_kinds(kind, right, wrong):
    assert [fits(value, kind) for value in (*right, *wrong)] == [True] * len(right) + [False] * len(wrong)
    for value in wrong:
        with pytest.raises(ValueError, match="Expected x to be ") as error:
            check_value("x", value, kind)
        assert str(error.value) == f"Expected x to be {expected(kind)}, but got {value!r}."
