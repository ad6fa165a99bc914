"""Artefacts (originals, importances, outputs of unlearned models) addressed by the hash of what they depend on."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmark.files import canonical, content_hash, file_sha256, set_aside, write_atomically
from datasets.files import replacing

__all__ = ["ArtefactStore", "Card", "canonical", "content_hash", "file_sha256", "set_aside", "write_atomically"]
Card = dict[str, Any]


class ArtefactStore:
    """Tensors with a JSON card each, below one folder; computed once, by one process at a time.

    The card holds the SHA-256 of the tensor file and is written last: its presence says that the artefact is whole. A
    damaged artefact is set aside as `*.damaged-<time>` and computed again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, kind: str, key: Mapping[str, object]) -> Path:
        """Return where the card of this artefact lies."""
        return self.folder / kind / f"{content_hash(key)}.json"

    def progress(self, kind: str, key: Mapping[str, object]) -> Path:
        """Return the folder for what is kept while this artefact is computed; it goes when the artefact is there."""
        return self.path(kind, key).with_suffix(".progress")

    def has(self, kind: str, key: Mapping[str, object]) -> bool:
        return self.path(kind, key).exists()

    def get(
        self,
        kind: str,
        key: Mapping[str, object],
        compute: Callable[[], tuple[dict[str, Tensor], Card]],
    ) -> tuple[dict[str, Tensor], Card]:
        """Return (tensors, card), loaded or computed; the card holds `key` and what `compute` adds to it.

        Tensors come back on the CPU. Processes that ask for the same artefact wait for the first one.
        """
        card_path = self.path(kind, key)
        card_path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(card_path.with_suffix(".lock")):
            found = self._load(card_path)
            if found is None:
                tensors, card = compute()
                data = {name: t.detach().contiguous().cpu() for name, t in tensors.items()}
                found = data, self._save(card_path, data, {"kind": kind, "key": dict(key), **card})
            shutil.rmtree(self.progress(kind, key), ignore_errors=True)
            return found

    def _save(self, card_path: Path, tensors: dict[str, Tensor], card: Card) -> Card:
        data_path = card_path.with_suffix(".safetensors")
        with replacing(data_path) as part:
            try:
                save_file(tensors, part)
            except SafetensorError as error:  # a full disk, for one
                raise OSError(str(error)) from error
            card["sha256"] = file_sha256(part)
        write_atomically(card_path, json.dumps(card, indent=1, sort_keys=True) + "\n")
        return card

    def _load(self, card_path: Path) -> tuple[dict[str, Tensor], Card] | None:
        if not card_path.exists():
            return None
        data_path = card_path.with_suffix(".safetensors")
        try:
            card = json.loads(card_path.read_text())
            if file_sha256(data_path) != card["sha256"]:
                raise ValueError("the hash of the tensors differs from the card's")
            return load_file(data_path), card
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            set_aside(card_path, data_path, reason=error)
            return None
