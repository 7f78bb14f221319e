"""Why a query has the answer it has: the query traced on policies, its answer and the trace as text.

A reference below `data` is traced as it is; any other query as the body of a rule, so that its own expressions are in the trace.

Example:
    explanation = explain(sources, "data.policy.office.allow", {"env": "staging"})
    print(explanation.text)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from policies.check import with_shipped
from policies.rego import UNDEFINED, Engine, RegoError, to_json
from policies.rego.engine import typed
from policies.rego.parser import parse_query
from policies.rego.syntax import Ref, Scalar, Var
from policies.rego.trace import RuleTrace
from policies.sources import Sources

QUERY: Final = "query"
"""Name of the rule a query becomes, and of its module."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """An answer with its reasons."""

    value: Any
    """The document, or `UNDEFINED`."""
    error: str
    """Why there is no answer, or empty."""
    text: str
    """The trace, for people."""
    rules: tuple[RuleTrace, ...]
    """The trace, for programs."""


def explain(sources: Sources, query: str, document: Any = UNDEFINED, *, now_ns: int = 0, full: bool = False) -> Explanation:
    """Evaluate a query and say why.

    Args:
        sources: Policies and data; the shipped policies are added as they are in force.
        query: A reference (`data.policy.office.allow`) or statements (`input.age > 17; data.p.x`).
        document: The input; `UNDEFINED` for none.
        now_ns: What `time.now_ns()` answers.
        full: Show what held too, with its values.

    Raises:
        PolicyError: a policy or the query is refused.
    """
    modules = with_shipped(sources.modules)
    path = reference_path(query)
    if path is None:
        path = (QUERY, QUERY)
        modules[QUERY] = f"package {QUERY}\n{QUERY} if {{\n{query}\n}}\n"
    traced = Engine(modules, sources.data).traced()
    value, error = UNDEFINED, ""
    try:
        value = traced.value(path, document, now_ns)
    except RegoError as fault:
        error = str(fault)
    except Exception as fault:  # noqa: BLE001 - the engine's own list of what an evaluation can raise
        error = str(typed(fault))
    return Explanation(value, error, traced.explain(full=full), tuple(traced.rules))


def reference_path(query: str) -> tuple[Any, ...] | None:
    """Return the path of a query that is nothing but a constant reference below `data`, else None."""
    _, statements = parse_query(query)
    expr = statements[0].expr if len(statements) == 1 and not statements[0].negated and not statements[0].withs else None
    if type(expr) is not Ref or type(expr.head) is not Var or expr.head.name != "data" or not all(type(part) is Scalar for part in expr.path):
        return None
    return tuple(part.value for part in expr.path)


def as_json(explanation: Explanation) -> dict[str, Any]:
    """Return an explanation as plain JSON data: the answer, and each rule with its expressions in the order they ran."""
    answer = {} if explanation.value is UNDEFINED else {"result": to_json(explanation.value)}
    return {**answer, **({"error": explanation.error} if explanation.error else {}), "rules": [_rule(rule) for rule in explanation.rules]}


def _rule(rule: RuleTrace) -> dict[str, Any]:
    return {
        "name": rule.name,
        "file": rule.file,
        "line": rule.line,
        "depth": rule.depth,
        "arguments": list(rule.arguments),
        "result": rule.result,
        "expressions": [
            {
                "line": attempt.span.line,
                "text": attempt.text,
                "held": attempt.held,
                "failed": attempt.failed,
                "samples": [{"held": sample.held, "values": dict(sample.values)} for sample in attempt.samples],
            }
            for attempt in rule.attempts.values()
        ],
    }
