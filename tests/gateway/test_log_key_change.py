"""The log's key changes under a real gateway: both sign for a while, the former ends, and never signs again; the new one asks a command."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment import COMMAND, ENVIRONMENT, Deployment, wait_until

from audit.keyring import parse_policy
from audit.keys import SigningKey, save_signing_key
from audit.merkle import EMPTY_ROOT
from audit.note import Checkpoint, NoteError, open_checkpoint, sign

PROGRAM = """\
import base64, sys
sys.path.insert(0, {checkout!r})
from audit.keys import SigningKey
key = SigningKey.parse(open("keys/held-by-the-device").read())
sys.stdout.write(base64.b64encode(key.sign(sys.stdin.buffer.read())).decode())
"""


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path / "d")
    yield made
    made.close()


@contextlib.contextmanager
def served(deployment: Deployment) -> Iterator[None]:
    """Serve for a while; the deployment can be served again afterwards."""
    deployment.start()
    try:
        yield
    finally:
        deployment.stop()


def size(note: bytes) -> int:
    return int(note.splitlines()[1])


def configure(deployment: Deployment, audit: str) -> None:
    """Change the keys in `gateway.yaml`."""
    path = deployment.directory / "config" / "gateway.yaml"
    lines = path.read_text().splitlines(keepends=True)
    head = "audit: {origin: assay.example/test, checkpoint: 200ms, heartbeat: 1s, "
    path.write_text("".join(f"{head}{audit}}}\n" if line.startswith("audit:") else line for line in lines))


def grown(deployment: Deployment, beyond: int) -> bytes:
    """Wait for a head beyond a size; return it."""
    wait_until(lambda: size(deployment.checkpoint()) > beyond, "the log to grow")
    return deployment.checkpoint()


def opens(note: bytes, key: SigningKey) -> bool:
    try:
        open_checkpoint(note, [key.verifier])
    except NoteError:
        return False
    return True


@pytest.mark.timeout(200)
def test_a_key_is_changed_with_an_overlap_and_the_former_one_ends(deployment: Deployment, tmp_path: Path):
    folder = deployment.directory / "keys"
    old = SigningKey.parse((folder / "log.key").read_text())
    new = SigningKey.generate(old.name)
    save_signing_key(new, folder / "held-by-the-device")
    (folder / "sign.py").write_text(PROGRAM.format(checkout=str(Path(__file__).parents[2])))
    (folder / "new.signer").write_text(f"{new.verifier}\n{sys.executable} keys/sign.py\n")
    (folder / "new.signer").chmod(0o600)
    kept: list[bytes] = []
    pushed = "push: {directory: elsewhere, keep: true}"
    for audit, signed_by in (
        (f'key: "file:keys/log.key", {pushed}', (True, False)),
        (f'key: "command:keys/new.signer", previous: "file:keys/log.key", {pushed}', (True, True)),
        (f'key: "command:keys/new.signer", {pushed}', (False, True)),
    ):
        configure(deployment, audit)
        shown = deployment.data / "log" / "checkpoint"
        before = size(shown.read_bytes()) if shown.exists() else 0
        with served(deployment):
            kept.append(grown(deployment, before))
            assert (opens(kept[-1], old), opens(kept[-1], new)) == signed_by

    began, ended = deployment.log.of_type("key.began"), deployment.log.of_type("key.ended")
    assert [(one["vkey"], one["first_size"] == 0) for one in began] == [(str(old.verifier), True), (str(new.verifier), False)]
    assert [(one["vkey"], one["reason"]) for one in ended] == [(str(old.verifier), "rotated")]

    command = [*COMMAND, "audit", "keys", str(deployment.data), "--policy"]
    told = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60)
    policy = parse_policy(told.stdout)
    assert next((one.key, one.last_size) for one in policy.log_keys) == (old.verifier, ended[0]["last_size"])
    for note in kept:
        open_checkpoint(note, policy.log_keys)
    (tmp_path / "log.keys").write_text(told.stdout)
    (tmp_path / "kept").write_bytes(kept[0])
    verify = [*COMMAND, "audit", "verify", str(deployment.data), "--vkey", str(tmp_path / "log.keys"), "--known", str(tmp_path / "kept")]
    done = subprocess.run(verify, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout

    forged = sign(Checkpoint(old.name, size(kept[-1]) + 1, bytes(32)).text(), [old])
    early = sign(Checkpoint(old.name, 0, EMPTY_ROOT).text(), [new])
    for note in (forged, early):
        with pytest.raises(NoteError, match="may sign sizes"):
            open_checkpoint(note, policy.log_keys)

    heads = sorted(path.name for path in (deployment.directory / "elsewhere").iterdir() if path.name.isdigit())
    assert {f"{size(note):020d}" for note in kept} <= set(heads)
    assert size((deployment.directory / "elsewhere" / "checkpoint").read_bytes()) >= size(kept[-1])

    configure(deployment, 'key: "command:keys/new.signer", previous: "file:keys/log.key"')
    assert "has ended" in deployment.serve_expecting_refusal()
    configure(deployment, 'key: "file:keys/log.key"')
    assert "has ended" in deployment.serve_expecting_refusal()
    assert not opens(deployment.checkpoint(), old), "and a start that is refused signs nothing with it either"


@pytest.mark.timeout(200)
def test_a_command_that_cannot_sign_holds_the_head_back_and_nothing_else(deployment: Deployment):
    folder = deployment.directory / "keys"
    (folder / "held-by-the-device").write_bytes((folder / "log.key").read_bytes())
    (folder / "sign.py").write_text(PROGRAM.format(checkout=str(Path(__file__).parents[2])))
    (folder / "new.signer").write_text(f"{deployment.vkey}\n{sys.executable} keys/sign.py\n")
    (folder / "new.signer").chmod(0o600)
    configure(deployment, 'key: "command:keys/new.signer"')
    with served(deployment):
        before = size(grown(deployment, 0))
        (folder / "held-by-the-device").rename(folder / "unplugged")
        wait_until(lambda: "cannot be published" in deployment.output(), "the fault to be told")
        records = len(deployment.log.refresh())
        asked = deployment.client.get(f"{deployment.admin}/api/records", headers=deployment.bearer("console"))
        assert asked.status_code == 200, "records are committed all the same"
        (folder / "unplugged").rename(folder / "held-by-the-device")
        grown(deployment, max(before, records))
    assert deployment.verify().chain.grade == "ok"
