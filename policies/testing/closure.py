"""Which modules some modules need: so that a change of one is tried with the few that it concerns, not with all.

Read from the syntax: a reference below `data`, an import and the package itself name packages; what begins like them, or what they begin like, is
needed. A reference that says too little (`data[x]`, `data.policy[x]`) needs everything it may mean.

Example:
    closure(modules, {"office_test.rego"})      # office_test.rego, office.rego
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from policies.rego.syntax import Module, Ref, Scalar, Var


def closure(modules: Mapping[str, Module], roots: Collection[str]) -> dict[str, Module]:
    """Return the modules named by `roots` and all they need, directly or not."""
    found: dict[str, Module] = {}
    waiting = [name for name in roots if name in modules]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = modules[name]
        wanted = set(_named(modules[name]))
        waiting += [other for other, module in modules.items() if other not in found and any(_meets(module.package, path) for path in wanted)]
    return {name: module for name, module in modules.items() if name in found}


def _meets(package: tuple[str, ...], path: tuple[str, ...]) -> bool:
    shorter = min(len(package), len(path))
    return package[:shorter] == path[:shorter]


def _named(module: Module) -> Iterator[tuple[str, ...]]:
    """Yield the paths below `data` that a module mentions."""
    yield module.package
    yield from (entry.path[1:] for entry in module.imports if entry.path[0] == "data")
    stack: list[Any] = list(module.rules)
    while stack:
        node = stack.pop()
        if isinstance(node, tuple):
            stack.extend(node)
            continue
        if type(node) is Var and node.name == "data":
            yield ()
        elif type(node) is Ref and type(node.head) is Var and node.head.name == "data":
            yield _constant(node.path)
            stack.extend(node.path)
        elif hasattr(node, "__dataclass_fields__"):
            stack.extend(getattr(node, name) for name in node.__dataclass_fields__)


def _constant(path: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the part of a path that is known."""
    known: list[str] = []
    for part in path:
        if type(part) is not Scalar or not isinstance(part.value, str):
            break
        known.append(part.value)
    return tuple(known)
