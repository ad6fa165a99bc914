"""A fast part of the zoo: tiny inputs, each of them right or refused."""

import math
import signal
import time

import pytest
import torch

from methods.dampening.batches import rebuilt, tensors_of
from scripts import zoo
from scripts.zoo import HEAD, MODELS, largest_difference, loop, main, measured, ours, parsed, resident_peak, way_of

SAMPLES = 4
FAST = {  # the way that is taken
    "MLP": "by layers", "regression": "by layers", "group norm": "by layers", "float16": "by layers",
    "bfloat16": "by layers", "float64": "by layers", "DataParallel": "by layers", "weight norm": "by layers",
    "checkpoint": "by layers", "Transformer with padding mask": "by layers", "branches and numpy": "one by one",
    "GRU time first": "one by one", "EmbeddingBag sparse": "one by one", "checkpoint reentrant": "one by one",
    "tied weights": "raced", "jit": "raced",
}  # fmt: skip


@pytest.mark.parametrize("name", FAST)
@pytest.mark.filterwarnings("ignore")
def test_importances_are_those_of_a_loop(name):
    torch.manual_seed(0)
    case = MODELS[name](SAMPLES)
    assert way_of(case) == FAST[name]
    found, expected = ours(case), loop(case)
    assert any(value.any() for value in expected.values())
    assert largest_difference(found, expected) < (0.02 if "float16" in name else 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name not in FAST])
@pytest.mark.filterwarnings("ignore")
def test_every_other_model_is_right_or_refused(name):
    torch.manual_seed(0)
    try:
        case = MODELS[name](SAMPLES)
    except ImportError as error:
        pytest.skip(f"{error.name} is not installed")
    if name == "batch norm without statistics":
        with pytest.raises(ValueError, match="samples that do not see each other"):
            ours(case)
    else:  # in float64, as a unit at the edge of a ReLU falls to either side in float32
        case.model.double()
        tensors = [t.double() if t.is_floating_point() else t for t in tensors_of(case.batch)]
        case.batch = rebuilt(case.batch, tensors)
        assert largest_difference(ours(case), loop(case)) < 1e-6


def test_the_table_names_the_way_and_what_is_refused(capsys, monkeypatch):
    models = "regression,batch norm without statistics"
    monkeypatch.setattr("sys.argv", ["zoo", "samples=2", f"only={models}"])
    main()
    *_, regression, refused, _ = capsys.readouterr().out.split("\n")
    assert regression.startswith("| regression | 0.00481 M | by layers | ")
    assert "| refused: Expected samples that do not see each other" in refused
    assert regression.count("|") == refused.count("|") == len(HEAD) + 1


def test_unknown_options_are_named():
    assert parsed([]) == (32, 0.0, set())
    with pytest.raises(ValueError, match="known models, but got lenet, size"):
        parsed(["only=MLP,lenet", "size=3"])
    with pytest.raises(ValueError, match="2 or more, but got 1"):
        parsed(["samples=1"])


def test_a_library_that_takes_too_long_or_too_much_ends_with_its_reason(monkeypatch):
    def too_long(case):
        return lambda batch: time.sleep(10)

    def too_much(case):
        return lambda batch: {"all": torch.empty(2**60)}

    def too_new(case):
        raise NotImplementedError

    monkeypatch.setattr(zoo, "LIMIT", 0.1)
    monkeypatch.setattr(zoo, "LIBRARIES", {"a": too_long, "b": too_much, "c": too_new})
    signal.signal(signal.SIGALRM, zoo.give_up)
    assert zoo.row("regression", MODELS["regression"], 2, 0)[-3:] == ["over 0.1 s", "out of memory", "–"]


def test_memory_is_that_beyond_the_start():
    def hold(case):
        return {"all": torch.ones(8 * 2**20)}  # 32 MiB

    if math.isnan(resident_peak(reset=True)):
        pytest.skip("the system does not tell the largest memory")
    assert 20 < measured(hold, MODELS["regression"](2), seconds=0).mib < 100
