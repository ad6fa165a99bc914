"""A command that reads records never destroys any; every committed file follows from its records."""

import shlex
import shutil
import sys
from dataclasses import replace
from importlib.metadata import version

import pytest
from report_cases import ROOT, content_of

from benchmark.records import read_lines
from benchmark.report.__main__ import OVERVIEWS
from benchmark.report.page.build import commands_of
from benchmark.report.page.folders import folders_of
from benchmark.report.query import read_memory
from scripts import verify_results
from scripts.verify_results import described, differences, origin, problems_of

VIT = (
    "'train_seed=${method_seed}' profile=narrow case=cifar20_vehicle2 model=vit method=baseline ~method@reference "
    "protocol=strict,paper method_seed=0,1,2 \"table.title='ViT-Tiny at 64 pixels from coarse ImageNet weights: AdamW "
    "(strict), SGD at 0.1 (paper)'\" out=results/sweep-vit-narrow"
)
DIGITS = "case=digits_class,digits_subclass,digits_random method_seed=range(10)"
COMMANDS = {
    "table1-paper-quick": "table=1 profile=quick",
    "table2-paper-narrow": "table=2 profile=narrow",
    "table2-strict-narrow": "table=2 profile=narrow protocol=strict",
    "table3-paper-quick-vit": "table=3 profile=quick out=results/table3-paper-quick-vit",
    "table3-strict-narrow": "table=3 profile=narrow protocol=strict",
    "table3-paper-narrow": "table=3 profile=narrow",
    "table5-strict-narrow": "table=5 profile=narrow protocol=strict",
    "table4-paper-quick": "table=4 profile=quick",
    "table5-paper-narrow": "table=5 profile=narrow",
    "table6-strict-narrow": "table=6 profile=narrow protocol=strict",
    "table6-paper-narrow": "table=6 profile=narrow",
    "table6-paper-full": "table=6",
    "table6-paper-full-h200": "table=6 profile=full out=results/table6-paper-full-h200",
    "selectivity-paper-narrow": "table=selectivity profile=narrow",
    "ablation-paper-narrow": "table=ablation profile=narrow",
    "ablation-paper-quick": "table=ablation profile=quick",
    "figure2-paper-quick": "figure=2 profile=quick",
    "requests-paper-narrow": "requests profile=narrow",
    "ulira-strict-quick": "table=ulira",
    "sweep-vit-narrow": f"-m {VIT}",
    "field-strict-quick": f"table=field profile=quick {DIGITS}",
    "claims-paper-narrow": "claims profile=narrow",
    "distance-paper-full": "figure=distance",
    "distance-strict-narrow": "figure=distance profile=narrow protocol=strict",
    "distance-paper-narrow": "figure=distance profile=narrow",
    "distance-strict-quick-field": "figure=distance profile=quick protocol=strict experiment=field",
    "tradeoff-strict-narrow": "figure=tradeoff profile=narrow protocol=strict",
    "tradeoff-paper-narrow": "figure=tradeoff profile=narrow",
    "tradeoff-paper-full": "figure=tradeoff",
}
WITHOUT_RECORDS = ("claims", *OVERVIEWS)
FAST = ("table2-paper-narrow", "table3-paper-quick-vit", "selectivity-paper-narrow", "claims-paper-narrow")


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS]
)
def test_without_any_new_record_the_command_changes_nothing(name, results, report):
    """Every file is written again, so each follows from the committed records byte by byte."""
    before = content_of(results / name)
    code, printed = report(*shlex.split(COMMANDS[name]))
    assert code == 0, printed
    assert content_of(results / name) == before


def test_the_page_names_the_commands_of_overviews_and_claims():
    named = {folder.name: commands_of(folder) for folder in folders_of(ROOT / "results")}
    assert all(named[name] for name in COMMANDS)
    for name in (name for name in COMMANDS if name.startswith(WITHOUT_RECORDS)):
        (line,) = named[name]
        full = {f"protocol={name.split('-')[1]}", f"profile={name.split('-')[2]}", *shlex.split(COMMANDS[name])}
        assert set(shlex.split(line)) == {"python", "-m", "benchmark.report", *full}
    assert named["answer-quick-field"] == ["python -m benchmark.report answer=quick experiment=field"]


def test_every_committed_folder_is_among_them():
    folders = {path.parent for path in ROOT.glob("results/*/report.json")}
    others = {path for word in WITHOUT_RECORDS for path in ROOT.glob(f"results/{word}-*")}
    assert {folder.name for folder in folders | others} == set(COMMANDS)
    assert all(folder.name.startswith(f"{read_memory(folder)['experiment']}-") for folder in folders)


@pytest.mark.parametrize("name", ["selectivity-paper-narrow", "claims-paper-narrow"])
def test_a_changed_number_is_found(name, results):
    assert list(problems_of(results / name)) == []
    path = next((results / name).glob("*.csv"))
    path.write_text(path.read_text().replace("0.63", "0.64"))
    assert list(problems_of(results / name)) == [f"{name}: {path.name} does not follow from the records"]


def test_a_lost_file_is_found(results, monkeypatch):
    folder = results / "selectivity-paper-narrow"
    (folder / "table.tex").unlink()
    monkeypatch.setattr(sys, "argv", ["verify", str(folder)])
    with pytest.raises(SystemExit, match="True"):
        verify_results.main()
    assert list(problems_of(folder)) == [f"{folder.name}: no table.tex"]
    assert list(described(folder)) == [f"{folder.name}: no table.tex"]
    memory = (folder / "report.json").read_text()
    (folder / "report.json").write_text(memory.replace('"selectivity"', '"mine"'))
    (problem,) = described(folder)
    assert problem.startswith(f"{folder.name}: not checked: Expected experiment=… to be one of")
    (folder / "report.json").write_text(memory)
    (folder / "records.jsonl").unlink()
    assert list(problems_of(folder)) == [f"{folder.name}: no report.json or no records.jsonl"]


def test_a_figure_by_another_version_of_matplotlib_is_not_compared(results):
    folder = results / "figure2-paper-quick"
    for name in ("figure.png", "figure.pdf", "figure.svg"):
        drawn = (folder / name).read_bytes()
        assert list(differences(folder, {name: drawn + b" "})) == [
            f"{folder.name}: {name} does not follow from the records"
        ]
        (folder / name).write_bytes(drawn.replace(version("matplotlib").encode(), b"3.8.0"))
        assert list(differences(folder, {name: drawn})) == []


def test_the_landscape_and_the_growth_follow_from_their_tables(tmp_path):
    (search,) = ROOT.glob("results/search-*")
    for folder, table in ((search, "trials.csv"), (ROOT / "results" / "speed", "growth-amd-epyc-2-threads.csv")):
        copy = shutil.copytree(folder, tmp_path / folder.name)
        assert list(problems_of(copy)) == []
        lines = (copy / table).read_text().splitlines(keepends=True)
        (copy / table).write_text("".join(lines[:-1]))
        assert any("png does not follow" in problem for problem in problems_of(copy))


def test_uncommitted_code_is_named(results):
    (record, *_) = read_lines(results / "selectivity-paper-narrow" / "records.jsonl")
    assert list(origin(record)) == []
    changed = replace(record, original={**record.original, "dirty": True})
    assert list(origin(changed)) == [f"record {record.run_id} comes from uncommitted code"]
