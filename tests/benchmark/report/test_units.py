"""Which runs count, how far each lies from the retrained model of its unit, and the noise floor."""

from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import pytest
from answer_cases import commit, drawn, make_record, study

from benchmark.compose import cells_of
from benchmark.report import units
from benchmark.report.statistics import half_width
from benchmark.report.units import FLOOR, committed, distances_of, finished, runs_of, seedless, switched_units, units_of


def gaps(records, method: str = "ssd") -> list[float]:
    return units_of(runs_of(records))["gap", method].dropna().round(6).tolist()


def test_a_run_is_compared_with_the_retrained_model_of_its_own_seeds():
    records = study({"ssd": -0.02}, spread=0.0)
    found = distances_of(runs_of(records))
    assert found["mia"].round(6).tolist() == [-2.0] * 3
    assert found["gap"].round(6).tolist() == [2.0] * 3
    assert gaps([x for x in records if x.seeds["method_seed"] != 1 or x.labels["method"] == "ssd"]) == [2.0] * 2


def test_method_seeds_are_averaged_inside_a_unit():
    values = [("retrain", 0.5, 0), ("retrain", 0.6, 1), ("ssd", 0.51, 0), ("ssd", 0.57, 1)]
    records = [make_record(method, value, seeds=(0, 0, seed)) for method, value, seed in values]
    (unit,) = units_of(runs_of(records)).to_dict("records")
    assert unit["mia", "ssd"] == pytest.approx((1 - 3) / 2)  # signed
    assert unit["gap", "ssd"] == pytest.approx((1 + 3) / 2)  # each run's distance counts


def test_the_split_seed_makes_a_unit_in_tasks_that_draw_by_it_alone():
    draws = [make_record(x, 0.5, seeds=(0, split, split)) for x in ("retrain", "ssd") for split in range(3)]
    random = [replace(x, labels={**x.labels, "task": "random", "target": "random"}) for x in draws]
    confused = [replace(x, scientific={"task": {"seed": x.seeds["split_seed"]}}) for x in draws]
    assert len(gaps(draws)) == 1
    assert len(gaps(random)) == len(gaps(confused)) == 3


@pytest.mark.parametrize("change", [{"scientific": {"method": {"alpha": 5}}}, {"hyperparameters": {"alpha": 5}}])
def test_runs_of_other_hyper_parameters_are_never_merged(change):
    own = [replace(x, **{name: {}}) for x in study({"ssd": 0.02}) for name in change]
    assert gaps(own) == gaps(study({"ssd": 0.02}))
    (*_, last) = own
    with pytest.raises(
        ValueError, match=r"cells of strict none .* ssd to differ .* (method\.)+alpha is None and 5; keep"
    ):
        runs_of([*own, replace(last, **change)])


def test_two_originals_of_one_unit_are_never_mixed():
    """Two machines made the same runs; a single newer one of another original does not stand between the others."""
    first = study({"ssd": 0.02, "finetune": 0.03}, n=1, spread=0.0)
    other = [
        replace(x, original={**x.original, "sha256": "other"}, provenance={**x.provenance, "finished": "2027"})
        for x in study({"ssd": 0.05}, n=1, spread=0.0)
    ]
    assert gaps([*other, *first]) == [2.0]
    assert gaps([*first, *other, replace(other[1], labels={**other[1].labels, "method": "finetune"})]) == [5.0]


def test_a_method_that_another_original_loses_is_named(caplog):
    first = study({"ssd": 0.02, "finetune": 0.03}, n=1)
    other = [replace(x, original={**x.original, "sha256": "other"}) for x in study({"unsir": 0.05}, n=1)]
    twin = [replace(x, original={**x.original, "sha256": "other"}) for x in first]
    runs_of([*first, *twin])
    assert not caplog.messages
    runs_of([*first, *other])
    assert [x.partition(" left out")[0] for x in caplog.messages] == ["cifar20 resnet18 class veg: unsir"]


def test_of_two_records_of_one_run_the_later_counts():
    old = study({"ssd": 0.02}, n=1, spread=0.0)
    again = replace(
        old[1], metrics=dict.fromkeys(old[1].metrics, 0.57), provenance={**old[1].provenance, "finished": "3"}
    )
    assert gaps([again, *old]) == [7.0]


def test_runs_without_numbers_are_no_units():
    skipped = replace(make_record("unsir", 0.0), metrics={}, skipped="no classes")
    undefined = make_record("fisher", 0.5)
    undefined = replace(undefined, metrics={**undefined.metrics, "mia": None})
    assert {"unsir", "fisher"}.isdisjoint(units_of(runs_of([*study(), skipped, undefined]))["gap"])
    assert units_of(runs_of([skipped])).empty


def test_the_floor_does_not_depend_on_the_numbers_of_the_seeds():
    """Neighbours by number are pairs of `FLOOR`, where seed 0 and 1 are one pair twice: they do not count."""
    values = [0.50, 0.53, 0.51, 0.58, 0.50]

    def floor(order: list[int]) -> tuple[float, float]:
        seeds = [(n, 0, n) for n in range(5)]
        records = [make_record("retrain", values[i], seeds=seed) for i, seed in zip(order, seeds, strict=True)]
        records += [make_record(FLOOR, values[order[n - 1 if n else 1]], seeds=seeds[n]) for n in range(5)]
        found = units_of(runs_of(records))["gap", FLOOR]
        return round(found.mean(), 6), round(half_width(found), 6)

    pairs = [100 * abs(a - b) for a, b in combinations(values, 2)]
    assert floor([0, 1, 2, 3, 4])[0] == pytest.approx(sum(pairs) / len(pairs))
    assert floor([0, 1, 2, 3, 4]) == floor([3, 0, 4, 2, 1])


