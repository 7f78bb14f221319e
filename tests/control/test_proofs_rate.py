"""Proofs of receipts on the admin port: one key's questions do not keep the process that publishes from its work."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from starlette.requests import Request

from audit.receipt import Certificates
from gateway import apikeys
from gateway.admin.receipts import ReceiptsApi
from gateway.authenticate import Authenticator
from gateway.limits import PROOFS_PER_S
from gateway.refusals import Refusal

DECISION = "01a1fbcc-5e01-7403-96da-84370087a0ca"


class FakeReading:
    """Answers every question, and counts them."""

    asked = 0

    async def receipt(self, *_: object) -> dict[str, Any]:
        self.asked += 1
        return {}


def test_a_key_asks_for_no_more_proofs_a_second_here_than_at_the_front_door():
    file, secrets = apikeys.new_file(os.urandom), []
    for _ in range(2):
        secret, file = apikeys.create(file, tenant="acme", scopes=("infer",), models=(), expires_us=None, random=os.urandom, now_us=1)
        secrets.append(secret)
    authenticator, reading, now_s = Authenticator(apikeys.KeyTable.of(file)), FakeReading(), [1.0]
    (route,) = ReceiptsApi(reading, lambda: authenticator, Certificates(), lambda: now_s[0]).routes()

    def ask(secret: str) -> int:
        scope = {"type": "http", "headers": [(b"authorization", b"Bearer " + secret.encode())], "path_params": {"id": DECISION}}
        return asyncio.run(route.endpoint(Request(scope))).status_code

    for _ in range(PROOFS_PER_S):
        assert ask(secrets[0]) == 200
    with pytest.raises(Refusal) as refused:
        ask(secrets[0])
    assert (refused.value.code, refused.value.retry_after_s) == ("rate_limited", 1)
    assert reading.asked == PROOFS_PER_S, "nothing was read for the one refused"
    assert ask(secrets[1]) == 200, "another key is not concerned"
    now_s[0] += 1.0
    assert ask(secrets[0]) == 200
