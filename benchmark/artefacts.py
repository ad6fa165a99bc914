"""The graph of artefacts: each is made once and then loaded, and named by all that decides it."""

import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmark import budget
from benchmark.budget import OutOfBudgetError
from benchmark.files import content_hash, read_json, set_aside, write_json
from benchmark.sources import changes, say_changed
from datasets.files import file_sha256, locked, replacing

Tensors = dict[str, Tensor]
Facts = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Artefact:
    """A node of the graph: tensors and facts that follow from `key` alone.

    Attributes:
        kind: the folder it lies in: original, importance_full, importance_forget, outputs or model.
        key: all that decides its content; hashed, it is the file's name.
        make: returns the tensors and the facts; it asks the store for the artefacts that it needs.
        needs: the artefacts that `make` asks for, as far as they are known beforehand.
        code: hashes of the modules and files that decide its content beside the key; made with others, it is outdated.
        epochs: of trainings that can be stopped after each and continued; 0 if it is made in one go.
    """

    kind: str
    key: Mapping[str, object]
    make: Callable[[], tuple[Tensors, Facts]]
    needs: tuple["Artefact", ...] = ()
    code: Mapping[str, str] = field(default_factory=dict)
    epochs: int = 0

    @cached_property
    def hash(self) -> str:
        return content_hash(self.key)

    def __str__(self) -> str:
        return f"{self.kind}/{self.hash}"

    def walk(self) -> Iterator["Artefact"]:
        """Yield everything it rests on, then itself; an artefact that two others need comes twice."""
        for need in self.needs:
            yield from need.walk()
        yield self


class Store:
    """Artefacts below one folder; each is made once, by one process at a time.

    `<kind>/<hash>.json` holds the facts with the SHA-256 of the tensor file and is written last: its presence says
    that the artefact is whole. A damaged artefact is set aside as `*.damaged-<time>` and made again, an outdated one
    is replaced.

    Args:
        provenance: code, libraries and device, for the facts of artefacts that are made here.
        reuse: takes outdated artefacts as they are.
    """

    def __init__(self, folder: Path, provenance: Callable[[], Facts] = dict, *, reuse: bool = False) -> None:
        self.folder, self.provenance, self.reuse = folder, provenance, reuse

    def path(self, node: Artefact) -> Path:
        """Return the path of the facts; the tensors lie beside it as `.safetensors`."""
        return self.folder / node.kind / f"{node.hash}.json"

    def training_folder(self, node: Artefact) -> Path:
        """Return the folder for the state of trainings while the artefact is made; it goes when it is there."""
        return self.path(node).with_suffix(".progress")

    def has(self, node: Artefact) -> bool:
        """Return whether the artefact is there, made with today's code."""
        path = self.path(node)
        if self.reuse or not node.code or not path.exists():
            return path.exists()
        try:
            return not self._changes(facts_in(path), node)
        except (OSError, ValueError):
            return True  # whoever reads it sets it aside

    def remove(self, node: Artefact) -> None:
        """Remove an artefact, so that it is made again."""
        self.path(node).unlink(missing_ok=True)

    def missing(self, *nodes: Artefact) -> list[Artefact]:
        """Return the artefacts to make for `nodes`, each once, in an order in which they can be made."""
        found: dict[str, Artefact] = {}

        def visit(node: Artefact) -> None:
            if str(node) not in found and not self.has(node):
                for need in node.needs:
                    visit(need)
                found[str(node)] = node

        for node in nodes:
            visit(node)
        return list(found.values())

    def get(self, node: Artefact) -> tuple[Tensors, Facts]:
        """Return (tensors on the CPU, facts), loaded or made; of several processes that ask, one makes it."""
        path = self.path(node)
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock"), f"making {node}"):
            found = self._load(path)
            if found and not self.reuse and (changed := self._changes(found[1], node)):
                say_changed(tuple(changed))
                found = None
            if found is None:
                self._check_time(node)
                tensors, facts = node.make()
                own = {"kind": node.kind, "key": dict(node.key), "code": dict(node.code), "needs": self._needs(node)}
                facts = own | {"provenance": self.provenance()} | facts
                found = self._save(path, tensors, facts)
            shutil.rmtree(self.training_folder(node), ignore_errors=True)
            return found

    def facts(self, kind: str) -> Iterator[Facts]:
        """Yield the facts of every whole artefact of a kind."""
        for path in sorted((self.folder / kind).glob("*.json")):
            try:
                yield facts_in(path)
            except (OSError, ValueError):
                continue  # whoever needs it sets it aside

    def facts_of(self, node: Artefact) -> Facts | None:
        """Return the facts of an artefact, None if it is not there."""
        path = self.path(node)
        return facts_in(path) if path.exists() else None

    def share_left(self, node: Artefact) -> float:
        """Return which part of the artefact's epochs is not kept; 1 if it has none."""
        kept = (int(path.name.split("-")[0]) for path in self.training_folder(node).glob("*/*-*.pt"))
        return max(1 - max(kept, default=0) / max(node.epochs, 1), 0.0)

    def _needs(self, node: Artefact) -> dict[str, str]:
        """Return the SHA-256 of the tensors of those needs that are there: a training elsewhere has other bits."""
        found: dict[str, str] = {}
        for need in node.needs:
            with suppress(OSError, ValueError):  # whoever reads it makes it, or sets it aside
                found[str(need)] = facts_in(self.path(need))["sha256"]
        return found

    def _changes(self, facts: Facts, node: Artefact) -> list[str]:
        """Return the names of code, and of needs, of which the artefact was made with another version."""
        before, now = facts.get("needs", {}), self._needs(node)
        needs = [name for name, sha256 in now.items() if before.get(name, sha256) != sha256]
        return [*changes(facts.get("code", {}), node.code), *needs]

    def _check_time(self, node: Artefact) -> None:
        """Raise OutOfBudgetError if the artefact, or the next epoch of its trainings, would not end in time."""
        left = budget.left()
        if left == math.inf:
            return
        seconds = (Times(self, [node.kind]).like(node) or 0.0) / max(node.epochs, 1)
        if seconds >= left:
            raise OutOfBudgetError(f"{node} needs about {seconds:.0f} s, and {max(left, 0):.0f} s are left")

    def _save(self, path: Path, tensors: Tensors, facts: Facts) -> tuple[Tensors, Facts]:
        data, tied = stored_once(tensors)
        if tied:
            facts["tied"] = tied
        with replacing(path.with_suffix(".safetensors")) as part:
            try:
                save_file(data, part)
            except SafetensorError as error:  # a full disk, for one
                raise OSError(str(error)) from error
            facts["sha256"] = file_sha256(part)
        write_json(path, facts)
        return with_tied(data, facts), facts

    def _load(self, path: Path) -> tuple[Tensors, Facts] | None:
        if not path.exists():
            return None
        tensors = path.with_suffix(".safetensors")
        try:
            facts = read_facts(path)
            if file_sha256(tensors) != facts["sha256"]:
                raise ValueError("the hash of the tensors differs from the one in the facts")
            return with_tied(load_file(tensors), facts), facts
        except (FileNotFoundError, ValueError) as error:
            set_aside(path, tensors, reason=error)
            return None


