"""`opa-python-client`, restrained: no retries, no redirects, no rewriting of policies, bounded answers, one type of error.

What the library does otherwise, and why not here: it sends a failed POST again (a decision would be asked twice, and a policy error would cost
a second); it follows redirects (the caller's facts would go where the server points); it rewrites policies that OPA refuses; and an HTTP error
loses the body in which OPA says what is wrong.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from opa_client.opa_async import AsyncOpaClient

from policies.opa.query import OpaError
from policies.opa.server import Server

ANSWER_LIMIT_BYTES: Final = 4 * 1024 * 1024
"""Longest answer that is read."""


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
            headers={},
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
            timeout=aiohttp.ClientTimeout(total=self._deadline_s),
        )

    @asynccontextmanager
    async def _request(self, method: str, url: str, **given: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request, once.

        Raises:
            OpaError: `timeout`, `refused`, `http`, or `policy` for an evaluation error.
        """
        if self._open is None:
            await self._init_session()
        assert self._open is not None  # noqa: S101 - set by the line above; tells the type checker
        try:
            # The library asks for `/policies/`, which OPA redirects to `/policies`.
            async with self._open.request(method, url.rstrip("/"), allow_redirects=False, **given) as response:
                if (response.content_length or 0) > ANSWER_LIMIT_BYTES:
                    raise OpaError("answer", f"an answer of `{response.content_length}` bytes")
                if method in {"POST", "GET"} and response.status != 200:
                    raise await _fault(response)
                yield response
        except TimeoutError as fault:
            raise OpaError("timeout", f"no answer within `{self._deadline_s}` s") from fault
        except aiohttp.ClientConnectionError as fault:
            raise OpaError("refused", f"no connection: {getattr(fault, 'os_error', fault)}") from fault
        except (aiohttp.ClientError, ValueError) as fault:
            raise OpaError("answer", f"{type(fault).__name__}: {fault}") from fault

    async def decide(self, path: str, given: Mapping[str, Any]) -> Any:
        """Query the document at `path` with built-in errors told, not swallowed, and with provenance. Raises OpaError."""
        return await self.query_rule(given, path, query_params={"provenance": "true", "strict-builtin-errors": "true"})


async def _fault(response: aiohttp.ClientResponse) -> OpaError:
    """Read what OPA says about an error: `policy` if a rule could not be evaluated."""
    try:
        body = await response.json(content_type=None)
    except (aiohttp.ClientError, ValueError):
        body = None
    errors = body.get("errors") if isinstance(body, dict) else None
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    code = str(first.get("code", ""))
    if response.status == 500 and code.startswith("eval_"):
        return OpaError("policy", f"{code}: {str(first.get('message', '')).splitlines()[0] if first.get('message') else ''}")
    said = body.get("message", "") if isinstance(body, dict) else ""
    return OpaError("http", f"status `{response.status}` {said} {first.get('message', '')}".strip())
