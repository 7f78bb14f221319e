"""How the admin port says no: a page to a browser, problem+json (RFC 9457) to everything else.

A browser is who asks by GET for `text/html` and sends no key: a command or a scraper that takes anything gets what it can read.

Example:
    Starlette(routes=routes, exception_handlers={Refusal: refused, HTTPException: nothing_there})
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from gateway.protocols.problem import problem_body
from gateway.refusals import Refusal

_TEMPLATES: Final = Environment(
    loader=PackageLoader("gateway.admin"), autoescape=select_autoescape(), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_PAGE_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}


async def refused(request: Request, refusal: Exception) -> Response:
    """Answer with a refusal, in the form that who asks can read."""
    assert isinstance(refusal, Refusal)  # noqa: S101 - registered for this class alone
    headers = {"www-authenticate": 'Bearer realm="assay"'} if refusal.status == 401 else {}
    if refusal.retry_after_s is not None:
        headers["retry-after"] = str(refusal.retry_after_s)
    if _is_browser(request):
        title = HTTPStatus(refusal.status).phrase
        text = _TEMPLATES.get_template("problem.html").render(who=None, here="", refresh=False, title=title, refusal=refusal)
        return HTMLResponse(text, refusal.status, {**headers, **_PAGE_HEADERS})
    return Response(problem_body(refusal, None), refusal.status, headers, media_type="application/problem+json")


async def nothing_there(request: Request, fault: Exception) -> Response:
    """Answer what no route takes with a refusal like any other."""
    assert isinstance(fault, HTTPException)  # noqa: S101 - registered for this class alone
    path = request.url.path
    if fault.status_code == 405:
        return await refused(request, Refusal("method_not_allowed", f"`{path}` is not for {request.method}"))
    if fault.status_code == 404:
        return await refused(request, Refusal("not_found", f"there is nothing at `{path}`"))
    return Response(fault.detail, fault.status_code, fault.headers, media_type="text/plain")


def _is_browser(request: Request) -> bool:
    return request.method == "GET" and "text/html" in request.headers.get("accept", "") and "authorization" not in request.headers
