"""What a record rests on, that each part of it is made once, and how requests follow each other."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import make_cell, make_cells
from omegaconf import OmegaConf
from safetensors.torch import load_file
from threadpoolctl import threadpool_info, threadpool_limits

from benchmark import pipeline
from benchmark.cell import Cell
from benchmark.cli import describe
from benchmark.evaluate import SPLITS
from benchmark.files import content_hash, read_json, write_json
from benchmark.pipeline import load_original, load_outputs, original, outputs, reference, unlearned, wanted
from benchmark.records import record_of
from benchmark.report.query import up_to_date
from benchmark.run import run_cell
from benchmark.workbench import Workbench
from methods.retrain import Retrain
from methods.ssd import SSD

REQUESTS = ["requests=sequence", "method=finetune", "method.recipe.epochs=1"]


def benches_of(folder: Path, *overrides: str) -> list[Workbench]:
    return [Workbench(cell) for cell in make_cells(folder, *overrides)]


def bench_of(folder: Path, *overrides: str) -> Workbench:
    return Workbench(make_cell(folder, *overrides))


def kinds(nodes) -> list[str]:
    return [node.kind for node in nodes]


def files_in(folder: Path) -> Counter[str]:
    """Return the number of finished artefacts by kind."""
    return Counter(path.parent.name for path in folder.glob("artefacts/*/*.json"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder that the cells of this file share, and with it their original model."""
    return tmp_path_factory.mktemp("shared")


# The graph


@pytest.mark.parametrize(("protocol", "n_originals"), [("paper", 1), ("strict", 2)])
def test_the_retrained_model_of_another_seed_costs_nothing_beside_it(tmp_path, protocol, n_originals):
    grid = ["method=retrain,retrain_other", "method_seed=0,1", f"protocol={protocol}"]
    benches = benches_of(tmp_path, *grid)
    missing = benches[0].store.missing(*(node for bench in benches for node in wanted(bench)))
    assert Counter(kinds(missing)) == {"original": n_originals, "outputs": 2}
    own, other = ({b.cell.seeds["method_seed"]: b for b in benches if b.cell.is_reference == x} for x in (1, 0))
    assert outputs(other[0]).hash == outputs(own[1]).hash == content_hash(other[0].cell.outputs_key)
    assert outputs(other[1]).hash == outputs(own[0]).hash
    assert other[0].cell.outputs_code == own[1].cell.outputs_code
    (alone,) = benches_of(tmp_path, "method=retrain_other", "method_seed=2", f"protocol={protocol}")
    assert alone.cell.scientific["method"]["other"] == {"method_seed": 1, "train_seed": 0 if protocol == "paper" else 1}
    resolved = Cell(OmegaConf.create(OmegaConf.to_container(alone.cell.config, resolve=True)))  # as in a worker
    assert outputs(Workbench(resolved)).hash == outputs(own[1]).hash
    assert kinds(alone.store.missing(*wanted(alone))).count("outputs") == 2  # of both seeds, if there is neither


def test_the_noise_floor_compares_two_retrained_models(folder):
    own, other = benches_of(folder, "method=retrain,retrain_other", "protocol=paper")
    same, floor = pipeline.make_record(own).metrics, pipeline.make_record(other).metrics
    assert (same["gap_train"], same["tow"], same["agreement_test"]) == (0, 1, 1)
    assert floor["margin_shift"] != 0
    retrained, _ = load_outputs(own, reference(own))
    found, _ = load_outputs(other, outputs(other))
    equal = (found.test_logits.argmax(1) == retrained.test_logits.argmax(1)).double().mean()
    assert floor["agreement_test"] == pytest.approx(float(equal))


def test_no_retrained_model_is_trained_if_no_metric_needs_it(tmp_path):
    bench = bench_of(tmp_path, "method=baseline", "metric=[accuracy]")
    assert kinds(wanted(bench)) == ["original", "outputs"]
    record = pipeline.make_record(bench)
    assert set(record.metrics) == {"retain_accuracy", "forget_accuracy"}
    assert files_in(tmp_path) == {"original": 1, "outputs": 1}
    assert kinds(wanted(bench_of(tmp_path, "method=baseline"))) == ["original", "outputs", "outputs"]


