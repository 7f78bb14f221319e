"""Experiments on the admin port for machines and forms: what there is, and the steps people may take.

`POST /api/experiments/{name}/{action}` takes `{"reason": ..., "epoch"?: ..., "phase"?: ..., "consents"?: [envelope, ...]}`; the console's buttons
send the same as a form. Who may do what is `gateway/control/orders.py`'s to say, what exists from where `experiments/lifecycle.py`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from experiments.lifecycle import ASKED_BY, IllegalStepError, Verb
from experiments.rollout import Action
from gateway.admin.access import SAFER_STEPS, SEES_EXPERIMENTS, Access, require_one_of
from gateway.admin.effects import EffectBoard
from gateway.admin.state import AdminState
from gateway.authenticate import Principal
from gateway.control.orders import Asked, unknown
from gateway.refusals import Refusal

Act = Callable[[Asked, Principal], Awaitable[Action]]
_BODY_BYTES: Final = 64 * 1024
_MOST_DIGITS: Final = 18
_VERBS: Final[Mapping[str, Verb]] = {verb: verb for verb in ASKED_BY}


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a step."""

    reason: str = ""
    epoch: int | None = None
    phase: str | None = None
    consents: tuple[str, ...] = ()


class ExperimentsApi:
    """The routes. Holds no state."""

    def __init__(self, state: AdminState, access: Access, act: Act, board: EffectBoard) -> None:
        """Tell of `state`; `act` takes a step that a principal asks for; `board` works effects out."""
        self._board = board
        self._state = state
        self._access = access
        self._act = act

    def routes(self) -> list[Route]:
        """Return the table of routes."""
        return [
            Route("/api/experiments", self._list),
            Route("/api/experiments/{name}", self._one),
            Route("/api/experiments/{name}/{action}", self._step, methods=["POST"]),
            Route("/experiments/{name}/{action}", self._form, methods=["POST"]),
        ]

    async def _list(self, request: Request) -> Response:
        self._reader(request)
        return JSONResponse({"experiments": self._state.experiments(), "register": self._state.register()})

    async def _one(self, request: Request) -> Response:
        self._reader(request)
        name = request.path_params["name"]
        try:
            told = self._state.experiment(name)
        except KeyError:
            raise unknown(name, len(self._state.configuration.issues)) from None
        found = self._state.rollouts.running[name]
        now: dict[str, Any] = {"effects": [], "outlook": []}
        evidence = found.evidence or found.pairs
        if evidence is not None:
            now = await asyncio.to_thread(self._board.now, found.document, found.seen_until, evidence)
        if found.state.phase not in ("running", "paused"):
            now = {**now, "outlook": []}  # it has ended: nothing changes it any more
        return JSONResponse({**told, **now})

    async def _step(self, request: Request) -> Response:
        principal = self._actor(request)
        try:
            body = msgspec.json.decode(await read_body(request) or b"{}", type=_Body)
        except msgspec.DecodeError as fault:
            raise Refusal("malformed_body", f"the body of a step: {fault}") from None
        consents = tuple(text.encode() for text in body.consents)
        asked = Asked(request.path_params["name"], _verb(request), body.reason, body.epoch, body.phase, consents)
        action = await self._take(asked, principal)
        return JSONResponse(
            {
                "experiment": asked.experiment,
                "action": action.verb,
                "from": action.before.phase,
                "to": action.after.phase,
                "epoch": action.after.epoch,
            }
        )

    async def _form(self, request: Request) -> Response:
        principal = self._actor(request)
        form = {name: values[0].strip() for name, values in parse_qs((await read_body(request)).decode("utf-8", "replace")).items()}
        epoch = form.get("epoch", "")
        name = request.path_params["name"]
        seen = int(epoch) if epoch.isdecimal() and len(epoch) <= _MOST_DIGITS else None
        asked = Asked(name, _verb(request), form.get("reason", ""), seen, form.get("phase"))
        try:
            await self._take(asked, principal)
        except Refusal as refusal:
            return RedirectResponse(f"/experiments/{name}?refused={refusal.code}", status_code=303)
        return RedirectResponse(f"/experiments/{name}", status_code=303)

    async def _take(self, asked: Asked, principal: Principal) -> Action:
        try:
            return await self._act(asked, principal)
        except IllegalStepError as fault:
            raise Refusal("illegal_step", str(fault)) from None

    def _actor(self, request: Request) -> Principal:
        return self._require(request, of_nobody=request.path_params["action"] in SAFER_STEPS)

    def _require(self, request: Request, *, of_nobody: bool = False) -> Principal:
        principal = self._access.who(request, of_nobody=of_nobody)
        if principal is None:
            raise Refusal("no_credentials", "the request carries no key and no session")
        return principal

    def _reader(self, request: Request) -> None:
        require_one_of(self._require(request), SEES_EXPERIMENTS, request.url.path)


def _verb(request: Request) -> Verb:
    action = request.path_params["action"]
    verb = _VERBS.get(action)
    if verb is None:
        raise Refusal("not_found", f"there is no step `{action}`", hint=f"steps: {', '.join(_VERBS)}")
    return verb


async def read_body(request: Request) -> bytes:
    """Return a request's body. Raises Refusal where it is too long."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _BODY_BYTES:
            raise Refusal("body_too_large", f"the body is at most {_BODY_BYTES} bytes long")
    return body
