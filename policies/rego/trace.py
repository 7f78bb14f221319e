"""What was seen of a rule while it ran: its expressions, how often each held, the values it saw, what gave its value.

Filled by the recorder of `tracing.py`; `explain.py` writes it down for people.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from policies.rego.render import rego
from policies.rego.spans import Span
from policies.rego.values import UNDEFINED, RegoSet, freeze, ordered, thaw

VALUE_CHARS: Final = 200
_UNDEFINED_TEXT: Final = "undefined"


@dataclass(frozen=True, slots=True)
class Sample:
    """One try of an expression: whether it held, and the values it saw as (text, Rego text)."""

    held: bool
    values: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Attempt:
    """One expression while one rule ran. Filled by the recorder."""

    span: Span
    held: int = 0
    failed: int = 0
    samples: list[Sample] = field(default_factory=list)
    rules: list[RuleTrace] = field(default_factory=list)
    """Rules that ran because this expression asked for them first; later they are remembered."""
    seen: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """The expression."""
        return self.span.text


@dataclass(slots=True)
class RuleTrace:
    """One definition of a rule that was evaluated. Filled by the recorder while it runs."""

    name: str
    file: str
    depth: int
    heads: tuple[Span, ...]
    """Its heads: the first, then one for each `else`."""
    expressions: tuple[Span, ...]
    """All its expressions, nested ones too, in the order of the text."""
    is_partial: bool
    """Whether it adds members to a set or an object."""
    arguments: tuple[str, ...] = ()
    attempts: dict[int, Attempt] = field(default_factory=dict)
    result: str = _UNDEFINED_TEXT
    branch: int | None = None
    """The branch that gave the value."""
    pending: list[RuleTrace] = field(default_factory=list)

    @property
    def line(self) -> int:
        """Line of the head."""
        return self.heads[0].line

    @property
    def has_value(self) -> bool:
        """Whether the rule gave a value."""
        return self.result != _UNDEFINED_TEXT

    @property
    def is_default(self) -> bool:
        """Whether this is the `default` of its document."""
        return self.heads[0].text.startswith("default ")

    def nested(self, attempt: Attempt) -> list[Attempt]:
        """Return the expressions tried inside an expression: those of a comprehension, an `every` or a `not { ... }`."""
        return [inner for inner in self.attempts.values() if inner.span.parent == attempt.span.start]

    @property
    def first_failure(self) -> Attempt | None:
        """The first expression of the body that never held, if the rule is undefined."""
        if self.has_value:
            return None
        outer = (self.attempts.get(span.start) for span in self.expressions if span.parent is None)
        return next((attempt for attempt in outer if attempt is not None and not attempt.held), None)


def shorten(value: Any) -> str:
    """Return a value as Rego text, cut."""
    if value is UNDEFINED:
        return _UNDEFINED_TEXT
    text = ""
    for piece in _pieces(value):
        text += piece
        if len(text) > VALUE_CHARS:
            return text[: VALUE_CHARS - 1] + "…"
    return text


def _pieces(value: Any) -> Iterator[str]:
    """Yield a value as Rego text piece by piece, so that of a large one only the beginning is ever made."""
    kind = type(value)
    if kind is dict:
        for number, key in enumerate(ordered(map(thaw, value))):
            yield ", " if number else "{"
            yield from _pieces(key)
            yield ": "
            yield from _pieces(value[freeze(key)])
        yield "}" if value else "{}"
    elif (kind is list or kind is RegoSet) and value:
        first, last = ("[", "]") if kind is list else ("{", "}")
        for number, member in enumerate(value if kind is list else ordered(value)):
            yield ", " if number else first
            yield from _pieces(member)
        yield last
    else:
        yield rego(value[: VALUE_CHARS + 1] if kind is str else value)
