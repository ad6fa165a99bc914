"""The answer: sentences claim nothing beyond their intervals, and every file follows from the committed records."""

import io
import re
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
from answer_cases import AWAY, commit, drawn, make_record, study

from benchmark.records import read_lines
from benchmark.report import answer, units
from benchmark.report.answer import answer_files, floor_sentence, goal_of, sentence
from benchmark.report.answer_page import rank_diagram, significance, targets_and_tests, variances
from benchmark.report.contest import Contest, contests, scopes
from benchmark.report.query import write_files
from benchmark.report.statistics import half_width
from benchmark.report.units import FLOOR, runs_of, units_of
from scripts.verify_results import problems_of


def contest(records) -> Contest:
    """The comparison over all targets of the records together."""
    (found,) = contests(units_of(runs_of(records)), ["protocol"])
    return found


def said(records) -> str:
    runs = runs_of(records)
    return sentence("strict", units_of(runs), goal_of(runs))


def test_the_closest_has_the_smallest_mean_gap_and_the_original_is_not_ranked():
    found = contest(study())
    assert found.ranked == ["ssd", "finetune", "amnesiac"]
    assert found.rival == "finetune"
    assert found.beside("ssd") == []
    assert (found.beside("finetune", -1), found.beside("finetune", 1)) == (["ssd"], ["amnesiac"])


def test_differences_are_paired_within_units():
    """Methods that move together are told apart although each of them spreads widely."""
    records = []
    for seed, common in enumerate((0.05, 0.15, 0.30)):
        values = {"retrain": 0.5, "ssd": 0.5 + common, "finetune": 0.52 + common + 0.001 * seed}
        records += [make_record(method, value, seeds=(seed, 0, seed)) for method, value in values.items()]
    found = contest(records)
    assert half_width(found.values("ssd")) > 20
    difference = found.values("finetune", minus="ssd")
    assert difference.mean() == pytest.approx(2.1)
    assert half_width(difference) == pytest.approx(0.25, abs=0.01)
    assert found.values("ssd", minus="ssd").empty


def test_a_method_with_fewer_units_is_left_out():
    records = [x for x in study() if (x.labels["method"], x.seeds["train_seed"]) != ("finetune", 1)]
    assert contest(records).ranked == ["ssd", "amnesiac"]
    assert contest(records).values("finetune").count() == 2


def test_targets_of_one_original_count_once_per_train_seed():
    records = [*study(), *study({"ssd": 0.06, "finetune": 0.01}, target="vehicle2")]
    found = contest(records)
    assert (len(found.targets), len(found.table), found.n) == (2, 3, "3 train seeds")
    assert found.values("ssd").mean() == pytest.approx(4, abs=0.1)
    assert found.ranked == ["finetune", "ssd"]  # amnesiac was run on one of the two
    assert found.label == "cifar20 class, 2 targets"
    less = [x for x in records if (x.labels["target"], x.seeds["train_seed"]) != ("vehicle2", 2)]
    assert len(contest(less).table) == 2


def test_a_few_targets_of_several_tasks_are_named_and_many_counted():
    records = [*study(), *study(task="subclass", target="rocket")]
    assert contest(records).label == "cifar20 class veg and cifar20 subclass rocket together"
    records += study(dataset="cifar10", task="random", target="random")
    assert contest(records).label == "cifar10 random, cifar20 class veg and cifar20 subclass rocket together"
    records += study(target="sea")
    assert contest(records).label == "4 targets of cifar10 random, cifar20 class and subclass together"
    several = contest([*records, *study(model="vit", target="sea")]).label
    assert several == "5 targets of cifar10 random (resnet18), cifar20 class and subclass (resnet18 and vit) together"


def test_a_target_with_few_seeds_does_not_take_the_interval_of_the_others(results):
    commit(study(target="sea", n=1), results / "table5-strict-quick")
    page = str(answer_files(results, "quick")["answer.md"])
    assert "Under `strict`, on cifar20 class, 2 targets (n = 3 train seeds), SSD is the closest" in page
    assert "Targets with fewer than 3 train seeds are left out: cifar20 class sea." in page
    assert "| cifar20 class sea | 1 | SSD |" in page


