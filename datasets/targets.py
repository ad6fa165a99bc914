"""The targets that a configuration may name; imports neither torch nor data."""

from collections.abc import Sequence


def find_class(names: Sequence[str], target: str | int, *, what: str) -> int:
    """Return the index of the class that `target` (name or index) means; ValueError for an unknown one.

    >>> [find_class(("cat", "dog"), target, what="class") for target in ("dog", 1, "1")]
    [1, 1, 1]
    """
    text = str(target)
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    raise ValueError(
        f"Expected task.target to be a {what} (0 … {len(names) - 1}, or one of {', '.join(names)}), but got {text!r}."
    )


def first_targets(targets: Sequence[str | int], n: int | None) -> list[str | int]:
    """Return the first `n` targets of `requests.targets`, all of them for None; ValueError if there are fewer.

    >>> first_targets(["rocket", 51, "baby"], 2)
    ['rocket', 51]
    """
    if n is not None and not 1 <= n <= len(targets):
        raise ValueError(
            f"Expected requests.n to be in 1 … {len(targets)}, the number of requests.targets, but got {n}."
        )
    return list(targets[:n])
