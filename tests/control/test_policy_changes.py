"""Policies take force after their record, and every text stays where records can find it."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest
from control_fakes import Broken, MemoryClerk
from test_configuration_reload import FakeStore, compiled

from gateway.control.configuration import Configuration
from gateway.control.policy_changes import PolicyChanges
from gateway.control.registry import CONCERNING, Registry
from gateway.documents import Manifest, SettingsDocument, digest_of, encode
from gateway.processes.control import ControlDirectory
from policies.bundle import BundleError, PolicyBundle
from policies.trust import PersonKey, ceremony

OFFICE = 'package policy.office\n\ndeny contains {"id": "OFF-1", "msg": "closed"} if input.tenant == "nobody"\n'
ROOT = ceremony({"ann": PersonKey.from_seed(b"a" * 32)}, thresholds={"approve.low": 1, "root": 1, "approve.medium": 1, "approve.high": 1})


def bundle(text=OFFICE, modes=None, params=None):
    modules = {} if text is None else {"policies/office.rego": text}
    return PolicyBundle.load(modules if params is None else {**modules, "policies/params.json": params}, modes or {})


@pytest.fixture
def control(tmp_path):
    control = ControlDirectory(tmp_path)
    control.create()
    return control


def records(clerk):
    return [json.loads(leaf) for leaf in clerk.leaves]


def test_a_bundle_is_told_once_and_each_change_names_what_is_other(control):
    clerk = MemoryClerk()
    changes = PolicyChanges(control, clerk, None)
    shipped = {"default/approval.rego", "default/limits.rego"}
    for found, changed in (
        (bundle(), {*shipped, "policies/office.rego", "modes"}),
        (bundle(), None),
        (bundle(OFFICE + "\n# more\n"), {"policies/office.rego"}),
        (bundle(OFFICE + "\n# more\n", {"office": "dryrun"}), {"modes"}),
        (bundle(OFFICE, {"office": "dryrun"}, '{"x":1}'), {"policies/office.rego", "params"}),
        (bundle(None), {"policies/office.rego", "modes", "params"}),
    ):
        before = len(clerk.leaves)
        assert asyncio.run(changes.tell(found)) is (changed is not None)
        told = records(clerk)[before:]
        assert [set(record["changed"]) for record in told] == ([] if changed is None else [changed])
    all_records = records(clerk)
    assert [record["old"] for record in all_records[1:]] == [record["new"] for record in all_records[:-1]]
    assert all_records[2]["modes"]["office"] == "dryrun"


def test_everything_a_records_digests_stand_for_is_kept(control):
    found = bundle(modes={"office": "warn"})
    asyncio.run(PolicyChanges(control, MemoryClerk(), None).tell(found))
    listing = json.loads(control.get(found.record["digest"]))
    texts = {path: control.get(digest).decode() for path, digest in listing}
    again = PolicyBundle.compile(texts, json.loads(control.get(found.record["modes_digest"])))
    assert again.record == found.record


def test_after_a_restart_the_log_says_what_was_told(control):
    clerk = MemoryClerk()
    asyncio.run(PolicyChanges(control, clerk, None).tell(bundle()))
    registry = Registry(ROOT)
    for index, leaf in enumerate(clerk.leaves):
        assert CONCERNING.search(leaf)
        registry.fold(index, json.loads(leaf))
    assert asyncio.run(PolicyChanges(control, clerk, registry.policies).tell(bundle())) is False
    assert asyncio.run(PolicyChanges(control, clerk, registry.policies).tell(bundle(None))) is True


def configuration(control, clerk, folder, store=None):
    return Configuration(SimpleNamespace(compile=lambda: folder), control, store or FakeStore(), clerk, PolicyChanges(control, clerk, None))


def test_policies_are_recorded_before_the_configuration_that_brings_them_and_nothing_without(control):
    clerk = MemoryClerk()
    folder = compiled(1)
    folder.bundle = bundle()
    asyncio.run(configuration(control, clerk, folder).reload())
    assert clerk.kinds() == ["policy.change", "config.change"]
    for dies_at in (1, 2):
        clerk, store = MemoryClerk(), FakeStore()
        clerk.dies_at = dies_at
        with pytest.raises(Broken):
            asyncio.run(configuration(control, clerk, folder, store).reload())
        assert store.installed == []


def test_what_policies_say_of_a_configuration_is_in_its_record(control):
    clerk = MemoryClerk()
    folder = compiled(1)
    verdict = PolicyBundle.load(
        {"policies/c.rego": '# METADATA\n# custom: {points: [config]}\npackage policy.c\nwarn contains {"id": "C-1", "msg": "soon"} if true\n'}, {}
    ).evaluate({"point": "config"}, 0)
    folder.verdicts = {"models/m.yaml": verdict}
    asyncio.run(configuration(control, clerk, folder).reload())
    told = records(clerk)[-1]["policy"]
    assert (told["decision"], told["asked"]) == ("allow_with_warnings", 1)
    assert told["reasons"] == [{"file": "models/m.yaml", "id": "C-1", "mode": "warning", "msg": "soon", "package": "c"}]


def test_restored_policies_that_cannot_be_enforced_any_more_are_an_error_and_not_served(control):
    clerk, store = MemoryClerk(), FakeStore()
    settings = SettingsDocument(environment="staging", body_limit_bytes=1, staleness_default_us=1, staleness_high_risk_us=1, modes={})
    broken = b"package policy.office\n\ndeny contains x if http.send({})\n"
    objects = {digest_of(encode(settings)): encode(settings), digest_of(broken): broken}
    manifest = Manifest(settings=digest_of(encode(settings)), models={}, experiments={}, policies={"policies/office.rego": digest_of(broken)})
    control.put_many({**objects, digest_of(encode(manifest)): encode(manifest)})
    store.install_bundle(digest_of(encode(manifest)), 0)
    found = configuration(control, clerk, SimpleNamespace(manifest=None, digest=None, objects={}, issues=("x",)), store)
    assert found.restore()
    asyncio.run(found.reload())
    with pytest.raises(BundleError, match=r"policies/office\.rego"):
        asyncio.run(found.settle_policies())
    assert clerk.leaves == []
