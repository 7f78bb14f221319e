import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pathname import PathError, normalise

SAME = [
    (b"/", "/"),
    (b"/v2/models/m/infer", "/v2/models/m/infer"),
    (b"/a//b///c/", "/a/b/c/"),
    (b"/%7euser/%2D%2e%5F", "/~user/-._"),
    (b"/a%20b/%c3%a9", "/a%20b/%C3%A9"),
    (b"/%2541", "/%2541"),
    (b"/a/./b/../c", "/a/c"),
    (b"/a/%2e%2e/b", "/b"),
    (b"/a/..", "/"),
    (b"/a/.", "/a/"),
    (b"/a/b;v=1/.hidden/..c", "/a/b;v=1/.hidden/..c"),
]
REFUSED = [
    b"",
    b"a",
    b"*",
    b"/..",
    b"/a/../..",
    b"/%2e%2e/a",
    b"/a%2fb",
    b"/a%2Fb",
    b"/a%5cb",
    b"/a\\b",
    b"/a%00",
    b"/%",
    b"/%4",
    b"/%zz",
    b"/%+1",
    b"/a b",
    b"/\xc3\xa9",
    b"/a?b",
    b"/a#b",
    b"/..;/a",
    b"/a/.;x/b",
    b"/%2e%2e;/a",
    b"/<",
    b'/"',
    b"/{a}",
    b"/a|b",
    b"/a^b",
    b"/a\x7f",
    b"/a\n",
    b"/%1\n",
    b"/[a]",
]


@pytest.mark.parametrize(("raw", "path"), SAME)
def test_a_path_gets_its_one_spelling(raw, path):
    assert normalise(raw) == path


@pytest.mark.parametrize("raw", REFUSED)
def test_a_path_with_two_readings_is_refused(raw):
    with pytest.raises(PathError):
        normalise(raw)


PIECES = st.sampled_from(
    [b"/", b".", b"..", b"a", b"%2e", b"%2E", b"%41", b"%25", b"%2541", b"%c3", b";", b"~", b"//", b"%20", b"Z", b":@!$&'()*+,="]
)


@given(st.lists(PIECES, max_size=12).map(lambda pieces: b"/" + b"".join(pieces)) | st.binary(max_size=30).map(lambda tail: b"/" + tail))
def test_normalising_twice_changes_nothing_and_leaves_no_dot_segment(raw):
    try:
        path = normalise(raw)
    except PathError:
        return
    assert normalise(path.encode("ascii")) == path
    assert path.startswith("/")
    assert "//" not in path
    assert not {".", ".."} & set(path.split("/"))
    assert "%2F" not in path
    assert "%00" not in path
