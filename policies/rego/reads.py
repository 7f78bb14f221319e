"""What a document depends on: rules it can reach, and the paths of `input` and `data` it can read.

The sets are static and err on the large side: a path ends at its first element that is not constant, a reference that may land on many
rules counts for all of them. They are the key of a decision cache: equal values on these paths (1, true and 1.0 told apart) and an
equal `now`, if it is read, give equal decisions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from policies.rego.ir import Apply, Const, Doc, RuleIR, WithS
from policies.rego.tree import Node
from policies.rego.values import freeze, thaw

NOW: Final = ("now",)
_READS_NOW: Final = frozenset(
    {"time.now_ns", "io.jwt.decode_verify", "crypto.x509.parse_and_verify_certificates", "crypto.x509.parse_and_verify_certificates_with_options"}
)  # fmt: skip


def nodes_of(part: Any) -> Iterator[Any]:
    """Yield every `Doc`, `Apply` and `WithS` inside lowered terms and statements, closures included."""
    stack = [part]
    while stack:
        item = stack.pop()
        kind = type(item)
        if kind is tuple:
            stack.extend(item)
        elif kind is Doc or kind is Apply or kind is WithS:
            yield item
        if hasattr(item, "__dataclass_fields__"):
            stack.extend(getattr(item, name) for name in item.__dataclass_fields__)


def rule_parts(rule: RuleIR) -> tuple[Any, ...]:
    """Return everything of a rule that can refer to something."""
    return (rule.args or (), *((branch.value, branch.key, branch.path, branch.body) for branch in rule.branches))


def constant_prefix(path: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the constant beginning of a path."""
    found = []
    for element in path:
        if type(element) is not Const or type(element.value) not in {str, int}:
            break
        found.append(element.value)
    return tuple(found)


def below(node: Node) -> Iterator[Node]:
    """Yield a node and all nodes below it that hold rules."""
    stack = [node]
    while stack:
        current = stack.pop()
        if current.rules:
            yield current
        stack.extend(current.children.values())


def targets(root: Node, path: tuple[Any, ...]) -> tuple[list[Node], bool]:
    """Return the rule nodes that a `data` reference can reach, and whether it can also reach base data.

    Args:
        root: The tree.
        path: Elements of the reference: terms, or plain constants. One that is no constant may be any key.
    """
    found: dict[int, Node] = {}
    places = [root]
    base = False
    for element in path:
        following: list[Node] = []
        for node in places:
            if node.rules:
                found[id(node)] = node
            if type(element) is Const or not hasattr(element, "__dataclass_fields__"):
                child = node.children.get(freeze(element.value if type(element) is Const else element))
                base = base or (child is None and not node.rules)
                following.extend([child] if child is not None else [])
            else:
                base = base or not node.rules
                following.extend(node.children.values())
        places = following
    for node in places:
        base = base or not node.rules
        found.update((id(reached), reached) for reached in below(node))
    return list(found.values()), base


def calls(item: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the function paths that a call or a `with` can run."""
    if type(item) is Apply and not isinstance(item.name, str):
        yield item.name
    elif type(item) is WithS:
        for kind, name, value in item.targets:
            if kind == "call" and not isinstance(name, str):
                yield name
            if type(value) is tuple and not isinstance(value[1], str):
                yield value[1]


def reachable(root: Node, start: Iterable[Node]) -> list[Node]:
    """Return the rule nodes reachable from some nodes."""
    seen: dict[int, Node] = {}
    queue = list(start)
    while queue:
        node = queue.pop()
        if id(node) in seen:
            continue
        seen[id(node)] = node
        for rule in node.rules:
            queue.extend(dependencies(root, rule))
    return list(seen.values())


def dependencies(root: Node, rule: RuleIR) -> Iterator[Node]:
    """Yield the rule nodes that a rule refers to."""
    for item in nodes_of(rule_parts(rule)):
        if type(item) is Doc and item.root == "data":
            yield from targets(root, item.path)[0]
        for path in calls(item):
            yield from targets(root, path)[0]


def read_paths(root: Node, path: tuple[Any, ...]) -> frozenset[tuple[Any, ...]]:
    """Return the paths that the document at a `data` path can read, each beginning with `input`, `data` or being `NOW`."""
    start, base = targets(root, path)
    found: set[tuple[Any, ...]] = {("data", *path)} if base else set()
    for node in reachable(root, start):
        for rule in node.rules:
            _collect(root, rule, found)
    return frozenset(entry for entry in found if not any(entry[:size] in found for size in range(1, len(entry))))


def _collect(root: Node, rule: RuleIR, found: set[tuple[Any, ...]]) -> None:
    for item in nodes_of(rule_parts(rule)):
        if type(item) is Doc:
            prefix = constant_prefix(item.path)
            if item.root == "input":
                found.add(("input", *prefix))
            elif targets(root, item.path)[1]:
                found.add(("data", *map(thaw, prefix)))
        elif type(item) is Apply and item.name in _READS_NOW:
            found.add(NOW)
        elif type(item) is WithS:
            for _, name, value in item.targets:
                if name in _READS_NOW or (type(value) is tuple and value[1] in _READS_NOW):
                    found.add(NOW)
