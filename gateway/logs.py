"""The gateway's own log: one JSON object a line on standard error. It tells about the program, never about a call's content.

This is not the audit log. Nothing here is given headers, bodies, keys or units to print. What an exception says is nobody's choice, though: it may
quote the value it stumbled over. So processes that see what callers send tell of a defect its type and where it happened, and never its words; the
same for what the interpreter says when a process ends on one.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from types import TracebackType
from typing import Any

_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object; `extra={...}` becomes fields."""

    def __init__(self, process: str, *, sees_payload: bool = False) -> None:
        """Name the process in every line; one that sees what callers send leaves out the words of exceptions."""
        super().__init__()
        self._process = process
        self._sees_payload = sees_payload

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": self._message(record),
        }
        line.update({key: value for key, value in record.__dict__.items() if key not in _OWN})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info) if not self._sees_payload else without_words(record.exc_info[1])
        return json.dumps(line, default=str, ensure_ascii=False)

    def _message(self, record: logging.LogRecord) -> str:
        """Return the message; the event loop's own ones quote the arguments of callbacks, which may be bytes from a socket."""
        message = record.getMessage()
        if self._sees_payload and record.name == "asyncio":
            return message.partition("\n")[0].partition("(")[0][:200]
        return message


def without_words(fault: BaseException | None) -> str:
    """Return a traceback that shows types and places and none of the words of the exceptions, causes first."""
    told = []
    seen: set[int] = set()
    while fault is not None and id(fault) not in seen:
        seen.add(id(fault))
        frames = [f"  {frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(fault.__traceback__)]
        told.append("\n".join([*frames, f"{type(fault).__module__}.{type(fault).__qualname__}"]))
        fault = fault.__cause__ or (None if fault.__suppress_context__ else fault.__context__)
    return "\n".join(reversed(told))


def configure(process: str, level: int = logging.INFO, *, sees_payload: bool = False) -> logging.Logger:
    """Send all logging of this process to standard error as JSON lines and return its logger.

    Args:
        process: names it in every line.
        level: what is less important is left out.
        sees_payload: what callers send passes through it; see the module.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(process, sees_payload=sees_payload))
    if sees_payload:
        sys.excepthook = _last_words
        sys.unraisablehook = lambda unraisable: _unheard(unraisable.exc_value)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in ("alembic", "httpx", "uvicorn", "watchfiles"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return logging.getLogger(f"assay.{process}")


def _last_words(kind: type[BaseException], fault: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("assay").critical("the process ends on a defect", exc_info=(kind, fault, trace))


def _unheard(fault: BaseException | None) -> None:
    if fault is not None:
        logging.getLogger("assay").error("an exception nobody could hear", exc_info=fault)
