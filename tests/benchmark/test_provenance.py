"""What counts as uncommitted code, in a small repository."""

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmark import provenance

FILES = ["benchmark/provenance.py", "methods/ssd.py", "configs/method/ssd.yaml", "results/table.md", "README.md"]


def write(root: Path, name: str, text: str = "") -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def git(root: Path, *arguments: str) -> None:
    person = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *person, *arguments], cwd=root, check=True, capture_output=True)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of each kind, under no version control."""
    for name in FILES:
        write(tmp_path, name)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / FILES[0]))
    monkeypatch.setattr(provenance, "commit", provenance.commit.__wrapped__)  # a new answer each time
    monkeypatch.setattr(provenance, "code_hash", provenance.code_hash.__wrapped__)
    return tmp_path


@pytest.fixture
def repository(root: Path) -> Path:
    if shutil.which("git") is None:
        pytest.skip("needs git")
    write(root, ".gitignore", "__pycache__/\n")
    for arguments in (["init"], ["add", "."], ["commit", "-m", "one"]):
        git(root, *arguments)
    return root


@pytest.mark.parametrize(
    ("name", "dirty"),
    [
        ("methods/ssd.py", True),
        ("README.md", True),
        ("results/table.md", False),
        ("methods/my_method.py", True),
        ("configs/experiment/mine.yaml", True),
        ("methods/__pycache__/ssd.pyc", False),
        ("results/mine/table.md", False),
        ("runs/records/a.json", False),
        ("data/cifar10.npz", False),
        ("notes.txt", False),
    ],
)
def test_code_that_is_not_committed_is_dirty(name, dirty, repository):
    revision, before = provenance.commit()
    assert (len(revision), before) == (40, False)
    write(repository, name, "new")
    assert provenance.commit() == (revision, dirty)


def test_no_repository(root, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent))
    assert provenance.commit() == ("unknown", None)


def test_no_git(root, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() == ("unknown", None)


@pytest.mark.parametrize("name", ["methods/ssd.py", "methods/my_method.py", "configs/method/ssd.yaml"])
def test_the_hash_of_the_code_tells_edits_apart(name, root):
    hashes = [provenance.code_hash()]
    for text in ("one", "two"):
        write(root, name, text)
        hashes.append(provenance.code_hash())
    assert len(set(hashes)) == 3
    write(root, "README.md", "other words")
    write(root, "results/table.md", "other numbers")
    assert provenance.code_hash() == hashes[-1]