def test_units_of_one_original_say_so():
    draws = [
        make_record(method, value, seeds=(0, split, split), task="random", target="random")
        for split in range(3)
        for method, value in (("retrain", 0.5), ("ssd", 0.51 + 0.001 * split))
    ]
    assert contest(draws).n == "3, of 1 original"
    assert "on cifar20 random (n = 3, of 1 original)" in said(draws)


def test_closest_needs_every_interval():
    text = said(study())
    start = "Under `strict`, on cifar20 class veg (n = 3), SSD is the closest of 3 methods to the model retrained from"
    assert text.startswith(start)
    assert re.search(r"SSD's gap is [12]\.\d\d ± 0\.\d\d points, Finetune's is 4\.\d\d ± 0\.\d\d larger,", text)
    assert re.search(
        r"the untouched original's is (19|20)\.\d\d ± .*, another retrained model's is 1\.33 ± 2\.87 \(", text
    )


def test_a_destroyed_model_is_counted_although_a_mean_hides_it():
    """One unit of six lies 40 points below; a loss of 5 points is none, in the untouched original neither."""
    other = study({**AWAY, "ssd": -0.04, "finetune": -0.06}, target="vehicle2")
    broken = make_record("ssd", 0.12, seeds=(2, 0, 2), target="vehicle2")
    records = [*study(), *[x for x in other if x.run_id != broken.run_id], broken]
    found = contest(records)
    assert [found.lost(name) for name in ("ssd", "finetune", "baseline")] == [(1, 6), (3, 6), (0, 6)]
    lost = "; in 1 of 6 units SSD's and in 3 of 6 units Finetune's D_r lies more than 5 points below the retrained"
    assert lost in said(records)
    assert "in 0 of" not in said(study())
    assert found.lost(FLOOR)[1] == 0  # a floor has no direction


@pytest.mark.parametrize(
    ("away", "n", "spread", "expected"),
    [
        (AWAY | {"finetune": 0.005}, 3, 0.02, "SSD has the smallest mean gap of 3 .* not told apart from Finetune:"),
        (AWAY | {"finetune": 0.015}, 3, 0.005, "Finetune has the smallest mean gap of 3 .* SSD is not told apart"),
        (AWAY | {"ssd": 0.08}, 3, 0.001, "SSD is not the closest of 3 methods to .*, Finetune is closer:"),
        (AWAY, 1, 0.001, "SSD has the smallest gap of 3 methods to .*, which decides nothing"),
        (AWAY | {"ssd": 0.08}, 2, 0.001, "Finetune has the smallest gap of 3 methods to .*, which decides nothing"),
        ({"ssd": 0.02}, 3, 0.001, "SSD alone was compared with"),
    ],
)
def test_without_intervals_beside_0_nothing_is_claimed(away, n, spread, expected):
    text = said(study(away, n, spread=spread))
    assert re.search(expected, text)
    assert "SSD is the closest" not in text


@pytest.mark.parametrize(
    ("away", "n", "expected"),
    [
        (AWAY, 3, r"gap between two retrained models is 1\.33 ± 2\.87 points; that of SSD is not told apart from it; "
                  r"that of the other 2 is larger, by 4\.\d\d ± \d\.\d\d \(Finetune\) to 8\.\d\d ± \d\.\d\d \(Amn"),
        (AWAY | {"finetune": 0.02}, 3, r"SSD and Finetune is not .* the other 1 is larger, by [^(]* \(Amnesiac\)\.$"),
        (AWAY | {"ssd": 0.08}, 3, r"points; that of all 3 methods is larger, by .* \(Finetune\) to "),
        (dict.fromkeys(AWAY, 0.005), 3, r"that of SSD, Amnesiac and Finetune is not told apart from it\.$"),
        (AWAY, 1, "two retrained models were not compared, so the noise floor is open"),
    ],
)  # fmt: skip
def test_methods_inside_the_noise_floor_are_named(away, n, expected):
    assert re.search(expected, floor_sentence("strict", units_of(runs_of(study(away, n)))))


