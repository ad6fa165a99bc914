"""Passwords and tokens stay out of all that is printed or kept."""

import io
import os
import re
from typing import TextIO

HIDDEN = "***"
IN_URL = re.compile(r"(://[^/\s:@]*):\S+@")  # the password of `scheme://user:password@host`
NAMED = re.compile(r"(?i)\b(\w*(?:passw(?:or)?d|pwd|secret|token))=[^\s&'\",]+")
VARIABLE = re.compile(r"(?i)passw|secret|token|_key$")  # names of variables whose values are secret
SHORTEST = 8  # characters of a value that is looked for: shorter ones stand in other words by chance


def without_passwords(text: str) -> str:
    """Return a text without passwords in URLs and options, and without the values of secret variables.

    >>> without_passwords("search.storage=mysql://me:open@host/db?ssl_password=sesame")
    'search.storage=mysql://me:***@host/db?ssl_password=***'
    """
    text = NAMED.sub(rf"\1={HIDDEN}", IN_URL.sub(rf"\1:{HIDDEN}@", text))
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and value in text and VARIABLE.search(name):
            text = text.replace(value, HIDDEN)
    return text


def write_discreetly(stream: TextIO) -> None:
    """Have a stream write no password, and an escape for a letter that its encoding does not have."""
    if getattr(stream, "is_discreet", False):
        return
    write = stream.write
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    vars(stream).update(write=lambda text: write(without_passwords(text)), is_discreet=True)
