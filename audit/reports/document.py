"""The report document: what is signed and what every rendering is made from.

Rules:
- Canonical JSON (RFC 8785) without floats: ppm, µs, seconds, counts. Same records, same size, same Assay version: same bytes.
- The signature is a C2SP signed note over kind, log and the document's SHA-256, so that Go's `note` package and ours both check it.
- A rendering carries the SHA-256 of the bytes it was made from.

Example:
    report = document("evaluation", body, state, version="0.1.0")
    data = report_bytes(report)
    note = signed_note(report, data, key)
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from audit import canonical, note
from audit.keys import SigningKey, VerifierKey
from audit.reports.state import LogState

SCHEMA = 1
NOTE_HEADER = "assay-report/v1"
Kind = Literal["evaluation", "maturity", "experiment"]


class ReportMismatchError(Exception):
    """The note is valid but speaks of another document."""


def document(kind: Kind, body: dict[str, Any], state: LogState, *, version: str) -> dict[str, Any]:
    """Wrap a body with the log it was made from. `version` is that of Assay."""
    return {
        "report": kind,
        "schema": SCHEMA,
        "generator": {"name": "assay", "version": version},
        "log": {
            "size": state.size,
            "root": state.root,
            "time": state.time or None,
            "origin": state.origin,
            "signed": state.is_signed,
            "config_digest": state.config_digest,
        },
        "body": body,
    }


def report_bytes(report: dict[str, Any]) -> bytes:
    """The bytes that are signed."""
    return canonical.encode(report)


def digest(data: bytes) -> str:
    """SHA-256 of the report's bytes, hex."""
    return hashlib.sha256(data).hexdigest()


def signed_note(report: dict[str, Any], data: bytes, key: SigningKey) -> bytes:
    """Sign a report: a note that names kind, log size and root, and the SHA-256 of `data`."""
    return note.sign(_note_text(report, data), [key])


def verify_note(report: dict[str, Any], data: bytes, signed: bytes, key: VerifierKey) -> None:
    """Check a report against its note.

    Raises:
        ReportMismatchError: when the note speaks of another document.
        ValueError: when the note is malformed or `key` did not sign it (see `audit.note.verify`).
    """
    opened = note.parse(signed)
    note.verify(opened, [key])
    if opened.text != _note_text(report, data):
        raise ReportMismatchError(f"the note does not speak of the report with SHA-256 `{digest(data)}`")


def _note_text(report: dict[str, Any], data: bytes) -> str:
    log = report["log"]
    return f"{NOTE_HEADER}\n{report['report']}\n{log['size']} {log['root']}\nsha256:{digest(data)}\n"
