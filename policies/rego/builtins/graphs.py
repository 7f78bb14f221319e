"""graph.reachable, graph.reachable_paths: adjacency objects of arrays or sets."""

from __future__ import annotations

from typing import Any

from policies.rego.builtins.arrays import bounded_items
from policies.rego.builtins.registry import builtin, operand_error, want_object
from policies.rego.values import RegoSet, freeze, thaw


def _members(value: Any) -> list[Any]:
    return list(value) if type(value) in {list, RegoSet} else []


def _roots(value: Any) -> list[Any]:
    if type(value) not in {list, RegoSet}:
        raise operand_error(2, "one of {array, set}", value)
    return list(value)


@builtin("graph.reachable", 2, context=True)
def reachable(context: Any, graph: Any, initial: Any) -> RegoSet:
    """Nodes of the graph that can be reached from the initial ones."""
    edges = want_object(graph)
    found: set[Any] = set()
    queue = [freeze(node) for node in _roots(initial)]
    while queue:
        node = queue.pop()
        if node in found or node not in edges:
            continue
        found.add(node)
        neighbours = [freeze(item) for item in _members(edges[node])]
        context.charge(1 + len(neighbours))
        queue.extend(neighbours)
    return RegoSet(found)


@builtin("graph.reachable_paths", 2, context=True)
def reachable_paths(context: Any, graph: Any, initial: Any) -> RegoSet:
    """All paths from the initial nodes that cannot be made longer; a cycle ends where it would close."""
    edges = want_object(graph)
    found: list[Any] = []
    stack: list[tuple[Any, ...]] = [(freeze(node),) for node in _roots(initial) if freeze(node) in edges]
    while stack:
        path = stack.pop()
        context.charge(1 + len(path))
        last = path[-1]
        if last not in edges:
            found.append(freeze([thaw(node) for node in path[:-1]]))
            continue
        following = [freeze(item) for item in _members(edges[last])]
        fresh = [node for node in following if node not in path]
        if not following or len(fresh) < len(following):
            found.append(freeze([thaw(node) for node in path]))
            bounded_items(context, len(found))
        stack.extend((*path, node) for node in fresh)
    return RegoSet(found)
