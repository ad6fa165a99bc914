"""The examples of methods/README.md run, and `methods.dampening` needs torch alone."""

import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml
from hydra.utils import instantiate

from methods import dampening

ROOT = Path(__file__).parents[2]
README = (ROOT / "methods" / "README.md").read_text()
OWN_METHOD, OWN_MODEL = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)

TORCH_ALONE = """
import sys, types
import torch
for name in ("methods", "datasets", "benchmark", "metrics", "numpy", "sklearn", "timm", "hydra", "omegaconf"):
    sys.modules[name] = None  # an import of it fails
package = types.ModuleType("elsewhere")
package.__path__ = [sys.argv[1]]
sys.modules["elsewhere"] = package
from elsewhere.dampening import Importance, dampen
model = torch.nn.Linear(3, 2)
importance = Importance.of(model, [(torch.ones(2, 3), torch.tensor([0, 1]))], reduction="per_sample")
change = dampen(model, dict(importance), {name: 3 * value for name, value in importance.items()}, alpha=2, lam=1)
assert change.selected == 8
"""


@pytest.mark.usefixtures("global_rng_untouched")
def test_a_method_of_your_own(cnn, split, context, monkeypatch):
    module = types.ModuleType("methods.head_noise")
    monkeypatch.setitem(sys.modules, "methods.head_noise", module)
    exec(OWN_METHOD, module.__dict__)
    node = yaml.safe_load(re.search(r"```yaml\n(.*?)```", README, flags=re.DOTALL)[1])
    assert node.pop("about")["label"] == "Head noise"
    before = {name: value.clone() for name, value in cnn.state_dict().items()}
    model = instantiate(node)(cnn, split, context)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"fc.weight", "fc.bias"}
    assert not model.training


def test_ssd_on_your_own_model(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "dampening", dampening)
    exec(OWN_MODEL, {})
    found = re.findall(r"accuracy, \w+: +(\d+)\.", capsys.readouterr().out)
    forgotten, retained, _ = map(float, found)
    assert forgotten < 10
    assert retained > 95


def test_dampening_is_a_package_of_its_own_that_needs_torch_alone():
    subprocess.run([sys.executable, "-c", TORCH_ALONE, str(ROOT / "methods")], check=True)


def test_the_table_of_methods_names_them_all_with_the_lines_of_their_files():
    rows = re.findall(r"^\| (`[^|]+) \| (\w+\.py)(?:, (\d+))? \|", README, flags=re.MULTILINE)
    names = {name for row, _, _ in rows for name in re.findall(r"`(\w+)`", row)}
    yamls = {path.stem for path in (ROOT / "configs" / "method").glob("*.yaml")}
    assert names == yamls - {"baseline", "retrain", "retrain_other"}
    wrong = {file: len((ROOT / "methods" / file).read_text().splitlines()) for _, file, lines in rows if lines}
    assert {file: int(lines) for _, file, lines in rows if lines} == wrong
