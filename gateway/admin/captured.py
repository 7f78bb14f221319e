"""What the vault has of one call, as a document for programs and in words for people. Pure.

Whether it is what was captured is not believed: its hash is compared with what the record commits to, each time it is shown.

Example:
    captured_document(Captured(17, decision, payload, found))["matches"]     # True
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from audit.entry import time_text
from audit.vault.entry import committed, decode_content
from audit.vault.store import Found

_STATES = {
    "kept": "Kept until {until}.",
    "erased": "Erased. The data key is destroyed, and with it every field and every salt: nobody can open what the record commits to.",
    "expired": "Its time is over since {until}: it is not shown any more, and is about to be deleted.",
    "absent": "Not in the vault: its time is over and it was deleted, or the worker was killed before it was committed.",
    "sealed": "It is in the vault and does not open: the master key is another one than it was kept under, or the entry was changed.",
}
_FROM = {"request": "Request", "reply": "Reply", "context": "Context"}


@dataclass(frozen=True, slots=True)
class Captured:
    """What a record commits to, and what the vault has of it."""

    index: int
    decision: str
    payload: dict[str, Any]
    """Commitments of the record; `vault` among them."""
    found: Found

    @property
    def matches(self) -> bool:
        """Whether the entry is what the record commits to."""
        return committed(self.found.content) == str(self.payload["vault"])


def captured_document(captured: Captured) -> dict[str, Any]:
    """Return the answer for programs: docs/http.md has its fields."""
    found, payload = captured.found, captured.payload
    answer: dict[str, Any] = {"decision": captured.decision, "state": found.state, "committed": payload["vault"]}
    if found.erasure:
        answer["erasure"] = found.erasure
    if found.state == "kept":
        salts, said = decode_content(found.content)
        into, out = salts.salts(captured.decision)
        to_model, from_model = salts.inner_salts(captured.decision)
        named = {"in": into, "out": out, "to_model": to_model, "from_model": from_model}
        answer |= {
            "matches": captured.matches,
            "until_us": found.until_us,
            **said,
            "salts": {name: salt.hex() for name, salt in named.items() if name in payload},
        }
    return answer


def in_words(captured: Captured) -> dict[str, Any]:
    """Return the same for a page: a sentence on its state, rows of (where, pointer, value) and what stands in for fields that could not be kept."""
    document = captured_document(captured)
    until = time_text(captured.found.until_us)[:19].replace("T", " ") + " UTC"
    fields = document.get("fields", {})
    return {
        "document": document,
        "state": _STATES[captured.found.state].format(until=until),
        "rows": [
            (_FROM.get(place, place), pointer, _shown(value))
            for place in sorted(fields, key=list(_FROM).index)
            for pointer, value in fields[place].items()
        ],
    }


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.format(msgspec.json.encode(value), indent=2 if isinstance(value, dict) else 0).decode()
