"""A refusal of the admin port is a page to a browser and problem+json to a program."""

from __future__ import annotations

import asyncio

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from gateway.admin.problems import nothing_there, refused
from gateway.refusals import Refusal

BROWSER = [(b"accept", b"text/html,application/xhtml+xml,*/*;q=0.8")]


def asked(headers: list[tuple[bytes, bytes]], *, method: str = "GET", path: str = "/nonsense") -> Request:
    return Request({"type": "http", "method": method, "path": path, "query_string": b"", "headers": headers, "server": ("localhost", 80)})


def test_a_browser_reads_a_page_that_says_what_and_what_to_do_and_escapes_what_was_asked():
    answer = asyncio.run(refused(asked(BROWSER), Refusal("unknown_experiment", "no experiment `<b>`")))
    text = bytes(answer.body).decode()
    assert (answer.status_code, answer.media_type) == (404, "text/html")
    assert "<b>" not in text
    assert "<code>&lt;b&gt;</code>" in text
    assert "<code>assay experiment list</code>" in text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("headers", [[], [(b"accept", b"*/*")], [*BROWSER, (b"authorization", b"Bearer x")]])
def test_a_program_reads_a_problem(headers):
    answer = asyncio.run(refused(asked(headers), Refusal("not_ready", "draining")))
    assert (answer.status_code, answer.media_type, answer.headers["retry-after"]) == (503, "application/problem+json", "1")


@pytest.mark.parametrize(("status", "code", "method"), [(404, "not_found", "GET"), (405, "method_not_allowed", "PUT")])
def test_what_no_route_takes_is_refused_like_anything_else(status, code, method):
    answer = asyncio.run(nothing_there(asked([], method=method), HTTPException(status)))
    assert (answer.status_code, answer.media_type) == (status, "application/problem+json")
    assert f'"code":"{code}"'.encode() in bytes(answer.body)
