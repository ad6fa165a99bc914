"""The library's example in methods/README.md runs, and its table names the methods."""

import re
import sys
from pathlib import Path

from methods import dampening

ROOT = Path(__file__).parents[2]
README = (ROOT / "methods" / "README.md").read_text()
_, OWN_MODEL = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_ssd_on_your_own_model(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "dampening", dampening)
    exec(OWN_MODEL, {})
    found = re.findall(r"accuracy, \w+: +(\d+)\.", capsys.readouterr().out)
    forgotten, retained, _ = map(float, found)
    assert forgotten < 10
    assert retained > 95


def test_the_table_of_methods_names_them_all():
    rows = re.findall(r"^\| (`[^|]+) \| (\w+\.py) \|", README, flags=re.MULTILINE)
    names = {name for row, _ in rows for name in re.findall(r"`(\w+)`", row)}
    yamls = {path.stem for path in (ROOT / "configs" / "method").glob("*.yaml")}
    assert names == yamls - {"baseline", "retrain", "retrain_other"}
    assert all((ROOT / "methods" / file).is_file() for _, file in rows)
