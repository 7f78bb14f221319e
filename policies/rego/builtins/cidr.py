"""Networks: `net.cidr_*`."""

from __future__ import annotations

import ipaddress
from typing import Any

from policies.rego.builtins.arrays import bounded_items
from policies.rego.builtins.registry import builtin, operand_error, want_string
from policies.rego.errors import BuiltinError
from policies.rego.values import RegoSet, entries, freeze

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _network(text: str) -> Network:
    if "/" not in text:
        raise BuiltinError(f"invalid CIDR address: {text[:60]}")
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise BuiltinError(f"invalid CIDR address: {text[:60]}") from error


def _place(text: str) -> Network:
    """Read an address or a network."""
    if "/" in text:
        return _network(text)
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise BuiltinError(f"invalid IP address: {text[:60]}") from error


def _inside(outer: Network, inner: Network) -> bool:
    return outer.version == inner.version and outer.supernet_of(inner)  # type: ignore[arg-type]  # same version, checked before


@builtin("net.cidr_contains", 2)
def contains(cidr: Any, inner: Any) -> bool:
    """Whether a network contains an address or network."""
    return _inside(_network(want_string(cidr)), _place(want_string(inner, 2)))


@builtin("net.cidr_intersects", 2)
def intersects(left: Any, right: Any) -> bool:
    """Whether two networks overlap."""
    one, other = _network(want_string(left)), _network(want_string(right, 2))
    return one.version == other.version and one.overlaps(other)


builtin("net.cidr_overlap", 2)(contains)


@builtin("net.cidr_is_valid", 1)
def is_valid(cidr: Any) -> bool:
    """Whether a string is a network."""
    if type(cidr) is not str:
        return False
    try:
        _network(cidr)
    except BuiltinError:
        return False
    return True


@builtin("net.cidr_expand", 1, context=True)
def expand(context: Any, cidr: Any) -> RegoSet:
    """All addresses of a network."""
    network = _network(want_string(cidr))
    bounded_items(context, network.num_addresses)
    context.charge(network.num_addresses // 8)
    return RegoSet([str(address) for address in network])


@builtin("net.cidr_merge", 1)
def merge(values: Any) -> RegoSet:
    """The fewest networks that cover the same addresses."""
    if type(values) not in {list, RegoSet}:
        raise operand_error(1, "one of {set, array}", values)
    four, six = [], []
    for text in values:
        network = _place(want_string(text))
        if "/" not in text and isinstance(network, ipaddress.IPv4Network):
            # Go's DefaultMask: an IPv4 address without a prefix stands for its classful network.
            first = int(network.network_address) >> 24
            network = _network(f"{text}/{8 if first < 128 else 16 if first < 192 else 24}")
        if isinstance(network, ipaddress.IPv4Network):
            four.append(network)
        elif "/" not in text:
            raise BuiltinError("IPv6 invalid: needs prefix length")
        else:
            six.append(network)
    return RegoSet([*map(str, ipaddress.collapse_addresses(four)), *map(str, ipaddress.collapse_addresses(six))])


def _named(value: Any, position: int) -> list[tuple[Any, str]]:
    if type(value) is str:
        return [(value, value)]
    if type(value) not in {list, dict, RegoSet}:
        raise operand_error(position, "one of {string, array, set, object}", value)
    found = []
    for key, item in entries(value):
        text = item[0] if type(item) is list and item else item
        if type(text) is not str:
            raise BuiltinError("element must be string or non-empty array")
        found.append((key if type(value) is not RegoSet else item, text))
    return found


@builtin("net.cidr_contains_matches", 2, context=True)
def contains_matches(context: Any, cidrs: Any, places: Any) -> RegoSet:
    """Pairs of keys whose network contains the address or network."""
    outer = [(key, _network(text)) for key, text in _named(cidrs, 1)]
    inner = [(key, _place(text)) for key, text in _named(places, 2)]
    context.charge(len(outer) * len(inner))
    return RegoSet([freeze([one, other]) for one, network in outer for other, place in inner if _inside(network, place)])
