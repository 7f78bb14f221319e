"""The admin port's routes: console pages, `/api/...`, `/metrics`, `/log/...`.

Everything but `/healthz`, `/login` and the static files asks who it is; the log's checkpoint and hash tiles hold nothing secret, its
entries need `audit:read`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from audit import tiles
from audit.follow import Follower
from gateway.admin.access import COOKIE, PAGES, SEES_EXPERIMENTS, SEES_THE_HEAD, SEES_TRAFFIC, SESSION_S, Access, require_one_of
from gateway.admin.buttons import buttons_for
from gateway.admin.charts import traffic_chart
from gateway.admin.effects import EffectBoard
from gateway.admin.experiments_api import Act, ExperimentsApi
from gateway.admin.metrics import Collector
from gateway.admin.problems import nothing_there, refused
from gateway.admin.reads import Reads
from gateway.admin.receipts import ReceiptsApi
from gateway.admin.records import RecordsApi
from gateway.admin.state import AdminState
from gateway.admin.traffic import HISTORY_S
from gateway.admin.vault_api import VaultApi
from gateway.admin.vault_page import VaultPage
from gateway.authenticate import Principal
from gateway.refusals import CODES, Refusal

_FORM_BYTES: Final = 8192
_STATIC = Path(__file__).parent / "static"
_TILE: Final = re.compile(r"tile/(entries|[0-9]|[1-5][0-9]|6[0-3])/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-5]))?")
_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}
Handler = Callable[[Request], Awaitable[Response]]


def create_app(state: AdminState, act: Act) -> Starlette:
    """Return the admin port's application; `act` takes a step of an experiment that someone asks for."""
    pages = Pages(state)
    records = RecordsApi(state.reading, pages.reads, pages.access, pages.render)
    receipts = ReceiptsApi(state.reading, state.authenticator, state.registry.receipt_keys, time.monotonic)
    vault = VaultApi(state.erasures, records, pages.reads, pages.access, pages.render, state.require_leader)
    erased = VaultPage(state.erasures, state.reading, pages.reads, pages.access, pages.render)
    parts = (ExperimentsApi(state, pages.access, act, pages.board), vault, erased, records, receipts, pages)
    routes = [route for part in parts for route in part.routes()]
    return Starlette(routes=routes, exception_handlers={Refusal: refused, HTTPException: nothing_there})


