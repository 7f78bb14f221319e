"""`opa-python-client`, restrained: no retries, no redirects, no rewriting of policies, bounded answers, one type of error.

What the library does otherwise, and why not here: it sends a failed POST again (a decision would be asked twice, and a policy error would cost
a second); it follows redirects (the caller's facts would go where the server points); it rewrites policies that OPA refuses; and an HTTP error
loses the body in which OPA says what is wrong.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from opa_client.opa_async import AsyncOpaClient

from policies.opa.query import OpaError
from policies.opa.server import Server

ANSWER_LIMIT_BYTES: Final = 256 * 1024
"""Longest answer to a question that is read: it is parsed between two calls of the lane."""
LISTING_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""Longest answer of any other kind: OPA tells policies with their syntax trees."""
_WORDS: Final = 300
_DEEP: Final = "it is nested too deep"


class Answer:
    """What a server answered, read whole, as the library asks for it."""

    def __init__(self, status: int, body: bytes) -> None:
        """Take over what was read."""
        self.status = status
        self._body = body

    def raise_for_status(self) -> None:
        """Do nothing: a status that is no success has been told as an OpaError."""

    async def json(self) -> Any:
        """Return the document. Raises OpaError `answer`."""
        try:
            return json.loads(self._body)
        except ValueError as fault:
            raise OpaError("answer", f"no JSON: {fault}") from fault
        except RecursionError:
            raise OpaError("answer", _DEEP) from None

    async def text(self) -> str:
        """Return the text."""
        return self._body.decode("utf-8", "replace")


class Client(AsyncOpaClient):  # type: ignore[misc]  # the library is untyped
    """A client of one server. Made and used on one event loop, in tasks."""

    def __init__(self, server: Server, timeout_s: float) -> None:
        """Connect nothing yet."""
        parts = urlsplit(server.url)
        default_port = 443 if parts.scheme == "https" else 80
        host = parts.hostname or ""
        super().__init__(
            host=f"[{host}]" if ":" in host else host,
            port=parts.port or default_port,
            ssl=parts.scheme == "https",
            cert=server.client_certificate,
            token=server.token,
            headers={"accept-encoding": "identity"},
            retries=0,
            timeout=timeout_s,
        )
        self._authority = server.authority
        self._open: aiohttp.ClientSession | None = None
        self._deadline_s = timeout_s

    async def _init_session(self) -> None:
        context: ssl.SSLContext | bool = True
        if self.ssl:
            context = ssl.create_default_context(cafile=self._authority)
            if self.cert is not None:
                context.load_cert_chain(self.cert)
        self._session = self._open = aiohttp.ClientSession(
            headers=self.headers,
            connector=aiohttp.TCPConnector(ssl=context, limit=64),
            auto_decompress=False,  # a few bytes could stand for any number of them
            timeout=aiohttp.ClientTimeout(total=self._deadline_s),
        )

    @asynccontextmanager
    async def _request(self, method: str, url: str, **given: Any) -> AsyncIterator[Answer]:
        """Send one request, once.

        Raises:
            OpaError: `timeout`, `refused`, `http`, `answer` for one that is too long, or `policy` for an evaluation error.
        """
        if self._open is None:
            await self._init_session()
        assert self._open is not None  # noqa: S101 - set by the line above; tells the type checker
        try:
            # The library asks for `/policies/`, which OPA redirects to `/policies`.
            async with self._open.request(method, url.rstrip("/"), allow_redirects=False, **given) as response:
                answer = Answer(response.status, await _read(response, ANSWER_LIMIT_BYTES if method == "POST" else LISTING_LIMIT_BYTES))
            if method in {"POST", "GET"} and answer.status != 200:
                raise await _fault(answer)
            yield answer
        except TimeoutError as fault:
            raise OpaError("timeout", f"no answer within `{self._deadline_s}` s") from fault
        except aiohttp.ClientConnectionError as fault:
            raise OpaError("refused", f"no connection: {getattr(fault, 'os_error', fault)}") from fault
        except (aiohttp.ClientError, ValueError) as fault:
            raise OpaError("answer", f"{type(fault).__name__}: {fault}") from fault

    async def decide(self, path: str, given: Mapping[str, Any]) -> Any:
        """Query the document at `path` with built-in errors told, not swallowed, and with provenance. Raises OpaError."""
        return await self.query_rule(given, path, query_params={"provenance": "true", "strict-builtin-errors": "true"})


async def _read(response: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    """Return the whole body. Raises OpaError `answer` for one that is longer, whatever its head says."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > limit_bytes:
            response.close()
            raise OpaError("answer", f"an answer of more than `{limit_bytes}` bytes")
    return bytes(body)


async def _fault(response: Answer) -> OpaError:
    """Read what OPA says about an error: `policy` if a rule could not be evaluated."""
    try:
        body = await response.json()
    except OpaError:
        body = None
    errors = body.get("errors") if isinstance(body, dict) else None
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    code = str(first.get("code", ""))
    if response.status == 500 and code.startswith("eval_"):
        return OpaError("policy", f"{code[:_WORDS]}: {_brief(first.get('message'))}")
    said = _brief(body.get("message")) if isinstance(body, dict) else ""
    return OpaError("http", f"status `{response.status}` {said} {_brief(first.get('message'))}".strip())


def _brief(said: Any) -> str:
    """Return the first line of what a server says, as much of it as a log may be told a second."""
    lines = said[: 4 * _WORDS].splitlines() if isinstance(said, str) else []
    return lines[0][:_WORDS] if lines else ""
