from pathlib import Path

import pytest
from faces import write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of faces as the user may have it."""
    return write_folder(tmp_path / "faces")
