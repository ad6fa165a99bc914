"""The state of a training on disk, from which the next process continues it."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from benchmark import budget
from benchmark.budget import OutOfBudgetError
from benchmark.files import set_aside
from datasets.files import file_sha256, replacing

log = logging.getLogger(__name__)


@dataclass
class StoredTraining:
    """The `methods.training.TrainingState` of one training, in files `<epoch>-<SHA-256>.pt` of a folder of its own.

    A file is complete, or not there; one whose hash is not its name is set aside and the next older one taken. Only
    tensors, numbers and text are read (`weights_only`): nothing is executed. If the disk is full, the training goes on
    without a file.

    Attributes:
        folder: named after the training and after the code, libraries and device that compute it: only what gives the
            same weights, bit for bit, is continued.
        every: seconds between two files, at least; so a shorter training never writes one. None: never.
        extra: values that the caller gathers over the epochs; stored too, and updated when a training is continued.
        seconds: to add to this process's wall clock: the time of earlier processes' epochs, less the writing.
    """

    folder: Path
    every: float | None
    extra: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.start = self.written = self.ended = time.monotonic()

    def resume(self, model: nn.Module, optimizer: torch.optim.Optimizer, random: torch.Generator) -> int:
        """Load the newest whole file, if any; return how many epochs are finished."""
        kept = self._newest()
        if kept is None:
            return 0
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        random.set_state(kept["random"])
        self.extra.update(kept["extra"])
        self.seconds += kept["seconds"]
        log.info("  continuing a training after epoch %d", kept["epoch"])
        return int(kept["epoch"])

    def keep(self, epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer, random: torch.Generator) -> None:
        """Write the state after `epoch` epochs, unless the last time was a short while ago.

        Raises:
            OutOfBudgetError: the next epoch would not end in time; the state is written.
        """
        now = time.monotonic()
        is_last = now - self.ended >= budget.left()
        self.ended = now
        if self.every is None or (now - self.written < self.every and not is_last):
            return
        state = {
            "epoch": epoch,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": random.get_state(),
            "extra": self.extra,
            "seconds": self.seconds + now - self.start,
        }
        try:
            self._write(epoch, state)
        except (OSError, RuntimeError) as error:
            log.warning("could not keep the state of a training (%s); going on without", error)
            is_last = False
        self.written = self.ended = time.monotonic()
        self.seconds -= self.written - now
        if is_last:
            log.info("  the budget ends: a training stops after epoch %d, its state is kept", epoch)
            raise OutOfBudgetError("a training is kept")

    def _write(self, epoch: int, state: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        older = self._files()
        with replacing(self.folder / "state") as part:
            torch.save(state, part)
            digest = file_sha256(part)
        (self.folder / "state").replace(self.folder / f"{epoch:06d}-{digest}.pt")
        for path in older:
            path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*-*.pt"))

    def _newest(self) -> dict[str, Any] | None:
        for path in reversed(self._files()):
            try:
                if file_sha256(path) != path.stem.split("-")[1]:
                    raise ValueError("its hash is not its name")
                kept: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
                return kept
            except (ValueError, RuntimeError, UnpicklingError) as error:
                set_aside(path, reason=str(error).splitlines()[0])
        return None
