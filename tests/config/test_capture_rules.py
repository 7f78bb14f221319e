"""What may be captured is said strictly: a rule that could never do what it says is a mistake with a place."""

from __future__ import annotations

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
