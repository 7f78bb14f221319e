"""Which heads and expressions of some modules were reached.

A head is reached when its branch gives a value, an expression when it is tried (as in `opa test --coverage`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from policies.rego.spans import Span, module_spans
from policies.rego.syntax import Module

Reached = tuple[str, int, bool]
"""File, offset, whether it is a head."""


@dataclass(frozen=True, slots=True)
class FileCoverage:
    """What of one file was reached: lines with something to run, those of which everything ran, and the spans that did not."""

    lines: frozenset[int]
    covered: frozenset[int]
    spans: tuple[Span, ...]
    missed_spans: tuple[Span, ...]

    @property
    def missed(self) -> frozenset[int]:
        """Lines with a head or an expression that was never reached."""
        return self.lines - self.covered

    @property
    def heads(self) -> int:
        """Number of rule definitions, each `else` counted."""
        return sum(span.is_head for span in self.spans)

    @property
    def missed_heads(self) -> tuple[Span, ...]:
        """Definitions that never gave a value."""
        return tuple(span for span in self.missed_spans if span.is_head)


def coverage_of(modules: Iterable[Module], reached: Collection[Reached]) -> dict[str, FileCoverage]:
    """Return coverage by file of what some evaluations reached, of one engine or of several over the same modules."""
    found: dict[str, FileCoverage] = {}
    for module in modules:
        name, spans = module.source.name, module_spans(module)
        missed = tuple(span for span in spans if (name, span.start, span.is_head) not in reached)
        lines = frozenset(span.line for span in spans)
        found[name] = FileCoverage(lines, lines - {span.line for span in missed}, spans, missed)
    return found
