"""The verdict's rule and its Markdown, on values made by hand."""

import math
from dataclasses import replace

import pandas as pd
import pytest
from omegaconf import OmegaConf
from report_cases import ROOT, demo_cells, record_of

from benchmark.records import RunRecord
from benchmark.report.about import About
from benchmark.report.verdict import (
    GAP_NOTE,
    GAP_OF_MEANS,
    PAPER_DRAW,
    PAPER_KEY,
    published,
    verdict_markdown,
    verdicts,
)

NAN = math.nan
IMAGES = "D_f is over 20 images."


def values(rows: list[tuple]) -> pd.DataFrame:
    """rows: (method, metric, mean, std, n)."""
    block = ("class", "cifar100", "resnet18", "rocket")
    columns = [*PAPER_KEY, "mean", "std", "n", "records"]
    return pd.DataFrame([block + row + ("",) for row in rows], columns=columns).assign(ablation="none")


def judged(frame: pd.DataFrame, table: str = "table2", records: tuple[RunRecord, ...] = ()) -> pd.DataFrame:
    paper = published()
    return verdicts(paper[paper["table"] == table], frame, records, protocol="paper", profile="full")


def runs(*split_seeds: int, n: int = 83) -> tuple[RunRecord, ...]:
    """Return a record per seed of the random task's draw of n samples."""
    record = record_of(demo_cells("ssd")[0])
    sizes = {**record.sizes, "forget_train": n, "forget_test": n}
    return tuple(
        replace(record, run_id=f"run{number}", seeds={**record.seeds, "split_seed": seed}, sizes=sizes)
        for number, seed in enumerate(split_seeds)
    )


def drawn(method: str, metric: str, mean: float, records: tuple[RunRecord, ...], *, std: float = NAN, model="resnet18"):
    """Return the row of Table 6 about one number of ours."""
    ids = " ".join(record.run_id for record in records)
    key = ("random", "cifar10", model, "random", method, metric)
    frame = pd.DataFrame([(*key, mean, std, len(records), ids)], columns=[*PAPER_KEY, "mean", "std", "n", "records"])
    frame = frame.assign(ablation="none")
    return judged(frame, "table6", records).set_index(PAPER_KEY).loc[key]


@pytest.mark.parametrize(
    ("ours", "std", "expected"),
    [
        (74.54 + 0.99, 0.0, "match"),  # within one point
        (74.54 + 1.01, 0.0, "near"),
        (74.54 - 3.01, 0.0, "off"),
        (74.54 + 3.9, 3.5, "match"),  # within two standard errors of our mean
        (NAN, NAN, "missing"),
    ],
)
def test_verdict(ours, std, expected):
    frame = values([("ssd", "retain_accuracy", ours, std, 3)])
    verdict = judged(frame).set_index(PAPER_KEY)
    row = verdict.loc[("class", "cifar100", "resnet18", "rocket", "ssd", "retain_accuracy")]
    assert row["verdict"] == expected
    assert row["mean_published"] == 74.54


def test_every_published_number_of_the_table_has_a_verdict():
    switched = values([("ssd", "mia", 1.0, NAN, 1)]).assign(ablation="retrain")
    verdict = judged(pd.concat([values([]), switched]))
    assert len(verdict) == (published()["table"] == "table2").sum() == 84
    assert set(verdict["verdict"]) == {"missing"}


def binomial(p: float, n: int = 83) -> float:
    return 100 * math.sqrt(p * (1 - p) / n)


def test_the_tolerance_is_that_of_the_difference_of_two_means():
    """Of one draw, of five, of five runs on one draw, of 100 samples, of seeds that differ by more than the draw."""
    p, printed = 0.5904, 4.79  # amnesiac's D_f
    for records, std, ours in [
        (runs(0), NAN, binomial(p)),
        (runs(0, 1, 2, 3, 4), 3.8, binomial(p) / math.sqrt(5)),
        (runs(0, 0, 0, 0, 0), 3.8, binomial(p)),
        (runs(0, n=100), NAN, binomial(p, 100)),
        (runs(0, 1, 2, 3), 9.0, 4.5),
    ]:
        row = drawn("amnesiac", "forget_accuracy", 42.17, records, std=std)
        assert row["tolerance"] == pytest.approx(2 * math.hypot(ours, printed))
    assert drawn("amnesiac", "forget_accuracy", 42.17, runs(0))["tolerance"] == pytest.approx(14.4, abs=0.05)


