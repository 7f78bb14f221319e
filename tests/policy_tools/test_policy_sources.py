"""What is read from disk: strict JSON and YAML, filed like OPA files it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from policies.sources import SourceError, parse_document, read_sources


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_a_folder_gives_its_modules_and_params_and_nothing_else(tmp_path):
    write(tmp_path, {"a.rego": "package a", "deep/b_test.rego": "package b", "params.yaml": "rows: 3", "modes.yaml": "a: off", ".hid/c.rego": "x"})
    sources = read_sources([tmp_path])
    assert sorted(sources.modules) == [f"{tmp_path}/a.rego", f"{tmp_path}/deep/b_test.rego"]
    assert list(sources.without_tests().modules) == [f"{tmp_path}/a.rego"]
    assert sources.data == {"params": {"rows": 3}}


def test_data_is_filed_under_the_folders_it_lies_in(tmp_path):
    write(tmp_path, {"top.json": '{"a": {"x": 1}}', "a/more.yaml": "y: 2", "a/b/deep.json": '{"z": 3}', "a/p.rego": "package p", "a/read.txt": "no"})
    sources = read_sources([], [tmp_path])
    assert sources.data == {"a": {"x": 1, "y": 2, "b": {"z": 3}}}
    assert list(sources.modules) == [f"{tmp_path}/a/p.rego"]


def test_two_values_for_one_place_are_refused_and_the_place_named(tmp_path):
    write(tmp_path, {"1.json": '{"a": {"x": 1}}', "2.json": '{"a": {"x": true}}'})
    with pytest.raises(SourceError, match=r"`data\.a\.x` has another value already"):
        read_sources([], [tmp_path / "1.json", tmp_path / "2.json"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: yes", {"a": "yes"}),
        ("a: 2026-01-01", {"a": "2026-01-01"}),
        ("a: 12:30:45", {"a": "12:30:45"}),
        ("a: 010", {"a": "010"}),
        ("a: .inf", {"a": ".inf"}),
        ("a: [true, false, null, ~, -3, 0.25]", {"a": [True, False, None, None, -3, 0.25]}),
        ("a:", {"a": None}),
        ('{"a": 1}', {"a": 1}),
        ("a: 1e3", {"a": 1000.0}),
    ],
)
def test_yaml_means_what_it_looks_like(text, value):
    assert parse_document(text, "x.yaml") == value


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.yaml", "a: 1\na: 2", r"x\.yaml:2:1: key `a` is given twice"),
        ("x.yaml", "a: &b [1]\nc: *b", r"x\.yaml:2:4: aliases are not read"),
        ("x.yaml", "1: a", r"x\.yaml:1:1: key `1` is no text"),
        ("x.yaml", "a: [", r"x\.yaml:1:5"),
        ("x.json", '{"a": 1, "a": 2}', "key `a` is given twice"),
        ("x.json", '{"a": NaN}', "`NaN` is no JSON"),
        ("x.json", "{", r"x\.json: "),
        ("x.json", "[" * 100_000, "nested too deep"),
        ("x.yaml", "[" * 5_000, "nested too deep"),
    ],
)
def test_a_document_that_could_mean_two_things_is_refused(name, text, said):
    with pytest.raises(SourceError, match=said):
        parse_document(text, name)


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(SourceError, match="cannot be read: No such file"):
        read_sources([tmp_path / "absent.rego"])
    (tmp_path / "latin.rego").write_bytes(b"# \xe9")
    with pytest.raises(SourceError, match="is not UTF-8"):
        read_sources([tmp_path])
    (tmp_path / "list.json").write_text(json.dumps([1]))
    with pytest.raises(SourceError, match="top level of data is an object"):
        read_sources([], [tmp_path / "list.json"])
    with pytest.raises(SourceError, match="is no policy") as caught:
        read_sources([tmp_path / "list.json"])
    assert "--data" in caught.value.hint


def test_a_folder_above_the_policies_has_their_parameters(tmp_path):
    write(tmp_path, {"config/policies/a.rego": "package a", "config/policies/params.yaml": "rows: 3", "config/policies/eu/params.yaml": "rows: 4"})
    write(tmp_path, {"config/policies/eu/b.rego": "package b", "models/params.yaml": "depth: 9"})
    for named in (tmp_path, tmp_path / "config", tmp_path / "config" / "policies"):
        sources = read_sources([named])
        assert sources.data == {"params": {"rows": 3}}, "those of a folder that is no policies' are nobody's, and the gateway reads no deeper ones"
        assert sources.parameters == [f"{tmp_path}/config/policies/params.yaml"]


def test_parameters_of_several_folders_of_policies_are_never_mixed(tmp_path):
    write(
        tmp_path,
        {f"{name}/policies/{file}": text for name in ("one", "two") for file, text in {"p.rego": "package p", "params.yaml": "a: 1"}.items()},
    )
    with pytest.raises(SourceError, match=r"several `params\.yaml`") as caught:
        read_sources([tmp_path])
    assert f"`{tmp_path}/one/policies`" in caught.value.hint
    assert read_sources([tmp_path / "one"]).data == {"params": {"a": 1}}