def test_a_later_metric_renames_no_run_and_is_added_from_the_outputs(tmp_path, monkeypatch):
    options = ["method=baseline", "~method@reference"]
    before = bench_of(tmp_path, *options, "metric=[accuracy,membership]")
    now = bench_of(tmp_path, *options, "metric=[accuracy,membership,evidence]")
    assert (before.cell.run_id, before.cell.scientific) == (now.cell.run_id, now.cell.scientific)
    first = pipeline.make_record(before)
    assert record_of(before.cell) == first
    assert record_of(now.cell) is None
    assert [x.run_id for x in up_to_date([first], [now.cell])] == [first.run_id]  # it shows nothing for the others
    monkeypatch.setattr(pipeline, "call", None)  # nothing is unlearned again
    added = pipeline.make_record(now)
    assert added.metrics.items() > first.metrics.items()
    assert {"ua", "auc_interval.se", "attack.threshold", "mia_interval.low"} <= added.metrics.keys()
    assert added.metrics["tow"] is added.metrics["mia_interval.difference"] is None
    assert record_of(now.cell) == record_of(before.cell) == added  # it may hold more than asked for


def test_an_edited_metric_makes_a_record_again_whether_runs_are_named_by_it_or_not(tmp_path):
    bench = bench_of(tmp_path, "method=baseline", "~method@reference", "metric=[accuracy,membership,evidence]")
    record = pipeline.make_record(bench)
    edited = replace(record, code={**record.code, "metrics.attack": "before"})
    edited.write(bench.cell.record_path.parent)
    assert record_of(bench.cell) is None
    assert up_to_date([edited], [bench.cell]) == []


def test_uncommitted_code_behind_the_retrained_model_is_told_too(tmp_path):
    bench = Workbench(make_cell(tmp_path, "method=finetune"))
    run_cell(bench.cell)
    assert not any(node.kind == "model" for node in pipeline.wanted(bench))
    for node, dirty in ((pipeline.outputs(bench), False), (pipeline.reference(bench), True)):
        path = bench.store.path(node)
        facts = read_json(path)
        write_json(path, facts | {"provenance": facts["provenance"] | {"dirty": dirty}})
    assert pipeline.make_record(bench).provenance["dirty"] is True


def test_a_record_has_the_margins_of_its_images_beside_it(folder):
    bench = bench_of(folder, "method=baseline", "~method@reference")
    record = pipeline.make_record(bench)
    kept = load_file(bench.cell.margins_path)
    assert bench.cell.margins_path.name == f"{record.run_id}.safetensors"
    rows = kept.pop("rows")
    assert torch.equal(bench.dataset.train.index[rows], bench.split.forget_train.index)
    assert {name: len(x) for name, x in kept.items()} == {name: record.sizes[name] for name in SPLITS}
    right = kept["retain_train"] > 0  # more likely than all others together
    assert float(right.double().mean()) <= record.metrics["ra"]


# How each is made


def test_the_original_of_a_confusion_learns_the_swapped_labels_and_is_named_by_them(tmp_path, monkeypatch):
    words = ["method=baseline", "task=confusion", "task.target=[3,8]"]
    bench, other, elsewhere = (bench_of(tmp_path, *words, f"task.n={n}") for n in (2, 1, 1))
    clean = bench_of(tmp_path, "method=baseline")
    keys = [original(x).hash for x in (bench, other, elsewhere, clean)]
    assert keys[1] == keys[2]
    assert len({*keys}) == 3
    assert bench_of(tmp_path, *words[:2], "task.target=[upright_8,3]", "task.n=1").cell.run_id == other.cell.run_id
    learnt = []
    monkeypatch.setattr(pipeline, "train", lambda model, data, *args, **options: learnt.append(data))
    pipeline.train_original(bench)
    wrong = learnt[0].labels != bench.dataset.train.labels
    assert set(learnt[0].index[wrong].tolist()) == set(bench.split.forget_train.index.tolist())
    assert int(wrong.sum()) == 4
    assert clean.training_images is clean.dataset.train


def test_a_confusion_is_measured_on_its_two_classes(tmp_path):
    bench = bench_of(tmp_path, "method=baseline", "task=confusion", "task.target=[3,8]", "task.n=2")
    metrics = pipeline.make_record(bench).metrics
    assert 0 <= metrics["ic_error"] <= 1
    assert 0 <= metrics["true_error"] <= 1
    assert "metrics.confusion" not in bench_of(tmp_path, "method=baseline").cell.code


def test_the_original_comes_back_with_the_accuracy_it_was_stored_with(folder):
    bench = bench_of(folder, "method=baseline")
    model, facts = load_original(bench)
    assert not model.training
    assert (facts["epochs"], facts["kept_epoch"]) == (1, 1)
    seen, _ = load_outputs(bench, outputs(bench))  # the baseline is the original
    data = bench.split.retain_test
    torch.testing.assert_close(
        seen.logits["retain_test"], pipeline.predict(model, data, bench.preprocessing, bench.eval_batch_size)
    )
    assert seen.facts == {"changed_fraction": 0.0}


