"""Why cells have no record: notes that processes leave for each other."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmark.claims import this_process
from benchmark.store import write_atomically


@dataclass(frozen=True)
class Failure:
    """Why a cell of a grid has no record."""

    cell: str
    reason: str


class FailureNotes:
    """One file for each failed cell; what lay there before this object counts for nothing.

    Workers name it by the run id, processes of Hydra's launchers by the config hash. A cell that failed is tried again
    by whoever starts afterwards, and by nobody else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._old = self._texts()

    def write(self, name: str, failure: Failure) -> None:
        """Leave a note for the others."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / f"{name}.json", json.dumps({**asdict(failure), "by": this_process()}) + "\n")

    def read(self) -> dict[str, Failure]:
        """Return the new notes by the name that they were written under."""
        new = {name: json.loads(text) for name, text in self._texts().items() if self._old.get(name) != text}
        return {name: Failure(note["cell"], note["reason"]) for name, note in new.items()}

    def remove(self, name: str) -> None:
        """Remove the note of a cell that has a record now."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)

    def _texts(self) -> dict[str, str]:
        return {path.stem: path.read_text() for path in sorted(self.folder.glob("*.json"))}
