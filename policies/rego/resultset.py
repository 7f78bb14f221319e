r"""The answer to a query in the shape `opa eval` prints.

One entry per solution, with the value of each expression and the bindings of the query's variables; `{}` when there is no solution.

Rules, as in OPA (`rego.rewriteQueryToCaptureValue`):

- An expression that has a value (a term, a call with all but its result) shows it; unifications, assignments, negations and the like show `true`.
- A single expression that iterates over nothing shows `false` too; otherwise every expression must hold, so `false` is no solution.
- Wildcards are no bindings; declarations (`some x`) are no expressions.

Different on purpose: expressions are listed as written. OPA lists them in the order it runs them.

Example:
    >>> result_set(Engine({}), "1 == 2")
    {'result': [{'expressions': [{'value': False, 'text': '1 == 2', 'location': {'row': 1, 'col': 1}}]}]}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from policies.rego.builtins import BUILTINS
from policies.rego.engine import Engine
from policies.rego.errors import EvaluationError, PolicyError, RegoError
from policies.rego.lexer import Source, tokenize
from policies.rego.parser import parse_query
from policies.rego.render import json_text, to_json
from policies.rego.syntax import Body, Call, Comprehension, Every, Logic, Ref, SomeDecl, SomeIn, Statement, Unify, Var
from policies.rego.values import UNDEFINED

_CAPTURE: Final = "$value"
"""Begins names no query can write."""
_VALUELESS: Final = (Unify, SomeDecl, SomeIn, Every, Body, Logic)
_RELATIONS: Final = frozenset({"walk"})
_VOID: Final = frozenset({"print"})


def result_set(engine: Engine, query: str, input: Any = UNDEFINED, now_ns: int = 0) -> dict[str, Any]:  # noqa: A002 - Rego's word
    """Evaluate a query and return OPA's result set, plain JSON data.

    Args:
        engine: The policies.
        query: Statements, for example `data.p.deny[_].id == "A-1"`.
        input: The input document; left out, `input` is undefined.
        now_ns: What `time.now_ns()` answers, nanoseconds since 1970.

    Raises:
        RegoError: the query is refused or cannot be evaluated; `error_set` prints it.
    """
    source, statements = parse_query(query)
    must_hold = len(statements) > 1 or any(map(_iterates, statements))
    asked: list[Statement] = []
    shown: list[tuple[Statement, str | None]] = []
    for index, statement in enumerate(statements):
        if not _has_value(statement):
            asked.append(statement)
            if type(statement.expr) is not SomeDecl:
                shown.append((statement, None))
            continue
        name = f"{_CAPTURE}{index}"
        variable = Var(name, statement.pos)
        asked.append(replace(statement, expr=Unify(variable, statement.expr, assign=False, pos=statement.pos)))
        if must_hold:
            asked.append(Statement(variable, negated=False, withs=(), pos=statement.pos))
        shown.append((statement, name))
    found = engine.solve(source, tuple(asked), input, now_ns)
    if not found:
        return {}
    texts = _texts(source, statements)
    places = {id(statement): dict(zip(("row", "col"), source.position(statement.pos), strict=True)) for statement in statements}
    return {"result": [_entry(solution, shown, texts, places) for solution in found]}


def error_set(error: RegoError) -> dict[str, Any]:
    """Return a failure in the shape OPA prints errors."""
    if isinstance(error, PolicyError):
        return {
            "errors": [
                {"message": issue.message, "code": issue.rule, "location": {"file": issue.file, "row": issue.line, "col": issue.column}}
                for issue in error.issues
                if issue.severity == "error"
            ]
        }
    code = error.code if isinstance(error, EvaluationError) else "eval_cancel_error"
    return {"errors": [{"message": error.message if isinstance(error, EvaluationError) else str(error), "code": code}]}


def pretty(value: Any, level: int = 0) -> str:
    """Return JSON text indented by two blanks, as OPA prints it: keys as they come, numbers exact, Go's escapes."""
    pad, close = "  " * (level + 1), "  " * level
    if isinstance(value, Mapping) and value:
        pairs = (f"{pad}{json_text(str(key))}: {pretty(item, level + 1)}" for key, item in value.items())
        return "{\n" + ",\n".join(pairs) + f"\n{close}}}"
    if type(value) is list and value:
        return "[\n" + ",\n".join(f"{pad}{pretty(item, level + 1)}" for item in value) + f"\n{close}]"
    return json_text(value)


def _entry(
    solution: Mapping[str, Any], shown: list[tuple[Statement, str | None]], texts: Mapping[int, str], places: Mapping[int, Any]
) -> dict[str, Any]:
    expressions = [
        {
            "value": True if name is None else _sorted(to_json(solution[name])),
            "text": texts[id(statement)],
            "location": places[id(statement)],
        }
        for statement, name in shown
    ]
    bindings = {name: _sorted(to_json(solution[name])) for name in sorted(solution) if not name.startswith(_CAPTURE)}
    return {"expressions": expressions} | ({"bindings": bindings} if bindings else {})


def _sorted(value: Any) -> Any:
    """Return JSON data with the keys of objects in order, as Go prints maps."""
    if type(value) is dict:
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if type(value) is list else value


def _has_value(statement: Statement) -> bool:
    expr = statement.expr
    if statement.negated or isinstance(expr, _VALUELESS):
        return False
    if type(expr) is not Call:
        return True
    name = _name(expr.op)
    entry = BUILTINS.get(name)
    return name not in _VOID and not (entry is not None and len(expr.args) == entry.arity + 1)


def _iterates(node: Any) -> bool:
    """Tell whether a part of a query may have several solutions: a variable inside a reference, or `walk`."""
    if isinstance(node, Comprehension):
        return False
    if type(node) is Call and _name(node.op) in _RELATIONS:
        return True
    if type(node) is Ref and any(type(part) is Var for part in node.path):
        return True
    return any(map(_iterates, _parts(node)))


def _parts(node: Any) -> Iterator[Any]:
    if isinstance(node, tuple):
        yield from node
    elif hasattr(node, "__dataclass_fields__"):
        for field in node.__dataclass_fields__:
            yield getattr(node, field)


def _name(op: Any) -> str:
    if type(op) is Var:
        return op.name
    return ".".join(str(getattr(part, "name", getattr(part, "value", "?"))) for part in (op.head, *op.path)) if type(op) is Ref else "?"


def _texts(source: Source, statements: tuple[Statement, ...]) -> dict[int, str]:
    """Return the text of each statement, without what separates it from the next."""
    tokens = [token for token in tokenize(source)[0] if token.kind != "eof" and token.text != ";"]
    found: dict[int, str] = {}
    for index, statement in enumerate(statements):
        after = statements[index + 1].pos if index + 1 < len(statements) else len(source.text)
        end = max(token.end for token in tokens if statement.pos <= token.start < after)
        found[id(statement)] = source.text[statement.pos : end]
    return found