class Times:
    """How long artefacts take, from the facts of those in a store, means in seconds."""

    def __init__(self, store: Store, kinds: Iterable[str]) -> None:
        self.spent: dict[tuple[str, ...], list[float]] = {}
        originals = {content_hash(facts["key"]): facts["key"] for facts in store.facts("original")}
        for kind in {*kinds}:
            for facts in store.facts(kind):
                key = facts["key"]
                for name in alike(kind, key, key if kind == "original" else originals.get(key.get("original"))):
                    self.spent.setdefault(name, []).append(seconds_of(facts))

    def like(self, node: Artefact) -> float | None:
        """Return the time of artefacts of the same method on such an original; None if there are none."""
        *names, _ = alike(node.kind, node.key, next(node.walk()).key)
        return self._first(names)

    def of(self, node: Artefact) -> float | None:
        """Return the time of artefacts like it, or else of all of its kind; None if there are none."""
        return self._first(alike(node.kind, node.key, next(node.walk()).key))

    def _first(self, names: Iterable[tuple[str, ...]]) -> float | None:
        return next((fmean(self.spent[name]) for name in names if name in self.spent), None)


def alike(kind: str, key: Mapping[str, Any], original: Mapping[str, Any] | None) -> list[tuple[str, ...]]:
    """Return names that artefacts share if they take about the same time, the most exact first, the kind last.

    First the same method on an original that differs in its seed alone, then the same class of methods on it.
    """
    if original is None:
        return [(kind,)]
    scale = content_hash({name: value for name, value in original.items() if name != "train_seed"})
    method = key.get("method")
    target = method.get("_target_") if isinstance(method, Mapping) else None
    return [(kind, scale, content_hash(method)), (kind, scale, str(target)), (kind,)]


def facts_in(path: Path) -> Facts:
    """Return the facts in a file, to be left as they are; one that did not change is read once per process."""
    state = path.stat()
    return unchanged_facts(path, state.st_ino, state.st_size, state.st_mtime_ns)


@cache
def unchanged_facts(path: Path, inode: int, size: int, modified: int) -> Facts:
    return read_facts(path)


def read_facts(path: Path) -> Facts:
    """Return the facts of an artefact; ValueError if the file is damaged or holds something else."""
    facts = read_json(path)
    if missing := {"kind", "key", "sha256"} - facts.keys():
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    return facts


def stored_once(tensors: Tensors) -> tuple[Tensors, dict[str, str]]:
    """Return the tensors on the CPU, none of which shares memory, and the names of tied ones -> the stored name."""
    names: dict[object, str] = {}
    data, tied, memory = {}, {}, set()
    for name, tensor in tensors.items():
        place = tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
        if tensor.numel() and names.setdefault(place, name) != name:
            tied[name] = names[place]
            continue
        plain = tensor.detach().contiguous().cpu()
        if (storage := plain.untyped_storage().data_ptr()) in memory:  # a part of another
            plain = plain.clone()
        memory.add(storage)
        data[name] = plain
    return data, tied


def with_tied(data: Tensors, facts: Facts) -> Tensors:
    """Return the tensors with those that are tied to one of them."""
    return data | {name: data[other] for name, other in facts.get("tied", {}).items()}


def seconds_of(facts: Facts) -> float:
    """Return how long the artefact took to make."""
    seconds = facts.get("seconds", 0.0)
    return float(seconds.get("method", 0.0) + seconds.get("evaluation", 0.0) if isinstance(seconds, dict) else seconds)
