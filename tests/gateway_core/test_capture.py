"""What is captured of a call, rule by rule; and that nothing a rule takes out is left anywhere in it."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.capture import Plan, changed
from gateway.documents import VaultDocument
from gateway.protocols.pointer import MISSING
from gateway.pseudonyms import EpochKey, TenantPseudonyms

LONG = "CH93-0076-2011-6238-5295-7"


def hashed(name: str, value: bytes) -> str:
    return f"{name}={value.decode()}"


def take(rules: dict[str, str], document: Any, source: str = "request") -> Any:
    plan = Plan.of(VaultDocument(retention_us=1, **{source: rules}))
    return plan.take({source: document}, hashed).get(source)


@pytest.mark.parametrize(
    ("rule", "value", "kept"),
    [
        ("keep", {"a": [1, None]}, {"a": [1, None]}),
        ("keep", None, None),
        ("drop", "text", MISSING),
        ("hash", {"b": 2, "a": 1}, {"hash": 'f={"a":1,"b":2}'}),
        ("hash", None, {"hash": "f=null"}),
        ("mask", LONG, "****95-7"),
        ("mask", "eleven char", "****"),
        ("mask", 123456789012345, "****"),
        ("mask", {"a": "text of some length"}, "****"),
        ("truncate:3", "text", "tex"),
        ("truncate:3", [1, 2, 3, 4], [1, 2, 3]),
        ("truncate:3", {"a": 1}, MISSING),
        ("truncate:3", 1234, MISSING),
        ("keep", MISSING, MISSING),
        ("hash", MISSING, MISSING),
    ],
)
def test_each_rule_leaves_what_it_says(rule, value, kept):
    assert changed(rule, value, "f", hashed) == kept


def test_inner_rules_refine_what_an_outer_pointer_keeps_and_the_call_itself_is_not_touched():
    document = {"p": {"mail": "a@b.example", "deep": {"x": 1, "y": [1, {"z": 2}, 3]}, "note": "a long note"}, "q": 1}
    before = copy.deepcopy(document)
    rules = {"/p": "keep", "/p/mail": "hash", "/p/deep/y/1/z": "drop", "/p/deep/x": "drop", "/p/note": "truncate:6", "/p/absent/z": "drop"}
    assert take(rules, document) == {"/p": {"mail": {"hash": 'request /p/mail="a@b.example"'}, "deep": {"y": [1, {}, 3]}, "note": "a long"}}
    assert document == before


def test_an_item_that_is_dropped_leaves_its_place_so_that_the_pointers_behind_it_stay_true():
    assert take({"/a": "keep", "/a/0": "drop", "/a/2": "mask"}, {"a": ["x", "y", "z"]}) == {"/a": [None, "y", "****"]}


def test_what_is_not_there_is_left_out_and_escapes_are_those_of_json_pointer():
    assert take({"/a~1b": "keep", "/c": "keep"}, {"a/b": 1}) == {"/a~1b": 1}
    assert take({"/a": "keep"}, [1]) is None
    assert take({"/a": "keep"}, MISSING) is None


NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.recursive(st.none() | st.integers() | st.text(max_size=20), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner))
POINTERS = st.lists(NAMES, min_size=1, max_size=3).map(lambda names: "/" + "/".join(names))


@given(st.dictionaries(POINTERS, st.sampled_from(["drop", "hash", "mask", "truncate:1"])), VALUES)
def test_nothing_that_a_rule_takes_out_of_a_kept_document_is_left_in_it(rules, document):
    for pointer in rules:
        node: Any = document
        for name in pointer.split("/")[1:]:
            if not isinstance(node, dict) or name not in node:
                break
            node = node[name]
        else:
            _plant(document, pointer.split("/")[1:])
    plan = Plan.of(VaultDocument(retention_us=1, request={"/k": "keep", **{f"/k{pointer}": rule for pointer, rule in rules.items()}}))
    kept = plan.take({"request": {"k": document}}, lambda _name, value: hashlib.sha256(value).hexdigest())
    assert "planted-secret" not in json.dumps(kept)


def _plant(document: Any, steps: list[str]) -> None:
    """Put a secret where a rule looks."""
    for name in steps[:-1]:
        document = document[name]
    document[steps[-1]] = "x planted-secret and some more text"


def test_a_hash_is_the_tenants_and_the_records_and_the_fields_own():
    def pseudonyms(secret: bytes) -> TenantPseudonyms:
        return TenantPseudonyms(EpochKey(1, secret, 0, 1))

    mine, other = pseudonyms(b"m" * 32), pseudonyms(b"o" * 32)
    found = {
        mine.field_hash("r1", "request /a", b"1"),
        mine.field_hash("r2", "request /a", b"1"),
        mine.field_hash("r1", "request /b", b"1"),
        mine.field_hash("r1", "request /a", b"2"),
        other.field_hash("r1", "request /a", b"1"),
    }
    assert len(found) == 5
    assert mine.field_hash("r1", "request /a", b"1") in found