def test_the_printed_deviation_of_the_attack_counts_as_a_fraction_if_the_draw_explains_it():
    fits = drawn("baseline", "mia", 78.31, runs(0))  # 75.78 ± 0.04, binomial 4.70
    assert fits["tolerance"] == pytest.approx(2 * math.hypot(binomial(0.7578), 4.0))
    does_not = drawn("retrain", "mia", 91.0, runs(0), model="vit")  # 91.77 ± 0.02, binomial 3.02
    assert does_not["tolerance"] == pytest.approx(2 * math.hypot(binomial(0.9177), binomial(0.9177)))


def test_fixed_targets_have_no_draw_and_n_runs_narrow_the_tolerance():
    frame = values([("ssd", "mia", 20.0, NAN, 1), ("finetune", "forget_accuracy", 0.0, 8.0, 4)])
    rows = judged(frame).query("model == 'resnet18' and target == 'rocket'")
    tolerance = rows.set_index(["method", "metric"])["tolerance"]
    assert tolerance["ssd", "mia"] == 1.0
    printed = published().query("table == 'table2' and model == 'resnet18' and target == 'rocket'")
    theirs = printed.set_index(["method", "metric"])["std"]["finetune", "forget_accuracy"]
    assert tolerance["finetune", "forget_accuracy"] == pytest.approx(2 * math.hypot(4.0, theirs))


def test_the_paper_forgets_as_many_samples_as_its_protocol_says():
    assert OmegaConf.load(ROOT / "configs/protocol/paper.yaml").forget_n == PAPER_DRAW
    shares = published().query("task == 'random' and model == 'resnet18' and method == 'baseline'").set_index("metric")
    counts = shares["mean"][["forget_accuracy", "mia"]] / 100 * PAPER_DRAW * 10  # of ten draws together
    assert (counts - counts.round()).abs().max() < 0.05


def test_markdown_shows_the_gap_of_the_untouched_original():
    names = ("retain_accuracy", "forget_accuracy", "mia")
    means = {"retrain": (70.0, 0.0, 10.0), "baseline": (76.0, 80.0, 40.0), "ssd": (70.0, 0.0, 13.0)}
    rows = [(x, name, mean, NAN, 1) for x in means for name, mean in zip(names, means[x], strict=True)]
    text = verdict_markdown(judged(values(rows)), "A title", About(), IMAGES)
    theirs = published().query("table == 'table2' and model == 'resnet18' and target == 'rocket'")
    wide = theirs.pivot(index="metric", columns="method", values="mean")
    gaps = wide.sub(wide["retrain"], axis=0).abs().mean()
    cells = next(line for line in text.splitlines() if "| gap |" in line).split(" | ")
    assert cells[3:5] == [f"38.67 / {gaps['baseline']:.2f}", ""]
    assert cells[-1] == f"1.00 / {gaps['ssd']:.2f} |"
    assert f"gap: {GAP_OF_MEANS} {GAP_NOTE}" in text.splitlines()[0]
    alone = [row for row in rows if row[0] != "baseline"]
    assert "gap" not in verdict_markdown(judged(values(alone)), "A title", About(), IMAGES)


def test_markdown_shows_both_numbers_and_counts():
    rows = [
        ("baseline", "retain_accuracy", 76.0, NAN, 1), ("ssd", "retain_accuracy", 74.0, 0.5, 3),
        ("retrain", "mia", 30.0, 1.0, 3),
    ]  # fmt: skip
    lines = verdict_markdown(judged(values(rows)), "A title", About(), IMAGES).splitlines()
    assert lines[0] == (
        "**A title: ours / published.** Protocol paper, profile full, percent, n = 1 to 3. D_f is over 20 images. Of "
        "84 published numbers: 2 match, 0 near, 1 off, 81 missing; results/README.md has the rule."
    )
    assert lines[2].startswith("| Model | Target | Metric | Baseline | Retrain |")
    accuracy, _, attack = (line.split(" | ") for line in lines[4:])
    assert accuracy[:4] == ["| resnet18", "rocket", "D_r", "76.00 / 76.27 ± 0.00, match"]
    assert accuracy[-1] == "74.00 ± 0.50 / 74.54 ± 0.00, match |"
    assert attack[4].startswith("30.00 ± 1.00 / ")
    assert attack[4].endswith(", off")
    assert "±" not in attack[4].partition("/")[2]  # no certain unit
    assert attack[-1] == " |"


def test_markdown_of_a_table_that_was_not_run():
    assert verdict_markdown(judged(values([])), "A title", About(), IMAGES).count("\n") == 1
