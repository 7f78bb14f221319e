"""What callers may write into the log for ever: names, never free text.

Labels, metrics, event ids and captured classes stand in clear in records that nobody can take back. They are held to the form of a name, so that a
sentence, a mail address or a name with its surname sent in their place is refused and not recorded. A single word passes, whatever it means: who
sends labels answers for what they are called.

A class that a model's file declares (`capture.classes`) may be any text, because whoever runs the gateway wrote it there. It is recorded under a name
made of it, so that records keep their form: `recorded_form`.

Example:
    is_name("not_repaid")              # True
    is_name("ann@example.com")         # False
    recorded_form("golden retriever")  # "golden%20retriever"
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

FORM: Final = "1 to 64 letters, digits or signs of `_ . : / + - # % = < > ,`"
_MOST: Final = 64
_NAME: Final = re.compile(r"[\w.:/+#%=<>,-]{1,64}")
_NOT_OF_A_NAME: Final = re.compile(r"[^\w.:/+#=<>,-]")
_DIGEST: Final = 16


def is_name(text: str) -> bool:
    """Say whether a text has the form of a name: `FORM`, letters and digits of any script, no space, no `@`."""
    return _NAME.fullmatch(text) is not None


def recorded_form(text: str) -> str:
    """Return the name that stands for a declared class in records: itself where it is one.

    Any other text is escaped as in an address, `%` and the bytes of UTF-8 in hex. Where that is longer than a name may be, it is cut, and `#` with 16
    hex digits of SHA-256 over the text stands at its end.
    """
    if is_name(text):
        return text
    pieces = [_NOT_OF_A_NAME.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), one) for one in text]
    if sum(map(len, pieces)) <= _MOST:
        return "".join(pieces)
    kept, room = "", _MOST - _DIGEST - 1
    for piece in pieces:
        if len(kept) + len(piece) > room:
            break
        kept += piece
    return f"{kept}#{hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]}"


def recorded_forms(classes: Iterable[str]) -> dict[str, str]:
    """Return class -> name in records, of those classes that are no names themselves."""
    return {text: recorded_form(text) for text in classes if not is_name(text)}