def test_the_overview_names_the_methods_inside_the_noise_floor_of_each_target():
    few = study(target="sea", n=2)
    records = [*study(), *study(AWAY | {"ssd": 0.08}, task="subclass", target="rocket"), *few]
    parts, _ = targets_and_tests(units_of(runs_of(records)), "", "")
    cells = {row.split(" | ")[0].strip("| "): row.rstrip(" |").split(" | ")[7:] for row in parts[1].splitlines()}
    assert cells["Target"] == ["Not told apart from the floor"]
    assert (cells["cifar20 class veg"], cells["cifar20 subclass rocket"]) == (["SSD"], ["none"])
    assert cells["cifar20 class sea"] == []


def test_a_floor_of_few_units_tells_nothing():
    """On draws of their own a floor can have fewer units than the methods."""
    every = drawn(AWAY | {FLOOR: 0.01})
    records = [x for x in every if x.labels["method"] != FLOOR or x.seeds["train_seed"] < 2]
    text = floor_sentence("strict", units_of(runs_of(records)))
    assert re.search(r"the gap between two retrained models is [\d.; ]* points, and n is too small to tell .* it", text)


def test_methods_below_the_noise_floor_are_named():
    units = units_of(runs_of(drawn(AWAY | {FLOOR: 0.06})))
    text = floor_sentence("strict", units)
    assert "that of SSD is smaller; that of Finetune is not told apart from it; that of the other 1 is larger" in text
    parts, _ = targets_and_tests(units, "", "")
    assert parts[1].rstrip(" |\n").endswith("| Finetune; smaller: SSD")


def test_a_target_without_ssd_or_with_few_seeds_takes_nothing_from_the_others():
    names = ("cifar10", "cifar20", "cifar100")
    records = [x for name in names for x in study(dataset=name)]
    whole = significance(units_of(runs_of(records)), "", "")
    for more in (study({"finetune": 0.01}, target="sea"), study({"ssd": 0.05, "finetune": 0.01}, 1, target="sea")):
        units = units_of(runs_of([*records, *more]))
        assert significance(units, "", "")[0] == whole[0]
        (found,) = contests(units[units.index.get_level_values("dataset") == "cifar20"], ["task"])
        together = [x for x in scopes(units) if x.label == "cifar20 class veg"]
        assert [x.originals for x in together] == [3]
        assert all("sea" not in x.label or len(x.table) < 3 for x in scopes(units)), found


def test_a_method_with_fewer_splits_is_not_set_beside_those_with_all():
    """Of three splits SSD has all and Finetune the easiest, on two targets together."""
    records = []
    for name in ("cifar10", "cifar20"):
        for seed, split in [(seed, split) for seed in range(3) for split in range(3)]:
            values = {"retrain": 0.5, "ssd": 0.52 + 0.05 * split} | ({"finetune": 0.52} if split == 0 else {})
            records += [
                make_record(x, y, seeds=(seed, split, 0), dataset=name, task="random", target="random")
                for x, y in values.items()
            ]
    assert contest(records).ranked == ["ssd"]


def test_originals_without_ssd_do_not_count():
    records = [*study(), *[x for x in study({"finetune": 0.01}, 6) if x.seeds["train_seed"] >= 3]]
    assert (contest(records).n, contest(records).originals) == ("3", 3)


def test_the_floor_of_more_seeds_than_ssd_has_does_not_count():
    fewer = [x for x in study(AWAY, 5) if x.seeds["train_seed"] < 3 or x.labels["method"] != "ssd"]
    assert FLOOR in contest(study(AWAY, 5)).shown
    assert FLOOR not in contest(fewer).shown
    assert [FLOOR in x.shown for x in scopes(units_of(runs_of([*fewer, *study(target="sea")])))] == [
        True,
        False,
        False,
        False,
    ]


def test_no_run_leaves_the_question_open():
    assert said([]) == ("Under `strict` no run is recorded, so whether SSD is closest to the retrained model is open.")
    apart = [x for x in study() if x.seeds["train_seed"] == 0] + [
        x for x in study(target="sea") if x.seeds["train_seed"] == 1
    ]
    assert said(apart).startswith("Under `strict` no train seed has all 2 targets, so whether SSD is closest")


