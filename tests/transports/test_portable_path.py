"""The portable transport judges the path as it was sent, or none."""

import asyncio
import json
from typing import Any

import pytest
from transport_harness import render

from gateway.portable.app import build_app


@pytest.mark.parametrize("path", ["/v2/models/m/infer", "/http/m/caf\u00e9", "/a/b"])
def test_a_server_that_gives_no_raw_path_is_told_so_and_no_path_is_guessed(path: str):
    served, sent = [], []

    async def serve(exchange: Any) -> None:
        served.append(exchange.request.path)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "http_version": "1.1", "path": path, "query_string": b"", "headers": [(b"host", b"h")], "client": None}
    asyncio.run(build_app(serve, render=render, body_limit_bytes=10)(scope, receive, send))
    assert served == []
    assert sent[0]["status"] == 500
    assert json.loads(sent[1]["body"])["code"] == "malformed_request"
