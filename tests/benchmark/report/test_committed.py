"""A command that reads records never destroys any; every committed file follows from its records."""

import shlex
import shutil
import sys
from dataclasses import replace
from importlib.metadata import version

import pytest
from report_cases import ROOT, content_of

from benchmark.records import read_lines
from benchmark.report.page.build import commands_of
from benchmark.report.page.folders import folders_of
from scripts import verify_results
from scripts.verify_results import described, differences, origin, problems_of

COMMANDS = {folder.name: commands_of(folder)[-1] for folder in folders_of(ROOT / "results") if commands_of(folder)}
OF_OTHERS = {"paper", "search", "searches", "speed"}  # kinds of folders that benchmark.report does not make
FAST = ("selectivity-paper-narrow", "sweep-vit-narrow", "distance-strict-narrow")


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS]
)
def test_without_any_new_record_the_command_changes_nothing(name, results, report):
    """Every file is written again, so each follows from the committed records byte by byte."""
    before = content_of(results / name)
    code, printed = report(*shlex.split(COMMANDS[name])[3:])
    assert code == 0, printed
    assert content_of(results / name) == before


def test_every_committed_folder_has_a_command():
    folders = {path.name for path in (ROOT / "results").iterdir() if path.is_dir()}
    assert {name.split("-")[0] for name in folders - COMMANDS.keys()} == OF_OTHERS
    assert all(command.startswith("python -m benchmark.report ") for command in COMMANDS.values())


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


def test_the_landscape_follows_from_its_table(tmp_path):
    (search,) = ROOT.glob("results/search-*")
    copy = shutil.copytree(search, tmp_path / search.name)
    assert list(problems_of(copy)) == []
    lines = (copy / "trials.csv").read_text().splitlines(keepends=True)
    (copy / "trials.csv").write_text("".join(lines[:-1]))
    assert any("png does not follow" in problem for problem in problems_of(copy))


def test_uncommitted_code_is_named(results):
    (record, *_) = read_lines(results / "selectivity-paper-narrow" / "records.jsonl")
    assert list(origin(record)) == []
    changed = replace(record, original={**record.original, "dirty": True})
    assert list(origin(changed)) == [f"record {record.run_id} comes from uncommitted code"]


def test_uncommitted_code_behind_a_search_is_named(tmp_path):
    copy = shutil.copytree(ROOT / "results" / "searches-digits-strict", tmp_path / "searches-mine")
    assert list(problems_of(copy)) == []
    path = copy / "searches.jsonl"
    path.write_text(path.read_text("utf-8").replace('"dirty": false', '"dirty": true', 1), "utf-8")
    assert list(problems_of(copy)) == ["searches-mine: a search comes from uncommitted code"]