def test_importances_are_measured_once_and_booked_as_first_measured(folder):
    benches = benches_of(folder, "method=ssd", "method.alpha=8,9", "method.lam=1")
    first, second = (bench.store.get(outputs(bench))[1]["seconds"] for bench in benches)
    found = files_in(folder)
    assert (found["importance_full"], found["importance_forget"]) == (1, 1)
    for seconds in (first, second):
        parts = [seconds[name] for name in ("importance_full", "importance_forget", "rest")]
        assert seconds["method"] == pytest.approx(sum(parts))
    assert first["importance_full"] == second["importance_full"] > 0


def test_a_stage_makes_one_artefact_and_what_it_needs(tmp_path):
    bench = bench_of(tmp_path, "method=ssd", "stage=retrained")
    assert list(map(str, wanted(bench))) == [str(pipeline.staged(bench))]
    path = Path(pipeline.made(bench, pipeline.staged(bench)))
    assert path.is_file()
    assert path.suffix == ".safetensors"
    assert files_in(tmp_path) == {"original": 1, "outputs": 1}


def test_an_unknown_stage_is_answered_with_those_there_are(tmp_path):
    with pytest.raises(ValueError, match="original, retrained, outputs or record, but got 'model'"):
        wanted(bench_of(tmp_path, "stage=model"))
    with pytest.raises(ValueError, match="record, original, outputs, but got 'retrained'"):
        wanted(bench_of(tmp_path, "stage=retrained", "~method@reference"))


def test_a_saved_model_gives_the_outputs_that_are_had_without_saving(folder, tmp_path):
    plain, saving = (bench_of(where, "method=finetune", *more) for where, more in ((folder, []), (tmp_path, SAVE)))
    assert kinds(wanted(saving)) == ["original", "outputs", "model", "outputs"]
    assert outputs(plain).hash == outputs(saving).hash
    expected, _ = load_outputs(plain, outputs(plain))
    found, facts = load_outputs(saving, outputs(saving))
    for name in SPLITS:
        assert torch.equal(found.logits[name], expected.logits[name])
    assert found.facts == expected.facts
    state, made = saving.store.get(unlearned(saving))
    assert facts["seconds"].items() >= made["seconds"].items()
    model = saving.build_model(seed=5)
    model.load_state_dict(state)
    seen, _ = pipeline.look_at(saving, model, load_original(saving)[0])
    assert torch.equal(seen.logits["forget_train"], expected.logits["forget_train"])
    assert files_in(tmp_path) == {"original": 1, "model": 1, "outputs": 1}


SAVE = ["save_model=m.safetensors"]


def test_a_sweep_that_saves_its_models_trains_the_retrained_one_once(tmp_path, monkeypatch):
    calls = []
    retrain = Retrain.__call__
    monkeypatch.setattr(Retrain, "__call__", lambda self, *args: calls.append(1) or retrain(self, *args))
    for bench in benches_of(tmp_path, "method=ssd,retrain", *SAVE):
        pipeline.make_record(bench)
        bench.store.get(unlearned(bench))
    assert calls == [1]
    assert files_in(tmp_path).items() >= {"original": 1, "model": 2, "outputs": 2}.items()


def test_a_method_that_does_not_apply_makes_nothing(tmp_path):
    bench = bench_of(tmp_path, "method=unsir", "task=random", "task.n=5", "metric=[accuracy]")
    pipeline.make(bench, str(outputs(bench)))
    assert "skipped, " in pipeline.made(bench, pipeline.outputs(bench))
    assert files_in(tmp_path) == {}
    record = pipeline.make_record(bench)
    assert record.skipped
    assert record.metrics == {}
    assert files_in(tmp_path) == {"original": 1}


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (lambda outputs: "much", "Expected a number, None or a mapping of these, but got str (in metric mia)"),
        (lambda outputs: {"a": 1.0, "b": torch.ones(1)}, "but got Tensor (in metric mia)"),
        (lambda outputs: outputs.logits["forget"], "KeyError: 'forget' (in metric mia)"),
    ],
)
def test_an_error_of_a_metric_says_of_which(metric, expected, tmp_path):
    bench = bench_of(tmp_path, "method=baseline", "~method@reference", "metric=[accuracy,membership]")
    bench.metrics["mia"] = metric
    with pytest.raises((TypeError, KeyError)) as error:
        pipeline.make_record(bench)
    assert expected in describe(error.value)