def test_three_seeds_get_no_p_value_and_nine_blocks_do():
    assert significance(units_of(runs_of(study())), "", "") == (
        "No test and no p-value: independent blocks (data set, model, train seed): 3; 2 comparisons with SSD need 7 "
        "(2/2ⁿ ≤ 0.05/2).",
        {},
    )
    many = units_of(runs_of([x for name in ("cifar10", "cifar20", "cifar100") for x in study(dataset=name)]))
    text, files = significance(many, "protocol strict", "ranks")
    assert text.startswith("9 independent blocks")
    assert "| Finetune | 2.00 | 0.0078 |" in text  # 2 · 2/2⁹
    assert "![Mean ranks](ranks.png)" in text
    assert files["ranks.png"].startswith(b"\x89PNG")


def test_variance_by_source_says_which_seeds_it_lacks():
    draws = [
        make_record(method, value, seeds=(train, split, seed), task="random", target="random")
        for train in range(5)
        for split in range(3)
        for seed in range(3)
        for method, value in (("retrain", 0.5), ("ssd", 0.5 + 0.01 * (train + 1)))
    ]
    text = variances(runs_of(draws))
    assert (
        "| strict | cifar20 resnet18 | SSD | 5 train seeds, 3 splits and 3 method seeds | 1.58 | 0.00 | 0.00 |" in text
    )
    less = [x for x in draws if x.seeds["train_seed"] < 4]
    assert "needs 5 train seeds, 3 splits and 3 method seeds in each. The most there are: 4 train" in variances(
        runs_of(less)
    )


@pytest.fixture
def results(tmp_path):
    """Results of both protocols, and an ablation."""
    folder = tmp_path / "results"
    commit([*study(), *study(target="vehicle2")], folder / "table3-strict-quick")
    away = {"baseline": 0.20, "ssd": 0.07, "finetune": 0.05}
    commit(study(away, protocol="paper"), folder / "table3-paper-quick")
    ablation = [*study(away, protocol="paper"), *study({**away, "ssd": 0.01}, protocol="paper", ablation="retrain")]
    commit(ablation, folder / "ablation-paper-quick", "ablation")
    return folder


@pytest.fixture(autouse=True)
def _no_composing(monkeypatch):
    def stored(folder):
        return SimpleNamespace(
            places=[SimpleNamespace(labels=x.labels, record=x) for x in read_lines(folder / "records.jsonl")]
        )

    monkeypatch.setattr(units, "stored_query", stored)
    monkeypatch.setattr(units, "table_cells", lambda *names: [])


def numbers(text: str) -> set[str]:
    return {found.lstrip("+-") for found in re.findall(r"[+-]?\d+\.\d\d\b", text)}


def test_every_number_of_the_sentences_stands_on_the_page_and_in_the_csv(results):
    files = answer_files(results, "quick")
    sentences, page, table = (str(files[name]) for name in ("sentences.md", "answer.md", "answer.csv"))
    assert sentences.count("\n") == 2
    assert len(numbers(sentences)) > 10
    assert sentences in page
    assert numbers(sentences) <= numbers(page.replace(sentences, ""))
    frame = pd.read_csv(io.StringIO(table), dtype=str)
    assert numbers(sentences) <= numbers(" ".join(frame.filter(regex="mean|half|minus").stack().dropna()))


def test_the_page_answers_per_protocol_target_and_switch(results):
    page = str(answer_files(results, "quick")["answer.md"])
    assert "Under `strict`, on cifar20 class, 2 targets (n = 3 train seeds), SSD is the closest" in page
    assert (
        "Under `paper`, on cifar20 class veg (n = 3), SSD is not the closest of 2 methods to the model retrained"
        in page
    )
    assert "retrained from the original with a new last layer, Finetune is closer" in page
    row = next(line for line in page.splitlines() if line.startswith("| retrain |"))
    assert row.split(" | ")[2] == "**SSD**"
    assert row.split(" | ")[-1].startswith("**-6.")
    assert "Smallest mean gap under none: Finetune. Another method has it under retrain (SSD)." in page
    assert max(map(len, page.splitlines()[-30:])) < 180


