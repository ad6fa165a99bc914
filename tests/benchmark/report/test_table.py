"""Numbers, bold, ranks and captions; typesetting, on values made by hand."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf
from report_cases import compose, demo_cells, record_of

from benchmark.cell import Cell
from benchmark.report.about import ABOUT, About, Shown
from benchmark.report.query import Query
from benchmark.report.select import Place
from benchmark.report.table import (
    aggregate,
    caption,
    make_values,
    mark_best,
    measured,
    metrics_of,
    repeated,
    table_files,
    with_ranks,
)  # fmt: skip
from benchmark.report.typeset import KEY, Grid, escape, label_of, show, to_latex, to_markdown
from benchmark.report.verdict import GAP_NOTE

NAN = math.nan


def values(rows: list[tuple]) -> pd.DataFrame:
    """rows: (method, metric, mean, std, n, skipped, command, best)."""
    block = ("none", "class", "cifar100", "resnet18", "rocket")
    return pd.DataFrame([block + row for row in rows], columns=[*KEY, "mean", "std", "n", "skipped", "command", "best"])


EXAMPLE = values(
    [
        ("ssd", "retain_accuracy", 74.54, 0.0, 3, None, None, True),
        ("retrain", "retain_accuracy", 72.834, 0.424, 3, None, None, False),
        ("unsir", "retain_accuracy", NAN, NAN, 0, "the random task has no class", None, False),
        ("finetune", "retain_accuracy", NAN, NAN, 0, None, "python -m benchmark.run method=finetune", False),
        ("ssd", "mia", 2.2, NAN, 1, None, None, False),
    ]
)


def test_golden_latex():
    assert to_latex(EXAMPLE, "CIFAR-100 & more", "5 % of it.", ABOUT) == "\n".join(
        [
            r"\begin{table*}",
            r"\centering",
            r"\caption{CIFAR-100 \& more. 5 \% of it.}",
            r"\smallskip\small",
            r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
            r"\begin{tabular}{lllrrrr}",
            r"\toprule",
            r"Model & Target & Metric & Retrain & Finetune & UNSIR & SSD \\",
            r"\midrule",
            r"resnet18 & rocket & $\mathcal{D}_r$ & $72.83{\scriptstyle\pm}0.42$ & -- & n/a & "
            r"$\mathbf{74.54{\scriptstyle\pm}0.00}$ \\",
            r" &  & MIA &  &  &  & $2.20$ \\",
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table*}",
            "",
        ]
    )


def test_markdown_names_what_is_missing():
    text = to_markdown(EXAMPLE, "Title", "Caption.", ABOUT)
    assert "| resnet18 | rocket | D_r | 72.83 ± 0.42 | missing | n/a | **74.54 ± 0.00** |" in text
    assert "n/a: UNSIR: the random task has no class." in text
    assert "```\npython -m benchmark.run method=finetune\n```" in text


def test_a_block_opens_with_a_rule_and_its_names():
    two = pd.concat([EXAMPLE, EXAMPLE.assign(target="mushroom_2")])
    lines = to_latex(two, "T", "C", ABOUT).splitlines()
    rules = [number for number, line in enumerate(lines) if line == r"\midrule"]
    assert len(rules) == 2
    assert lines[rules[1] + 1].startswith(r"resnet18 & mushroom\_2 & ")
    assert to_markdown(two, "T", "C", ABOUT).count("| resnet18 |") == 2


def test_columns_that_do_not_vary_are_left_out_and_others_are_not():
    two = pd.concat([EXAMPLE, EXAMPLE.assign(ablation="accuracy", dataset="cifar10")])
    assert "| Switched | Data set | Model | Target | Metric |" in to_markdown(two, "T", "C", ABOUT)


def test_the_order_of_columns_and_rows_is_that_of_the_yaml_files():
    about = About({"a": Shown("A", order=2), "b": Shown("B", order=1)}, {"m": Shown("M", order=100)})
    assert about.sorted_methods(["z", "a", "y", "b", "a"]) == ["b", "a", "y", "z"]
    assert about.sorted_metrics(["x", "m"]) == ["m", "x"]
    assert ABOUT.sorted_methods(["finetune", "retrain", "baseline"]) == ["baseline", "retrain", "finetune"]
    assert not ABOUT.method("baseline").ranked
    assert ABOUT.method("new") == Shown("new")


def test_more_methods_than_columns_are_rows():
    names = [f"method_{n}" for n in range(11)]
    for n, head in ((10, "| Model | Target | Metric |"), (11, "| Model | Target | Method | D_r |")):
        rows = values([(name, "retain_accuracy", 50.0, NAN, 1, None, None, False) for name in names[:n]])
        assert head in to_markdown(rows, "T", "C", ABOUT)
        assert to_markdown(rows, "T", "C", ABOUT).count("50.00") == n


def test_what_a_plug_in_says_of_itself_is_printed():
    about = About({"ssd": Shown("My SSD & co")}, {"mia": Shown("attack_1", "attack_1", unit="bits", decimals=1)})
    rows = EXAMPLE[(EXAMPLE["metric"] == "mia")]
    assert "| resnet18 | rocket | attack_1 | 2.2 |" in to_markdown(rows, "T", "C", about)
    assert r"My SSD \& co" in to_latex(rows, "T", "C", about)
    assert label_of(about, "mia", latex=True) == r"attack\_1"


def test_a_grid_in_markdown_and_latex():
    grid = Grid(["a", "b"], [["x", "1"], ["y", "2"]], "lr", frozenset({0, 1}))
    assert grid.markdown() == "| a | b |\n| --- | ---: |\n| x | 1 |\n| y | 2 |\n"
    tabular = grid.latex("T", "C", above="over \\\\\n").split("\\begin{tabular}")[1].split("\\end{tabular}")[0]
    assert tabular.split("\n")[1:-1] == [
        r"\toprule", r"over \\", r"a & b \\", r"\midrule", r"x & 1 \\", r"\midrule", r"y & 2 \\", r"\bottomrule"
    ]  # fmt: skip


def test_a_long_table_is_split_between_blocks_into_parts_of_one_number():
    grid = Grid(["a"], [[f"row {n}"] for n in range(100)], "l", frozenset(range(0, 100, 10)))
    first, *others = grid.latex("D_f & more", "Caption.").split("\\end{table*}\n")[:-1]
    assert r"\caption{$\mathcal{D}_f$ \& more. Caption.}" in first
    assert [part.count("row ") for part in (first, *others)] == [40, 40, 20]
    assert [part.count(r"\midrule") for part in (first, *others)] == [4, 4, 2]
    assert all(r"\addtocounter{table}{-1}" in part for part in others)
    assert r"\caption{$\mathcal{D}_f$ \& more. Part 3 of 3.}" in others[1]


def test_latex_is_escaped_symbols_are_typeset_and_no_letter_is_left_that_it_does_not_know():
    assert escape("D_r of I_D, I_Df and N_f; D_x, add_f") == (
        r"$\mathcal{D}_r$ of $I_{\mathcal{D}}$, $I_{\mathcal{D}_f}$ and $N_f$; D\_x, add\_f"
    )
    assert escape("α ≥ 1 – … × √ < ^").isascii()
    assert escape("a_b, 5 % & $1 ± #{} a\\b") == r"a\_b, 5 \% \& \$1 $\pm$ \#\{\} a\textbackslash b"


@pytest.mark.parametrize(
    ("means", "best"),
    [
        ({"retrain": 10.0, "baseline": 10.0, "ssd": 12.0, "finetune": 7.0}, {"ssd"}),
        ({"retrain": 10.0, "ssd": 12.0, "finetune": 8.0}, {"ssd", "finetune"}),
        ({"ssd": 12.0, "finetune": 8.0}, set()),
        ({"retrain": NAN, "ssd": 12.0}, set()),
        ({"retrain": 10.0, "ssd": NAN}, set()),
    ],
)
def test_bold_is_closest_to_the_retrained_model(means, best):
    frame = values([(name, "mia", mean, 0.0, 3, None, None, False) for name, mean in means.items()])
    marked = mark_best(frame, set(means) - {"baseline", "retrain"}, {"retrain"})
    assert set(marked.loc[marked["best"], "method"]) == best


def test_rank_1_is_the_smallest_gap_within_a_block():
    gaps = {"retrain": 0.0, "baseline": 0.5, "ssd": 2.0, "finetune": 3.0, "unsir": NAN, "amnesiac": 1.0}
    rows = [
        (ablation, "class", "cifar20", "resnet18", "veg", method, metric, value, NAN, 1, None, None)
        for ablation, sign in (("none", 1), ("accuracy", -1))
        for method, gap in gaps.items()
        for metric, value in (("gap", 5 + sign * gap), ("rank", NAN))
    ]
    frame = pd.DataFrame(rows, columns=[*KEY, "mean", "std", "n", "skipped", "command"])
    ranked = with_ranks(frame, set(gaps) - {"baseline", "retrain"})
    ranks = ranked[ranked["metric"] == "rank"].set_index(["ablation", "method"])["mean"]
    assert ranks["none"].dropna().to_dict() == {"amnesiac": 1, "ssd": 2, "finetune": 3}
    assert ranks["accuracy"].dropna().to_dict() == {"finetune": 1, "ssd": 2, "amnesiac": 3}


def test_time_is_loading_method_and_evaluation():
    cell = demo_cells()[0]
    assert measured(record_of(cell), "seconds", 1) == 7.0
    assert measured(record_of(cell), "mia", 100) == pytest.approx(50.0)
    assert measured(record_of(cell, mia=None), "mia", 100) is None


def test_mean_sample_deviation_and_commands():
    first, second = demo_cells("ssd")
    places = [Place({}, first, record_of(first, mia=0.1)), Place({}, second, record_of(second, mia=0.3))]
    mean, std, n, *rest, run_ids = aggregate("mia", places, ABOUT)
    assert (mean, std, n, *rest) == (pytest.approx(20), pytest.approx(200**0.5), 2, None, None)
    assert len(run_ids.split()) == 2
    mean, std, n, _, command, _ = aggregate("mia", [places[0], Place({}, second)], ABOUT)
    assert (mean, n, math.isnan(std)) == (pytest.approx(10), 1, True)
    assert command.startswith("python -m benchmark.run ")
    assert "method_seed=1" in command


def query_of(*metrics: str) -> Query:
    """Return the question for the table of GRID with these metrics."""
    cells = demo_cells()
    options = Cell(OmegaConf.merge(cells[0].config, {"table": {"metrics": list(metrics)}}))
    return Query("table", "demo", Path(), [Place(x.labels, x, record_of(x)) for x in cells], options, [], None)


def test_metrics_that_are_no_percentages_are_printed_as_they_are():
    query = query_of("retain_accuracy", "js_distance", "zrf")
    text = to_markdown(make_values(query), "T", caption(query), query.about)
    assert "| JS | 0.2500 ± 0.0000 |" in text.replace("|  |  |", "|")
    assert "| ZRF | 0.7500 ± 0.0000 |" in text.replace("|  |  |", "|")
    assert "Percent but for JS, ZRF, mean ± sample standard deviation over 2 method seeds (n = 2)." in text
    assert "No percent: ZRF, mean ±" in caption(query_of("zrf"))


def seeds_query(*overrides: str) -> Query:
    """Return the question for these overrides; records differ by method seed and, but for `retrain`, by train seed."""
    cells = compose("experiment=demo", "profile=quick", "case=digits_class", "method=retrain,baseline,ssd", *overrides)
    zrf = [0.75 if cell.is_reference else 0.5 + 0.1 * cell.seeds["train_seed"] for cell in cells]
    places = [Place(cell.labels, cell, record_of(cell, zrf=value)) for cell, value in zip(cells, zrf, strict=True)]
    return Query("table", "demo", Path(), places, cells[0], [], None)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["method_seed=0"], "one seed (n = 1)"),
        (["method_seed=0", "train_seed=0,1,2"], "over 3 train seeds (n = 3)"),
        (["method_seed=0,1", "train_seed=${method_seed}"], "over 2 combinations of train and method seed (n = 2)"),
        (["method_seed=0,1", "train_seed=0,1,2"], "over 6 combinations of train and method seed (n = 6)"),
    ],
)
def test_the_caption_counts_and_names_the_seeds_that_vary(overrides, expected):
    assert expected in caption(seeds_query(*overrides))


def test_a_retrained_model_of_another_seed_does_not_stand_for_a_missing_one():
    query = seeds_query("method_seed=0", "train_seed=0,1,2")
    places = [place if i else Place(place.labels, place.cell) for i, place in enumerate(query.places)]
    fewer = replace(query, places=places)
    assert "over 3 train seeds (n = 2 to 3)" in caption(fewer)
    assert make_values(query)["best"].any()
    assert not make_values(fewer)["best"].any()


def test_a_model_that_the_seeds_do_not_touch_counts_once():
    """Under `strict` the retrained model depends on the method seed alone: three train seeds have one."""
    query = seeds_query("method_seed=0", "train_seed=0,1,2", "table.metrics=[retain_accuracy,zrf,seconds]")
    rows = make_values(query).set_index(["method", "metric"])
    assert rows.loc[("retrain", "retain_accuracy"), "n"] == 1
    assert math.isnan(rows.loc[("retrain", "retain_accuracy"), "std"])
    assert rows.loc[("retrain", "seconds"), "n"] == 3  # measured three times
    assert (rows.loc[("ssd", "zrf"), "n"], rows.loc[("ssd", "zrf"), "std"]) == (3, pytest.approx(0.1))
    note = table_files(query)["table.md"].partition("\n\n")[2]
    assert "\nRetrain: the same values under several seeds are one model's and count once.\n" in note
    assert "; SSD D_r.\n" in note


def test_the_notes_and_the_caption_know_blocks_apart():
    """Under random samples the split varies too; a value that is constant in one block is named with it."""
    overrides = ("method=ssd", "case=digits_class,digits_random", "method_seed=0,1", "train_seed=0")
    query = seeds_query(*overrides, "table.metrics=[zrf]")
    text = table_files(query)["table.md"]
    assert "over 2 combinations of split and method seed (n = 2)" in text
    assert "± 0.00, the same in every run: SSD ZRF.\n" in text
    first, *rest = query.places
    other = replace(first.record, metrics=first.record.metrics | {"zrf": 0.1})
    assert "every run (random): SSD ZRF.\n" in repeated(
        make_values(replace(query, places=[replace(first, record=other), *rest])), query
    )


def test_a_metric_that_some_seeds_lack_makes_no_model_of_several():
    query = seeds_query("method=ssd", "method_seed=0,1", "table.metrics=[zrf]")
    first, *rest = query.places
    lacks = replace(first, record=replace(first.record, metrics=first.record.metrics | {"zrf": None}))
    assert repeated(make_values(changed := replace(query, places=[lacks, *rest])), changed) == ""


def test_a_method_that_lacks_a_seed_has_neither_bold_nor_rank():
    metrics = "table.metrics=[mia,gap,rank]"
    query = seeds_query("method=retrain,ssd,finetune", "method_seed=0,1", metrics)
    places = [
        Place(x.labels, x.cell) if x.labels["method"] == "finetune" and i % 2 else x for i, x in enumerate(query.places)
    ]
    for whole, best, n in ((query, "finetune", 2), (replace(query, places=places), "ssd", 1)):
        rows = make_values(whole)
        assert rows.loc[rows["best"], "method"].tolist() == [best]
        assert rows.loc[rows["metric"] == "rank", "mean"].count() == n


def test_a_model_of_another_seed_counts_once_though_two_seeds_share_it():
    """Seed 1 is the other seed of 0 and of 2; beside each of them it has another gap."""
    query = seeds_query("method=retrain,retrain_other", "method_seed=0,1,2", "table.metrics=[mia,gap]")
    gaps = iter((0.1, 0.1, 0.3))
    places = []
    for place in query.places:
        other = (place.cell.scientific["method"].get("other") or place.cell.seeds)["method_seed"]
        metrics = dict.fromkeys(("retain_accuracy", "forget_accuracy", "mia"), 0.5 + other / 10)
        metrics |= {"gap": next(gaps)} if "other" in place.cell.scientific["method"] else {}
        record = replace(place.record, metrics=metrics, scientific=place.cell.scientific)
        places.append(replace(place, record=record))
    rows = make_values(replace(query, places=places)).set_index(["method", "metric"])
    assert (rows.loc[("retrain", "mia"), "n"], rows.loc[("retrain_other", "mia"), "n"]) == (3, 2)
    assert rows.loc[("retrain_other", "mia"), "mean"] == pytest.approx(55)
    assert rows.loc[("retrain_other", "gap"), "mean"] == pytest.approx(20)  # of the pairs 0 and 1, 1 and 2


def test_one_of_several_numbers_is_printed_as_its_metric_is():
    shown = ABOUT.metric("mia_interval.difference_low")
    assert (shown.label, shown.scale, shown.unit) == ("MIA difference low", 100, "percent")
    assert label_of(ABOUT, "attack.threshold", latex=True) == "attack threshold"


def test_the_gap_of_a_sweep_stands_once_though_it_is_asked_for():
    query = replace(query_of("mia", "gap"), kind="sweep")
    assert metrics_of(query) == ["mia", "gap"]


def test_an_unknown_metric_is_an_error():
    with pytest.raises(ValueError, match=r"Expected table\.metrics from retain_accuracy, .*, but got Rank\."):
        make_values(query_of("mia", "Rank"))


def test_the_caption_says_all_that_the_numbers_need(committed):
    text = (committed / "table.md").read_text().splitlines()[0]
    assert text.startswith(
        "**Digits, every task.** Protocol paper, profile quick. digits: 983 training images, resnet18 of 0.70 M "
        "parameters, originals trained for 4 epochs with augmentation (test accuracy 90.0 %). D_f is over 20 images "
        "(one is 5.00 points), MIA over 83 (1.20). Percent, mean ± sample standard deviation over 2 method seeds "
        "(n = 2). Device and training precision: A CPU, 2 threads, float32. Bold: the unlearning "
        "method closest to the retrained model."
    )


def test_a_caption_explains_the_gap_of_the_untouched_original():
    assert caption(query_of("mia", "gap")).endswith(GAP_NOTE)
    by_hand = caption(replace(query_of("gap"), caption="By hand."))
    assert by_hand == f"By hand. D_f is over 20 images (one is 5.00 points), MIA over 83 (1.20). {GAP_NOTE}"
    assert GAP_NOTE not in caption(query_of("mia"))


def test_accuracies_on_training_images_are_called_so(results):
    faces = (results / "table4-paper-quick" / "table.md").read_text()
    assert "(training accuracy 100.0 %)" in faces
    own = ("experiment=table4", "method=ssd", "method_seed=0", "task.target=1", "switched=none,pins_split")
    assert [cell.config.dataset.judged for cell in compose(*own)] == ["training", "test"]


def test_the_demo_prints_one_block_with_methods_as_rows_and_says_where_the_rest_lies(report):
    methods = "method=ssd,retrain,baseline,finetune"
    grid = ("case=digits_class,digits_random", methods, "method_seed=0,1", "table.note=Why.")
    for cell in compose("experiment=demo", *grid):
        record_of(cell, gap=0.0 if cell.is_reference else 0.1).write(Path("runs/records"))
    code, printed = report("table=demo", *grid)
    assert code == 0
    heading, _, *table, _, caption, _, rest = printed.rstrip().splitlines()
    assert heading == "**Digits, every task: class upright_2**"
    assert caption.startswith("Protocol strict")
    assert " Why. " in caption
    assert table == [
        "| Model | Target | Method | D_r | D_f | MIA | gap |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
        "| resnet18 | upright_2 | Baseline | 90.50 ± 0.71 | 90.50 ± 0.71 | 90.50 ± 0.71 | 10.00 ± 0.00 |",
        "|  |  | Retrain | 50.50 ± 0.71 | 50.50 ± 0.71 | 50.50 ± 0.71 | 0.00 ± 0.00 |",
        "|  |  | Finetune | **55.50 ± 0.71** | **55.50 ± 0.71** | **55.50 ± 0.71** | 10.00 ± 0.00 |",
        "|  |  | SSD | 60.50 ± 0.71 | 60.50 ± 0.71 | 60.50 ± 0.71 | 10.00 ± 0.00 |",
    ]
    assert rest == "results/demo-strict-quick/table.md, .csv and .tex hold random too."
    assert "random" in Path("results/demo-strict-quick/table.csv").read_text()


VERDICTS = """\
| Model | Target | Metric | SSD |
| --- | --- | --- | ---: |
| resnet18 | rocket | D_r | 88.30 ± 3.13 / 88.68 ± 3.36, match |
|  |  | D_f | **9.00** / 5.00, off |
| resnet18 | sea | D_r | missing |
"""


def shown(text: str, monkeypatch, capsys, **variables: str) -> str:
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "150"}.items() | variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show(text)
    return capsys.readouterr().out


def test_a_bar_in_a_name_opens_no_column(monkeypatch, capsys):
    text = Grid(["Method", "D_r"], [["dress | skirt", "1.00"], ["b|c", "2.00"]], "lr").markdown()
    assert r"| dress \| skirt | 1.00 |" in text
    assert "dress | skirt" in shown(text, monkeypatch, capsys)


def test_a_pipe_gets_the_markdown_as_it_is(capsys):
    show(VERDICTS)
    assert capsys.readouterr().out == f"{VERDICTS}\n"


def test_a_terminal_gets_glyphs_and_colours_in_100_columns(monkeypatch, capsys):
    command = f"python -m benchmark.run {'key=value ' * 20}"
    text = shown(f"**Title.** {'word ' * 50}\n\n{VERDICTS}\n{command}", monkeypatch, capsys)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "\x1b[32m✓ match" in text
    assert "\x1b[31m✗ off" in text
    assert "\x1b[1mTitle." in text
    assert "88.30±3.13" in plain
    assert plain.count("resnet18") == 1  # above the table
    assert command in plain
    assert max(map(len, plain.replace(command, "").splitlines())) <= 100
    assert not re.search(r"[|*…]", plain)


def test_a_table_of_many_columns_is_folded_and_nothing_is_cut(monkeypatch, capsys):
    grid = Grid(["a"] * 12, [["123.45 ± 10.00"] * 12] * 3, "r" * 12)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown(grid.markdown(), monkeypatch, capsys))
    assert max(map(len, plain.splitlines())) <= 100
    assert "…" not in plain
    assert re.sub(r"[^0-9.±]", "", plain).count("0") >= 3 * 12


def test_no_color_is_respected(monkeypatch, capsys):
    text = shown(VERDICTS, monkeypatch, capsys, NO_COLOR="1")
    assert not re.search(r"\x1b\[3[0-9]m", text)
    assert "✗ off" in text
