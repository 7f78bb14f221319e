"""Who evaluates the policies, in `gateway.yaml`: what is wrong is told at its place, and what is not said changes no digest."""

import shutil
import sys
from pathlib import Path

import pytest

from gateway.config.compile import compile_folder
from gateway.documents import SettingsDocument, decode

REFERENCE = Path(__file__).parents[2] / "config"
AT = 'addresses: ["http://127.0.0.1:8181"]'
WRONG = {
    "engine: optp": (2, "policies.engine: `optp` is not allowed; allowed: both, native, opa"),
    "engin: opa": (2, "policies.engin: unknown key; allowed: budget, engine, server; did you mean `engine`?"),
    "engine: opa": (2, "policies: engine `opa`: no `server` is given"),
    f"server: {{{AT}}}": (2, "policies: engine `native`: `server` is given and never asked"),
    "engine: both\n  server: {}": (3, "policies.server.addresses: is missing"),
    "engine: both\n  server: {addresses: []}": (3, "policies.server.addresses"),
    'engine: both\n  server: {addresses: ["http://127.0.0.1:8181/v1"]}': (
        3,
        "policies.server.addresses[0]: `http://127.0.0.1:8181/v1` is no",
    ),
    f"engine: both\n  server: {{{AT}, timeout: 50}}": (3, "policies.server.timeout: `50` is not a duration"),
    f"engine: both\n  server: {{{AT}, timeout: 1h}}": (3, "policies.server.timeout"),
    f"engine: both\n  server: {{{AT}, token: hunter2}}": (3, "policies.server.token: a secret is given by reference"),
    'engine: both\n  server: {addresses: ["http://10.0.0.1:8181"], token: "env:T"}': (
        3,
        "policies.server: a token would go to `10.0.0.1`",
    ),
    f"engine: both\n  server: {{{AT}, on_failure: {{reqest: closed}}}}": (
        3,
        "unknown key; allowed: config, request, response; did you",
    ),
    f"engine: both\n  server: {{{AT}, on_failure: {{request: open}}}}": (
        3,
        "on_failure.request: `open` is not allowed; allowed: closed",
    ),
    "budget: 2h": (2, "policies.budget"),
}


def compiled(folder: Path, policies: str):
    shutil.copytree(REFERENCE, folder / "config")
    path = folder / "config" / "gateway.yaml"
    lines = path.read_text().splitlines()
    begin = lines.index("policies:")
    end = next(number for number, line in enumerate(lines) if number > begin and line[:1].strip() and not line.startswith("#"))
    text = "".join(f"  {policies}\n" if policies else "")
    path.write_text(("policies:\n" + text if policies else "") + "\n".join(lines[:begin] + lines[end:]) + "\n")
    return compile_folder(folder / "config")


def settings_of(found) -> SettingsDocument:
    return decode(found.objects[found.manifest.settings], SettingsDocument)


@pytest.mark.parametrize("policies", WRONG)
def test_what_is_wrong_is_told_with_its_line_and_what_is_allowed(tmp_path, policies):
    line, message = WRONG[policies]
    told = [str(issue) for issue in compiled(tmp_path, policies).issues]
    assert any(text.startswith(f"gateway.yaml:{line}:") and message in text for text in told), told


def test_what_is_said_is_what_servers_are_asked_by(tmp_path):
    said = f'engine: both\n  budget: 7ms\n  server: {{{AT}, timeout: 20ms, token: "file:keys/opa", on_failure: {{response: native}}}}'
    found = settings_of(compiled(tmp_path, said))
    assert (found.engine, found.policy_budget_us) == ("both", 7_000)
    assert found.policy_server is not None
    assert (found.policy_server.addresses, found.policy_server.timeout_us) == (("http://127.0.0.1:8181",), 20_000)
    assert (found.policy_server.token, found.policy_server.on_failure) == ("file:keys/opa", {"response": "native"})


def test_to_say_nothing_is_our_engine_and_changes_no_digest(tmp_path):
    silent, spoken = compiled(tmp_path / "a", ""), compiled(tmp_path / "b", "engine: native\n  budget: 5ms")
    assert silent.manifest.settings == spoken.manifest.settings
    assert settings_of(silent).engine == "native"


def test_without_the_client_no_server_can_be_asked(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "opa_client", None)
    (issue,) = compiled(tmp_path, f"engine: opa\n  server: {{{AT}}}").issues
    assert 'pip install "assay-gateway[opa]"' in str(issue)
