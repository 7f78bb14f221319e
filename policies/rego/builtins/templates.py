"""strings.render_template: the part of Go's text/template that OPA documents: fields, variables, `if`, `else`, `range`, `with`."""

from __future__ import annotations

import re
from typing import Any

from policies.rego.builtins.registry import builtin, want_object, want_string
from policies.rego.errors import BuiltinError, LimitError
from policies.rego.render import display
from policies.rego.values import UNDEFINED, entries, lookup, ordered, thaw

_OPEN = re.compile(r"(if|range|with)\s+(.*)\Z", re.DOTALL)
_RANGE = re.compile(r"(?:(\$\w+)(?:\s*,\s*(\$\w+))?\s*:=\s*)?(\S+)\Z")
_ASSIGN = re.compile(r"(\$\w+)\s*:?=\s*(\S+)\Z")
_PATH = re.compile(r"(\$\w*)?((?:\.\w+)*|\.)\Z")


def _parse(template: str) -> list[Any]:
    """Return a tree: str, ("value", expr), ("set", name, expr), (kind, expr, body, otherwise)."""
    root: list[Any] = []
    stack: list[list[Any]] = [root]
    heads: list[Any] = []
    position = 0
    trim = False
    # By `find`, as an expression for the same would try every space of an action that never ends in as many ways as there are spaces.
    while (start := template.find("{{", position)) >= 0 and (end := template.find("}}", start + 2)) >= 0:
        text = template[position:start]
        text = text.lstrip() if trim else text
        action = template[start + 2 : end]
        stack[-1].append(text.rstrip() if action.startswith("- ") else text)
        action = action.removeprefix("- ")
        position, trim = end + 2, action.endswith(" -")
        action = (action[:-2] if trim else action).strip()
        opening = _OPEN.match(action)
        if opening:
            node: tuple[Any, ...] = (opening.group(1), opening.group(2), [], [])
            stack[-1].append(node)
            heads.append(node)
            stack.append(node[2])
        elif action == "else" and heads:
            stack[-1] = heads[-1][3]
        elif action == "end" and heads:
            heads.pop()
            stack.pop()
        elif assigned := _ASSIGN.match(action):
            stack[-1].append(("set", assigned.group(1), assigned.group(2)))
        elif action.startswith("/*"):
            continue
        elif _PATH.match(action):
            stack[-1].append(("value", action))
        else:
            raise BuiltinError(f"unsupported template action `{action[:60]}`")
        if len(stack) > 50:
            raise BuiltinError("template is nested too deep")
    if heads:
        raise BuiltinError("template block is not closed")
    root.append(template[position:].lstrip() if trim else template[position:])
    return root


def _resolve(expression: str, dot: Any, names: dict[str, Any]) -> Any:
    match = _PATH.match(expression)
    if match is None:
        raise BuiltinError(f"unsupported template expression `{expression[:60]}`")
    value = names.get(match.group(1), UNDEFINED) if match.group(1) else dot
    for part in match.group(2).split(".")[1:]:
        if part:
            value = lookup(value, part)
    return value


def _truth(value: Any) -> bool:
    return (
        value is not UNDEFINED
        and value is not None
        and value is not False
        and value not in (0, "")
        and (not hasattr(value, "__len__") or len(value) > 0)
    )


class _Writer:
    """Collects output. Owns `size`, which the limit bounds."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.parts: list[str] = []
        self.size = 0

    def write(self, text: str) -> None:
        self.parts.append(text)
        self.size += len(text)
        if self.size > self.context.limits.text_chars:
            raise LimitError("text_chars", "a rendered template")

    def run(self, tree: list[Any], dot: Any, names: dict[str, Any]) -> None:
        for node in tree:
            if isinstance(node, str):
                self.write(node)
            elif node[0] == "value":
                value = _resolve(node[1], dot, names)
                self.write("<undefined>" if value is UNDEFINED else display(value))
            elif node[0] == "set":
                names[node[1]] = _resolve(node[2], dot, names)
            elif node[0] == "range":
                self._range(node, dot, names)
            else:
                value = _resolve(node[1], dot, names)
                chosen = node[2] if _truth(value) else node[3]
                self.run(chosen, value if node[0] == "with" and chosen is node[2] else dot, dict(names))

    def _range(self, node: Any, dot: Any, names: dict[str, Any]) -> None:
        match = _RANGE.match(node[1])
        if match is None:
            raise BuiltinError("unsupported range")
        first, second, expression = match.groups()
        value = _resolve(expression, dot, names)
        keys = ordered(map(thaw, value)) if type(value) is dict else None
        pairs = [(key, lookup(value, key)) for key in keys] if keys is not None else list(entries(value))
        if not pairs:
            self.run(node[3], dot, names)
        for key, item in pairs:
            self.context.charge(1)
            inner = dict(names)
            if second:
                inner[first], inner[second] = key, item
            elif first:
                inner[first] = item
            self.run(node[2], item, inner)


@builtin("strings.render_template", 2, context=True)
def render(context: Any, template: Any, variables: Any) -> str:
    """Fill a template from an object."""
    document = want_object(variables, 2)
    writer = _Writer(context)
    writer.run(_parse(want_string(template)), document, {"$": document})
    return "".join(writer.parts)
