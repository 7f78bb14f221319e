"""A log from an enemy, on a disk and behind a server: every command refuses it within bounded memory and an end, and says why."""

from __future__ import annotations

import functools
import http.server
import json
import os
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from log_maker import LOG_KEY, ORIGIN, leaves, log_files, record, write_files
from typer.testing import CliRunner

from audit.keys import SigningKey
from audit.leaf import render
from audit.note import Checkpoint, sign
from audit.receipt import Receipt, header_of, key_name, make_receipt
from gateway.cli.main import build

MEMORY_BYTES = 48 << 20
GIB = 1 << 30
FILES = log_files(leaves(600))
pytestmark = pytest.mark.timeout(60)  # an end, on a machine of any speed: nothing here reads more than some MiB


RUNNER, APP = CliRunner(), build("audit")
"""Made once: what is imported and built is not a hostile log's cost."""


def enlarge(path: Path, size: int = GIB) -> None:
    """Make a file as long as that; it takes no room on the disk."""
    with path.open("r+b") as file:
        file.truncate(size)


def refused(*words: object, codes: tuple[int, ...] = (1, 2, 3)) -> str:
    """Run a command that must refuse within its memory; return what it said."""
    tracemalloc.start()
    try:
        done = RUNNER.invoke(APP, ["audit", *map(str, words)])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert done.exit_code in codes, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert peak < MEMORY_BYTES, f"{peak:,} bytes"
    return done.output + (done.stderr if done.stderr_bytes is not None else "")


def long_checkpoint(log: Path) -> None:
    enlarge(log / "checkpoint")


def long_entries(log: Path) -> None:
    enlarge(log / "tile/entries/001")


def long_tile(log: Path) -> None:
    enlarge(log / "tile/0/000", 10**12)


def many_signatures(log: Path) -> None:
    path = log / "checkpoint"
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[-1] * 100)


def a_long_signature(log: Path) -> None:
    path = log / "checkpoint"
    path.write_bytes(path.read_bytes() + b"\xe2\x80\x94 x " + b"A" * 900_000 + b"\n")


def a_size_beyond_numbers(log: Path) -> None:
    (log / "checkpoint").write_bytes(FILES["checkpoint"].replace(b"\n600\n", b"\n%d\n" % 2**63))


def a_size_of_many_digits(log: Path) -> None:
    (log / "checkpoint").write_bytes(FILES["checkpoint"].replace(b"\n600\n", b"\n" + b"9" * 500_000 + b"\n"))


def an_absurd_size_signed(log: Path) -> None:
    (log / "checkpoint").write_bytes(sign(Checkpoint(ORIGIN, 2**63 - 1, bytes(32)).text(), [LOG_KEY]))


def a_link_to_an_endless_device(log: Path) -> None:
    (log / "checkpoint").unlink()
    (log / "checkpoint").symlink_to("/dev/zero")


def entries_in_a_linked_folder(log: Path) -> None:
    (log / "tile/entries").rename(log.parent / "elsewhere")
    (log / "tile/entries").symlink_to(log.parent / "elsewhere")


def a_pipe(log: Path) -> None:
    (log / "tile/entries/000").unlink()
    os.mkfifo(log / "tile/entries/000")


def a_deep_record(log: Path) -> None:
    entries = [b'{"v":1,"type":"call","writer":{"node":' + b"[" * 50_000, *leaves(20)]
    write_files(log, log_files(entries))


def a_record_of_huge_numbers(log: Path) -> None:
    entries = [b'{"v":1,"type":"call","seq":' + b"9" * 50_000 + b',"writer":{"node":"n","epoch":1,"seq":0}}', *leaves(20)]
    write_files(log, log_files(entries))


def a_loss_of_everything(log: Path) -> None:
    """A record that states more lost numbers than there is memory for."""
    lost = record(0, kind="log.lost", node="n2.recorder") | {"node": "n1.w0", "epoch": 1, "from": 0, "to": 2**53 - 2}
    write_files(log, log_files([render(lost), *leaves(20)]))


def a_gap_of_everything(log: Path) -> None:
    write_files(log, log_files([render(record(0)), render(record(2**53 - 2) | {"mono_ns": 1, "time": "2026-11-20T10:00:01.000000Z"})]))


def a_receipt_key_for_everybody(log: Path) -> None:
    """Thousands of certificates."""
    keys = [SigningKey.generate(key_name(ORIGIN), seed=number.to_bytes(32, "big")) for number in range(100)]
    certified = [
        render(record(seq, kind="key.certified", node="n1.controller", purpose="receipts", vkey=str(keys[seq % 100].verifier)) | {"node": "n1"})
        for seq in range(2000)
    ]
    write_files(log, log_files(certified))


