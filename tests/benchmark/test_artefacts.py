"""Each artefact is made once, whole or not at all, and the graph says in which order."""

import multiprocessing
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, load_model

from benchmark import sources
from benchmark.artefacts import Artefact, Store, seconds_of
from benchmark.files import read_json, write_json
from datasets.files import file_sha256

KEY = {"seed": 1, "lr": 0.1}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "artefacts")


@pytest.fixture
def node():
    """An artefact that counts how often it is made, in `n`."""
    calls = []

    def make():
        calls.append(None)
        return {"w": torch.arange(6.0).view(2, 3).T, "n": torch.tensor(len(calls))}, {"seconds": 1.5}

    return Artefact("kind", KEY, make)


def unfinished(store):
    """Facts and parts of files; an interrupted process may leave locks and tensors without facts, but none of these."""
    return [path for path in store.folder.rglob("*") if path.suffix in (".json", ".part")]


def test_made_once_and_loaded_the_second_time(store, node):
    assert not store.has(node)
    tensors, facts = store.get(node)
    again, same_facts = store.get(replace(node, key=dict(reversed(KEY.items()))))
    assert store.has(node)
    assert torch.equal(again["w"], torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]))
    assert torch.equal(again["w"], tensors["w"])
    assert again["n"] == tensors["n"] == 1
    assert same_facts == facts
    assert (facts["kind"], facts["key"], facts["seconds"]) == ("kind", KEY, 1.5)
    assert facts["sha256"] == file_sha256(store.path(node).with_suffix(".safetensors"))
    assert [found["seconds"] for found in store.facts("kind")] == [1.5]


def test_an_artefact_of_other_code_is_made_again_unless_it_is_reused(store, node, caplog):
    first = replace(node, code={"mine": "one"})
    store.get(first)
    second = replace(node, code={"mine": "two"})
    assert (store.has(first), store.has(second)) == (True, False)
    assert store.missing(second) == [second]
    reusing = Store(store.folder, reuse=True)
    assert reusing.has(second)
    assert reusing.get(second)[0]["n"] == 1
    sources.say_changed.cache_clear()
    assert store.get(second)[0]["n"] == store.get(second)[0]["n"] == 2
    assert caplog.messages == ["made with another version of mine: making it again (reuse=true keeps it)"]


def flip_a_byte(facts, data):
    whole = bytearray(data.read_bytes())
    whole[-1] ^= 1
    data.write_bytes(whole)


def lose_the_tensors(facts, data):
    data.unlink()


def cut_the_facts(facts, data):
    facts.write_text(facts.read_text()[:30])


def lose_the_key(facts, data):
    values = read_json(facts)
    del values["key"]
    write_json(facts, values)


DAMAGES = [flip_a_byte, lose_the_tensors, cut_the_facts, lose_the_key]


def test_what_rests_on_another_training_of_its_original_is_made_again(store, node, caplog):
    """The same key on another device has other bits: a record must not name an original that it does not come from."""
    above = Artefact("outputs", {"of": "it"}, lambda: (dict(store.get(node)[0]), {}), (node,), {"mine": "one"})
    assert store.get(above)[0]["n"] == 1
    store.remove(node)
    assert store.has(above)  # nobody knows better
    store.get(node)
    assert not store.has(above)
    assert Store(store.folder, reuse=True).get(above)[0]["n"] == 1
    assert store.get(above)[0]["n"] == 2
    assert f"made with another version of {node}: making it again (reuse=true keeps it)" in caplog.messages
    assert store.has(above)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_artefact_is_set_aside_and_made_again(store, node, damage, caplog):
    store.get(node)
    path = store.path(node)
    damage(path, path.with_suffix(".safetensors"))
    assert store.get(node)[0]["n"] == 2
    aside = {found.name.split(".damaged-")[0] for found in path.parent.glob("*.damaged-*")}
    assert path.name in aside
    assert (f"{path.stem}.safetensors" in aside) == (damage is not lose_the_tensors)
    assert "damaged" in caplog.text


def test_tensors_without_facts_do_not_count(store, node):
    store.get(node)
    store.path(node).unlink()  # as after a kill between the two
    assert not store.has(node)
    assert store.get(node)[0]["n"] == 2


def test_what_fails_leaves_nothing_that_looks_finished(store, node):
    with pytest.raises(TypeError):
        store.get(replace(node, make=lambda: ({"w": torch.ones(1)}, {"x": object()})))
    assert unfinished(store) == []
    assert not store.has(node)
    assert store.get(node)[0]["n"] == 1