def test_a_switch_without_the_usual_method_does_not_say_that_another_one_has_it(results):
    path = results / "ablation-paper-quick" / "records.jsonl"
    kept = [x for x in read_lines(path) if (x.labels["ablation"], x.labels["method"]) != ("retrain", "finetune")]
    path.write_text(answer.to_lines(kept))
    page = str(answer_files(results, "quick")["answer.md"])
    assert "Smallest mean gap under none: Finetune. No other method was run under one." in page


def test_the_order_of_folders_and_records_changes_nothing(results):
    before = answer_files(results, "quick")
    for path in results.glob("*/records.jsonl"):
        path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    assert answer_files(results, "quick") == before


def test_the_answer_of_an_experiment_reads_its_table_alone(results):
    commit(study(AWAY | {"finetune": 0.01}, target="rocket", task="subclass"), results / "field-strict-quick", "field")
    files = answer_files(results, "quick", experiment="field")
    sentences = str(files["sentences.md"])
    assert sentences.count("\n") == 2  # SSD and the rest, methods and the floor; nothing was run under paper
    assert "on cifar20 subclass rocket (n = 3), SSD is not the closest" in sentences
    assert "What changes the answer" not in str(files["answer.md"])
    assert "rocket" not in str(answer_files(results, "quick")["answer.md"])
    folder = results / "answer-quick-field"
    write_files(folder, files)
    assert list(problems_of(folder)) == []


def test_a_row_of_the_answer_stands_once(results):
    """A case of the ablation without any switch is a target of a table too."""
    table = pd.read_csv(io.StringIO(str(answer_files(results, "quick")["answer.csv"])), keep_default_na=False)
    assert "retrain" in set(table["switched"])
    assert not table.duplicated(answer.COLUMNS[: answer.COLUMNS.index("mean")]).any()


def test_runs_that_no_table_holds_are_kept_beside_the_page(results, tmp_path, monkeypatch):
    more = study(AWAY, 4)[-5:]  # a fourth train seed
    monkeypatch.setattr(answer, "finished", lambda folder, profile, known: [x for x in more if x.run_id not in known])
    folder = results / "answer-quick"
    files = answer_files(results, "quick", tmp_path)
    write_files(folder, files)
    assert len(str(files["records.jsonl"]).splitlines()) == 5
    assert list(problems_of(folder)) == []  # without the output folder
    commit(more, results / "table3-strict-quick-more")
    assert answer_files(results, "quick")["records.jsonl"] == ""
    assert answer_files(results, "quick")["answer.csv"] == files["answer.csv"]


def test_a_changed_page_and_uncommitted_code_are_found(results):
    folder = results / "answer-quick"
    dirty = [replace(x, provenance={**x.provenance, "dirty": True}) for x in study({"ssd": 0.03}, 1, dataset="cifar10")]
    commit([], results / "table6-strict-quick")
    write_files(folder, {"records.jsonl": answer.to_lines(dirty)})
    write_files(folder, answer_files(results, "quick"))
    assert [line.split()[-1] for line in problems_of(folder)] == ["code", "code"]
    page = folder / "sentences.md"
    page.write_text(page.read_text().replace("closest", "best"))
    assert "answer-quick: sentences.md does not follow from the records" in list(problems_of(folder))


def test_floor_rows_are_pseudo_values_and_only_gaps_are_set_beside_them():
    found = contest(study())
    assert found.values(FLOOR).mean() == pytest.approx(4 / 3)
    assert found.values("ssd", minus=FLOOR).mean() == pytest.approx(2 - 4 / 3, abs=0.1)
    assert found.values(FLOOR, "mia").count() == 0


def test_bars_of_a_rank_diagram_overlap_within_the_critical_difference():
    ranks = pd.Series({"SSD": 1.0, "A": 2.0, "B": 3.0, "C": 4.0, "D": 5.0})
    axes = rank_diagram(ranks, 9, "nine blocks").axes[0]
    assert "critical difference 2.03" in axes.get_xlabel()
    assert [label.get_text() for label in axes.get_yticklabels()] == list(ranks.index)
    (bars,) = axes.collections
    ends = {tuple(x.round(2) for x in path.vertices[:, 0] - path.vertices[:, 0].mean()) for path in bars.get_paths()}
    assert ends == {(-1.02, 1.02)}
