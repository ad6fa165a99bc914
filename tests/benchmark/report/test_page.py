"""The page over results/: its numbers are those of the files, it needs nothing from elsewhere, runs no other code."""

import csv
import json
import re
import shutil
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest
from page_reader import PageReader, Table
from report_cases import ROOT

from benchmark.records import read_lines, to_lines
from benchmark.report.about import ABOUT
from benchmark.report.page import build, pictures, tables
from benchmark.report.page.build import PAGE, page_of
from benchmark.report.page.folders import Folder, folders_of
from benchmark.report.page.markup import markdown, typeset
from benchmark.report.page.tables import without_same
from benchmark.report.typeset import Grid
from scripts.verify_results import page_problems

RESULTS = ROOT / "results"
EVIL = "<script>alert(1)</script>"
TABLES = [path for path in sorted(RESULTS.glob("*/table.csv")) if not path.parent.name.startswith("searches-")]


@pytest.fixture(scope="module")
def page() -> str:
    return page_of(RESULTS)


@pytest.fixture(scope="module")
def reader(page) -> PageReader:
    return PageReader(page)


@pytest.fixture
def small(tmp_path) -> Path:
    """Results of two folders alone."""
    for name in ("selectivity-paper-narrow", "table2-paper-narrow"):
        shutil.copytree(RESULTS / name, tmp_path / name)
    return tmp_path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table_of(reader: PageReader, label: str) -> Table:
    """Return the first table of this label."""
    return next(table for table in reader.tables if table.label == label)


def printed(mean: str, std: str) -> str:
    return f"{mean} ± {std}" if std else mean


def test_the_committed_page_is_that_of_the_committed_results(page):
    assert not (RESULTS / PAGE).exists() or (RESULTS / PAGE).read_text("utf-8") == page


def test_the_page_is_small_and_needs_nothing_from_elsewhere(page, reader):
    assert len(page.encode()) < 3_500_000
    files = [link for link in reader.links if not link.startswith(("#", "data:image/png;"))]
    assert all((RESULTS / link).is_file() for link in files)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)


def test_every_anchor_resolves_and_no_id_stands_twice(reader):
    assert len(set(reader.ids)) == len(reader.ids)
    assert {link[1:] for link in reader.links if link.startswith("#")} <= set(reader.ids)


