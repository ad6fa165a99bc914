"""The targets that a configuration may name; imports neither torch nor data."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets.files import same_name


def find_class(names: Sequence[str], target: str | int, *, what: str) -> int:
    """Return the index of the class that `target` (name or index) means; ValueError for an unknown one.

    >>> [find_class(("cat", "dog"), target, what="class") for target in ("dog", 1, "1")]
    [1, 1, 1]
    """
    text = same_name(str(target))
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    raise ValueError(
        f"Expected task.target to be a {what} (0 … {len(names) - 1}, or one of {', '.join(names)}), but got {text!r}."
    )


def joined(target: object) -> str:
    """Return the label of a target, of several classes or of several requests.

    >>> joined(6), joined([3, 6])
    ('6', '3+6')
    """
    return "+".join(map(joined, target)) if isinstance(target, list) else str(target)


def read_request(path: str | Path, files: Sequence[str] = ()) -> dict[int, int]:
    """Return the rows of images that the lines of a file name, in ascending order, each with the number of its line.

    A line is an index from 0 on, or a name of `files` (the files of the images, by row): its path, or its last part if
    that is unique. Blank lines and comments after # do not count.

    Raises:
        ValueError: the file cannot be read or names nothing, or a line is no index and no name, or repeats another.
    """
    try:
        if not Path(path).is_file():
            raise OSError("there is no such file")
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"Expected task.file to be a text file with one index or file name per line, but got {path} ({error})."
        ) from error
    rows = {name: row for row, name in enumerate(files)}
    shared = Counter(name.rpartition("/")[2] for name in files)
    rows |= {last: row for row, name in enumerate(files) if shared[last := name.rpartition("/")[2]] == 1}
    found: dict[int, int] = {}
    for number, line in enumerate(lines, start=1):
        if not (word := same_name(re.split(r"(?:^|\s)#", line)[0].strip())):
            continue
        row = int(word) if word.isdecimal() else rows.get(word)
        expected = f"Expected line {number} of {path} to be an index from 0 on"
        if row is None:
            several = f", the name of {shared[word]} files; add its folder" if shared[word] else ""
            raise ValueError(f"{expected} or the name of one of {len(files)} files, but got {word!r}{several}.")
        if row in found:
            raise ValueError(f"{expected}, each once, but got {word!r}, which line {found[row]} names too; remove one.")
        found[row] = number
    if not found:
        raise ValueError(f"Expected {path} to name the images to forget, one per line, but it names none.")
    return dict(sorted(found.items()))


def first_targets(targets: Sequence[Any], n: int | None) -> list[Any]:
    """Return the first `n` targets of `requests.targets`, all of them for None; ValueError if there are fewer.

    >>> first_targets(["rocket", 51, "baby"], 2)
    ['rocket', 51]
    """
    if n is not None and not 1 <= n <= len(targets):
        raise ValueError(
            f"Expected requests.n to be in 1 … {len(targets)}, the number of requests.targets, but got {n}."
        )
    return list(targets[:n])
