"""The policies in force: the shipped ones always, the deployment's beside them, and every doubt a denial."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.bundle import BundleError, PointPolicies, PolicyBundle, shipped_modules
from policies.rego import UNDEFINED, LimitError

DIGEST = "sha256:" + "a" * 64
GRANT = {
    "person": "ann",
    "roles": ["approver"],
    "in_force": True,
    "model": "m",
    "version": "1",
    "digest": DIGEST,
    "environments": ["staging"],
}


def document(*, approvals=(GRANT,), rows=1, tenant="acme") -> dict:
    return {
        "schema": "input/v1",
        "point": "request",
        "env": "staging",
        "tenant": tenant,
        "model": {"name": "m", "version": "1", "digest": DIGEST, "risk": "low"},
        "approvals": list(approvals),
        "request": {"rows": rows, "kib": 1, "method": "POST", "path": "/", "content_type": ""},
        "params": {"max_rows": 5},
        "usage": {"exhausted": False},
        "subject": {"scopes": ["infer"]},
    }


def load(text="", modes=None, path="policies/x.rego") -> PolicyBundle:
    return PolicyBundle.load({path: text} if text else {}, modes or {})


SHIPPED = load()


def office(rule: str) -> str:
    return f"package policy.office\nimport rego.v1\n{rule}\n"


def test_the_shipped_policies_allow_what_is_approved_and_nothing_else():
    assert SHIPPED.evaluate(document(), 0).decision == "allow"
    assert SHIPPED.evaluate(document(approvals=()), 0).reasons[0]["id"] == "APP-001"
    assert not SHIPPED.evaluate(document(rows=6), 0).allowed
    assert not SHIPPED.evaluate({}, 0).allowed


TAKEOVERS = {
    "the shipped package": "package policy.approval\nimport rego.v1\nallow := true",
    "a part of it": "package policy.approval.approvers\nx := 1",
    "its rule as a package": "package policy.approval.allow\nx := 1",
    "the folder of packages": 'package policy\napproval := {"allow": true}',
    "a rule of the folder": "package policy\napproval.allow := true",
    "the other shipped package": "package policy.limits\nimport rego.v1\nallow := true",
}


@pytest.mark.parametrize("kind", TAKEOVERS)
def test_no_module_of_the_deployment_can_add_to_or_stand_in_for_a_shipped_package(kind):
    with pytest.raises(BundleError, match=r"policies/x\.rego"):
        load(TAKEOVERS[kind])


@pytest.mark.parametrize("path", ["default/approval.rego", "default/other.rego"])
def test_no_module_of_the_deployment_can_take_the_name_of_a_shipped_one(path):
    with pytest.raises(BundleError, match="shipped"):
        load("package policy.approval\nallow := true", path=path)


@pytest.mark.parametrize(
    "text",
    [
        "package",
        "package foo bar",
        "not rego at all",
        "package policy.office\nallow if { http.send({}) }",
        "package policy.office\nimport rego.v1\nallow if { conut(input.x) > 1 }",
        "package policy.office\nimport rego.v1\nallow if { y == 1 }",
    ],
)
def test_a_module_that_cannot_be_enforced_is_refused_with_its_place(text):
    with pytest.raises(BundleError, match=r"policies/x\.rego:\d+:\d+"):
        load(text)


def test_a_package_of_the_deployment_can_deny_and_cannot_allow_what_another_denies():
    denies = load(office('deny contains {"id": "OFF-1", "msg": "closed"} if input.tenant == "acme"'))
    assert [reason["id"] for reason in denies.evaluate(document(), 0).reasons] == ["OFF-1"]
    assert denies.evaluate(document(tenant="globex"), 0).allowed
    assert not load(office("allow := true")).evaluate(document(approvals=()), 0).allowed


@pytest.mark.parametrize(
    ("mode", "decision", "told"), [("enforce", "deny", 1), ("warn", "allow_with_warnings", 1), ("dryrun", "allow", 1), ("off", "allow", 0)]
)
def test_a_mode_says_what_a_denial_does(mode, decision, told):
    bundle = load(office('deny contains {"id": "OFF-1", "msg": "closed"}'), {"office": mode})
    verdict = bundle.evaluate(document(), 0)
    assert (verdict.decision, len(verdict.reasons)) == (decision, told)


def test_modes_have_a_digest_of_their_own_so_that_a_package_put_off_shows_in_every_record():
    text = office('deny contains {"id": "OFF-1", "msg": "closed"}')
    found = [load(text, modes).record for modes in ({}, {"office": "off"}, {"office": "warn"}, {"approval": "off"})]
    assert len({record["modes_digest"] for record in found}) == 4
    assert len({record["digest"] for record in found}) == 1
    assert load().record["digest"] != found[0]["digest"]


def test_with_every_required_package_off_nothing_is_allowed():
    off = load(modes={"approval": "off", "limits": "off"})
    assert off.evaluate(document(), 0).reasons[0]["id"] == "POLICY-NONE"


@pytest.mark.parametrize(
    "rule",
    [
        'allow if {"a": y | some y in [1, 2]}',
        "allow := 1 if input.tenant\nallow := 2 if input.tenant",
        'deny contains {"id": "X", "msg": "m"} if count([x | some x in numbers.range(1, 10000000)]) > 0',
    ],
)
def test_a_package_that_cannot_be_evaluated_denies_in_enforce_and_is_told_otherwise(rule):
    verdict = load(office(rule)).evaluate(document(rows=0), 0)
    assert verdict.decision == "deny"
    assert "ENGINE-ERR" in [reason["id"] for reason in verdict.reasons]
    dry = load(office(rule), {"office": "dryrun"}).evaluate(document(rows=0), 0)
    assert dry.decision == "allow"
    assert [reason["id"] for reason in dry.reasons] == ["ENGINE-ERR"]


def test_an_obligation_that_cannot_be_carried_out_denies():
    verdict = load(office('obligations contains {"type": "redact"}')).evaluate(document(), 0)
    assert [reason["id"] for reason in verdict.reasons] == ["OBL-UNKNOWN"]


@pytest.mark.parametrize("deny", ["true", '"because"', '["a", "b"]', '{"id": "X"}', "5"])
def test_a_deny_of_any_shape_denies(deny):
    assert not load(office(f"deny := {deny}")).evaluate(document(), 0).allowed


def test_reasons_of_any_content_can_be_recorded():
    verdict = load(office('deny contains {"id": {"a": 1}, "msg": [null, 1.5], "status": "x"}')).evaluate(document(), 0)
    assert all(type(value) is str for reason in verdict.reasons for value in reason.values())


def test_what_is_read_is_known_through_imports_libraries_and_the_whole_input():
    assert load(office('import input.tenant as t\ndeny contains {"id": "X"} if t == "acme"')).at("request").reads(("tenant",))
    modules = {
        "policies/lib.rego": 'package lib\nacme if input.tenant == "acme"',
        "policies/x.rego": office('deny contains {"id": "X"} if data.lib.acme'),
    }
    assert PolicyBundle.load(modules, {}).at("request").reads(("tenant",))
    assert load(office('deny contains {"id": "X"} if "acme" in input')).at("request").reads(("tenant",))
    assert not SHIPPED.at("request").reads(("tenant",))
    assert SHIPPED.at("request").reads(("request", "rows"))
    assert SHIPPED.at("request").reads(("request",))


@pytest.mark.parametrize(
    ("condition", "reads_clock"),
    [
        ("time.now_ns() > 5", True),
        ('io.jwt.decode_verify(input.tenant, {"secret": "x"})[0]', True),
        ("input.request.rows > 5", False),
    ],
)
def test_a_policy_that_can_tell_the_time_is_known_as_one(condition, reads_clock):
    assert load(office(f'deny contains {{"id": "X"}} if {condition}')).at("request").reads_clock is reads_clock
    assert not SHIPPED.at("request").reads_clock


def test_every_shipped_module_is_a_package_that_decides():
    for path, text in shipped_modules().items():
        assert path.startswith("default/")
        assert "package policy." in text


values = st.recursive(st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3), lambda inner: st.lists(inner, max_size=2), max_leaves=4)


@given(st.dictionaries(st.sampled_from(["env", "model", "approvals", "request", "params", "usage"]), values))
def test_a_broken_input_document_never_allows_and_never_raises(changes):
    verdict = SHIPPED.evaluate({**document(), **changes}, 0)
    if "approvals" in changes or "model" in changes or "env" in changes:
        assert not verdict.allowed


NEEDY = office('deny contains {"id": "X", "msg": "m"} if input.request.rows > data.params.limits.rows')


@pytest.mark.parametrize("params", [None, "{}", '{"limit": {"rows": 1}}', '{"limits": {"row": 1}}'])
def test_a_parameter_that_is_not_there_is_refused_and_not_a_denial_that_never_fires(params):
    modules = {"policies/x.rego": NEEDY} if params is None else {"policies/x.rego": NEEDY, "policies/params.json": params}
    with pytest.raises(BundleError, match=r"data\.params"):
        PolicyBundle.load(modules, {})
    with_it = PolicyBundle.load({"policies/x.rego": NEEDY, "policies/params.json": '{"limits": {"rows": 0}}'}, {})
    assert with_it.evaluate(document(), 0).reasons[0]["id"] == "X"
    assert "data_digest" in with_it.record


SLOW = office('deny contains {"id": "X", "msg": "m"} if count([x | some x in numbers.range(1, 90000); x % 7 == 3; x % 11 == 5]) < 0')


def test_a_policy_that_takes_too_long_denies_and_after_three_times_is_not_asked_for_a_second():
    bundle = load(SLOW)
    (package,) = (package for package in bundle.packages if package.name == "office")
    asked = []

    def evaluate(given, now_ns=0, deadline=None):
        asked.append(now_ns)
        return package.evaluate(given, now_ns=now_ns, deadline=deadline)

    counted = replace(package, evaluate=evaluate)
    second = 10**9
    findings = [counted.find(document(), now_ns) for now_ns in (1, 2, 3, 4, 5, 2 + second, 4 + second)]
    assert all(finding.error for finding in findings), "slow or resting, never an answer"
    assert [("rests" in finding.error) for finding in findings] == [False, False, False, True, True, True, False]
    assert len(asked) == 2 * 4, "each time tried once more, never while it rests"
    assert bundle.evaluate(document(), 0).decision == "deny"


def test_a_pause_of_the_interpreter_is_not_the_policys_slowness():
    bundle = load(office('deny contains {"id": "X", "msg": "m"} if input.tenant == "nobody"'))
    (package,) = (package for package in bundle.packages if package.name == "office")
    faults = [LimitError("wall_s", "longer than `0.002` seconds")]

    def evaluate(given, now_ns=0, deadline=None):
        if faults:
            raise faults.pop()
        return package.evaluate(given, now_ns=now_ns, deadline=deadline)

    paused = replace(package, evaluate=evaluate)
    assert [paused.find(document(), now_ns).error for now_ns in range(1, 6)] == [None] * 5


def test_all_policies_of_a_call_have_one_budget_over_all_its_questions(monkeypatch):
    (package,) = (package for package in load(office('deny contains {"id": "X", "msg": "m"} if input.x')).packages if package.name == "office")
    now_s = [10.0]
    monkeypatch.setattr("policies.bundle.CLOCK", lambda: now_s[0])

    def evaluate(_given, now_ns=0, deadline=None):
        del now_ns
        now_s[0] += 0.0009
        if now_s[0] > deadline:
            raise LimitError("wall_s", "late")
        return [UNDEFINED] * len(package.rules)

    packages = tuple(replace(package, name=f"p{number}", evaluate=evaluate) for number in range(4))
    policies = PointPolicies(packages, needs_required=False, budget_s=0.005)
    call, other = SimpleNamespace(policy_s=0.0), SimpleNamespace(policy_s=0.0)
    assert policies.evaluate({}, 0, call).allowed
    assert call.policy_s == pytest.approx(0.0036)
    again = policies.evaluate({}, 0, call)
    assert [(reason["package"], "`policies.budget`" in reason["msg"]) for reason in again.reasons] == [("p1", True), ("p2", True), ("p3", True)]
    assert not again.allowed
    assert call.policy_s == pytest.approx(0.0054), "what is used up is not asked for again"
    assert policies.evaluate({}, 0, other).allowed, "another call has its own"
    assert policies.evaluate({}, 0).allowed, "and so has a question of its own"


def test_what_one_policy_may_take_is_what_is_left_of_the_call():
    bundle = load(SLOW)
    (package,) = (package for package in bundle.packages if package.name == "office")
    bounds = []

    def evaluate(_given, now_ns=0, deadline=None):
        del now_ns
        bounds.append(deadline)
        raise LimitError("wall_s", "late")

    late = replace(package, evaluate=evaluate)
    assert "used up" in str(late.find(document(), 0, left_s=0.0015, begin_s=10.0).error)
    assert bounds == [10.0015], "not tried again: that was the call's time, not the policy's"
    assert "used up" in str(late.find(document(), 0, left_s=0.0).error)
    assert len(bounds) == 1, "nothing is begun without time"
    assert "late" in str(late.find(document(), 0, left_s=0.005).error)
    assert len(bounds) == 3
    assert late.pace.slow == 1, "being cut short by others is not slowness"


def test_a_slow_policy_is_stopped_by_what_its_call_may_use_and_the_call_is_refused():
    bundle = PolicyBundle.load({"policies/x.rego": SLOW}, {}, budget_s=0.001)
    call = SimpleNamespace(policy_s=0.0)
    verdict = bundle.at("request").evaluate(document(), 0, call)
    assert verdict.decision == "deny"
    assert "`policies.budget`" in next(reason["msg"] for reason in verdict.reasons if reason["package"] == "office")
    assert not verdict.is_settled


def test_every_digest_that_a_record_names_stands_for_something_that_is_kept():
    texts = {"policies/x.rego": 'package policy.x\ndeny contains {"id": "X", "msg": "m"} if input.request.rows > data.params.most\n'}
    bundle = PolicyBundle.load({**texts, "policies/params.json": '{"most":3}'}, {})
    assert len(bundle.record) == 3
    assert set(bundle.record.values()) <= set(bundle.objects())
