"""Pages hold together: links resolve, nothing names a machine, scripts on them run, the source map names what is there."""

import http.server
import json
import re
import shutil
import subprocess
import threading
from functools import partial
from pathlib import Path

import pytest
from log_maker import LOG_KEY, ORIGIN, leaves, log_files, record, write_files
from pages import DOCS, PAGES, ROOT, blocks, page
from typer.testing import CliRunner

from audit.keys import SigningKey
from audit.leaf import render
from audit.merkle import leaf_hash
from audit.receipt import Receipt, header_of, key_name, make_receipt
from gateway.cli import policy

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def outside_code(text):
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path):
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(path):
    for target in LINK.findall(outside_code(path.read_text())):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_is_reached_from_the_readme():
    reached, line = set(), [ROOT / "README.md"]
    while line:
        path = line.pop()
        if path in reached or path.suffix != ".md" or not path.exists():
            continue
        reached.add(path)
        targets = [target.partition("#")[0] for target in LINK.findall(outside_code(path.read_text()))]
        found = [(path.parent / target).resolve() for target in targets if target and not target.startswith("https://")]
        for file in found:
            line += sorted(file.glob("*.md")) if file.is_dir() else [file]
    assert {path for path in PAGES if path.is_relative_to(DOCS)} <= reached


MACHINES = re.compile(
    r"/(?:home|root|work|tmp|Users)/\w|(?<![\w./])(?:localhost:\d|10\.\d+\.\d+\.\d+|192\.168\.\d)|\b(?!witness\.)[a-z0-9-]+\.(?:internal|local)\b"
)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_line_names_a_host_or_a_path_of_a_machine(path):
    assert [line for line in path.read_text().splitlines() if MACHINES.search(line)] == []


def test_source_map_names_files_that_are_there_and_every_package():
    text = page("architecture.md").split("## Source map")[1]
    named = set(re.findall(r"`((?:gateway|policies|experiments|audit|examples|benchmarks|tests|config)/[\w./]*)`", text))
    assert {name for name in named if not (ROOT / name).exists()} == set()
    packages = {
        f"{path.parent.relative_to(ROOT)}/" for room in ("gateway", "policies", "experiments", "audit") for path in (ROOT / room).rglob("__init__.py")
    }
    inner = {package for package in packages if "migrations" not in package and "builtins" not in package}
    assert {package for package in inner if not any(name.startswith(package) for name in named)} == set()


FILE = re.compile(r"`((?:gateway|policies|experiments|audit|examples|benchmarks|tests|docs|deploy|\.ci)/[\w./-]+?)(?:::\w+|:\w+)?`")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_are_there(path):
    named = {name for name in FILE.findall(path.read_text()) if ("." in name or name.endswith("/")) and "NAME" not in name}
    assert {name for name in named if not (ROOT / name).exists() and not (ROOT / "config" / name).exists()} == set()


@pytest.mark.parametrize("line", re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page("acceptance.md")), ids="::".join)
def test_tests_that_acceptance_rests_on_are_there(line):
    file, name = line
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE)


def test_the_models_file_and_the_experiment_in_the_readme_hold(tmp_path):
    from gateway.config.compile import compile_folder

    model, cases, experiment = blocks((ROOT / "README.md").read_text(), "yaml")
    (rule,) = blocks((ROOT / "README.md").read_text(), "rego")
    config = tmp_path / "config"
    shutil.copytree(ROOT / "config", config)
    for path in [*(config / "models").iterdir(), *(config / "experiments").glob("[a-z]*.yaml")]:
        path.unlink()
    second = '  "4": {upstreams: [http://127.0.0.1:9004], digest: "sha256:' + "0" * 64 + '"}\n'
    (config / "models" / "tumour-triage.yaml").write_text(model.replace("default_version", f"{second}default_version", 1))
    (config / "experiments" / "triage-v4.yaml").write_text(experiment)
    (config / "policies" / "office.rego").write_text(rule)
    (config / "policies" / "office_cases.yaml").write_text(cases)
    for command, told in {"check": "ok", "lint": "no findings", "test": "Every one of the 7 parts tried is held in place by a test"}.items():
        done = CliRunner().invoke(policy.app, [command, str(config / "policies")])
        assert (done.exit_code, told in done.stdout, "warning[" in done.output) == (0, True, False), done.output
    compiled = compile_folder(config)
    assert [str(issue) for issue in compiled.issues] == []
    assert list(compiled.manifest.experiments) == ["triage-v4"]
    assert set(compiled.manifest.policies) == {"policies/office.rego", "policies/params.json"}