class Pages:
    """The routes. Holds no state of its own but the sessions."""

    def __init__(self, state: AdminState) -> None:
        """Show `state`."""
        self._state = state
        self.access = Access(state.authenticator, state.tenants_ever)
        self.reads = Reads(state.clerk, time.monotonic)
        self.board = EffectBoard()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(Collector(state))
        self._templates = Environment(
            loader=PackageLoader("gateway.admin"), autoescape=select_autoescape(), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        self._templates.filters["duration"] = _duration

    def routes(self) -> list[Route | Mount]:
        """Return the table of routes."""
        return [
            Route("/", self._home),
            Route("/experiments", self._page(self._experiments, SEES_EXPERIMENTS)),
            Route("/experiments/{name}", self._experiment_page),
            Route("/audit-log", self._page(self._log, SEES_THE_HEAD)),
            Route("/login", self._login, methods=["GET", "POST"]),
            Route("/logout", self._logout, methods=["POST"]),
            Route("/healthz", _healthz),
            Route("/metrics", self._for("admin:read", self._metrics)),
            Route("/api/status", self._for("admin:read", self._api_status)),
            Route("/log/{path:path}", self._log_file),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ]

    # --- who ------------------------------------------------------------------------------------------------------------------------------

    def _for(self, scope: str, handler: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            principal = self.access.who(request)
            if principal is None:
                raise Refusal("no_credentials", "the request carries no key and no session")
            if scope not in principal.scopes:
                raise Refusal("missing_scope", f"`{request.url.path}` needs the scope `{scope}`")
            return await handler(request)

        return guarded

    def _page(self, handler: Callable[[Request], dict[str, Any] | None], scopes: frozenset[str]) -> Handler:
        async def page(request: Request) -> Response:
            principal = self.access.who(request)
            if principal is None:
                return RedirectResponse("/login", status_code=303)
            require_one_of(principal, scopes, request.url.path)
            context = handler(request)
            if context is None:
                raise Refusal("not_found", f"there is nothing at `{request.url.path}`")
            return self.render(context.pop("template"), principal=principal, **context)

        return page

    async def _home(self, request: Request) -> Response:
        """Show the traffic, or lead who may not see it to the first page that is theirs."""
        principal = self.access.who(request)
        if principal is not None and SEES_TRAFFIC.isdisjoint(principal.scopes):
            theirs = next(path for path, scopes in PAGES.items() if not scopes.isdisjoint(principal.scopes))
            return RedirectResponse(theirs, status_code=303)
        return await self._page(self._traffic, SEES_TRAFFIC)(request)

    async def _login(self, request: Request) -> Response:
        wrong = ""
        if request.method == "POST":
            try:
                session = self.access.sign_in(await _form_field(request, "key"))
            except Refusal as refusal:
                wrong = refusal.detail
            else:
                answer = RedirectResponse("/", status_code=303)
                answer.set_cookie(COOKIE, session, max_age=SESSION_S, httponly=True, samesite="strict", secure=request.url.scheme == "https")
                return answer
        return self.render("login.html", principal=None, wrong=wrong, status=403 if wrong else 200)

    async def _logout(self, request: Request) -> Response:
        self.access.sign_out(request)
        answer = RedirectResponse("/login", status_code=303)
        answer.delete_cookie(COOKIE)
        return answer

    # --- pages ----------------------------------------------------------------------------------------------------------------------------

    def _traffic(self, _request: Request) -> dict[str, Any]:
        state, traffic = self._state, self._state.traffic
        rows = traffic.by_version()
        last = traffic.history[-1] if traffic.history else None
        head = state.head()
        return {
            "template": "traffic.html",
            "here": "traffic",
            "refresh": True,
            "issues": state.configuration.issues,
            "rate": 0 if last is None else last.served + last.refused + last.failed,
            "served": sum(row["calls"] - row["failed"] - row["refused"] for row in rows),
            "refused": sum(row["refused"] for row in rows) + sum(traffic.refused_early.values()),
            "failed": sum(row["failed"] for row in rows),
            "oldest_us": traffic.oldest_unconfirmed_us(),
            "log_size": 0 if head is None else head.size,
            "chart": traffic_chart(list(traffic.history), HISTORY_S),
            "versions": rows,
            "early": sorted(traffic.refused_early.items()),
            "environment": state.environment,
            "config_digest": state.configuration.digest or "",
            "workers": len(traffic.workers),
        }

    def _experiments(self, _request: Request) -> dict[str, Any]:
        return {"template": "experiments.html", "here": "experiments", "refresh": True, "experiments": self._state.experiments()}

    async def _experiment_page(self, request: Request) -> Response:
        principal = self.access.who(request)
        if principal is None:
            return RedirectResponse("/login", status_code=303)
        require_one_of(principal, SEES_EXPERIMENTS, request.url.path)
        name = request.path_params["name"]
        try:
            experiment = self._state.experiment(name)
        except KeyError:
            raise Refusal("not_found", f"there is nothing at `{request.url.path}`") from None
        found = self._state.rollouts.running[name]
        looks = [*found.looks, *([] if found.evidence is None else [(found.seen_until, found.evidence)])]
        shown = await asyncio.to_thread(self.board.of, found.document, looks)
        evidence = found.evidence or found.pairs
        outlook = [] if evidence is None else (await asyncio.to_thread(self.board.now, found.document, found.seen_until, evidence))["outlook"]
        buttons = buttons_for(found, principal) if self._state.leader() is None else []
        refused = CODES.get(request.query_params.get("refused", ""))
        return self.render(
            "experiment.html",
            principal=principal,
            here="experiments",
            refresh=True,
            e=experiment,
            effects=shown,
            outlook=outlook,
            buttons=buttons,
            refused=refused,
        )

    def _log(self, _request: Request) -> dict[str, Any]:
        state = self._state
        return {
            "template": "log.html",
            "here": "log",
            "refresh": True,
            "head": state.head(),
            "witnesses": state.witness_standings(),
            "vkey": state.vkey,
            "data": str(state.data_dir),
        }

    def render(self, template: str, *, principal: Principal | None, status: int = 200, **context: Any) -> HTMLResponse:
        """Return a page of the console."""
        who = None
        if principal is not None:
            pages = [path for path, scopes in PAGES.items() if not scopes.isdisjoint(principal.scopes)]
            who = {"id": principal.id, "roles": [scope for scope in principal.scopes if ":" in scope], "pages": pages}
        text = self._templates.get_template(template).render(**{"who": who, "here": "", "refresh": False, "follows": self._state.leader(), **context})
        return HTMLResponse(text, status, headers=_HEADERS)

    # --- machines -------------------------------------------------------------------------------------------------------------------------

    async def _metrics(self, _request: Request) -> Response:
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    async def _api_status(self, _request: Request) -> Response:
        state = self._state
        head, leader = state.head(), state.leader()
        return JSONResponse(
            {
                "environment": state.environment,
                "node": {"name": state.node, "role": "leads" if leader is None else "follows", "leader": leader or state.node},
                "config_digest": state.configuration.digest,
                "issues": list(state.configuration.issues),
                "refused_approvals": state.inbox.refused,
                "versions": state.traffic.by_version(),
                "refused_early": state.traffic.refused_early,
                "log": None
                if head is None
                else {"size": head.size, "root": head.root, "origin": head.origin, "vkey": state.vkey, "cosigned": sorted(head.cosigned)},
            }
        )

    async def _log_file(self, request: Request) -> Response:
        """Serve the log's public files, C2SP tlog-tiles; entry bundles that are not sealed yet are made from the rows."""
        name = request.path_params["path"]
        principal = self.access.who(request, of_nobody=not name.startswith("tile/entries/"))
        if principal is None:
            raise Refusal("no_credentials", "the request carries no key and no session")
        root = self._state.data_dir / "log"
        if name in ("checkpoint", "vkey"):
            return FileResponse(root / name, media_type="text/plain; charset=utf-8", headers={"cache-control": "no-store"})
        match = _TILE.fullmatch(name)
        if match is None:
            raise Refusal("not_found", f"`{name}` is not a path of the log")
        if match[1] == "entries" and "audit:read" not in principal.scopes:
            raise Refusal("missing_scope", "the log's entries need the scope `audit:read`")
        if match[1] == "entries":
            await self.reads.entries(principal, self._state.tree.size)
        path = root / name
        if path.is_file():
            return FileResponse(path, media_type="application/octet-stream")
        if match[1] != "entries":
            raise Refusal("not_found", f"the log has no `{name}`")
        return self._bundle(int(match[2].replace("x", "").replace("/", "")), int(match[3] or tiles.WIDTH))

    def _bundle(self, number: int, width: int) -> Response:
        first = number * tiles.WIDTH
        if first + width > self._state.tree.size:
            raise Refusal("not_found", "the log's signed head does not reach this bundle")
        with Follower(self._state.data_dir) as follower:
            rows = follower.read(first, width)
        return Response(tiles.encode_bundle([leaf for _, leaf in rows]), media_type="application/octet-stream")


async def _healthz(_request: Request) -> Response:
    return JSONResponse({"live": True})


async def _form_field(request: Request, name: str) -> str:
    """Return a field of a small urlencoded form, or an empty text."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _FORM_BYTES:
            raise Refusal("body_too_large", f"a form of this page is at most {_FORM_BYTES} bytes long")
    return parse_qs(body.decode("utf-8", "replace")).get(name, [""])[0].strip()


def _duration(value_us: int | None) -> str:
    if value_us is None:
        return "-"
    return f"{value_us / 1000:g} ms" if value_us < 1_000_000 else f"{value_us / 1e6:g} s"
