"""How a step is measured: what is timed and counted, and how results are compared."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

from scripts.speed_measure import Step, host_peak_bytes, largest_difference, measure

CPU = torch.device("cpu")
SLOW = 100.0  # seconds of a call that must not be timed


@pytest.fixture
def clock(monkeypatch):
    """What the measuring function takes for the time; `now` is the calls' to advance."""
    made = SimpleNamespace(now=0.0)
    monkeypatch.setattr("scripts.speed_measure.time", SimpleNamespace(perf_counter=lambda: made.now))
    return made


@pytest.fixture(autouse=True)
def known_ceiling(monkeypatch):
    monkeypatch.setattr("scripts.speed_measure.arithmetic_ceiling", lambda device, dtype: 1e9)


def is_counted():
    return _get_current_dispatch_mode() is not None


def multiply():
    return {"product": torch.ones(8, 8) @ torch.ones(8, 8)}


def make_ours(clock, calls):
    """A way of 1 s that is slow in its first call and in every call whose operations are counted."""

    def ours():
        clock.now += SLOW if is_counted() or not calls else 1.0
        calls.append(is_counted())
        return multiply()

    return ours


@pytest.mark.parametrize("long", [0.0, 10.0, 1000.0])
@pytest.mark.parametrize("repeats", [1, 3])
def test_neither_the_first_nor_the_counted_call_is_timed(clock, monkeypatch, repeats, long):
    monkeypatch.setattr("scripts.speed_measure.LONG_SECONDS", long)
    calls = []
    row = measure(Step("step", "images", 8, make_ours(clock, calls), multiply), repeats=repeats, device=CPU)
    assert calls == [False, True, *[False] * repeats]
    assert row["seconds_min"] == row["seconds"] == row["seconds_max"] == 1
    assert (row["per_second"], row["repeats"]) == (8, repeats)
    assert row["host_peak_bytes"] > 0
    assert row["ceiling_share"] == pytest.approx(2 * 8**3 / 1e9)
    assert row["largest_difference"] == 0


def test_operations_are_counted_on_another_way_where_one_is_given(clock):
    ours, others = [], []
    step = Step(
        "compiled", "images", 8, make_ours(clock, ours), counted=lambda: others.append(is_counted()) or multiply()
    )
    row = measure(step, repeats=2, device=CPU)
    assert (ours, others) == ([False] * 3, [True])
    assert row["ceiling_share"] == pytest.approx(2 * 8**3 / 1e9)
    assert "ratio" not in row


@pytest.mark.parametrize(("long", "calls"), [(0.5, 4), (2.0, 5)])  # a first call of 1 s counts, or it warms up
def test_the_textbook_way_is_measured_as_often(clock, monkeypatch, long, calls):
    """Its calls take 1, 2, 3, … seconds and handle half the images; ours takes 1 s."""
    monkeypatch.setattr("scripts.speed_measure.LONG_SECONDS", long)
    made = []

    def textbook():
        made.append(len(made) + 1.0)
        clock.now += made[-1]
        return multiply()

    step = Step("step", "images", 8, make_ours(clock, []), textbook, textbook_amount=4)
    row = measure(step, repeats=4, device=CPU)
    assert len(made) == calls
    assert (row["textbook_seconds_min"], row["ratio_max"]) == (2 * made[-4], 2 * made[-1])


def test_the_last_of_the_borrowed_times_count():
    step = Step("step", "images", 8, multiply, borrowed=lambda: ([100.0, 1.0, 2.0], multiply()))
    row = measure(step, repeats=2, device=CPU)
    assert (row["textbook_seconds_min"], row["textbook_seconds_max"]) == (1, 2)


def test_the_difference_is_relative_to_the_norm_and_the_largest_of_all_tensors():
    expected = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.0]), "zero": torch.zeros(2)}
    found = {"a": torch.tensor([3.0, 5.0]), "b": torch.tensor([1.1]), "zero": torch.zeros(2)}
    assert largest_difference(found, expected) == pytest.approx(0.2)
    assert largest_difference(found | {"zero": torch.tensor([0.0, 0.5])}, expected) == pytest.approx(0.5)


def test_a_peak_of_memory_is_that_of_the_step():
    def large():
        return {"sum": torch.ones(2**26).sum()}  # 256 MiB

    step = Step("large", "numbers", 1, large)
    before = host_peak_bytes()
    peak = measure(step, repeats=1, device=CPU)["host_peak_bytes"]
    assert peak > before - 2**28
    assert peak - measure(Step("small", "numbers", 1, multiply), repeats=1, device=CPU)["host_peak_bytes"] > 2**27