SPOILERS: list[Callable[[Path], None]] = [
    long_checkpoint, long_entries, long_tile, many_signatures, a_long_signature, a_size_beyond_numbers, a_size_of_many_digits, an_absurd_size_signed,
    a_link_to_an_endless_device, entries_in_a_linked_folder, a_pipe, a_deep_record, a_record_of_huge_numbers, a_loss_of_everything,
    a_gap_of_everything, a_receipt_key_for_everybody,
]  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
def test_a_hostile_directory_is_verified_to_an_end_in_bounded_memory(tmp_path, spoil):
    log = write_files(tmp_path / "log", FILES)
    spoil(log)
    refused("verify", log, "--vkey", LOG_KEY.verifier)


@pytest.mark.parametrize(
    "spoil", [long_entries, an_absurd_size_signed, a_deep_record, a_loss_of_everything, a_receipt_key_for_everybody], ids=lambda spoil: spoil.__name__
)
def test_a_receipt_is_judged_by_a_hostile_log_to_an_end_in_bounded_memory(tmp_path, spoil):
    log = write_files(tmp_path / "log", FILES)
    spoil(log)
    key = SigningKey.generate(key_name(ORIGIN), seed=bytes(32))
    promised = Receipt(ORIGIN, "01a1fbcc-5e01-7403-96da-84370087a0ca", b"h" * 32, "n1.w0", 1, 41, "2026-11-20T10:00:41.000000Z")
    (tmp_path / "receipt").write_bytes(header_of(make_receipt(promised, key)))
    refused("verify-receipt", tmp_path / "receipt", "--log", log, "--vkey", LOG_KEY.verifier)


@pytest.mark.parametrize("what", ["known head", "key", "receipt", "proof of a receipt", "proof", "leaf", "bundle", "another head"])
def test_a_file_of_a_gibibyte_is_not_read(tmp_path, what):
    log, big, small = write_files(tmp_path / "log", FILES), tmp_path / "big", tmp_path / "small"
    small.write_bytes(FILES["checkpoint"])
    big.touch()
    enlarge(big)
    vkey = ("--vkey", LOG_KEY.verifier)
    command = {
        "known head": ("verify", log, *vkey, "--known", big),
        "key": ("verify", log, "--vkey", big),
        "receipt": ("verify-receipt", big, "--log", log, *vkey),
        "proof of a receipt": ("verify-receipt", small, "--proof", big, *vkey),
        "proof": ("verify-proof", big, "--leaf", small, *vkey),
        "leaf": ("verify-proof", small, "--leaf", big, *vkey),
        "bundle": ("verify-bundle", big, *vkey),
        "another head": ("diff-heads", small, big, *vkey),
    }[what]
    refused(*command)


# ---- behind a server --------------------------------------------------------------------------------------------------------------


@functools.cache
def bomb() -> bytes:
    """Return what inflates to 100 MB; made piece by piece, so that making it is no cost that is measured."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(100)), packer.flush()])


class Enemy(http.server.BaseHTTPRequestHandler):
    """Serves a log, and something else for one of its files."""

    protocol_version = "HTTP/1.1"

    def __init__(self, files: dict[str, bytes], victim: str, how: str, *arguments: object) -> None:
        self.files, self.victim, self.how = files, victim, how
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        path = self.path.lstrip("/")
        self.close_connection = True
        if path != self.victim:
            data = self.files.get(path)
            self.send_response(404 if data is None else 200)
            self.send_header("content-length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")
            return
        self.send_response(200)
        if self.how == "compressed":
            self.send_header("content-encoding", "gzip")
            self.send_header("content-length", str(len(bomb())))
        elif self.how == "claims":
            self.send_header("content-length", str(GIB * 1024))
        self.end_headers()
        try:
            if self.how == "compressed":
                self.wfile.write(bomb())
                return
            while True:
                self.wfile.write(bytes(1 << 20))
        except OSError:
            return  # the verifier has hung up, as it should

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def enemy() -> Iterator[Callable[[str, str], str]]:
    servers = []
    bomb()

    def serve(victim: str, how: str) -> str:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Enemy, FILES, victim, how))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("how", ["endless", "claims", "compressed"])
@pytest.mark.parametrize("victim", ["checkpoint", "tile/entries/001", "tile/0/001"])
def test_a_server_that_never_ends_or_inflates_is_left_in_bounded_memory(enemy, victim, how):
    told = refused("verify", enemy(victim, how), "--vkey", LOG_KEY.verifier, "--json", codes=(1, 3))
    verdict = json.loads(told[told.index("{") : told.rindex("}") + 1])
    faults = [fault for check in verdict["checks"] for fault in check["faults"]]
    assert any(victim in fault.get("path", "") for fault in faults), faults