def test_the_policy_allows_the_style_and_the_script_of_the_page_alone(reader):
    assert reader.policy.startswith("default-src 'none'; ")
    for name, texts in reader.inline.items():
        (text,) = texts
        digest = b64encode(sha256(text.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in reader.policy
    assert reader.styled == []  # the policy would drop them


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.parent.name)
def test_every_number_of_a_table_is_that_of_its_csv(path, reader):
    table = table_of(reader, path.parent.name)
    found = 0
    for row in rows_of(path):
        if not row["mean"]:
            continue
        decimals = 0 if row["metric"] == "rank" else ABOUT.metric(row["metric"]).decimals
        method = (row.get("curve") or ABOUT.method(row["method"]).label).replace("I_D", "ID")
        names = {"Method": method, "Model": row["model"], "Target": row.get("newest") or row["target"]}
        names |= {"Request": row["request"]} if "request" in row else {}
        names |= {"Task": row["task"], "Data set": row["dataset"]}
        varied = [f"{name}={row[name]}" for name in list(row)[: list(row).index("task")]]  # of a sweep
        names |= {"Switched": row["ablation"]} if "ablation" in row else {"Varied": " ".join(varied)}
        head = ABOUT.metric(row["metric"]).label.replace("_", "")
        (line,) = [x for x in table.body if all(x.get(name, value) == value for name, value in names.items())]
        assert line[head].split(" paper ")[0].strip() == printed(f"{float(row['mean']):.{decimals}f}", row["std"]), row
        found += 1
    assert found


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/verdict.csv")), ids=lambda path: path.parent.name)
def test_every_published_number_and_verdict_is_that_of_its_csv(path, reader):
    table = table_of(reader, path.parent.name)
    run = {(row["dataset"], row["model"], row["task"], row["target"]) for row in rows_of(path) if row["n"] != "0"}
    for row in rows_of(path):
        block = (row["dataset"], row["model"], row["task"], row["target"])
        if block not in run:
            continue
        names = dict(zip(("Data set", "Model", "Task", "Target"), block, strict=True))
        names["Method"] = ABOUT.method(row["method"]).label
        (line,) = [x for x in table.body if all(x.get(name, value) == value for name, value in names.items())]
        _, _, theirs = line[ABOUT.metric(row["metric"]).label.replace("_", "")].partition(" paper ")
        spread = row["std_published"] if row["std_unit"] == "percent" else ""
        assert theirs.split(" ")[-1] == row["verdict"], row
        assert theirs.startswith(printed(row["mean_published"], spread)), row


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/verdict.md")), ids=lambda path: path.parent.name)
def test_every_gap_is_that_of_the_printed_verdicts(path, reader):
    table = table_of(reader, path.parent.name)
    lines = [line[2:-2].split(" | ") for line in path.read_text().splitlines() if line.startswith("| ")]
    head, rows = lines[0] if lines else [], lines[2:]
    printed_gaps = {
        (method, text) for row in rows if "gap" in row for method, text in zip(head, row, strict=True) if " / " in text
    }
    found = {(row["Method"], row["gap"].replace(" paper ", " / ").strip()) for row in table.body if row.get("gap")}
    assert found == printed_gaps


def test_other_csv_files_stand_on_the_page_field_by_field_or_are_linked(reader, page):
    paths = [path for path in RESULTS.glob("*/*.csv") if path.name not in build.ELSEWHERE]
    assert paths
    for path in paths:
        name = f"{path.parent.name}/{path.name}"
        if len(rows_of(path)) > build.MOST_ROWS:
            assert f'<a href="{name}">' in page
            continue
        (table,) = [table for table in reader.tables if table.label == name]
        kept = table.rows[0]
        assert [[row[name] for name in kept] for row in rows_of(path)] == table.rows[1:], path


def test_every_record_stands_on_the_page(reader):
    (table,) = [table for table in reader.tables if table.label == "All records"]
    by_place = {(row["Folder"], row["Run"]): row for row in table.body}
    n = 0
    for path in RESULTS.glob("*/records.jsonl"):
        for line in path.read_text().splitlines():
            record, n = json.loads(line), n + 1
            row = by_place[path.parent.name, record["run_id"]]
            value = record["metrics"].get("retain_accuracy")
            assert row["Dr"] == ("" if value is None else f"{100 * value:.2f}")
            assert row["Seeds: train/split/method"] == "/".join(
                str(record["seeds"][f"{x}_seed"]) for x in ("train", "split", "method")
            )
            assert f"{path.parent.name}--{record['run_id']}" in reader.ids
    assert n == len(by_place)


def test_a_record_shows_its_configuration_device_and_commit(page):
    (record, *_) = read_lines(RESULTS / "table2-paper-narrow" / "records.jsonl")
    for text in (record.provenance["commit"], record.provenance["device"], record.original["sha256"]):
        assert f": {text}\n" in page or f": {text}<" in page
    assert "checkpoint: best_test" in page
    assert page.count("checkpoint: best_test") < 20  # once per configuration, not per record


def test_names_that_are_the_same_in_every_row_stand_above_the_table():
    grid = Grid(["Method", "Model", "Target", "MIA"], [["SSD", "vit", "a", "1"], ["UNSIR", "vit", "b", "1"]], "lllr")
    note, grid = without_same(grid)
    assert note == "Model vit"
    assert grid.head == ["Method", "Target", "MIA"]
    assert grid.rows == [["SSD", "a", "1"], ["UNSIR", "b", "1"]]


def test_an_option_that_a_row_of_a_sweep_lacks_is_not_printed(tmp_path):
    block = {"task": "class", "dataset": "digits", "model": "resnet18", "target": "a", "metric": "mia", "mean": 1.0}
    rows = [{"lr": lr, **block, "method": "ssd", "records": "x", "best": False} for lr in (0.1, None)]
    pd.DataFrame(rows).assign(std=None, skipped=None).to_csv(tmp_path / "table.csv", index=False)
    grid = tables.plain(Folder(tmp_path))
    assert [row[grid.head.index("Varied")] for row in grid.rows] == ["lr=0.1", "–"]


def test_symbols_are_typeset(reader):
    assert not re.search(r"\b[DI]_(f|r|D|Df)\b", "".join(reader.text))
    assert typeset("I_D, I_Df < D_f") == "I<sub>D</sub>, I<sub>Df</sub> &lt; D<sub>f</sub>"


def test_a_section_stands_only_if_its_folder_is_there(small):
    reader = PageReader(page_of(small))
    sections = {name.removesuffix("-title") for name in reader.ids if re.fullmatch(r"s-\w+-title", name)}
    assert sections == {"s-finding", "s-compared", "s-tables", "s-records", "s-reproduce"}
    assert not any(table.rows[0][0] == "" for table in reader.tables)


def test_no_results_give_a_page_too(tmp_path):
    assert "0 records" in page_of(tmp_path)


def test_the_paper_s_scale_comes_first(tmp_path):
    names = ["table6-paper-full", "table3-strict-narrow", "ablation-paper-quick", "demo-strict-mine", "speed"]
    for name in names:
        (tmp_path / name).mkdir()
    assert [folder.name for folder in folders_of(tmp_path)] == names


def test_the_finding_is_the_answer_of_the_best_profile_or_counts_verdicts(small):
    assert "Profile narrow: of 42 numbers beside a published one 9 match, 5 are near, 28 are off." in page_of(small)
    for profile, text in (("quick", "Nothing"), ("full", "Open"), ("narrow", "SSD is `close` in D_f")):
        (small / f"answer-{profile}").mkdir()
        (small / f"answer-{profile}" / "sentences.md").write_text(f"* {text}.\n")
    finding = page_of(small).partition('id="s-finding-title"')[2].partition("</ul>")[0]
    assert "SSD is <code>close</code> in D<sub>f</sub>." in finding
    assert "Open" not in finding


def test_markup_in_a_record_shows_as_text(small):
    path = small / "selectivity-paper-narrow" / "records.jsonl"
    (record, *others) = read_lines(path)
    evil = replace(record, labels={**record.labels, "method": EVIL, "target": EVIL}, skipped=EVIL)
    path.write_text(to_lines([evil, *others]))
    table = path.with_name("table.csv")
    table.write_text(table.read_text().replace(",ssd,", f",{EVIL},"))
    path.with_name("table.md").write_text(f"**{EVIL}.** {EVIL} [x](javascript:alert(1))\n\n{EVIL}\n")
    path.with_name(f"{EVIL.replace('/', '-')}.csv").write_text(f"{EVIL}\n{EVIL}\n")
    page = page_of(small)
    reader = PageReader(page)
    assert EVIL not in page
    assert len(reader.inline["script"]) == 1
    assert "".join(reader.text).count(EVIL) > 5
    assert not any(link.startswith("javascript") for link in reader.links)


SVG = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="100pt" height="9pt"
onload="alert(1)">
<metadata>x</metadata><style>* {fill: red}</style><script>alert(1)</script>
<defs><clipPath id="p"><rect width="1"/></clipPath></defs>
<g clip-path="url(#p)" style="fill: #ffffff; stroke-width: 2"><text style="font: 10px 'Sans'">D </text></g>
<g id="unused">
 <path d="M 1.234567 0.012345"/>
</g>
<use xlink:href="#p"/><use xlink:href="https://elsewhere/x"/><foreignObject/></svg>"""


def test_a_figure_only_draws(tmp_path):
    path = tmp_path / "distance" / "figure.svg"
    path.parent.mkdir()
    path.write_text(SVG)
    text = str(pictures.svg(path, 'A "title"'))
    assert 'role="img"' in text
    assert 'width="160pt"' in text
    assert "height" not in text
    assert 'aria-label="A &quot;title&quot;"' in text
    assert 'fill="#ffffff" stroke-width="2"' in text
    assert 'font-size="10px"' in text
    assert "url(#distance-figure-0)" in text
    assert 'href="#distance-figure-0"' in text
    assert 'id="distance-figure-0"' in text
    assert '>D </text></g><path d="M 1.23 0.0123" /><use ' in text
    assert not re.search("script|onload|metadata|style|elsewhere|foreign", text)
    path.write_text("no <svg")
    with pytest.raises(ValueError, match=r"figure\.svg to be SVG"):
        pictures.svg(path, "")


def test_an_svg_stands_for_its_png_and_its_dark_twin(tmp_path):
    for name in ("figure.png", "figure.svg", "figure-dark.svg", "other.png"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in build.figures_of(Folder(tmp_path))] == ["figure.svg", "other.png"]


def test_the_dark_theme_takes_its_colours_from_the_twin(tmp_path):
    path = tmp_path / "figure.svg"
    path.write_text('<svg><path style="fill: #218dfa; stroke: #ffffff"/></svg>')
    assert pictures.dark_rules([path]) == ""
    (tmp_path / "figure-dark.svg").write_text('<svg><path style="fill: #8757ae; stroke: #ffffff"/></svg>')
    rules = pictures.dark_rules([path])
    assert '[fill="#218dfa"] { fill: #8757ae; }' in rules
    assert "#ffffff" not in rules


def test_the_rules_of_the_dark_theme_count_as_bytes_of_the_page(small, monkeypatch):
    (small / "figure2-x").mkdir()
    drawing = f'<svg xmlns="{pictures.SVG}"><path d="M0 0" style="fill: {{}}"/></svg>'
    for name, colour in (("figure.svg", "#218dfa"), ("figure-dark.svg", "#8757ae")):
        (small / "figure2-x" / name).write_text(drawing.format(colour))
    whole = page_of(small)
    assert "fill: #8757ae" in whole
    for size in range(len(whole.encode()) - 40, len(whole.encode()) + 1):
        monkeypatch.setattr(build, "MOST_BYTES", size)
        assert len(page_of(small).encode()) < size


def test_figures_without_room_become_links_and_a_page_too_large_is_refused(small, monkeypatch):
    (small / "figure2-x").mkdir()
    (small / "figure2-x" / "figure.png").write_bytes(bytes(50_000))
    size = len(page_of(small).encode())
    monkeypatch.setattr(build, "MOST_BYTES", size)
    page = page_of(small)
    assert "data:image/png" not in page
    assert 'href="figure2-x/figure.png"' in page
    monkeypatch.setattr(build, "MOST_BYTES", len(page.encode()) - 100)
    with pytest.raises(ValueError, match="Expected a page of less than"):
        page_of(small)


def test_tables_of_a_text_scroll_in_regions_and_have_no_inline_style():
    text = markdown("# A\n\n| | x |\n| --- | ---: |\n| a | 1 |\n", "Label", level=4)
    assert "<h4>A</h4>" in text
    assert 'role="region" tabindex="0" aria-label="Label, table 1"' in text
    assert '<th class="r">x</th>' in text
    assert "<td></td>" in text
    assert "style=" not in text


def test_the_command_writes_the_page_and_verify_makes_it_again(small, report, monkeypatch):
    (small / "results").mkdir()
    for name in ("selectivity-paper-narrow", "table2-paper-narrow"):
        (small / name).rename(small / "results" / name)
    code, printed_text = report("page")
    assert code == 0, printed_text
    assert "results/index.html: " in printed_text
    assert "57 records" in printed_text
    assert list(page_problems(small / "results")) == []
    path = small / "results" / "table2-paper-narrow" / "table.csv"
    path.write_text(path.read_text().replace("62.55", "62.56", 1))
    assert list(page_problems(small / "results")) == ["results: index.html does not follow from the records"]
    (small / "results" / PAGE).unlink()
    assert list(page_problems(small / "results")) == []
    assert report("page", "profile=quick")[0] == 1
