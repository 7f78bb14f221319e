"""YAML that means one thing only."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.tree import DEEPEST, MOST_BYTES, read_tree, resolve


def read(text):
    tree, issues = read_tree(text.encode() if isinstance(text, str) else text, "f.yaml")
    return tree, [str(issue) for issue in issues]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("null", None),
        ("", None),
        ("0", 0),
        ("-12", -12),
        ("1.50", Decimal("1.50")),
        ("1e3", Decimal("1e3")),
        *(
            (word, word)
            for word in ("yes", "no", "on", "off", "True", "NULL", "~", "007", "0x1f", "1:30", "1_000", ".5", "1.", ".inf", "-", "2026-01-01")
        ),
        ("9" * 65, "9" * 65),
    ],
)
def test_plain_words_mean_what_they_say(text, value):
    resolved = resolve(text)
    assert (resolved, type(resolved)) == (value, type(value))


def test_quoted_values_and_keys_are_text():
    tree, issues = read("versions: {3: '3', \"4\": \"true\", '5': |\n}")
    assert issues
    tree, issues = read('{3: \'3\', "4": "true"}')
    assert (tree.value, issues) == ({"3": "3", "4": "true"}, [])


def test_every_value_has_its_place():
    tree, issues = read("a:\n  - x: 1\n  - y:\n      z: 2\n")
    assert not issues
    assert tree.place(("a", 0, "x")) == (2, 8)
    assert tree.place(("a", 1, "y", "z")) == (4, 10)
    assert tree.key_place(("a", 1, "y", "z")) == (4, 7)
    assert tree.place(("a", 7, "nowhere")) == (2, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1: a: key is already given in line 1"),
        ("a: &x 1\nb: 2\n", "f.yaml:1:4: a: anchor `&x` is refused"),
        ("a: *x\n", "f.yaml:1:4: a: alias `*x` is refused"),
        ("a: {<<: 1}\n", "f.yaml:1:5: a: merge key `<<` is refused"),
        ("a: !!python/object:os.system x\n", "f.yaml:1:4: a: tag `tag:yaml.org,2002:python/object:os.system` is refused"),
        ("? [a]\n: 1\n", "f.yaml:1:3: a key must be plain text"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2:1: a second document"),
        ("a: [1, 2\n", "f.yaml:2:1: not YAML"),
        ("a: b: c\n", "f.yaml:1:5: not YAML"),
        ("\ta: 1\n", "not YAML"),
        (b"a: \xff\n", "f.yaml:1:1: not UTF-8: byte 3 is 0xff"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), f"nested deeper than {DEEPEST} levels"),
        ("[" * 100_000, f"nested deeper than {DEEPEST} levels"),
        (b" " * (MOST_BYTES + 1), "longer than"),
        ("a: \x00", "not YAML"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(text, expected):
    _, issues = read(text)
    assert any(expected in issue for issue in issues), issues


def test_all_duplicate_keys_are_told_at_once():
    _, issues = read("a: 1\na: 2\nb: {c: 1, c: 2}\n")
    assert len(issues) == 2


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.text(st.characters(min_codepoint=32, max_codepoint=0x24F, exclude_categories=["Cc", "Zs"]), max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc-1", min_size=1, max_size=4), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_json_is_read_as_json_says(value):
    """JSON is YAML: what json writes is read back, the same and in full."""
    import json

    tree, issues = read(json.dumps(value, ensure_ascii=False))
    assert issues == []
    assert tree.value == value


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(data):
    _, issues = read_tree(data, "f.yaml")
    assert all(issue.line >= 1 and issue.column >= 1 for issue in issues)
