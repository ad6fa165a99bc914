"""Records: one file per run, one line per committed run; damage is noticed."""

import json
import math
from dataclasses import asdict, fields, replace

import pytest

from benchmark.records import RunRecord, load_records, read_lines, to_frame, to_lines


def record(name="r1", **changes):
    plain = RunRecord(
        run_id=name, scientific_hash="c" * 16, labels={"dataset": "digits", "model": "resnet18", "method": "ssd"},
        hyperparameters={"alpha": 10.0, "recipe": {"lr": 0.1, "milestones": [60, 120]}},
        seeds={"train_seed": 0, "split_seed": 0, "method_seed": 1}, metrics={"retain_accuracy": 0.97, "zrf": None},
        seconds={"method": 1.25, "rest": 0.25}, sizes={"forget_train": 83, "parameters": 11_220_132},
        provenance={"torch": "2.6", "git": {"dirty": False}}, data_fingerprint="d" * 64,
        original={"test_accuracy": 0.99}, code={"methods.ssd": "e" * 16},
    )  # fmt: skip
    return replace(plain, **changes)


@pytest.mark.parametrize("written", [record(), record(metrics={}, skipped="class and subclass only")])
def test_round_trip(written, tmp_path):
    path = written.write(tmp_path / "new" / "records")
    assert path == tmp_path / "new" / "records" / "r1.json"
    assert RunRecord.read(path) == written
    assert list(path.parent.iterdir()) == [path]


def test_a_half_written_record_is_set_aside(tmp_path, caplog):
    path = record().write(tmp_path)
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match=r"r1\.json to be a run record.*delete it and run again"):
        RunRecord.read(path)
    assert load_records(tmp_path) == []
    assert caplog.text.count("delete it and run again") == 1
    assert path.exists()  # a table only reads
    assert RunRecord.find(path) is None
    assert "set aside the damaged r1.json" in caplog.text
    (aside,) = tmp_path.iterdir()
    assert aside.name.startswith("r1.json.damaged-")
    assert RunRecord.find(path) is None  # there is none any more


def test_other_json_is_no_record(tmp_path):
    path = tmp_path / "r1.json"
    surprise = json.dumps({**asdict(record()), "surprise": 1}).encode()
    for text in (b"", b"[]", b'{"run_id": "r1"}', b"\xff\xfe", surprise):
        path.write_bytes(text)
        with pytest.raises(ValueError, match="to be a run record"):
            RunRecord.read(path)


def test_a_renamed_record_is_refused(tmp_path):
    path = record().write(tmp_path)
    with pytest.raises(ValueError, match="it holds r1"):
        RunRecord.read(path.rename(tmp_path / "r2.json"))


def test_a_metric_that_is_not_finite_is_refused_and_named(tmp_path):
    with pytest.raises(FloatingPointError, match=r"for mia\.$"):
        record(metrics={"retain_accuracy": 0.5, "mia": math.nan}).write(tmp_path / "records")
    assert not (tmp_path / "records").exists()


def test_records_are_loaded_in_the_order_of_their_names(tmp_path):
    for name in ("b", "c", "a"):
        record(name).write(tmp_path)
    (tmp_path / "d.json.123.part").write_text("{")  # another worker is writing
    (tmp_path / "notes.txt").write_text("")
    assert [r.run_id for r in load_records(tmp_path)] == ["a", "b", "c"]
    assert load_records(tmp_path / "nowhere") == []


def test_a_frame_has_a_flat_and_complete_row_per_record():
    frame = to_frame([record("a"), record("b", metrics={"retain_accuracy": 0.5, "mia": 0.1})])
    assert frame["run_id"].tolist() == ["a", "b"]
    assert frame["metrics.retain_accuracy"].tolist() == [0.97, 0.5]
    assert frame["metrics.mia"].isna().tolist() == [True, False]
    assert frame["hyperparameters.recipe.lr"].tolist() == [0.1, 0.1]
    assert frame["hyperparameters.recipe.milestones"][0] == "[60, 120]"
    assert {column.split(".")[0] for column in frame} >= {f.name for f in fields(RunRecord)} - {"labels"}


def test_a_single_thread_is_spelt_alike_in_old_and_new_records():
    old, new = (record(provenance={"device": f"CPU, {threads}"}) for threads in ("1 threads", "1 thread"))
    assert old.device == new.device == old.row()["provenance.device"] == "CPU, 1 thread"
    assert record(provenance={"device": "CPU, 11 threads"}).device == "CPU, 11 threads"


def test_records_in_lines_come_back_in_their_order(tmp_path):
    written = [record("b"), record("a", metrics={}, skipped="class only"), record("c")]
    (tmp_path / "records.jsonl").write_text(to_lines(written))
    assert read_lines(tmp_path / "records.jsonl") == written
    assert read_lines(tmp_path / "none.jsonl") == []


def test_a_record_names_the_command_that_makes_it_again(tmp_path):
    written = record(scientific={"original": {"recipe": {"lr": 0.1}}}, overrides=["method=ssd", "output_dir=a b"])
    assert RunRecord.read(written.write(tmp_path)) == written
    assert written.command == "python -m benchmark.run method=ssd 'output_dir=a b'"
    assert to_frame([written])["scientific.original.recipe.lr"].tolist() == [0.1]
    assert record().command is None
    (tmp_path / "records.jsonl").write_text(to_lines([written]))
    assert read_lines(tmp_path / "records.jsonl") == [replace(written, overrides=None)]  # no folder of a machine


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "records.jsonl"
    first, second = to_lines([record("a"), record("b")]).splitlines()
    for damage in (("0.97", "0.98"), ("{", ""), ('"skipped"', '"surprise"')):
        path.write_text(f"{first}\n{second.replace(*damage)}\n")
        with pytest.raises(ValueError, match=r"line 2 of .*records\.jsonl to be a run record.*restore the file"):
            read_lines(path)