@pytest.fixture
def served(tmp_path):
    """A log of a few hundred leaves, served as files; the URL of its folder."""
    folder = write_files(tmp_path / "log", log_files(leaves(600)))
    handler = partial(QuietFiles, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object):
        pass


def script(tmp_path, name, *arguments: str):
    """Run a script of docs/verify.md by its first line."""
    (text,) = [block for block in blocks(page("verify.md"), "sh") if block.startswith(f"# {name} ")]
    path = tmp_path / name
    path.write_text(text)
    return subprocess.run(["bash", path, *arguments], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.component("openssl")
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl: `apt-get install curl`")
def test_the_fetched_log_is_the_log_and_its_head_verifies_with_openssl_alone(served, tmp_path):
    done = script(tmp_path, "fetch-log", served, "key", str(tmp_path / "copy"))
    assert done.stdout == f"600 entries in {tmp_path}/copy\n", done.stderr
    original = {path.relative_to(tmp_path / "log"): path.read_bytes() for path in (tmp_path / "log").rglob("*") if path.is_file()}
    copy = {path.relative_to(tmp_path / "copy"): path.read_bytes() for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    assert copy == {path: data for path, data in original.items() if path in copy}
    assert {path.parts[1] for path in copy if len(path.parts) > 1} == {"entries", "0", "1"}

    checkpoint = tmp_path / "copy" / "checkpoint"
    assert script(tmp_path, "verify-head", str(checkpoint), str(LOG_KEY.verifier)).returncode == 0
    checkpoint.write_bytes(checkpoint.read_bytes().replace(b"\n600\n", b"\n601\n"))
    changed = script(tmp_path, "verify-head", str(checkpoint), str(LOG_KEY.verifier))
    assert changed.returncode != 0
    assert "Failure" in changed.stdout + changed.stderr


@pytest.mark.component("openssl")
def test_a_receipt_is_checked_by_hand_with_openssl_alone(tmp_path):
    key = SigningKey.generate(key_name(ORIGIN), seed=b"R" * 32)
    certificate = render(record(0, kind="key.certified", node="n1.controller", purpose="receipts", vkey=str(key.verifier)) | {"node": "n1"})
    leaf = leaves(600)[41]
    write_files(tmp_path / "copy", log_files([certificate, *leaves(600)]))
    promised = Receipt(ORIGIN, json.loads(leaf)["id"], leaf_hash(leaf), "n1.w0", 1, 41, "2026-11-20T10:00:41.000000Z")
    receipt, other = tmp_path / "receipt", tmp_path / "other"
    receipt.write_bytes(header_of(make_receipt(promised, key)))
    other.write_bytes(header_of(make_receipt(promised, SigningKey.generate(key_name(ORIGIN), seed=b"O" * 32))))
    (tmp_path / "leaf").write_bytes(leaf)
    (tmp_path / "verify-head").write_text(next(block for block in blocks(page("verify.md"), "sh") if block.startswith("# verify-head ")))
    done = script(tmp_path, "verify-receipt", str(receipt), str(tmp_path / "copy"), str(tmp_path / "leaf"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Signature Verified Successfully" in done.stdout
    assert done.stdout.endswith("this leaf is what was promised\n")
    (tmp_path / "leaf").write_bytes(leaf + b" ")
    assert "another leaf was promised" in script(tmp_path, "verify-receipt", str(receipt), str(tmp_path / "copy"), str(tmp_path / "leaf")).stdout
    assert "certifies no key" in script(tmp_path, "verify-receipt", str(other), str(tmp_path / "copy")).stdout


def test_json_on_the_http_page_is_json():
    for block in blocks(page("http.md"), "json"):
        assert json.loads(block)["code"] == "bad_feedback"


def test_decisions_are_dated_and_say_options_choice_and_cost():
    decisions = sorted((DOCS / "decisions").glob("*.md"))
    assert len(decisions) >= 6
    for path in decisions:
        text = path.read_text()
        assert re.match(r"\d{4}-\d{2}-\d{2}-[a-z0-9-]+\.md", path.name)
        assert path.name[:10] in text.splitlines()[2]
        assert {"## Question", "## Options", "## Choice", "## What it costs"} <= set(text.splitlines()), path.name
        for code in re.findall(r"`((?:gateway|policies|experiments|audit)/[\w/]+\.py)`", text):
            assert Path(ROOT / code).exists(), (path.name, code)
