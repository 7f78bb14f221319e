"""Records on the admin port: asked for by condition, shown with their proof, handed over as evidence.

Every answer here is a read by a person or their program, and is recorded before it is sent: one that cannot be recorded is a 503. All of it needs
`audit:read`. Pages of one walk are pinned to one tree size by their cursor.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from audit.bundle import RECORDS_LIMIT, BundleError
from audit.entry import time_text
from audit.formats import FORMATS, MEDIA_TYPES, Format, FormatUnavailable, render_rows, require
from audit.merkle import ProofError
from audit.note import NoteError
from audit.query import CONDITIONS, Page, Query, QueryError, question
from audit.source import SourceError
from audit.store.errors import StoreError
from audit.tiles import TileError
from audit.vault.standing import captured_of
from gateway.admin.access import SEES_RECORDS, Access, require_one_of
from gateway.admin.reading import Reading, Shown
from gateway.admin.reads import Reads
from gateway.authenticate import Principal
from gateway.refusals import Refusal

Render = Callable[..., Response]
_MOST_ROWS: Final = 1000
_PAGE_ROWS: Final = 50
_MOST_DIGITS: Final = 18


class RecordsApi:
    """The routes. Holds no state."""

    def __init__(self, reading: Reading, reads: Reads, access: Access, render: Render) -> None:
        """Answer through `reading`, record through `reads`, show pages by `render`."""
        self._reading = reading
        self._reads = reads
        self._access = access
        self._render = render

    def routes(self) -> list[Route]:
        """Return the table of routes."""
        return [
            Route("/records", self._search_page),
            Route("/records/{index}", self._record_page),
            Route("/api/records", self._search),
            Route("/api/records/{index}", self._one),
            Route("/api/records/{index}/proof", self._proof),
            Route("/api/records/{index}/leaf", self._leaf),
            Route("/api/evidence", self._evidence),
        ]

    # --- machines -------------------------------------------------------------------------------------------------------------------------

    async def _search(self, request: Request) -> Response:
        principal = self._reader(request)
        given = dict(request.query_params)
        form = _format(given.pop("format", "json"))
        page = await self._page(principal, given)
        if form is not None:
            headers = {"assay-log-size": str(page.size), **({"assay-cursor": page.cursor} if page.cursor else {})}
            return Response(render_rows(form, page.rows), headers=headers, media_type=MEDIA_TYPES[form])
        head = self._reading.head()
        signed = 0 if head is None else head.checkpoint.size
        return JSONResponse({"size": page.size, "signed_size": signed, "cursor": page.cursor, "rows": msgspec.to_builtins(page.rows)})

    async def _one(self, request: Request) -> Response:
        shown = await self._shown(request)
        return JSONResponse(
            {
                "index": shown.index,
                "record": shown.record,
                "related": [{"index": index, "record": record} for index, record in shown.related.items()],
                "explanation": dataclasses.asdict(shown.explanation),
                "proof": None if shown.proof is None else shown.proof.encode().decode(),
            }
        )

    async def _proof(self, request: Request) -> Response:
        shown = await self._shown(request)
        if shown.proof is None:
            raise Refusal("not_found", "no signed head covers this record yet", hint="ask again in a second")
        return _file(shown.proof.encode(), f"{shown.index:08d}.tlog-proof", "text/plain; charset=utf-8")

    async def _leaf(self, request: Request) -> Response:
        shown = await self._shown(request)
        return _file(shown.leaf, f"{shown.index:08d}.leaf", "application/octet-stream")

    async def _evidence(self, request: Request) -> Response:
        """Answer with a bundle of the records of a question, or of a range `first`..`end`."""
        principal = self._reader(request)
        given = dict(request.query_params)
        first, end = given.pop("first", None), given.pop("end", None)
        span = None if first is None and end is None else _span(first, end)
        if span is not None and given:
            raise Refusal("malformed_query", "a range holds every record: it takes no condition")
        head = self._reading.head()
        if head is None:
            raise Refusal("not_found", "no head has been signed yet")
        asked = _question(given, oldest_first=True)
        indices = list(range(*span)) if span else await self._chosen(asked, head.checkpoint.size)
        stated: dict[str, Any] = {"range": f"{span[0]}:{span[1]}"} if span else asked.stated()
        await self._reads.export(principal, stated, size=head.checkpoint.size, rows=len(indices))
        try:
            data = await self._reading.bundle(indices, stated, time_text(time.time_ns() // 1000), span)
        except BundleError as error:
            raise Refusal("malformed_query", str(error)) from None
        except (ProofError, NoteError, TileError, SourceError) as error:
            raise Refusal("not_found", f"the log does not give these records: {error}") from None
        return _file(data, "evidence.zip", "application/zip")

    async def _chosen(self, asked: Query, size: int) -> list[int]:
        page = await self._answered(asked, RECORDS_LIMIT, None)
        indices = [row.idx for row in page.rows if row.idx < size]
        if page.cursor is not None or not indices:
            raise Refusal("malformed_query", f"a bundle holds 1 to {RECORDS_LIMIT} records; this question has {'more' if page.cursor else 'none'}")
        return indices

    # --- pages ----------------------------------------------------------------------------------------------------------------------------

    async def _search_page(self, request: Request) -> Response:
        if self._access.who(request) is None:
            return RedirectResponse("/login", status_code=303)
        principal = self._reader(request)
        given = {name: value.strip() for name, value in request.query_params.items() if value.strip()}
        wrong, page = "", None
        try:
            page = await self._page(principal, dict(given)) if request.query_params else None
        except Refusal as refusal:
            if refusal.code != "malformed_query":
                raise
            wrong = f"{refusal.detail}. {refusal.hint or ''}"
        asked = {name: value for name, value in given.items() if name in CONDITIONS}
        return self._render(
            "records.html",
            principal=principal,
            here="records",
            asked=asked,
            page=page,
            wrong=wrong,
            head=self._reading.head(),
            full="full_scan" in given,
        )

    async def _record_page(self, request: Request) -> Response:
        if self._access.who(request) is None:
            return RedirectResponse("/login", status_code=303)
        shown = await self._shown(request)
        head = self._reading.head()
        text = msgspec.json.format(shown.leaf, indent=2).decode("utf-8", "replace") if shown.record.get("type") != "unreadable" else repr(shown.leaf)
        principal = self._reader(request)
        captured = "vault" in captured_of(shown.record, list(shown.related.values()))[1]
        about = {"shown": shown, "text": text, "head": head, "captured": captured, "may_open": "vault:read" in principal.scopes}
        return self._render("record.html", principal=principal, here="records", **about)

    # --- what both share ------------------------------------------------------------------------------------------------------------------

    def _reader(self, request: Request) -> Principal:
        principal = self._access.who(request)
        if principal is None:
            raise Refusal("no_credentials", "the request carries no key and no session")
        require_one_of(principal, SEES_RECORDS, request.url.path)
        return principal

    async def _page(self, principal: Principal, given: dict[str, str]) -> Page:
        """Answer a question given as parameters, and record that it was asked."""
        limit, cursor = given.pop("limit", str(_PAGE_ROWS)), given.pop("cursor", None)
        full, oldest = given.pop("full_scan", "") not in {"", "0"}, given.pop("oldest_first", "") not in {"", "0"}
        rows = _whole(limit)
        if rows is None or not 1 <= rows <= _MOST_ROWS:
            raise Refusal("malformed_query", f"`limit={limit[:20]}` is not 1 to {_MOST_ROWS}")
        asked = _question(given, oldest_first=oldest)
        page = await self._answered(asked, rows, cursor, full=full)
        await self._reads.question(principal, asked.stated(), size=page.size, rows=len(page.rows), full=full)
        return page

    async def _answered(self, asked: Query, limit: int, cursor: str | None, *, full: bool = False) -> Page:
        try:
            return await self._reading.page(asked, limit, cursor, full=full)
        except QueryError as error:
            raise Refusal("malformed_query", str(error), hint=error.hint) from None
        except StoreError as error:
            raise Refusal("not_found", f"the log cannot be read: {error}") from None

    async def _shown(self, request: Request) -> Shown:
        return await self.shown(request, self._reader(request))

    async def shown(self, request: Request, principal: Principal) -> Shown:
        """Return the record a path names, and commit that `principal` was shown it. Raises Refusal."""
        index = _whole(request.path_params["index"])
        if index is None:
            raise Refusal("not_found", "a record is named by its index, a whole number")
        try:
            shown = await self._reading.show(index)
        except (StoreError, ProofError, NoteError, TileError, SourceError) as error:
            raise Refusal("not_found", f"record `{index}` cannot be read: {error}") from None
        if shown is None:
            raise Refusal("not_found", f"the log has no record `{index}`")
        await self._reads.question(principal, {"index": str(index)}, size=index + 1, rows=1 + len(shown.related))
        return shown


def _question(given: Mapping[str, str], *, oldest_first: bool) -> Query:
    try:
        return question({name: value for name, value in given.items() if value}, oldest_first=oldest_first)
    except QueryError as error:
        raise Refusal("malformed_query", str(error), hint=error.hint) from None


def _format(name: str) -> Format | None:
    """Return the format of a table; None for one JSON document."""
    if name == "json":
        return None
    found = next((one for one in FORMATS if one == name), None)
    if found is None:
        raise Refusal("malformed_query", f"`format={name[:20]}` is not known", hint=f"json, {', '.join(FORMATS)}")
    try:
        require(found)
    except FormatUnavailable as error:
        raise Refusal("malformed_query", str(error)) from None
    return found


def _span(first: str | None, end: str | None) -> tuple[int, int]:
    start, stop = _whole(first or ""), _whole(end or "")
    if start is None or stop is None or not start < stop <= start + RECORDS_LIMIT:
        raise Refusal("malformed_query", f"a range has `first` below `end`, at most {RECORDS_LIMIT} apart")
    return start, stop


def _whole(text: str) -> int | None:
    """Return a whole number of up to 18 digits, as every index is; Python itself refuses to read much longer ones, by an error."""
    return int(text) if len(text) <= _MOST_DIGITS and text.isascii() and text.isdecimal() else None


def _file(data: bytes, name: str, media_type: str) -> Response:
    headers = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store", "x-content-type-options": "nosniff"}
    return Response(data, headers=headers, media_type=media_type)
