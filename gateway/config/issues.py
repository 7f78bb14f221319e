"""What is wrong with a configuration, said so that a tired stranger can mend it.

Rules:
- An `Issue` points at a line and a column, names the key by its path, says what is wrong, then what is allowed and, for a slip of the
  keyboard, the nearest name.
- All issues of a folder are shown at once, in the order of the files and lines.
- A secret is never part of a message: values are shown only for keys that hold none.

Example:
    models/credit-risk.yaml:7:3: rsik: unknown key; allowed: audit, balance, ...; did you mean `risk`?
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

KeyPath = tuple[str | int, ...]
"""Where a value is in a file: keys and list positions from the top."""

_MOST_NAMES = 24
_CREDENTIALS = re.compile(r"://[^\s`]*@")


@dataclass(frozen=True, slots=True, order=True)
class Issue:
    """One thing that is wrong. Ordered by place."""

    file: str
    """Path relative to the configuration folder."""
    line: int
    """From 1."""
    column: int
    """From 1."""
    key: str
    """Key path, `versions.4.upstreams[0]`; empty for the file as a whole."""
    message: str

    def __post_init__(self) -> None:
        # A message may show the value that is wrong; whatever key it was written to, credentials in an address are nobody's to read.
        object.__setattr__(self, "message", _CREDENTIALS.sub("://…@", self.message))

    def __str__(self) -> str:
        """Return `file:line:column: key.path: message`."""
        place = f"{self.file}:{self.line}:{self.column}"
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


def key_text(path: Sequence[str | int]) -> str:
    """Return a key path as people write it: `versions.4.upstreams[0]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def allowed(names: Iterable[str]) -> str:
    """Return `allowed: a, b, c`, shortened when there are many."""
    ordered = sorted(names)
    shown = ", ".join(ordered[:_MOST_NAMES])
    more = len(ordered) - _MOST_NAMES
    return f"allowed: {shown}" + (f" and {more} more" if more > 0 else "")


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `; did you mean `x`?` for the name closest to `name`, or nothing when none is close."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"; did you mean `{close[0]}`?" if close else ""
