"""Policies are on a real OPA before anything asks for them, stay there whatever becomes of it, and what is refused puts the former ones back."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "rego"))

from opa_server import OpaServer

from gateway.config.policy_point import Asked
from gateway.control import policy_servers
from gateway.control.policy_servers import NotPrepared, PolicyServers
from gateway.documents import CaptureDocument, PolicyServerDocument, RouteDocument, VersionDocument
from gateway.policy_server import Counts, Place, connect
from policies.bundle import PolicyBundle
from policies.engine import OpaEngine
from policies.opa.archive import archive
from policies.opa.query import MODULE, packages_of

pytestmark = pytest.mark.component("opa")
OFFICE = """package policy.office

deny contains {"id": "OFF-1", "msg": "closed"} if input.tenant == "closed"
"""
CAREFUL = """# METADATA
# custom: {points: [config]}
package policy.careful

deny contains {"id": "CAR-1", "msg": "another owner"} if input.model.owner != "tests"
"""
SHIPPED_OFF = {"approval": "off", "limits": "off"}
BUNDLE = PolicyBundle.load({"policies/office.rego": OFFICE, "policies/careful.rego": CAREFUL}, SHIPPED_OFF)  # type: ignore[arg-type]
CHANGED = PolicyBundle.load({"policies/office.rego": OFFICE.replace("closed", "shut"), "policies/careful.rego": CAREFUL}, SHIPPED_OFF)  # type: ignore[arg-type]
UNTYPED = 'package policy.t\n\ndeny contains {"id": "T", "msg": "m"} if 1 == "a"\n'
TYPED = PolicyBundle.load({"policies/office.rego": OFFICE, "policies/t.rego": UNTYPED}, SHIPPED_OFF)  # type: ignore[arg-type]
PATIENCE_US = 10_000_000
MODEL = RouteDocument(
    model="m",
    protocol="v2",
    owner="tests",
    risk="low",
    intended_use="tests",
    unit_pointer=None,
    versions={"1": VersionDocument(name="1", upstreams=("http://127.0.0.1:1",), digest="sha256:aa", stage="production")},
    default_version="1",
    balance="round_robin",
    inputs={},
    unknown_inputs="reject",
    capture=CaptureDocument(prediction=None, score=None),
    labels_observed_when=None,
    audit="batch",
    on_audit_unavailable="deny",
    idempotent=False,
    expose_arm=False,
    deadline_us=1,
    retries=0,
    max_rows=1,
    rate_per_s=0,
)


@pytest.fixture(scope="module")
def opa() -> Iterator[OpaServer]:
    with OpaServer() as running:
        yield running


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def document(*urls: str, engine: str = "opa", **more: str) -> PolicyServerDocument:
    return PolicyServerDocument(engine=engine, addresses=urls, timeout_us=PATIENCE_US, **more)  # type: ignore[arg-type]


def has(url: str, bundle: PolicyBundle, name: str | None = None) -> bool:
    """Whether a question to the server is answered for a bundle."""

    async def asked() -> bool:
        servers = connect(document(url, **({"bundle": name} if name else {})), bundle, Place(Path(), {}))
        try:
            return (await OpaEngine(servers, bundle.at("config")).ask({"model": {"owner": "tests"}}, 0)).allowed
        finally:
            await servers.close()

    return asyncio.run(asked())


def work(steps: Callable[[PolicyServers], Awaitable[None]], place: Place | None = None) -> Counts:
    counts: Counts = {}

    async def all_of_it() -> None:
        await steps(PolicyServers(place or Place(Path(), {}), counts))

    asyncio.run(all_of_it())
    return counts


def test_prepared_policies_answer_and_a_server_that_forgot_them_has_them_again_after_a_look(opa: OpaServer):
    async def steps(servers: PolicyServers) -> None:
        await servers.prepare(document(opa.url), BUNDLE)
        servers.settle(document(opa.url), BUNDLE)
        opa.put(MODULE, "package assay.answers")  # what a restart leaves: no answer
        await servers.look()

    work(steps)
    assert has(opa.url, BUNDLE)


def test_while_a_change_is_under_way_a_look_puts_nothing_back(opa: OpaServer):
    async def steps(servers: PolicyServers) -> None:
        servers.settle(document(opa.url), BUNDLE)
        async with servers.changing():
            await servers.prepare(document(opa.url), CHANGED)
            await servers.look()

    work(steps)
    assert has(opa.url, CHANGED)


def test_what_opa_refuses_is_not_asked_for_again_and_a_look_puts_the_former_policies_back(opa: OpaServer):
    async def steps(servers: PolicyServers) -> None:
        await servers.prepare(document(opa.url), BUNDLE)
        servers.settle(document(opa.url), BUNDLE)
        with pytest.raises(NotPrepared, match="match error") as caught:
            await servers.prepare(document(opa.url), TYPED)
        assert not caught.value.may_pass, "trying again would take the policies in force away again"
        await servers.look()

    work(steps)
    assert has(opa.url, BUNDLE)


def test_a_policy_that_somebody_changes_is_put_back_by_the_thorough_look(opa: OpaServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(policy_servers, "VERIFY_EVERY", 2)

    async def steps(servers: PolicyServers) -> None:
        await servers.prepare(document(opa.url), BUNDLE)
        servers.settle(document(opa.url), BUNDLE)
        opa.put("assay/policies/careful.rego", CAREFUL.replace("!=", "=="))
        await servers.look()
        assert not await asyncio.to_thread(has, opa.url, BUNDLE), "its answers still tell the revision"
        await servers.look()

    work(steps)
    assert has(opa.url, BUNDLE)


def test_one_server_of_several_is_enough_and_none_is_not(opa: OpaServer, caplog: pytest.LogCaptureFixture):
    nowhere = f"http://127.0.0.1:{closed_port()}"

    async def steps(servers: PolicyServers) -> None:
        await servers.prepare(document(nowhere, opa.url), BUNDLE)
        with pytest.raises(NotPrepared, match="no connection") as caught:
            await servers.prepare(document(nowhere), CHANGED)
        assert caught.value.may_pass

    work(steps)
    assert has(opa.url, BUNDLE)
    assert [record.__dict__["server"] for record in caplog.records if "has not the policies" in record.message] == [nowhere]


def test_a_secret_that_cannot_be_read_prepares_nothing(opa: OpaServer, tmp_path: Path):
    async def steps(servers: PolicyServers) -> None:
        with pytest.raises(NotPrepared, match=r"opa\.token"):
            await servers.prepare(document(opa.url, token="file:opa.token"), BUNDLE)
        with pytest.raises(NotPrepared, match="OPA_TOKEN"):
            await servers.prepare(document(opa.url, token="env:OPA_TOKEN"), BUNDLE)

    work(steps, Place(tmp_path, {}))


def test_servers_that_load_a_bundle_are_looked_at_and_nothing_is_put_there(tmp_path: Path):
    path = tmp_path / "assay.tar.gz"
    path.write_bytes(archive(BUNDLE.modules, packages_of(BUNDLE), BUNDLE.data))
    with OpaServer("--bundle", str(path)) as loading:

        async def steps(servers: PolicyServers) -> None:
            chosen = document(loading.url, bundle=str(path))
            await servers.prepare(chosen, BUNDLE)
            with pytest.raises(NotPrepared, match="publish the bundle again") as caught:
                await servers.prepare(chosen, CHANGED)
            assert caught.value.may_pass, "somebody may ship it yet"
            servers.settle(chosen, CHANGED)
            await servers.look()

        work(steps)
        assert has(loading.url, BUNDLE, str(path))
        assert not has(loading.url, BUNDLE, "another"), "its provenance has to tell the revision too"


def test_at_config_each_file_is_asked_about_once_and_again_only_without_an_answer(opa: OpaServer):
    files = {"models/m.yaml": Asked(MODEL, "d")}

    async def steps(servers: PolicyServers) -> None:
        chosen = document(opa.url, engine="both")
        await servers.prepare(chosen, BUNDLE)
        for _ in range(2):
            verdicts = await servers.judge(chosen, BUNDLE, "staging", files)
            assert {path: verdict.decision for path, verdict in verdicts.items()} == {"models/m.yaml": "allow"}
        opa.put(MODULE, "package assay.answers")
        assert (await servers.judge(chosen, BUNDLE, "production", files))["models/m.yaml"].decision == "deny"
        await servers.prepare(chosen, BUNDLE)
        assert (await servers.judge(chosen, BUNDLE, "production", files))["models/m.yaml"].allowed
        assert await servers.judge(None, BUNDLE, "staging", files) == {}, "our engine alone has judged already"

    assert work(steps) == {"config": {"agreed": 2, "revision": 1}}
