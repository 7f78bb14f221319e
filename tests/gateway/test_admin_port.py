"""The admin port: who is let in, pages with what happened, metrics under their documented names, a log that a stranger can verify from there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from deployment import CHECKOUT, Deployment, wait_until
from prometheus_client.parser import text_string_to_metric_families

from audit.keys import SigningKey
from audit.source import open_url
from audit.verify import verify_log

PATHS = ("/metrics", "/api/status", "/api/experiments", "/log/checkpoint")
PAGES = ("/", "/experiments", "/experiments/half", "/audit-log")


@pytest.fixture
def browser() -> Iterator[httpx.Client]:
    """A browser: it keeps cookies and follows where it is sent."""
    with httpx.Client(follow_redirects=True, timeout=10) as client:
        yield client


@pytest.fixture(scope="module")
def visited(spine: Deployment) -> Deployment:
    """The shared gateway after some traffic of every kind, and once the controller has seen it."""
    spine.add_key("auditor", "audit:read", "tenants:all")
    spine.add_key("manager", "admin:read", "tenants:all")
    for number in range(20):
        spine.infer("split", unit=f"visitor {number}")
    spine.infer("unapproved")
    spine.get("/nothing")
    wait_until(lambda: sample(spine, "assay_calls_total", model="split", status="200") >= 20, "the calls to be counted")
    wait_until(lambda: spine.client.get(f"{spine.admin}/log/checkpoint", headers=spine.bearer("auditor")).status_code == 200, "the auditor's key")
    return spine


def families(gateway: Deployment) -> dict[str, Any]:
    reply = gateway.client.get(f"{gateway.admin}/metrics", headers=gateway.bearer("console"))
    assert reply.status_code == 200
    return {family.name: family for family in text_string_to_metric_families(reply.text)}


def sample(gateway: Deployment, name: str, **labels: str) -> float:
    """The sum of all samples of a name with these labels."""
    found = [each for family in families(gateway).values() for each in family.samples if each.name == name]
    return sum(each.value for each in found if labels.items() <= each.labels.items())


# --- who ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_a_machine_without_a_key_is_a_401_and_with_a_wrong_one_too(visited: Deployment, path: str):
    for headers in ({}, {"authorization": "Bearer nonsense"}, {"authorization": "Basic eDp5"}):
        reply = visited.client.get(f"{visited.admin}{path}", headers=headers)
        assert (reply.status_code, reply.headers["content-type"]) == (401, "application/problem+json")
        assert reply.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("path", PATHS)
def test_a_callers_key_is_a_403(visited: Deployment, path: str):
    reply = visited.client.get(f"{visited.admin}{path}", headers=visited.bearer("product"))
    assert (reply.status_code, reply.json()["code"]) == (403, "missing_scope")


def test_an_auditor_may_not_read_the_api_and_a_manager_may_not_read_entries(visited: Deployment):
    assert visited.client.get(f"{visited.admin}/api/status", headers=visited.bearer("auditor")).status_code == 403
    assert visited.client.get(f"{visited.admin}/api/status", headers=visited.bearer("manager")).status_code == 200
    size = int(visited.client.get(f"{visited.admin}/log/checkpoint", headers=visited.bearer("manager")).text.split("\n")[1])
    bundle = f"tile/entries/000{f'.p/{size}' if size < 256 else ''}"
    assert visited.client.get(f"{visited.admin}/log/{bundle}", headers=visited.bearer("manager")).status_code == 403
    assert visited.client.get(f"{visited.admin}/log/{bundle}", headers=visited.bearer("auditor")).status_code == 200


def test_with_several_tenants_a_role_counts_only_beside_the_scope_for_all_of_them(visited: Deployment, browser: httpx.Client):
    visited.add_key("second tenant", "infer", tenant="second")
    visited.add_key("own role", "admin:read", "audit:read", "experiment:operate")

    def ask(path: str) -> httpx.Response:
        return visited.client.get(f"{visited.admin}{path}", headers=visited.bearer("own role"))

    wait_until(lambda: ask("/log/checkpoint").status_code == 200, "the key to be known; the log's head tells of nobody")
    for path in ("/metrics", "/api/status", "/api/experiments", "/log/tile/entries/000", *PAGES):
        reply = ask(path)
        assert (reply.status_code, reply.json()["code"]) == (403, "missing_scope"), path
        assert "tenants:all" in reply.json()["detail"], path
        assert "assay key create" in reply.json()["hint"], path
    hint = ask("/metrics").json()["hint"]
    assert "--tenant acme --scope admin:read --scope audit:read --scope experiment:operate --scope tenants:all" in hint, "a whole command"
    told = browser.post(f"{visited.admin}/login", data={"key": visited.keys["own role"]})
    assert told.status_code == 403
    assert "tenants:all" in told.text


def test_with_several_tenants_who_is_on_call_may_still_make_an_experiment_safer(visited: Deployment):
    visited.add_key("third tenant", "infer", tenant="third")
    visited.add_key("on call", "admin:write", "experiment:operate")
    visited.add_key("on call elsewhere", "experiment:operate", models=("another",))

    def ask(name: str, action: str) -> httpx.Response:
        body = {"reason": "seen at night", "epoch": 99}
        return visited.client.post(f"{visited.admin}/api/experiments/half/{action}", headers=visited.bearer(name), json=body)

    wait_until(lambda: ask("on call elsewhere", "pause").status_code != 401, "the keys to be known")
    for action in ("pause", "rollback", "stop"):
        reply = ask("on call", action)
        assert (reply.status_code, reply.json()["code"]) == (409, "illegal_step"), "admitted, and then told that its epoch is another"
        assert ask("on call elsewhere", action).json()["code"] == "model_not_allowed"
        assert ask("third tenant", action).json()["code"] == "missing_scope"
    for action in ("start", "resume", "promote"):
        reply = ask("on call", action)
        assert (reply.status_code, reply.json()["code"]) == (403, "missing_scope"), action
        assert "tenants:all" in reply.json()["detail"], action


def test_a_key_that_signs_in_again_and_again_ends_its_own_oldest_sessions_and_nobody_elses(visited: Deployment, browser: httpx.Client):
    with httpx.Client(follow_redirects=True, timeout=10) as other:
        assert "Sign out" in other.post(f"{visited.admin}/login", data={"key": visited.keys["auditor"]}).text
        assert "Sign out" in browser.post(f"{visited.admin}/login", data={"key": visited.keys["manager"]}).text
        for _ in range(19):
            with httpx.Client(timeout=10) as again:
                again.post(f"{visited.admin}/login", data={"key": visited.keys["manager"]})
        assert "Sign out" in browser.get(f"{visited.admin}/").text, "twenty sessions are held"
        with httpx.Client(timeout=10) as again:
            again.post(f"{visited.admin}/login", data={"key": visited.keys["manager"]})
        assert browser.get(f"{visited.admin}/").url.path == "/login"
        assert "Sign out" in other.get(f"{visited.admin}/").text


@pytest.mark.parametrize("page", PAGES)
def test_a_person_who_is_not_signed_in_is_sent_to_the_login(visited: Deployment, browser: httpx.Client, page: str):
    reply = browser.get(f"{visited.admin}{page}")
    assert reply.url.path == "/login"
    assert "<form" in reply.text


def test_a_person_signs_in_with_a_key_sees_the_pages_and_signs_out(visited: Deployment, browser: httpx.Client):
    wrong = browser.post(f"{visited.admin}/login", data={"key": "nonsense"})
    assert wrong.status_code == 403
    assert "nonsense" not in wrong.text
    callers = browser.post(f"{visited.admin}/login", data={"key": visited.keys["product"]})
    assert callers.status_code == 403
    entered = browser.post(f"{visited.admin}/login", data={"key": visited.keys["manager"]})
    assert (entered.status_code, entered.url.path) == (200, "/")
    (cookie,) = browser.cookies.jar
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert visited.keys["manager"] not in str(cookie.value)
    assert all(browser.get(f"{visited.admin}{page}").status_code == 200 for page in PAGES)
    browser.post(f"{visited.admin}/logout")
    browser.cookies.set("assay-session", str(cookie.value))
    assert browser.get(f"{visited.admin}/").url.path == "/login", "the session has ended, not only the cookie"


@pytest.mark.parametrize(
    ("scope", "first", "seen"),
    [
        ("admin:read", "/", {"/", "/experiments", "/experiments/half", "/audit-log"}),
        ("admin:write", "/experiments", {"/experiments", "/experiments/half", "/audit-log"}),
        ("experiment:operate", "/experiments", {"/experiments", "/experiments/half", "/audit-log"}),
        ("audit:read", "/records", {"/records", "/vault", "/audit-log"}),
        ("vault:read", "/vault", {"/vault", "/audit-log"}),
    ],
)
def test_each_role_sees_its_own_pages_and_no_other(visited: Deployment, browser: httpx.Client, scope: str, first: str, seen: set[str]):
    visited.add_key(scope, scope, "tenants:all")
    wait_until(lambda: browser.post(f"{visited.admin}/login", data={"key": visited.keys[scope]}).status_code == 200, "the new key to be known")
    assert browser.get(f"{visited.admin}/").url.path == first
    page = browser.get(f"{visited.admin}{first}").text
    for path in ("/experiments", "/experiments/half", "/records", "/vault", "/audit-log"):
        reply = browser.get(f"{visited.admin}{path}")
        assert reply.status_code == (200 if path in seen else 403), path
        if path.count("/") == 1:
            assert (f'<a href="{path}"' in page) == (path in seen), "no link leads to a refusal"


def test_a_session_ends_when_its_key_is_revoked(visited: Deployment, browser: httpx.Client):
    key_id = visited.add_key("leaver", "admin:read", "tenants:all")
    wait_until(lambda: browser.post(f"{visited.admin}/login", data={"key": visited.keys["leaver"]}).status_code == 200, "the new key to be known")
    assert browser.get(f"{visited.admin}/").url.path == "/"
    visited.revoke_key(key_id)
    wait_until(lambda: browser.get(f"{visited.admin}/").url.path == "/login", "the session to end", 3)


def test_nothing_can_be_changed_by_a_get_and_a_path_cannot_leave_the_log(visited: Deployment):
    for path in (
        "..%2fcontrol.sqlite",
        "tile/0/..%2f..%2fvkey",
        "tile/0/x000/000",
        "tile/entries/999",
        "checkpoint/x",
        "tile/0/000.p/256",
        "../vault/epochs.json",
    ):
        reply = visited.client.get(f"{visited.admin}/log/{path}", headers=visited.bearer("console"))
        assert reply.status_code == 404, path
    assert visited.client.get(f"{visited.admin}/logout").status_code == 405


# --- what it tells ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("/", ("split", "unapproved", "development")),
        ("/experiments", ("half", "split")),
        ("/experiments/half", ("one is better", "control", "treatment", "50%")),
        ("/audit-log", ("assay.example/test",)),
    ],
)
def test_each_page_shows_what_happened(visited: Deployment, page: str, words: tuple[str, ...]):
    reply = visited.client.get(f"{visited.admin}{page}", headers=visited.bearer("console"))
    assert reply.status_code == 200
    assert [word for word in words if word not in reply.text] == []
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_where_there_is_no_vault_its_page_says_so_in_words(visited: Deployment):
    text = visited.client.get(f"{visited.admin}/vault", headers=visited.bearer("auditor")).text
    assert "This gateway has no vault" in text
    assert "Nobody has been erased." in text
    assert "audit erase" not in text


def test_an_unknown_experiment_is_a_404(visited: Deployment):
    assert visited.client.get(f"{visited.admin}/experiments/none", headers=visited.bearer("console")).status_code == 404


def test_an_experiment_whose_file_is_not_in_force_says_so(visited: Deployment):
    """Somebody saved it beside a mistake elsewhere: `no experiment` alone would send them looking in the wrong place."""
    path = f"{visited.admin}/api/experiments/none"
    broken = visited.layout.config / "models" / "broken.yaml"
    try:
        broken.write_text("model: [")
        wait_until(
            lambda: "`assay check`" in visited.client.get(path, headers=visited.bearer("console")).json()["hint"],
            "the problem to be known",
        )
        visited.add_key("starts", "experiment:start", "tenants:all")
        body = {"reason": "to begin with"}
        wait_until(
            lambda: visited.client.post(f"{path}/start", headers=visited.bearer("starts"), json=body).status_code != 401, "the key to be known"
        )
        told = visited.client.post(f"{path}/start", headers=visited.bearer("starts"), json=body).json()
        assert (told["code"], "`assay check`" in told["hint"]) == ("unknown_experiment", True)
    finally:
        broken.unlink()
    wait_until(lambda: "experiment list" in visited.client.get(path, headers=visited.bearer("console")).json()["hint"], "the mended folder")


def test_what_a_caller_names_is_escaped_on_pages(visited: Deployment):
    visited.get("/<script>alert(1)</script>")
    assert "<script>alert" not in visited.client.get(f"{visited.admin}/", headers=visited.bearer("console")).text


def test_metrics_count_what_callers_saw(visited: Deployment):
    def told() -> tuple[float, float]:
        return sample(visited, "assay_calls_total", model="plain", status="200"), sample(visited, "assay_refused_early_total", code="not_found")

    def by_the_worker() -> tuple[int, int]:
        (status,) = visited.statuses()
        calls = sum(row["count"] for row in status["calls"] if (row["model"], row["status"]) == ("plain", 200))
        return calls, status["refused_early"].get("not_found", 0)

    visited.wait_idle()
    wait_until(lambda: told() == by_the_worker(), "what came before to be counted: the controller looks once a second")
    before = told()
    for _ in range(5):
        assert visited.infer("plain").status_code == 200
    visited.get("/nothing")
    wait_until(lambda: sample(visited, "assay_calls_total", model="plain", status="200") == before[0] + 5, "the calls to be counted")
    wait_until(lambda: sample(visited, "assay_refused_early_total", code="not_found") == before[1] + 1, "the refusal to be counted")
    assert sample(visited, "assay_call_seconds_count", model="plain") >= 5
    assert sample(visited, "assay_log_size") > 0


def test_metrics_have_their_documented_names(visited: Deployment):
    documented = set(re.findall(r"`(assay_[a-z_]+)", (CHECKOUT / "docs" / "metrics.md").read_text()))
    told = set()
    for family in families(visited).values():
        told.add(f"{family.name}_total" if family.type == "counter" else family.name)
    assert {name for name in told if name not in documented} == set(), "every metric is documented"
    suffixes = ("_bucket", "_count", "_sum")
    assert {name for name in documented if name not in told and not name.endswith(suffixes)} == set(), "every documented metric is told"


def test_the_log_verifies_from_the_admin_port_with_an_auditors_key(visited: Deployment):
    with httpx.Client(headers=visited.bearer("auditor"), timeout=10) as client:
        kept = client.get(f"{visited.admin}/log/checkpoint").content
        visited.infer("plain")
        wait_until(lambda: client.get(f"{visited.admin}/log/checkpoint").content != kept, "a newer checkpoint")
        # The log goes on while it is read: partial tiles of the head just read may be gone, and then it is asked again.
        verdict = wait_until(
            lambda: (found := verify_log(open_url(f"{visited.admin}/log", client), [visited.vkey], known_checkpoint=kept)).exit_code == 0 and found,
            "the log to verify",
        )
    assert verdict.leaves_checked == verdict.size > 0
    assert [str(check.grade) for check in verdict.checks] == ["ok"] * 4


def test_the_log_under_another_key_does_not_verify(visited: Deployment):
    with httpx.Client(headers=visited.bearer("auditor"), timeout=10) as client:
        verdict = verify_log(open_url(f"{visited.admin}/log", client), [SigningKey.generate("assay.example/test").verifier])
    assert verdict.exit_code == 1
