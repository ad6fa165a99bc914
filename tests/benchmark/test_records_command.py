"""`python -m benchmark.records`: what is there, what it takes, and what goes."""

import io
import sys
from pathlib import Path

import pytest
import torch
from command_line import make_cells, run_command

from benchmark import pipeline
from benchmark.artefacts import Artefact
from benchmark.records import RunRecord, load_records
from benchmark.records.__main__ import main
from benchmark.workbench import Workbench

ROOT = Path(__file__).parents[2]
SWEEP = ["method=ssd", "method.alpha=1,3", "train_seed=0,1"]


def made(node: Artefact, bench: Workbench) -> None:
    bench.store.get(Artefact(node.kind, node.key, lambda: ({"w": torch.ones(1)}, {})))


@pytest.fixture
def runs(tmp_path) -> Path:
    """Four records (two values of α, two train seeds), and the artefacts on which they rest."""
    for cell in make_cells(tmp_path, *SWEEP):
        bench = Workbench(cell)
        first = pipeline.original(bench)
        for node in (first, pipeline.reference(bench), pipeline.outputs(bench)):
            made(node, bench)
        made(Artefact("importance_full", {"original": first.hash}, dict), bench)
        RunRecord(
            run_id=cell.run_id, scientific_hash=cell.scientific_hash, labels=cell.labels,
            hyperparameters=cell.scientific["method"], seeds=cell.seeds, metrics={"mia": 0.5}, seconds={}, sizes={},
            provenance={"finished": "2020-01-01T00:00:00+00:00"}, data_fingerprint=cell.fingerprint,
            original={"sha256": "unknown"}, scientific=cell.scientific, overrides=list(cell.overrides),
        ).write(tmp_path / "records")  # fmt: skip
    return tmp_path


@pytest.fixture
def command(runs, monkeypatch, capsys):
    """arguments, answer -> (exit code, what was printed)."""

    def call(*arguments: str, answer: str = "") -> tuple[int, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        code = run_command([*arguments, f"output_dir={runs}"], monkeypatch, main=main)
        return code, "".join(capsys.readouterr())

    return call


def files(runs: Path, kind: str) -> int:
    return len(list((runs / "artefacts" / kind).glob("*.safetensors")))


def test_a_list_names_what_varies(command):
    lines = command()[1].splitlines()
    names = {line.partition("2020-01-01 ")[2] for line in lines}
    assert names == {
        f"digits resnet18 class upright_2 ssd strict full train_seed={seed} split_seed=0 method_seed=0 "
        f"method.alpha={alpha}"
        for seed in (0, 1) for alpha in (1, 3)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "n"),
    [
        (["dataset=digits", "method=ssd"], 4),
        (["method=retrain"], 0),
        (["train_seed=1"], 2),
        (["method.alpha=3.0", "train_seed=0"], 1),
        (["original.recipe.epochs=1"], 4),
        (["recipe.epochs=1"], 4),
        (["method.alpha=3,10", "train_seed=range(2)"], 2),
        (["method.alpha=0.1e1"], 2),
        (["--older-than", "30d"], 4),
        (["--older-than", "5000w"], 0),
    ],
)
def test_records_are_chosen_by_label_seed_option_and_age(words, n, command):
    assert command(*words)[1].count("2020-01-01") == n


def test_one_record_is_shown_whole(command, runs):
    record = load_records(runs / "records")[0]
    _, printed = command("show", record.run_id[:6])
    assert "scientific:\n" in printed
    assert "      epochs: 1\n" in printed
    assert printed.splitlines()[-1] == record.command
    assert "method=ssd" in str(record.command)


def test_disk_use_is_named_by_kind(command):
    kinds = {line.split()[0]: int(line.split()[1]) for line in command("sizes")[1].splitlines()}
    assert kinds["records"] == 4
    assert set(kinds) == {"all", "importance_full", "original", "outputs", "records"}
    assert kinds["all"] == sum(n for kind, n in kinds.items() if kind != "all")


def test_nothing_goes_without_a_yes(command, runs):
    for answer in ("", "n\n"):
        code, printed = command("remove", "method.alpha=3", answer=answer)
        assert (code, len(load_records(runs / "records"))) == (0, 4)
        assert "Remove records: 2, artefacts: 0 (0.0 MB)? [y/N] nothing was removed" in printed
    assert command("remove", "method=retrain")[1] == "nothing to remove\n"
    assert "none of 4 records in " in (printed := command("method=sssd", "train_seed=0")[1])
    assert printed.endswith("records; method: ssd; train_seed: 0, 1\n")


def test_single_records_go_by_their_run_id(command, runs):
    first, second, *_ = load_records(runs / "records")
    command("remove", first.run_id[:8], second.run_id, answer="y\n")
    assert len(load_records(runs / "records")) == 2
    assert command("remove", first.run_id)[0] == 1


def test_what_goes_can_be_made_again_by_the_command_that_is_printed(command, runs):
    gone = [str(x.command) for x in load_records(runs / "records") if x.hyperparameters["alpha"] == 3]
    _, printed = command("remove", "method.alpha=3", answer="y\n")
    assert all(f"\n  {line}\n" in printed for line in gone)
    assert {record.hyperparameters["alpha"] for record in load_records(runs / "records")} == {1}


def test_artefacts_go_if_no_record_needs_them(command, runs):
    kinds = ("original", "importance_full", "outputs")
    assert [files(runs, kind) for kind in kinds] == [2, 2, 6]
    assert command("remove", "--artefacts", "--yes")[1] == "nothing to remove\n"
    assert command("remove", "--artefacts", "--older-than", "30d", "--yes")[1] == "nothing to remove\n"
    command("remove", "method.alpha=3", "--artefacts", "--yes")
    assert [files(runs, kind) for kind in kinds] == [2, 2, 4]
    command("remove", "train_seed=1", "--artefacts", "--yes")
    assert [files(runs, kind) for kind in kinds] == [1, 1, 2]
    (runs / "artefacts" / "outputs" / "x.json.damaged-1").write_text("")
    command("remove", "method=ssd", "--artefacts", "--yes")
    assert [path for path in runs.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["remove"], "Expected a run id, a filter, --older-than or --artefacts after remove, but got none."),
        (["foo=1"], "Expected a label, a seed or an option of a record, but got foo"),
        (["--older-than", "30"], "Expected --older-than as 12h, 30d or 4w"),
        (["show", "zzz"], "Expected the run id of one record, but 'zzz' names 0"),
        (["list"], "Expected show RUN_ID, sizes, remove or filters, but got list"),
    ],
)
def test_an_error_is_one_line(words, expected, command):
    code, printed = command(*words)
    assert code == 1
    assert printed.startswith(f"error: {expected}")
    assert len(printed.splitlines()) == 1
