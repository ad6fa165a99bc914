"""The documents are true: commands run or compose, links lead somewhere, quoted tables are those of results/."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import TINY, run_command
from omegaconf import OmegaConf

from benchmark import run
from benchmark.compose import initialised
from benchmark.composer import Composer
from benchmark.records.__main__ import main as records_main
from benchmark.report.__main__ import main as report_main
from benchmark.search.__main__ import main as search_main
from benchmark.search.run import search_cells
from methods import dampening

ROOT = Path(__file__).parents[1]
FOLDERS = (".", "benchmark/launcher", "configs", "methods", "results", "scripts")
DOCUMENTS = [*(ROOT / folder / "README.md" for folder in FOLDERS), ROOT / "CONTRIBUTING.md"]
README = DOCUMENTS[0].read_text()
COMMAND = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:python -m (?:benchmark|scripts)|make|sbatch|ray|pip)\b.*$", re.MULTILINE)
PLACEHOLDER = re.compile(r"…|\b(FOLDER|HOST|NAME|mine|mild)\b")
MAIN = {"benchmark.run": run.main, "benchmark.report": report_main, "benchmark.search": search_main,
        "benchmark.records": records_main}  # fmt: skip


def fences(text: str) -> list[tuple[str, str]]:
    """Return the info string and the text of each fenced block."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def split(command: str) -> tuple[str, list[str]]:
    """Return the module of `python -m MODULE …` and its arguments."""
    words = shlex.split(command, comments=True)
    at = words.index("-m")
    return words[at + 1], words[at + 2 :]


def in_blocks(info: str) -> list[str]:
    blocks = [text for document in DOCUMENTS for name, text in fences(document.read_text()) if name == info]
    return list(dict.fromkeys(re.split(" +#", line)[0] for text in blocks for line in COMMAND.findall(text)))


def in_prose() -> list[str]:
    texts = [re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL) for path in DOCUMENTS]
    code = [re.sub(r"\s+", " ", found) for text in texts for found in re.findall(r"`([^`]+)`", text)]
    return list(dict.fromkeys(line for text in code for line in COMMAND.findall(text)))


def made(command: str) -> list[str]:
    """Return the commands of a `make …`; fails if there is no such target."""
    words = shlex.split(command, comments=True)
    done = subprocess.run([*words, "--dry-run", "PY=python"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith(("python -m benchmark", "python -m scripts"))]


SHORT = in_blocks("sh")
OTHER = [*in_blocks("sh long"), *in_prose()]
REPORTS = {shlex.join(split(line)[1]) for line in [*SHORT, *OTHER] if re.search("benchmark.report [^-].*=", line)}


def test_commands_stand_in_blocks_that_say_how_long_they_take():
    for document in DOCUMENTS:
        for info, text in fences(document.read_text()):
            assert info in ("sh", "sh long") or not COMMAND.search(text), f"{document}: {text}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder to run commands in, which share finished runs."""
    return tmp_path_factory.mktemp("clone")


@pytest.mark.parametrize("command", [line for line in SHORT if not re.search("benchmark.report [^-]", line)])
def test_short_commands_run(command, folder, monkeypatch):
    monkeypatch.chdir(folder)
    module, words = split(command)
    more = ["dataset.subset.train_images=200"] if "task=random" in words or "search" in module else []  # it forgets 100
    small = [*TINY, *more, "compute.threads=1", *(["search.n_trials=2"] if "search" in module else [])]
    small = small if module != "benchmark.records" else []
    if module == "benchmark.report":  # of the sweep before it, which another worker may have run
        assert run_command([*words, *small], monkeypatch) == 0
    assert run_command([*words, *small], monkeypatch, main=MAIN[module]) == 0


@pytest.mark.parametrize("command", sorted(words for words in REPORTS if not PLACEHOLDER.search(words)))
def test_reports_leave_the_committed_results_as_they_are(command, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(ROOT / "results", tmp_path / "results")).parent  # without the runs of other commands
    monkeypatch.chdir(folder)
    assert run_command(shlex.split(command), monkeypatch, main=report_main) == 0
    for path in (ROOT / "results").rglob("*.[cmj]*"):
        assert (folder / path.relative_to(ROOT)).read_bytes() == path.read_bytes(), path


def test_other_commands_exist_and_compose():
    for command in OTHER:
        if "benchmark.report" in command or command.startswith(("ray", "pip")):
            continue
        if PLACEHOLDER.search(command.partition("python")[2] or command):
            continue
        if command.startswith("sbatch"):
            script, *words = command.partition("scripts/")[2].split()
            assert (ROOT / "scripts" / script).is_file()
            command = f"python -m benchmark.run launcher=ray {' '.join(words)}"
        for line in made(command) if command.startswith("make") else [command]:
            module, words = split(line)
            assert importlib.util.find_spec(module), line
            if module == "benchmark.search":
                assert search_cells([word for word in words if word != "-m" and not word.startswith("out=")]), line
            elif module == "benchmark.run":
                with initialised():
                    composer = Composer([word for word in words if not word.startswith("-") and word != "job"])
                    assert composer.cell(composer.jobs()[0]), line


def test_the_library_example_runs(cnn, split, context, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "dampening", dampening)
    sets = {"train": split.retain_train.join(split.forget_train), "forget": split.forget_train,
            "retain": split.retain_train, "unseen": split.retain_test}  # fmt: skip
    names = {"model": cnn} | {f"{name}_loader": context.batches(data, 4) for name, data in sets.items()}
    with pytest.warns(UserWarning, match="Nothing is selected: α = 10"):  # a third of the images
        exec(dict(fences(README))["python"], names)
    assert "accuracy, forget" in capsys.readouterr().out


def test_the_readme_is_short():
    own = README
    for answer in ("answer-narrow", "answer-quick-field"):
        own = own.replace((ROOT / "results" / answer / "sentences.md").read_text(), "")
    assert len(own.split("```")[0].split()) <= 180
    assert len(own.splitlines()) <= 130


def test_quoted_tables_are_those_of_results():
    quoted = re.findall(r"^<!-- (results/\S+) -->\n", README, flags=re.MULTILINE)
    assert quoted
    for path in quoted:
        assert README.partition(f"<!-- {path} -->\n")[2].startswith((ROOT / path).read_text()), path


@pytest.mark.parametrize("protocol", ["paper", "strict"])
def test_every_option_of_a_protocol_stands_beside_the_text(protocol):
    """The table says where `strict` has each value from: the text, the released code or a choice of our own."""
    text = (ROOT / "configs/README.md").read_text()
    rows = re.findall(r"^\| (.+) \| (?:text|code|own) \|$", text, flags=re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.partition(" | ")[0])}
    assert set(OmegaConf.load(ROOT / f"configs/protocol/{protocol}.yaml")) - {"name"} <= named


def test_links_lead_somewhere():
    for document in DOCUMENTS:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document}: {link}"
