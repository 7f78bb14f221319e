"""What may be captured is said strictly: a rule that could never do what it says is a mistake with a place."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import msgspec
import pytest

from gateway.config.compile import Compiled, compile_folder
from gateway.documents import RouteDocument

REFERENCE = Path(__file__).parents[2] / "config"
VAULT = "vault: {key: env:VAULT_KEY}\n"


def compiled(folder: Path, vault: str, settings: str = VAULT) -> Compiled:
    shutil.copytree(REFERENCE, folder / "config")
    model = folder / "config" / "models" / "credit-risk.yaml"
    model.write_text(model.read_text().replace("capture:\n", f"capture:\n  vault: {vault}\n", 1))
    gateway = folder / "config" / "gateway.yaml"
    gateway.write_text(gateway.read_text() + settings)
    return compile_folder(folder / "config")


@pytest.mark.parametrize(
    ("vault", "key", "message"),
    [
        ("{request: {/a: keep}}", "capture.vault.retention", "missing"),
        ("{retention: 30}", "capture.vault.retention", "is not a duration"),
        ("{retention: 1m}", "capture.vault.retention", "greater than or equal"),
        ("{retention: 1d, request: {a: keep}}", "capture.vault.request", "is not a JSON pointer"),
        ("{retention: 1d, request: {/a: kept}}", "capture.vault.request./a", "`kept` is not a rule; allowed: keep, drop, hash, mask, truncate:N"),
        ('{retention: 1d, request: {/a: "truncate:0"}}', "capture.vault.request./a", "is not a rule"),
        ('{retention: 1d, request: {/a: "keep\\n"}}', "capture.vault.request./a", "is not a rule"),
        ("{retention: 1d, headers: {/a: keep}}", "capture.vault.headers", "unknown key"),
        ("{retention: 1d, request: {/a: hash, /a/b: keep}}", "capture.vault.request./a/b", "leaves nothing to refine"),
        ("{retention: 1d, request: {/a: keep, /a/b: mask, /a/b/c: drop}}", "capture.vault.request./a/b/c", "leaves nothing to refine"),
        ("{retention: 1d, reply: {/a: drop}}", "capture.vault.reply./a", "leave it out"),
        ("{retention: 1d, tenants: {acme: {retention: 1d, context: {/a: hash, /a/b: drop}}}}", "capture.vault.tenants.acme.context./a/b", "refine"),
    ],
)
def test_a_rule_that_cannot_hold_is_refused_where_it_stands(tmp_path, vault, key, message):
    found = [str(issue) for issue in compiled(tmp_path, vault).issues]
    assert any(key in issue and message in issue for issue in found), found


def test_a_model_that_captures_needs_a_vault_to_capture_into(tmp_path):
    (issue,) = compiled(tmp_path, "{retention: 1d}", settings="").issues
    assert "captures into the vault, and there is none" in str(issue)
    assert str(issue).startswith("models/credit-risk.yaml:")


def test_what_is_captured_is_in_the_models_document_and_a_model_that_captures_nothing_keeps_its_digest(tmp_path):
    found = compiled(tmp_path, "{retention: 1d, request: {/a: hash}, tenants: {acme: {retention: 2h}}}")
    assert found.manifest is not None
    route = msgspec.json.decode(found.objects[found.manifest.models["credit-risk"]], type=RouteDocument)
    assert route.capture.vault is not None
    assert (route.capture.vault.retention_us, route.capture.vault.request) == (86_400_000_000, {"/a": "hash"})
    assert route.capture.vault_tenants["acme"].retention_us == 7_200_000_000
    plain = compile_folder(REFERENCE)
    assert plain.manifest is not None
    assert b"vault" not in plain.objects[plain.manifest.models["credit-risk"]]


def declare(folder: Path, classes: str, *, prediction: bool = True) -> Compiled:
    shutil.copytree(REFERENCE, folder / "config")
    model = folder / "config" / "models" / "credit-risk.yaml"
    text = model.read_text().replace("capture:\n", f"capture:\n  classes: {classes}\n", 1)
    model.write_text(text if prediction else re.sub(r"\n  prediction: .*", "", text, count=1))
    return compile_folder(folder / "config")


def test_declared_classes_are_compiled_as_they_stand(tmp_path):
    made = declare(tmp_path, '["golden retriever", "cat", "1"]')
    assert made.issues == ()
    document = msgspec.json.decode(made.objects[made.manifest.models["credit-risk"]], type=RouteDocument)
    assert document.capture.classes == ("golden retriever", "cat", "1")


@pytest.mark.parametrize(
    ("classes", "where", "message"),
    [
        ('["a b", "c", "a b"]', "capture.classes[2]", "`a b` is there twice"),
        ('["a b", "a%20b"]', "capture.classes[1]", "`a%20b` would be recorded as `a%20b`, as `a b` is"),
        ('["a\\tb"]', "capture.classes[0]", r"`a\tb` holds a sign that cannot be printed"),
        ('[""]', "capture.classes[0]", "at least 1 character"),
        (f'["{"x" * 257}"]', "capture.classes[0]", "at most 256 characters"),
        ("[1]", "capture.classes[0]", "must be text"),
        ("cat", "capture.classes", "list"),
    ],
)
def test_a_class_that_could_not_be_told_apart_is_refused_at_its_place(tmp_path, classes, where, message):
    (told,) = map(str, declare(tmp_path, classes).issues)
    assert told.startswith("models/credit-risk.yaml:")
    assert where in told
    assert message in told


def test_classes_without_a_prediction_are_refused(tmp_path):
    told = " ".join(map(str, declare(tmp_path, '["a b"]', prediction=False).issues))
    assert "capture.classes: says what a prediction may be, and none is read" in told
