"""How a process is set up, and what counts as uncommitted code, in a small repository."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from benchmark import device
from methods.training import Compute

CONFIG = {
    "device": "cpu", "precision": "float32", "channels_last": True, "tf32": False, "compile": False, "fused": False,
    "eval_batch_size": None, "threads": None, "progress_seconds": 30,
}  # fmt: skip
BACKENDS = (torch.backends.cuda.matmul, torch.backends.cudnn)
FILES = ["benchmark/device.py", "methods/ssd.py", "configs/method/ssd.yaml", "results/table.md", "README.md"]


@pytest.fixture
def _settings_are_put_back():
    before, threads = [backend.allow_tf32 for backend in BACKENDS], torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for backend, value in zip(BACKENDS, before, strict=True):
        backend.allow_tf32 = value


@pytest.mark.usefixtures("_settings_are_put_back")
def test_one_call_sets_the_process_up():
    for tf32 in (True, False):
        compute = device.set_up(OmegaConf.create(CONFIG | {"tf32": tf32, "threads": 1, "compile": "auto"}))
        assert [backend.allow_tf32 for backend in BACKENDS] == [tf32, tf32]
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
        assert compute == Compute(torch.device("cpu"), "float32", channels_last=True, compile=False)


@pytest.mark.usefixtures("_settings_are_put_back")
def test_a_container_s_limit_holds_unless_somebody_names_a_number(monkeypatch):
    torch.set_num_threads(2)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # counts as a limit of the container does
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    device.set_up(OmegaConf.create(CONFIG))
    assert torch.get_num_threads() == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    device.set_up(OmegaConf.create(CONFIG))
    assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("_settings_are_put_back")
def test_reading_how_to_compute_changes_nothing():
    before = [backend.allow_tf32 for backend in BACKENDS], torch.get_num_threads()
    device.compute_of(OmegaConf.create(CONFIG | {"tf32": True, "threads": before[1] + 1}))
    assert ([backend.allow_tf32 for backend in BACKENDS], torch.get_num_threads()) == before


WRONG = [
    ("device", "tpu9", r"compute\.device to be auto, cpu or cuda"),
    ("device", "cuda:99", r"compute\.device to be one of \d+ CUDA devices, but got cuda:99"),
    ("threads", 10_000, r"compute\.threads to be at most \d+, as there are processors, but got 10000"),
    ("fused", True, r"compute\.precision=bfloat16 and compute\.channels_last=true beside compute\.fused=true"),
]


def test_a_wrong_option_is_named():
    for option, value, expected in WRONG:
        with pytest.raises(ValueError, match=expected):
            device.set_up(OmegaConf.create(CONFIG | {option: value}))


def test_own_kernels_are_for_bfloat16_on_a_cpu_with_a_compiler(monkeypatch):
    fast = OmegaConf.create(CONFIG | {"fused": "auto", "precision": "bfloat16"})
    for there in (True, False):
        monkeypatch.setattr(device, "can_compile", lambda there=there: there)
        assert device.compute_of(fast).fused is there
        for other in ({"precision": "float32"}, {"channels_last": False}):
            assert not device.compute_of(OmegaConf.create({**fast, **other})).fused


def test_provenance_names_code_libraries_and_the_way_of_computing():
    found = device.provenance(Compute(torch.device("cpu"), "bfloat16", channels_last=True, compile=True, fused=True))
    assert found["torch"] == torch.__version__.split("+")[0] or found["torch"] == torch.__version__
    assert (found["precision"], found["channels_last"]) == ("bfloat16", True)
    assert found["compile"]
    assert found["fused"]
    assert found["device"].endswith(f"{(n := torch.get_num_threads())} thread{'s' * (n > 1)}")
    assert set(found) >= {"commit", "dirty", "timm", "tf32", "finished"}


def write(root: Path, name: str, text: str = "") -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of each kind, under no version control."""
    for name in FILES:
        write(tmp_path, name)
    monkeypatch.setattr(device, "__file__", str(tmp_path / FILES[0]))
    monkeypatch.setattr(device, "commit", device.commit.__wrapped__)  # a new answer each time
    return tmp_path


@pytest.fixture
def repository(root: Path) -> Path:
    if shutil.which("git") is None:
        pytest.skip("needs git")
    write(root, ".gitignore", "__pycache__/\n")
    person = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for arguments in (["init"], ["add", "."], ["commit", "-m", "one"]):
        subprocess.run(["git", *person, *arguments], cwd=root, check=True, capture_output=True)
    return root


CODE = ["methods/ssd.py", "README.md", "methods/my_method.py", "configs/experiment/mine.yaml"]
NO_CODE = [
    "results/table.md", "methods/__pycache__/ssd.pyc", "results/mine/table.md", "runs/records/a.json",
    "data/cifar10.npz", "notes.txt",
]  # fmt: skip


def test_code_that_is_not_committed_is_dirty(repository):
    revision, dirty = device.commit()
    assert (len(revision), dirty) == (40, False)
    for name in NO_CODE:
        write(repository, name, "new")
        assert device.commit() == (revision, False), name
    for name in CODE:
        before = (repository / name).read_text() if (repository / name).exists() else None
        write(repository, name, "new")
        assert device.commit() == (revision, True), name
        (repository / name).unlink() if before is None else write(repository, name, before)
    assert device.commit() == (revision, False)


@pytest.mark.parametrize(("variable", "value"), [("GIT_CEILING_DIRECTORIES", None), ("PATH", "")])
def test_without_repository_or_git_the_commit_is_unknown(root, monkeypatch, variable, value):
    monkeypatch.setenv(variable, str(root.parent) if value is None else value)
    assert device.commit() == ("unknown", None)
