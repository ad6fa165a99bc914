"""Which records belong to which cell, and which cells may share a column."""

import json
from dataclasses import replace

import pytest
from report_cases import compose, demo_cells, record_of

from benchmark.report.select import Place, check_column, places_of


def place(cell, record=None) -> Place:
    return Place(cell.labels, cell, record)


def column(*records) -> list[Place]:
    return [Place(record.labels, None, record) for record in records]


def test_every_cell_and_every_committed_record_has_a_place():
    cells = demo_cells()
    done, other = record_of(cells[0]), replace(record_of(cells[1]), run_id="other", scientific_hash="gone")
    lost = replace(other, run_id="lost", scientific_hash="gone too", labels={**other.labels, "target": "upright_3"})
    places = places_of(cells, [done, other, lost], [])
    empty = [None] * (len(cells) - 2)
    assert [x.record and x.record.run_id for x in places] == [done.run_id, "other", *empty, "lost"]
    assert places[-1].labels["target"] == "upright_3"
    assert [x.command is None for x in places] == [True, True, *[False] * len(empty), True]
    assert str(places[2].command).startswith("python -m benchmark.run ")
    assert "method=baseline" in str(places[2].command)


def test_a_new_record_belongs_to_its_hash_alone():
    stranger = replace(record_of(demo_cells()[0]), scientific_hash="gone")
    assert all(x.record is None for x in places_of(demo_cells(), [], [stranger]))


@pytest.mark.parametrize(
    ("overrides", "difference"),
    [
        (["method.alpha=5,1.5"], r"method\.alpha is 5(\.0)? and 1\.5"),
        (["recipe.epochs=3,4"], r"original\.recipe\.epochs is 3 and 4"),
    ],
)
def test_cells_that_differ_in_more_than_seeds_are_never_pooled(overrides, difference):
    cells = compose("experiment=demo", "profile=quick", "case=digits_class", "method=ssd", "method_seed=0", *overrides)
    with pytest.raises(ValueError, match=f"SSD on digits to differ in nothing but seeds, but {difference}"):
        check_column("SSD on digits", [place(cell) for cell in cells], pooled=False)


def test_targets_are_pooled_only_if_declared():
    grid = ("profile=quick", "case=digits_class", "method=ssd", "method_seed=0", "task.target=1,2")
    places = [place(cell, record_of(cell)) for cell in compose("experiment=demo", *grid)]
    check_column("SSD", places, pooled=True)
    with pytest.raises(ValueError, match=r"task\.target is upright_1 and upright_2"):
        check_column("SSD", places, pooled=False)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"hyperparameters": {"alpha": 3.0}}, r"method\.alpha is 5\.0 and 3\.0"),
        ({"data_fingerprint": "e"}, "data_fingerprint is d+ and e"),
        ({"original": {"epochs": 9}}, r"original\.epochs is 4 and 9"),
        ({"sizes": {"parameters": 1}}, "parameters is 700000 and 1"),
    ],
)
def test_records_without_a_cell_are_compared_too(change, difference):
    first, second = map(record_of, demo_cells("ssd"))
    changed = {name: {**getattr(second, name), **x} if isinstance(x, dict) else x for name, x in change.items()}
    with pytest.raises(ValueError, match=difference):
        check_column("SSD", column(first, replace(second, **changed)), pooled=False)


def test_records_of_another_original_are_seen():
    """Its learning rate stands in the scientific configuration alone."""
    cells = compose("experiment=demo", "profile=quick", "case=digits_class", "method=ssd", "method_seed=0,1")
    first, second = map(record_of, cells)
    scientific = json.loads(json.dumps(second.scientific))
    scientific["original"]["recipe"]["lr"] = 0.5
    with pytest.raises(ValueError, match=r"original\.recipe\.lr is 0\.1 and 0\.5"):
        check_column("SSD", column(first, replace(second, scientific=scientific)), pooled=False)
    check_column("SSD", column(first, replace(second, scientific=None)), pooled=False)  # an older record


def test_data_that_changed_name_the_command_that_takes_the_older_runs_away():
    first, second = map(record_of, demo_cells("ssd"))
    new, old = (
        replace(x, data_fingerprint=name, provenance={"finished": day})
        for x, name, day in ((first, "new", "2026-02"), (second, "old", "2026-01"))
    )
    with pytest.raises(ValueError, match=r"is old and new; python -m benchmark.records remove data_fingerprint=old "):
        check_column("SSD", column(new, old), pooled=False)


def test_one_seed_has_one_record():
    first = record_of(demo_cells()[0])
    check_column("retrain", column(first, first), pooled=False)
    with pytest.raises(ValueError, match=r"one record of retrain per seed, but got .* and twin; drop="):
        check_column("retrain", column(first, replace(first, run_id="twin")), pooled=False)
