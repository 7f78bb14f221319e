"""What callers may write into the log for ever: names, never free text.

Labels, metrics, event ids and captured classes stand in clear in records that nobody can take back. They are held to the form of a name, so that a
sentence, a mail address or a name with its surname sent in their place is refused and not recorded. A single word passes, whatever it means: who
sends labels answers for what they are called.

Example:
    is_name("not_repaid")              # True
    is_name("ann@example.com")         # False
"""

from __future__ import annotations

import re
from typing import Final

FORM: Final = "1 to 64 letters, digits or signs of `_ . : / + - # % = < > ,`"
_NAME: Final = re.compile(r"[\w.:/+#%=<>,-]{1,64}")


def is_name(text: str) -> bool:
    """Say whether a text has the form of a name: `FORM`, letters and digits of any script, no space, no `@`."""
    return _NAME.fullmatch(text) is not None
