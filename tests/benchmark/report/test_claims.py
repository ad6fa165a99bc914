"""The claims: the published ones follow from the published tables, ours from ours."""

import pandas as pd
import pytest

from benchmark.report.claims import make_claims, to_markdown
from benchmark.report.verdict import GAP_NOTE
from benchmark.report.verdict import published as read_published


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    return read_published()


def write(folder, frame: pd.DataFrame) -> None:
    folder.mkdir(parents=True)
    switched = frame.assign(ablation="retrain")  # counts in no claim
    pd.concat([frame.assign(ablation="none"), switched]).to_csv(folder / "table.csv", index=False)


def test_published_gaps_are_those_that_the_published_tables_give(tmp_path):
    claims = make_claims(tmp_path, "paper", "full")
    gaps = claims[claims["claim"].str.endswith("Tables 2-6")].set_index("of")["published"].round(2)
    expected = {"SSD": 3.71, "Finetune": 6.85, "Bad teacher": 9.89, "Amnesiac": 13.22, "UNSIR": 24.85}
    assert gaps.drop("Baseline").to_dict() == expected
    times = claims[claims["unit"] == "times"]["published"]
    assert (round(times.min()), round(times.max())) == (27, 240)
    assert claims["ours"].isna().all()
    assert (claims["n"] == 0).all()
    assert to_markdown(claims, "paper", "full").count("missing") == 2 * len(claims)


def test_the_published_tables_as_ours_give_the_published_claims(tmp_path, published):
    for name, part in published.groupby("table"):
        write(tmp_path / f"{name}-paper-full", part)
    claims = make_claims(tmp_path, "paper", "full")
    claims = claims[claims["unit"] != "percent"]
    pd.testing.assert_series_equal(claims["ours"], claims["published"], check_names=False, check_dtype=False)
    pd.testing.assert_series_equal(claims["ours"], claims["published_same_cells"], check_names=False, check_dtype=False)


def test_same_cells_are_those_that_were_run(tmp_path, published):
    part = published[(published["target"] == "veg") & (published["model"] == "resnet18")].copy()
    is_ssd = (part["method"] == "ssd") & (part["metric"] == "mia")
    ours = part.assign(mean=part["mean"] + 6.0 * is_ssd)
    elsewhere = ours.assign(target="lamp", mean=ours["mean"] * (1 - is_ssd))  # a target that the paper has not
    write(tmp_path / "table3-paper-quick", pd.concat([ours, elsewhere]))
    claims = make_claims(tmp_path, "paper", "quick").set_index(["claim", "of"])
    ssd = claims.loc["mean absolute gap to the retrained model, Tables 2-6", "SSD"]
    wide = part.pivot_table(index="metric", columns="method", values="mean")
    theirs = (wide["ssd"] - wide["retrain"]).abs()
    assert ssd["n"] == 3
    assert ssd["published_same_cells"] == pytest.approx(theirs.mean())
    moved = abs(wide.loc["mia", "ssd"] + 6.0 - wide.loc["mia", "retrain"])
    assert ssd["ours"] == pytest.approx((theirs.drop("mia").sum() + moved) / 3)


def test_on_the_random_task_the_untouched_original_is_closer_than_ssd(tmp_path, published):
    resnet = published[(published["table"] == "table6") & (published["model"] == "resnet18")]
    write(tmp_path / "table6-paper-full", resnet)
    claims = make_claims(tmp_path, "paper", "full").set_index(["claim", "of"])
    gaps = claims.loc["mean absolute gap to the retrained model, random task"]
    assert gaps.loc[["Baseline", "SSD"], "published_same_cells"].round(1).tolist() == [1.2, 1.6]
    assert gaps.loc[["Baseline", "SSD"], "ours"].round(1).tolist() == [1.2, 1.6]
    assert gaps.loc["Baseline", "n"] == 3
    assert GAP_NOTE in to_markdown(claims.reset_index(), "paper", "full").splitlines()[0]


def test_selectivity_and_saving_come_from_their_own_results(tmp_path):
    write(
        tmp_path / "selectivity-strict-quick",
        pd.DataFrame({"method": ["retrain", "ssd"], "mean": [100.0, 0.4], "n": 1}),
    )
    folder = tmp_path / "figure2-strict-quick"
    folder.mkdir()
    pd.DataFrame({"method": ["ssd"], "mean": [88.5], "std": [0.1], "count": [3]}).to_csv(folder / "saving.csv")
    claims = make_claims(tmp_path, "strict", "quick")
    rows = claims[claims["unit"] == "percent"][["published", "ours", "n"]]
    assert rows.to_numpy().tolist() == [[1.7, 0.4, 1], [84.32, 88.5, 3]]
