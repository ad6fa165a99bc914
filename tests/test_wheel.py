"""`pip install .` gives the package `dampening` alone, which needs torch alone and works in an empty folder."""

import os
import shutil
import subprocess
import sys
from email import message_from_string
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE")
USE = """
import importlib.util, pathlib, sys
import dampening, torch
place = pathlib.Path(dampening.__file__).parent
assert place.parent == pathlib.Path(sys.argv[1]), place
assert not any(importlib.util.find_spec(name) for name in ("benchmark", "methods", "metrics"))
inputs, labels = torch.randn(8, 3), torch.arange(8) % 2
model = torch.nn.Linear(3, 2)
change = dampening.unlearn(model, [(inputs[:2], labels[:2])], [(inputs, labels)], alpha=0.5)
assert change.selected > 0
change.undo(model)
"""


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run([*command, "--no-deps", "--no-index"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(int(version("setuptools").partition(".")[0]) < 77, reason="needs setuptools 77: make setup")
def test_the_wheel_holds_one_package_that_works_in_an_empty_folder(tmp_path):
    source, site, empty = (tmp_path / name for name in ("source", "site", "empty"))
    shutil.copytree(ROOT / "methods" / "dampening", source / "methods" / "dampening")
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source))
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        names = [Path(name) for name in archive.namelist()]
        (metadata,) = (archive.read(str(name)).decode() for name in names if name.name == "METADATA")
    found = {str(name) for name in names if not name.parts[0].endswith(".dist-info")}
    assert found == {f"dampening/{path.name}" for path in (ROOT / "methods/dampening").iterdir() if path.is_file()}
    required = message_from_string(metadata).get_all("Requires-Dist")
    assert [line for line in required if "extra ==" not in line] == ["torch>=2.6"]
    pip("install", "--target", str(site), str(wheel))
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", USE, str(site)], cwd=empty, env=environment,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
