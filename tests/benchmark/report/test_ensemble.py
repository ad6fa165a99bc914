"""Numbers over all seeds of a cell: which margins belong together, what a folder keeps, what its caption says."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from report_cases import GRID, compose, content_of, demo_cells, record_of
from safetensors.numpy import load_file, save_file

from benchmark.report import attacks
from benchmark.report.ensemble import RETAINED, Ensemble, caption, make_values, margins_of, numbers, reduced
from benchmark.report.query import read_query

ALL = "table.ensemble=[rmia,ulira,klom]"
SIZES = {"forget_train": 4, "retain_train": 8, "forget_test": 4, "retain_test": 12}
RECORD = record_of(demo_cells("retrain")[0])


def normal(seed, n):
    return np.random.default_rng(seed).normal(0, 1, n).astype(np.float32)


def models(n, *, seed, forget=0.0, same_original=False):
    """n models that forget a random half of eight images of twelve."""
    records, kept = [], []
    for t in range(n):
        train = 0 if same_original else t
        seeds = {"train_seed": train, "split_seed": t, "method_seed": t}
        task = {"seed": t}
        records.append(replace(RECORD, run_id=f"{seed}-{t}", seeds=seeds, sizes=SIZES, scientific={"task": task}))
        margins = {name: normal([seed, t, i], n) for i, (name, n) in enumerate(SIZES.items())}
        margins["forget_train"] += np.float32(forget)
        margins["forget_test"] = margins["forget_train"]
        margins["rows"] = np.sort(np.random.default_rng(t).permutation(8)[:4]).astype(np.int32)
        kept.append(reduced(margins, records[-1]))
    return Ensemble(records, kept)


def in_table(*, folder):
    """Margins beside the records of GRID: of 83 images, SSD's a little above the retrained model's."""
    for i, cell in enumerate(demo_cells()):
        record = record_of(cell)
        margins = {name: normal([i, n], record.sizes[name]) for n, name in enumerate(SIZES)}
        margins["forget_train"] += np.float32({"retrain": 0, "ssd": 1}.get(cell.labels["method"], 3))
        save_file(
            {**margins, "rows": np.arange(83, dtype=np.int32)}, folder / "records" / f"{record.run_id}.safetensors"
        )


def test_an_image_is_the_same_column_in_all_models():
    ensemble = models(40, seed=0)
    assert ensemble.forget.shape == (40, 12)
    assert np.isfinite(ensemble.forget).sum(axis=1).tolist() == [4] * 40
    assert not np.isfinite(ensemble.forget[:, 8:]).any()
    assert (np.isfinite(ensemble.forget) != np.isfinite(ensemble.retain)).all()  # forgotten or retained
    first = ensemble.kept[0]
    assert ensemble.forget[0, first["rows"]].tolist() == first["forget_train"].tolist()
    assert np.array_equal(ensemble.unseen, ensemble.test)  # D_f is measured on itself: all test images are unseen


def test_a_folder_keeps_margins_at_the_same_places_of_the_training_set():
    sizes = {"forget_train": 30, "retain_train": 2970, "forget_test": 5, "retain_test": 7}
    record, every = replace(RECORD, sizes=sizes), np.arange(3000, dtype=np.float32)
    for seed in (0, 1):
        rows = np.sort(np.random.default_rng(seed).permutation(3000)[:30])
        margins = {"forget_train": every[rows], "retain_train": np.delete(every, rows), "rows": rows,
                   "forget_test": normal(0, 5), "retain_test": normal(0, 7)}  # fmt: skip
        kept = reduced(margins, record)
        assert kept["retain_train"].dtype == np.float16
        places = np.arange(RETAINED) * 6
        seen = ~np.isin(places, rows)
        assert np.array_equal(kept["retain_train"][seen], places[seen].astype(np.float16))
        assert np.isnan(kept["retain_train"][~seen]).all()
        thinned = reduced(margins | {"retain_train": np.delete(every, rows)[np.arange(1000) * 2970 // 1000]}, record)
        known = np.isfinite(thinned["retain_train"])  # the run kept a third of them
        assert 100 < known.sum() < 250
        assert np.array_equal(thinned["retain_train"][known], places[known].astype(np.float16))


def test_each_number_is_that_of_its_attack():
    ours, retrained = models(100, seed=1, forget=2.0), models(100, seed=2)
    found = numbers(ours, retrained, ["rmia", "ulira", "klom"], 0.5, itself=False)
    assert [name for name in found if name.startswith("rmia_auc")] == ["rmia_auc_0.5", "rmia_auc_0", "rmia_auc_1"]
    aucs = [x for x, _ in attacks.rmia(ours.forget, ours.unseen, retrained.forget, retrained.unseen, 0.5)]
    value, low, high = found["rmia_auc_0.5"]
    assert value == pytest.approx(100 * np.mean(aucs))
    assert high - low == pytest.approx(2 * 100 * 1.984217 * np.std(aucs, ddof=1) / 10)
    accuracy = attacks.ulira(ours.forget[:, :8], retrained.forget[:, :8])["accuracy"]
    assert found["ulira_accuracy"] == pytest.approx([100 * x for x in accuracy])
    assert accuracy[0] == pytest.approx(0.84, abs=0.05)  # Φ(1)
    assert found["klom_test"][0] < 1 < found["klom_retain_95"][0] < 12
    assert math.isnan(found["klom_forget"][0]) == (np.isfinite(ours.forget).sum(axis=0).max() < 50)


def test_a_method_is_paired_with_the_retrained_model_of_its_seeds():
    ours, retrained = models(20, seed=1, forget=2.0), models(24, seed=2)
    turned = Ensemble(retrained.records[::-1], retrained.kept[::-1])
    one, other = (numbers(ours, x, ["ulira"], 0.3, itself=False) for x in (retrained, turned))
    assert one["ulira_accuracy"] == other["ulira_accuracy"]


def test_one_original_under_all_seeds_has_no_ulira():
    ours, retrained = models(20, seed=1, same_original=True), models(20, seed=2, same_original=True)
    assert math.isnan(numbers(ours, retrained, ["ulira"], 0.3, itself=False)["ulira_accuracy"][0])


def test_the_retrained_models_are_not_compared_with_themselves_but_for_rmia():
    retrained = models(60, seed=2)
    found = numbers(retrained, retrained, ["rmia", "ulira", "klom"], 0.3, itself=True)
    assert {name for name, (value, *_) in found.items() if not math.isnan(value)} == {
        "rmia_auc_0.3", "rmia_auc_0", "rmia_auc_1"
    }  # fmt: skip
    _, low, high = found["rmia_auc_1"]
    assert low < 50 < high


def test_models_that_are_among_the_retrained_ones_are_not_compared_with_them():
    """Leaving one seed out does not take its model from the others if it stands there under another seed."""
    retrained = models(20, seed=2)
    other = Ensemble(retrained.records, [retrained.kept[1], *retrained.kept[:-1]])
    assert other.shares(retrained)
    assert not models(20, seed=1).shares(retrained)


def test_without_an_unseen_image_there_is_no_rmia():
    ensemble = models(4, seed=1)
    known = Ensemble([replace(x, metrics={"auc": None}) for x in ensemble.records], ensemble.kept)
    assert math.isnan(numbers(known, ensemble, ["rmia"], 0.3, itself=False)["rmia_auc_0.3"][0])


def test_a_table_with_an_ensemble_needs_nothing_but_its_folder(committed, finished, report):
    in_table(folder=finished)
    code, printed = report("table=demo", *GRID, ALL)
    assert code == 0
    assert "all seeds together" in printed
    before = content_of(committed)
    assert {"ensemble.csv", "ensemble.md", "ensemble.tex", "margins.safetensors", "table.csv"} <= before.keys()
    assert b"\\begin{table*}" in before["ensemble.tex"]
    shutil.rmtree(finished)
    assert report("table=demo", *GRID, ALL)[0] == 0
    assert content_of(committed) == before
    values = pd.read_csv(committed / "ensemble.csv").set_index(["method", "metric"])["value"]
    assert 50 < values["ssd", "rmia_auc_0.3"] < values["baseline", "rmia_auc_0.3"]
    assert np.isnan(values["baseline", "ulira_accuracy"])  # one original, two models
    changed = load_file(committed / "margins.safetensors")
    name = next(iter(changed))
    save_file(changed | {name: changed[name] + 1}, committed / "margins.safetensors")
    assert report("table=demo", *GRID, ALL)[0] == 0
    assert content_of(committed)["ensemble.csv"] != before["ensemble.csv"]


def test_a_run_without_margins_is_named(committed, report):
    code, printed = report("table=demo", *GRID, ALL)
    assert code == 1
    assert "Expected the margins of run" in printed
    assert "force=true" in printed


def test_the_caption_says_how_many_models_which_images_and_what_is_not_defined(finished, monkeypatch):
    monkeypatch.chdir(finished.parent)
    in_table(folder=finished)
    query = read_query("table", "demo", [*GRID, "table.ensemble=[rmia,klom]"])
    text = caption(query, make_values(query, margins_of(query)))
    assert "83 of 983 training images forgotten; T = 2 models of a method" in text
    assert "A CPU, 2 threads, float32" in text
    assert "mean over the models with its 95 % t-interval" in text
    assert "a = 0.3 unless the head says another" in text
    assert "KLOM: KL" not in text
    assert "Not defined here: RMIA TPR, KLOM D_f, KLOM D_r, KLOM test. A TPR needs 1000" in text


def test_an_unknown_number_over_all_seeds_is_refused(report):
    code, printed = report("table=demo", *GRID, "table.ensemble=[lira]")
    assert code == 1
    assert "table.ensemble" in printed


def test_the_experiment_forgets_halves_of_one_pool_under_one_seed_each():
    cells = compose("experiment=ulira", "method=retrain,retrain_other", "method_seed=3")
    for cell in cells:
        assert cell.scientific["task"]["pool"] == 2 * cell.scientific["task"]["n"]
        assert set(cell.seeds.values()) == {3}
    assert cells[1].other.seeds == {"train_seed": 2, "split_seed": 3, "method_seed": 2}
    assert "pool" not in compose("case=digits_random")[0].scientific["task"]
