"""The vault's page: how much it holds, who was erased when and by whose consent, and how to ask for an erasure. It destroys nothing itself.

For a data-protection officer and an auditor. An erasure takes the subject's name and people's signatures: a browser holds no private key, and a name
typed into a page is in its history, so the page says which commands do it. What is listed is read from the log, and recorded as a read before it is
shown; of what the vault holds it tells numbers alone.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from audit.entry import time_text
from audit.query import Query
from audit.store.errors import StoreError
from gateway.admin.access import SEES_THE_VAULT, Access, require_one_of
from gateway.admin.reading import Reading
from gateway.admin.reads import Reads
from gateway.admin.records import Render
from gateway.authenticate import Principal
from gateway.control.erasures import SCOPE, Erasures
from gateway.refusals import Refusal

LISTED: Final = 50
GROUNDS: Final = {
    "request": "the person asked for it",
    "objection": "the person objected",
    "retention": "its time was over",
    "order": "an authority or a court ordered it",
}
"""The codes of `policies.erasure.Ground` in words."""


class VaultPage:
    """The route. Holds no state."""

    def __init__(self, erasures: Erasures | None, reading: Reading, reads: Reads, access: Access, render: Render) -> None:
        """Show `erasures`, None where there is no vault, and what `reading` finds of it in the log."""
        self._erasures = erasures
        self._reading = reading
        self._reads = reads
        self._access = access
        self._render = render

    def routes(self) -> list[Route]:
        """Return the table of routes."""
        return [Route("/vault", self._page)]

    async def _page(self, request: Request) -> Response:
        principal = self._access.who(request)
        if principal is None:
            return RedirectResponse("/login", status_code=303)
        require_one_of(principal, SEES_THE_VAULT, request.url.path)
        asked = Query(type="erasure")
        try:
            size, records = await self._reading.records(asked, LISTED)
        except StoreError as error:
            raise Refusal("not_found", f"the log cannot be read: {error}") from None
        await self._reads.question(principal, asked.stated(), size=size, rows=len(records))
        return self._render(
            "vault.html",
            principal=principal,
            here="vault",
            vault=await self._vault(),
            erasures=[erasure_row(index, record) for index, record in records],
            most=LISTED,
            may_read="audit:read" in principal.scopes,
            commands=None if self._erasures is None else commands(self._erasures.origin, self._erasures.people, principal),
        )

    async def _vault(self) -> dict[str, Any] | None:
        if self._erasures is None:
            return None
        try:
            held, pending = await self._erasures.holds()
        except StoreError as error:
            return {"fault": str(error), "pending": 0, "people": self._erasures.people}
        return {
            "fault": "",
            "entries": held.entries,
            "subjects": held.subjects,
            "next_end": "" if held.next_end_us is None else f"{time_text(held.next_end_us)[:16].replace('T', ' ')} UTC",
            "pending": pending,
            "people": self._erasures.people,
        }


def erasure_row(index: int, record: dict[str, Any]) -> dict[str, Any]:
    """Return what the list says of one `erasure` record."""
    return {
        "index": index,
        "erasure": str(record.get("erasure", "")),
        "time": str(record.get("time", ""))[:19].replace("T", " "),
        "ground": GROUNDS.get(str(record.get("ground")), str(record.get("ground", ""))),
        "tenant": str(record.get("tenant", "")),
        "by": str(record.get("actor", {}).get("id", "")),
        "signed": ", ".join(str(one.get("person", "")) for one in record.get("signed", ())),
        "data_keys": len(record.get("keys", ())),
        "entries": int(record.get("entries", 0)),
    }


def commands(origin: str, people: int, principal: Principal) -> list[tuple[str, str]]:
    """Return what to run for an erasure: (who, command), one for each person who signs, and the last one delivers it."""
    tenant = "TENANT" if "tenants:all" in principal.scopes else principal.tenant
    base = f"assay audit erase - --tenant {tenant} --log {origin} --ground GROUND"
    names = ["first", "second", "third", "fourth", "fifth"]
    given = [f"{names[number]}.consent" if number < len(names) else f"consent-{number + 1}" for number in range(max(0, people - 1))]
    signs = [
        (f"The {file.partition('.')[0]} person, on their machine", f"{base} --as PERSON --key FILE --write {file} < subject.txt") for file in given
    ]
    last = "".join(f" --consent {file}" for file in given)
    own = " --as PERSON --key FILE" if people else ""
    who = "The last person" if people > 1 else "The person who signs" if people else "Whoever may"
    return [*signs, (f"{who}, with an API key of scope `{SCOPE}` in `ASSAY_KEY`", f"{base}{own}{last} --admin ADMIN < subject.txt")]