def test_draws_of_their_own_have_a_floor_if_a_second_model_was_trained_on_each():
    assert gaps(drawn({"ssd": 0.02}, spread=0.0), FLOOR) == []
    with_floor = drawn({"ssd": 0.02, FLOOR: 0.013}, spread=0.0)
    assert gaps(with_floor, FLOOR) == [1.3] * 3
    assert units_of(runs_of(with_floor))["retain_accuracy", FLOOR].isna().all()  # it has no direction


def test_the_same_retrained_model_under_two_train_seeds_is_no_pair():
    same = [replace(x, seeds={**x.seeds, "method_seed": 0}) for x in study()]
    assert gaps(same, FLOOR) == []


def cell(method: str, ablation: str, made: str) -> SimpleNamespace:
    labels = make_record(method, 0.5, ablation=ablation).labels
    return SimpleNamespace(labels=labels, scientific={"made": made, "method_seed": 0}, code={"methods.ssd": "1"})


def test_a_switch_shows_the_runs_of_none_for_methods_that_it_does_not_concern(tmp_path, monkeypatch):
    """A table has a place for each cell; cells of one run share its record."""
    none = study({"ssd": 0.02, "finetune": 0.05}, spread=0.0)
    order = [make_record("ssd", 0.5 + 0.01 * seed + 0.08, seeds=(seed, 0, seed), ablation="order") for seed in range(3)]
    places = [SimpleNamespace(labels=x.labels, record=x) for x in [*none, *order]]
    places += [
        SimpleNamespace(labels={**x.labels, "ablation": ablation}, record=x)
        for ablation, methods in (("order", ("retrain", "finetune")), ("never_run", ("retrain", "ssd")))
        for x in none
        if x.labels["method"] in methods
    ]
    monkeypatch.setattr(units, "stored_query", lambda folder: SimpleNamespace(places=places))
    commit(none, tmp_path / "ablation-strict-quick", "ablation")
    commit(none, tmp_path / "table3-strict-quick")
    gap = switched_units([tmp_path / "ablation-strict-quick", tmp_path / "table3-strict-quick"])["gap"]
    assert gap.xs("order", level="ablation")["ssd"].round(6).tolist() == [8.0] * 3
    assert gap.xs("order", level="ablation")["finetune"].round(6).tolist() == [5.0] * 3
    assert gap.xs("none", level="ablation")["ssd"].round(6).tolist() == [2.0] * 3
    assert set(gap.index.unique("ablation")) == {"none", "order"}


def test_committed_records_are_those_of_tables_and_of_the_profile(tmp_path):
    commit(study(), tmp_path / "table3-strict-quick")
    commit(study(profile="full"), tmp_path / "table3-strict-full")
    commit(study(target="rocket+sea"), tmp_path / "requests-strict-quick", "requests")
    found = committed(tmp_path, "quick", units.EXPERIMENTS)
    assert {folder.name: len(records) for folder, records in found.items()} == {"table3-strict-quick": 15}


def test_finished_runs_count_if_a_table_has_them_under_any_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(units, "table_cells", lambda profile, protocols: [cell("ssd", "none", "as the table")])

    def finish(made: str, code: str, profile: str = "quick") -> str:
        record = make_record("ssd", 0.5, seeds=(3, 0, 3), profile=profile)
        record = replace(
            record, run_id=f"{made}{code}{profile}", scientific={"made": made, "method_seed": 3, "train_seed": 3},
            code={"methods.ssd": code},
        )  # fmt: skip
        record.write(tmp_path / "records")
        return record.run_id

    wanted = finish("as the table", "1")
    finish("another alpha", "1")
    finish("as the table", "2")
    finish("as the table", "1", "full")
    make_record("ssd", 0.5, protocol="mine", profile="quick").write(tmp_path / "records")
    (record,) = finished(tmp_path, "quick", {})
    assert record.run_id == wanted
    assert finished(tmp_path, "quick", {wanted: record}) == []
    before = replace(record, code={"methods.ssd": "0"})
    assert finished(tmp_path, "quick", {wanted: before}) == [record]  # made again with today's code


def test_a_profile_without_recipes_for_a_data_set_has_no_finished_runs_of_it(tmp_path, monkeypatch):
    (faces,) = cells_of(["dataset=pins", "profile=narrow", "protocol=paper"])
    with pytest.raises(ValueError, match="Expected a recipe for dataset=pins"):
        seedless(faces)
    monkeypatch.setattr(units, "table_cells", lambda *_: [faces, cell("ssd", "none", "as the table")])
    record = make_record("ssd", 0.5, seeds=(3, 0, 3), profile="narrow")
    record = replace(record, scientific={"made": "as the table", "train_seed": 3}, code={"methods.ssd": "1"})
    record.write(tmp_path / "records")
    assert [x.run_id for x in finished(tmp_path, "narrow", {})] == [record.run_id]