def test_an_interrupted_write_leaves_nothing_that_looks_finished(store, node, monkeypatch):
    def stop_half_way(tensors, path):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("benchmark.artefacts.save_file", stop_half_way)
        with pytest.raises(OSError, match="no space"):
            store.get(node)
    assert unfinished(store) == []
    assert store.get(node)[0]["n"] == 2


def test_the_state_of_trainings_goes_with_the_finished_artefact(store, node):
    def make():
        store.training_folder(node).mkdir()
        return node.make()

    store.get(replace(node, make=make))
    assert not store.training_folder(node).exists()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_make_once(tmp_path):
    """Two processes ask for one artefact at the same time; making it writes a line."""
    processes = multiprocessing.get_context("fork")
    log, start = tmp_path / "log", processes.Barrier(2)

    def write(line):
        with log.open("a") as file:
            file.write(f"{line}\n")

    def make():
        write("made")
        time.sleep(0.2)
        return {"w": torch.ones(3)}, {}

    def ask():
        start.wait(timeout=60)
        tensors, _ = Store(tmp_path).get(Artefact("kind", KEY, make))
        write(f"got {tensors['w'].tolist()}")

    workers = [processes.Process(target=ask) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert sorted(log.read_text().split("\n")) == ["", *["got [1.0, 1.0, 1.0]"] * 2, "made"]


def named(name, *needs):
    return Artefact("kind", {"name": name}, lambda: ({}, {"name": name}), needs)


def names(nodes):
    return "".join(str(node.key["name"]) for node in nodes)


@pytest.fixture
def diamond():
    """d needs b and c, which both need a."""
    a = named("a")
    return named("d", named("b", a), named("c", a))


def test_what_is_missing_comes_once_in_an_order_in_which_it_can_be_made(store, diamond):
    assert names(store.missing(diamond)) == "abcd"
    again = named("b", named("a"))  # other objects of the same content are the same artefacts
    assert names(store.missing(again, diamond, named("e", diamond), diamond)) == "abcde"
    assert store.missing() == []


def test_what_is_there_is_not_missing(store, diamond):
    b, c = diamond.needs
    store.get(b)
    assert names(store.missing(diamond)) == "acd"  # c still needs a
    store.get(c)
    assert names(store.missing(diamond)) == "d"  # nobody needs a any more
    assert names(store.missing(diamond, *b.needs)) == "da"
    store.get(diamond)
    assert store.missing(diamond) == []


def test_a_damaged_artefact_takes_nothing_from_the_facts_of_its_kind(store, node):
    store.get(node)
    store.get(other := replace(node, key={"seed": 2}))
    cut_the_facts(store.path(other), None)
    assert [facts["key"] for facts in store.facts("kind")] == [KEY]
    assert list(store.facts("nothing")) == []


def test_seconds_of_every_form_of_facts():
    assert seconds_of({"seconds": 1.5}) == 1.5
    assert seconds_of({"seconds": {"method": 2.0, "rest": 1.0, "evaluation": 0.5}}) == 2.5
    assert seconds_of({"seconds": {"method": 2.0}}) == 2.0
    assert seconds_of({}) == 0.0


class Tied(torch.nn.Module):
    """A network whose two layers share their weight; its buffer may be a part of that."""

    def __init__(self, *, shares_row=False):
        super().__init__()
        self.first, self.second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("row", self.first.weight.detach()[1] if shares_row else torch.ones(3))
        self.register_buffer("empty", torch.ones(0))


@pytest.mark.parametrize("shares_row", [False, True])
def test_tied_weights_are_stored_once_and_loaded_again(store, shares_row):
    model = Tied(shares_row=shares_row)
    node = Artefact("model", KEY, lambda: (dict(model.state_dict()), {"seconds": 1.0}))
    made, _ = store.get(node)
    found, facts = store.get(node)
    path = store.path(node).with_suffix(".safetensors")
    assert sorted(load_file(path)) == ["empty", "first.bias", "first.weight", "row", "second.bias"]
    assert facts["tied"] == {"second.weight": "first.weight"}
    for tensors in (made, found):
        other = Tied()
        other.load_state_dict(tensors)
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in other.state_dict().items())
    other = Tied()
    load_model(other, path)  # as `save_model` says
    assert torch.equal(other.second.weight, model.first.weight)
