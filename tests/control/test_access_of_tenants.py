"""Who may see what tells of several tenants, also when all but one of them have no key any more."""

from __future__ import annotations

import os

import pytest
from starlette.requests import Request

from gateway import apikeys
from gateway.admin.access import Access
from gateway.authenticate import Authenticator
from gateway.refusals import Refusal


def access(*scopes: str, tenants_ever: tuple[str, ...] = ("acme",)) -> tuple[Access, Request]:
    file = apikeys.new_file(os.urandom)
    secret, file = apikeys.create(file, tenant="acme", scopes=scopes, models=(), expires_us=None, random=os.urandom, now_us=1)
    table = Authenticator(apikeys.KeyTable.of(file))
    request = Request({"type": "http", "headers": [(b"authorization", b"Bearer " + secret.encode())]})
    return Access(lambda: table, lambda: frozenset(tenants_ever)), request


def test_where_there_is_one_tenant_its_auditor_sees_everything():
    made, request = access("audit:read")
    assert made.who(request) is not None


def test_a_tenant_that_is_gone_has_left_records_and_its_neighbour_may_not_read_them():
    made, request = access("audit:read", tenants_ever=("acme", "globex"))
    with pytest.raises(Refusal) as refused:
        made.who(request)
    assert refused.value.code == "missing_scope"
    assert "tenants:all" in refused.value.detail
    assert made.who(request, of_nobody=True) is not None


def test_who_answers_for_the_whole_gateway_sees_all_tenants():
    made, request = access("audit:read", "tenants:all", tenants_ever=("acme", "globex"))
    assert made.who(request) is not None
