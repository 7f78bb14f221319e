"""Built-ins the compiler treats itself: membership with a key, `walk`, `print`, `trace`, metadata, template parts."""

from __future__ import annotations

from typing import Any

from policies.rego.builtins.registry import builtin, want_string
from policies.rego.values import UNDEFINED, equal, lookup


@builtin("internal.member_2", 2)
def member(value: Any, container: Any) -> bool:
    """`value in container`; the compiler inlines it."""
    from policies.rego.compile_calls import contains  # noqa: PLC0415 - only a mocked membership comes here; breaks an import cycle

    return contains(container, value)


@builtin("internal.member_3", 3)
def member_with_key(key: Any, value: Any, container: Any) -> bool:
    """`key, value in container`."""
    found = lookup(container, key)
    return found is not UNDEFINED and equal(found, value)


@builtin("walk", 1)
def walk(value: Any) -> list[Any]:
    """Planned as an iteration; called as a function it answers its first pair."""
    return [[], value]


@builtin("print", -1)
def show(*values: Any) -> bool:
    """Does nothing: a decision has no console."""
    return values is not None


@builtin("trace", 1)
def trace(note: Any) -> bool:
    """Does nothing but check its operand."""
    return want_string(note) is not None


@builtin("rego.metadata.rule", 0)
def metadata_rule() -> dict[str, Any]:
    """Compiled to a constant; without a rule around it there is nothing to tell."""
    return {}


@builtin("rego.metadata.chain", 0)
def metadata_chain() -> list[Any]:
    """Compiled to a constant."""
    return []