def test_a_metric_does_not_depend_on_how_many_threads_numpy_has(folder):
    bench = bench_of(folder)
    bench.metrics["threads"] = lambda _: max(x["num_threads"] for x in threadpool_info() if x["user_api"] == "blas")
    with threadpool_limits(2, "blas"):
        assert pipeline.measure(bench, "threads", None) == 1


def test_a_method_must_return_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(SSD, "__call__", lambda self, model, split, context: None)
    with pytest.raises(ValueError, match="Expected method=ssd to return the unlearned model, but got NoneType"):
        pipeline.make_record(bench_of(tmp_path))


# Several requests


def test_each_request_rests_on_the_one_before(tmp_path):
    bench = bench_of(tmp_path, *REQUESTS, "requests.n=3")
    last, second, first = unlearned(bench), unlearned(bench, 2), unlearned(bench, 1)
    assert unlearned(bench, 3).hash == last.hash
    assert [str(need) for need in last.needs] == [str(original(bench)), str(second)]
    assert [str(need) for need in first.needs] == [str(original(bench))]
    missing = bench.store.missing(outputs(bench))
    assert list(map(str, missing)) == list(map(str, (original(bench), first, second, last, outputs(bench))))
    shorter = bench_of(tmp_path, *REQUESTS, "requests.n=2")
    assert unlearned(shorter).hash == second.hash  # the grid of prefixes shares every model


def test_the_retrained_model_of_several_requests_is_one_call(tmp_path):
    bench = bench_of(tmp_path, "requests=sequence", "requests.n=3", "method=retrain", *SAVE)
    assert kinds(unlearned(bench).needs) == ["original"]
    assert unlearned(bench).hash == outputs(bench).hash == reference(bench).hash
    assert kinds(wanted(bench)) == ["original", "model", "outputs"]
    other = bench_of(tmp_path, *REQUESTS, "requests.n=3")
    assert reference(other).hash == reference(bench).hash
    assert kinds(reference(other).needs) == ["original"]


def test_the_next_request_costs_one_call_and_starts_from_the_model_before(tmp_path, monkeypatch):
    calls = []

    def answer(method, model, split, context, original):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        calls.append(([request.forget_target for request in split.requests], before))
        return answer_request(method, model, split, context, original)

    answer_request = pipeline.answer
    monkeypatch.setattr(pipeline, "answer", answer)
    two, three = (bench_of(tmp_path, *REQUESTS, f"requests.n={n}") for n in (2, 3))
    store = two.store
    store.get(outputs(two))
    assert [targets for targets, _ in calls] == [["upright_6"], ["upright_6", "upright_3"]]
    (_, first), (_, second) = calls
    assert all(torch.equal(value, first[name]) for name, value in load_original(two)[0].state_dict().items())
    state, _ = store.get(unlearned(two, 1))
    assert all(torch.equal(value, second[name]) for name, value in state.items())
    seen, facts = load_outputs(three, outputs(three))
    assert [targets for targets, _ in calls[2:]] == [["upright_6", "upright_3", "upright_8"]]
    assert files_in(tmp_path) == {"original": 1, "model": 3, "outputs": 2}
    newest = three.split.requests[-1].forget_test
    assert seen.newest_test == len(newest)
    assert facts["seconds"].items() >= store.get(unlearned(three))[1]["seconds"].items()


# Lines and seconds


def test_the_method_takes_its_wall_clock_without_caching_and_importances_as_first_measured():
    measured = {"wall": 10.0, "cache": 4.0, "importance_full": 3.0}
    assert pipeline.method_seconds(measured) == {
        "importance_full": 3.0, "importance_forget": 0.0, "rest": 6.0, "method": 9.0,
    }  # fmt: skip
    assert pipeline.method_seconds({"wall": 1.0, "cache": 1.5})["rest"] == 0.0


def test_the_key_of_a_model_after_requests_tells_method_options_order_and_seed_apart(tmp_path):
    def key(method: str, targets: str, *more: str) -> str:
        bench = bench_of(tmp_path, "requests=sequence", f"method={method}", f"requests.targets={targets}", *more)
        return unlearned(bench).hash

    refreshed = "method.importance=refreshed"
    keys = {
        key("ssd", "[9,4]"), key("ssd", "[4,9]"), key("ssd", "[9]"), key("ssd", "[9,4]", refreshed),
        key("finetune", "[9,4]"), key("amnesiac", "[9,4]"), key("ssd", "[9,4]", "method_seed=1"),
    }  # fmt: skip
    assert len(keys) == 7
