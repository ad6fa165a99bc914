"""What `methods.base` offers to every method."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from methods.base import get_classifier, skip_reason
from methods.baseline import Baseline
from methods.timing import Stopwatch


def test_the_reason_to_skip_is_optional_and_asked_for_every_request(split):
    class Skipping(Baseline):
        def skip(self, split):
            return f"not for {split.forget_target}"

    assert skip_reason(Baseline(), split) is None
    assert skip_reason(Skipping(), split) == "not for pet"
    several = replace(split, requests=(split, replace(split, forget_target="wild")))
    assert skip_reason(Baseline(), several) is None
    assert skip_reason(Skipping(), several) == "not for pet"  # of the first request that has one


def test_get_classifier_names_the_missing_function(cnn):
    assert get_classifier(cnn) is cnn.fc
    with pytest.raises(TypeError, match=r"Linear to have get_classifier\(\)"):
        get_classifier(nn.Linear(1, 1))


@pytest.mark.usefixtures("global_rng_untouched")
def test_streams_are_separate_by_seed_and_name(context):
    def draw(context, *names):
        return float(torch.rand((), generator=context.random(*names)))

    other = replace(context, seed=1)
    draws = [draw(context, "a"), draw(context, "b"), draw(other, "a"), draw(context, "a", 1)]
    assert draws[0] == draw(context, "a")
    assert len(set(draws)) == 4
    one, same, two = (context.fresh_model(name).fc.weight for name in ("a", "a", "b"))
    assert torch.equal(one, same)
    assert not torch.equal(one, two)


def test_remember_times_the_phase_or_leaves_it_to_the_cache(context):
    calls = []

    def make():
        calls.append(1)
        return {"x": torch.ones(1)}

    assert context.remember("phase", {}, make)["x"] == 1
    assert set(context.stopwatch.seconds) == {"phase", "cache"}  # the method's own seconds are without either
    kept = replace(context, cache=lambda phase, options, make: {"x": torch.zeros(1)})
    assert kept.remember("other", {}, make)["x"] == 0
    assert len(calls) == 1
    assert "other" not in context.stopwatch.seconds


def test_stopwatch_adds_up_and_counts_failed_bodies(monkeypatch):
    clock = iter([1.0, 3.0, 10.0, 14.0])
    monkeypatch.setattr("methods.timing.time.perf_counter", lambda: next(clock))
    watch = Stopwatch(torch.device("cpu"))
    with watch.phase("a"):
        pass
    with pytest.raises(KeyError), watch.phase("a"):
        raise KeyError
    watch.add("b", 0.5)
    assert watch.seconds == {"a": 6.0, "b": 0.5}
